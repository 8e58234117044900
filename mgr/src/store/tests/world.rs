//! Disks in memory that fail as told, hosts with locks, and records that are numbers.

use super::super::*;
use fusevol_shared::disk::any::Lock;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::fault::{FaultDisk, Faults};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Disk, DiskResult};
use fusevol_shared::format::label::{DiskLabel, Finding, Instance};
use fusevol_shared::ids::{BootId, DiskId};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuSize, DiskNo, DiskOff, PAGE_U64};
use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, PartialEq, Debug)]
pub struct Rec(pub u64);

pub fn records(numbers: &[u64]) -> Vec<Rec> {
    numbers.iter().copied().map(Rec).collect()
}

pub fn dump(state: &[u64]) -> Vec<Rec> {
    records(state)
}

fn numbers(found: Vec<Rec>) -> Vec<u64> {
    found.into_iter().map(|r| r.0).collect()
}

#[derive(Clone)]
pub struct TestDisk {
    pub no: usize,
    pub mem: MemDisk,
    pub disk: Arc<FaultDisk<MemDisk>>,
    pub faults: Faults,
}

impl TestDisk {
    pub fn new(no: usize) -> Self {
        Self::over(no, MemDisk::new(64 << 20))
    }

    pub fn over(no: usize, mem: MemDisk) -> Self {
        let disk = Arc::new(FaultDisk::new(mem.clone()));
        Self { no, faults: disk.faults(), disk, mem }
    }

    pub fn poke(&self, at: u64, bytes: &[u8]) {
        self.mem.poke(DiskOff(at), bytes);
    }

    pub fn label(&self) -> DiskLabel {
        match fusevol_shared::disk::label::probe(self).now_or_never().expect("memory does not wait") {
            Ok(Finding::Label(l, _)) => *l,
            other => panic!("no label: {other:?}"),
        }
    }
}

impl Disk for TestDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read(&self, at: DiskOff, buf: IoBuf) -> impl Future<Output = (DiskResult<()>, IoBuf)> {
        self.disk.read(at, buf)
    }
    fn write(&self, at: DiskOff, data: IoBytes) -> impl Future<Output = DiskResult<()>> {
        self.disk.write(at, data)
    }
    fn write_durable(&self, at: DiskOff, data: IoBytes) -> impl Future<Output = DiskResult<()>> {
        self.disk.write_durable(at, data)
    }
    fn flush(&self) -> impl Future<Output = DiskResult<()>> {
        self.disk.flush()
    }
}

/// Byte locks: (host, disk) -> process.
type Locks = Arc<Mutex<BTreeMap<(String, usize), u8>>>;

#[derive(Clone)]
pub struct TestDoor {
    pub host: String,
    pub process: u8,
    pub locks: Locks,
    pub slept: Arc<Mutex<Vec<Duration>>>,
    /// Disks that know no locks.
    pub lockless: Vec<usize>,
}

impl Door<TestDisk> for TestDoor {
    fn try_lock(&self, disk: &TestDisk) -> Result<Lock> {
        if self.lockless.contains(&disk.no) {
            return Ok(Lock::Absent);
        }
        let mut locks = self.locks.lock().expect("not poisoned");
        let owner = *locks.entry((self.host.clone(), disk.no)).or_insert(self.process);
        Ok(if owner == self.process { Lock::Taken } else { Lock::Held })
    }
    async fn sleep(&self, time: Duration) {
        self.slept.lock().expect("not poisoned").push(time);
    }
}

pub type TestStore = Store<TestDisk, TestDoor>;

#[derive(Clone)]
pub struct World {
    pub disks: Vec<TestDisk>,
    pub locks: Locks,
    pub slept: Arc<Mutex<Vec<Duration>>>,
    /// Disks that know no locks.
    pub lockless: Vec<usize>,
}

impl World {
    pub fn blank(disks: usize) -> Self {
        Self { disks: (0..disks).map(TestDisk::new).collect(), locks: Locks::default(), slept: Arc::default(), lockless: Vec::new() }
    }

    /// A pool on so many disks, made on host `a`.
    pub fn new(disks: usize) -> Self {
        let w = Self::blank(disks);
        w.create_on(&w.disks, false).expect("a pool");
        w.kill(0);
        w
    }

    pub fn create_on(&self, disks: &[TestDisk], force: bool) -> Result<()> {
        let new: Vec<_> = (0..).zip(disks).map(|(no, d)| self.new_disk(d, no)).collect();
        let name = Name::new("p").expect("a name");
        let pool = NewPool { pool: PoolId([7; 16]), name, au_size: AuSize::DEFAULT, lease: Duration::from_secs(2) };
        let done = self.run(create(new, &pool, &self.who("a", 0), self.door("a", 0), force, &records(&[])));
        self.kill(0);
        done
    }

    pub fn new_disk(&self, d: &TestDisk, no: u16) -> NewDisk<TestDisk> {
        let id = DiskId([u8::try_from(no).expect("few") + 1; 16]);
        NewDisk { disk: d.clone(), path: format!("d{no}"), id, no: DiskNo(no) }
    }

    /// The same disks, going their own way from here, with no process alive.
    pub fn fork(&self) -> World {
        let fork = |d: &TestDisk| TestDisk::over(d.no, d.mem.fork());
        World { disks: self.disks.iter().map(fork).collect(), ..World::blank(0) }
    }

    pub fn more(&self) -> TestDisk {
        TestDisk::new(self.disks.len())
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        work.now_or_never().expect("memory does not wait")
    }

    pub fn who(&self, host: &str, process: u8) -> Who {
        let boot = BootId([host.as_bytes()[0]; 16]);
        Who { instance: Instance([process; 16]), boot, host: host.to_owned(), pid: process.into() }
    }

    pub fn door(&self, host: &str, process: u8) -> TestDoor {
        TestDoor { host: host.to_owned(), process, locks: self.locks.clone(), slept: self.slept.clone(), lockless: self.lockless.clone() }
    }

    pub fn candidates(&self) -> Vec<Candidate<TestDisk>> {
        self.disks.iter().map(|d| Candidate { disk: d.clone(), path: format!("d{}", d.no) }).collect()
    }

    pub fn open(&self, host: &str, process: u8) -> Result<(Takeover<TestDisk, TestDoor>, Vec<u64>)> {
        self.open_with(host, process, &Options::default())
    }

    pub fn open_with(&self, host: &str, process: u8, options: &Options) -> Result<(Takeover<TestDisk, TestDoor>, Vec<u64>)> {
        let opened = self.run(super::super::open(self.candidates(), self.who(host, process), self.door(host, process), options));
        opened.map(|(t, found)| (t, numbers(found)))
    }

    pub fn start(&self, host: &str, process: u8) -> TestStore {
        self.start_with(host, process, &Options::default()).expect("starts")
    }

    pub fn start_with(&self, host: &str, process: u8, options: &Options) -> Result<TestStore> {
        let (t, found) = self.open_with(host, process, options)?;
        self.run(t.start(&dump(&found)))
    }

    /// Commits these, to a catalog that holds nothing else but what is on disk.
    pub fn commit(&self, s: &mut TestStore, new: &[u64]) -> Result<()> {
        self.run(s.commit(&records(new), || panic!("no switch expected")))
    }

    pub fn commit_to(&self, s: &mut TestStore, new: &[u64], state: &[u64]) -> Result<()> {
        self.run(s.commit(&records(new), || dump(state)))
    }

    /// The process is gone, and all its I/O has landed.
    pub fn kill(&self, process: u8) {
        self.locks.lock().expect("not poisoned").retain(|_, p| *p != process);
    }

    pub fn try_inspect(&self) -> Result<(Inspection, Vec<u64>)> {
        self.run(inspect(self.candidates(), &Options::default())).map(|(i, r)| (i, numbers(r)))
    }

    pub fn inspect(&self) -> (Inspection, Vec<u64>) {
        self.try_inspect().expect("a whole catalog")
    }

    /// Damages one byte of a page of a catalog area.
    pub fn flip(&self, disk: &TestDisk, area: u8, page: u64) {
        let at = disk.label().layout().area(area).expect("an area").plus(page * PAGE_U64 + 1000);
        let old = disk.mem.peek(at, 1)[0];
        disk.mem.poke(at, &[old ^ 0x40]);
    }
}

/// While its owner sleeps, somebody else's heart beats.
pub struct BeatingDoor<F> {
    pub inner: TestDoor,
    pub beat: F,
}

impl<F: Fn()> Door<TestDisk> for BeatingDoor<F> {
    fn try_lock(&self, disk: &TestDisk) -> Result<Lock> {
        self.inner.try_lock(disk)
    }
    async fn sleep(&self, _: Duration) {
        (self.beat)();
    }
}
