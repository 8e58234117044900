//! Random operations from a seed, on the real thing and on the reference; compared after each.

use super::copies::Disks;
use super::host::Host;
use super::manager::{Link, Manager};
use super::reference::{Image, Reference};
use fusevol::control::Control;
use fusevol::snapshot::SnapshotReader;
use fusevol::volume::{Mode, Volume};
use fusevol_mgr::core::{AdminReply, AdminRequest};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::fault::FaultDisk;
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::ids::{DiskId, KeyPrint, SnapshotId, VolumeId};
use fusevol_shared::map::{LegState, MapEntry};
use fusevol_shared::random::{Random, SeededRandom};
use fusevol_shared::units::AuSize;
use fusevol_shared::wire::messages::{CreateSnapshot, RemoveSnapshot};
use fusevol_shared::wire::rights::{Right, Rights};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// A key for client number `n`.
#[must_use]
pub fn print(n: u8) -> KeyPrint {
    KeyPrint([n; 32])
}

/// A pool of two disks with one volume and two clients that have all rights on it.
///
/// # Panics
/// If the core refuses any of it.
#[must_use]
pub fn pool(seed: u64, disk_aus: u32, size: u64) -> (Arc<Manager>, VolumeId, Vec<(DiskId, MemDisk)>) {
    pool_of(seed, disk_aus, size, 2, 1)
}

/// The same with so many disks, and so many copies of the volume.
///
/// # Panics
/// If the core refuses any of it.
#[must_use]
pub fn pool_of(seed: u64, disk_aus: u32, size: u64, disks: u8, copies: u8) -> (Arc<Manager>, VolumeId, Vec<(DiskId, MemDisk)>) {
    let au_size = AuSize::from_log2(18).expect("256 KiB");
    let ids: Vec<DiskId> = (0..disks).map(|n| DiskId([11 + n; 16])).collect();
    let manager = Manager::new(seed, au_size, &ids.iter().map(|id| (*id, disk_aus)).collect::<Vec<_>>());
    let disks = ids.iter().map(|id| (*id, MemDisk::new(u64::from(disk_aus) * au_size.bytes()))).collect();
    let made = manager.admin(AdminRequest::VolumeCreateMirrored { name: "vol".into(), size, copies }).expect("a volume is made");
    let AdminReply::Volume(volume) = made else { panic!("{made:?}") };
    let rights = Right::ALL.into_iter().fold(Rights::NONE, Rights::with);
    for n in [1, 2] {
        let client = format!("host{n}");
        manager.admin(AdminRequest::ClientAdd { name: client.clone(), print: print(n) }).expect("a client is added");
        manager.admin(AdminRequest::AccessGrant { volume: "vol".into(), client, rights }).expect("rights are granted");
    }
    (manager, volume.id, disks)
}

/// The same disks for one host.
pub fn handles<D: Disk>(disks: &[(DiskId, MemDisk)], open: impl Fn(MemDisk) -> D) -> Vec<(DiskId, Arc<D>)> {
    disks.iter().map(|(id, d)| (*id, Arc::new(open(d.clone())))).collect()
}

/// A host's path to a disk.
pub type Path = FaultDisk<MemDisk>;

/// The real thing and the reference.
pub struct World {
    manager: Arc<Manager>,
    id: VolumeId,
    writer: Rc<Host<Path>>,
    other: Rc<Host<Path>>,
    volume: Arc<Volume<Path, Link>>,
    reference: Reference,
    random: SeededRandom,
    readers: BTreeMap<SnapshotId, Arc<SnapshotReader<Path, Link>>>,
    live_reader: Option<Arc<Volume<Path, Link>>>,
    names: u32,
    disks: Disks,
}

/// Most snapshots at once.
const SHOTS: usize = 4;

impl World {
    /// A fresh pool and an attached, empty volume whose last block is short.
    ///
    /// # Panics
    /// As all here: if the real thing differs from the reference.
    pub async fn new(seed: u64) -> Self {
        Self::of(seed, 2, 1).await
    }

    /// The same on a pool of so many disks, with so many copies: then disks die, come back, and are given up.
    ///
    /// # Panics
    /// As above.
    pub async fn of(seed: u64, disks: u8, copies: u8) -> Self {
        let size = 21 * (256 << 10) + 5 * 4096 + 700;
        let (manager, id, memory) = pool_of(seed, 300, size, disks, copies);
        let paths = [handles(&memory, FaultDisk::new), handles(&memory, FaultDisk::new)];
        let faults = (0..memory.len()).map(|d| paths.iter().map(|p| p[d].1.faults()).collect()).collect();
        let writer = Host::start(&manager, print(1), paths[0].clone()).await;
        let other = Host::start(&manager, print(2), paths[1].clone()).await;
        let disks = Disks::new(copies, memory, faults);
        let volume = writer.attach(id, Mode::Write).await.expect("attached");
        let block = usize::try_from(volume.block_size()).expect("small");
        // The manager may round the size.
        let reference = Reference::new(usize::try_from(volume.size()).expect("small"), block);
        let random = SeededRandom(seed);
        Self { manager, id, writer, other, volume, reference, random, readers: BTreeMap::new(), live_reader: None, names: 0, disks }
    }

    /// `ops` random operations, then everything is compared and the catalog is proved.
    pub async fn run(&mut self, ops: u32) {
        for _ in 0..ops {
            self.op().await;
        }
        self.check_all().await;
        if self.disks.copies > 1 {
            self.make_whole().await;
            self.check_all().await;
        }
        assert_eq!(self.manager.prove(), Vec::<String>::new());
    }

    fn range(&mut self) -> (usize, usize) {
        let size = self.reference.live.bytes.len();
        let off = usize::try_from(self.random.below(size as u64)).expect("small");
        let most = [1, 600, 4096, 20_000, 300_000, 1 << 20][usize::try_from(self.random.below(6)).expect("small")];
        let mut len = 1 + usize::try_from(self.random.below(most)).expect("small");
        let mut off = off;
        if self.random.below(2) == 0 {
            off = off / 4096 * 4096;
            len = len.next_multiple_of(4096);
        }
        (off, len.min(size - off))
    }

    async fn op(&mut self) {
        match self.random.below(100) {
            0..30 => self.write().await,
            30..45 => {
                let (off, len) = self.range();
                let got = self.volume.read(off as u64, len).await.expect("read");
                same(&got, &self.reference.live, off, "live");
            }
            45..57 => {
                let (off, len) = self.range();
                self.volume.discard(off as u64, len as u64).await.expect("discard");
                self.reference.discard(off, len);
            }
            57..62 => self.volume.flush().await.expect("flush"),
            62..66 => {
                let (off, len) = self.range();
                self.volume.allocate(off as u64, len as u64).await.expect("allocate");
            }
            66..72 => self.take().await,
            72..75 => self.remove().await,
            75..88 => self.read_snapshot().await,
            88..92 => self.check_modified().await,
            92..94 => self.attach_again().await,
            94..96 => self.second_reader().await,
            96..98 if self.disks.copies > 1 => self.trouble().await,
            _ => self.check_sparse(),
        }
    }

    /// The catalog knows everything that was written.
    async fn flush_and_fold(&self) {
        self.volume.flush().await.expect("flush");
        while self.volume.counters().unfolded > 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn write(&mut self) {
        let (off, len) = self.range();
        let mut data = IoBuf::zeroed(len);
        self.random.fill(&mut data);
        let copy = data.to_vec();
        self.volume.write(off as u64, data.freeze()).await.expect("write");
        self.reference.write(off, &copy);
    }

    async fn take(&mut self) {
        if self.reference.shots.len() >= SHOTS {
            return;
        }
        let id = SnapshotId(self.random.id());
        self.names += 1;
        let call = CreateSnapshot { volume: self.id, id, name: format!("s{}", self.names) };
        let detached = self.random.below(4) == 0;
        if detached {
            self.writer.detach(self.id).await.expect("detach");
        }
        self.other.engine.control.call(call).await.expect("a snapshot is taken");
        self.reference.snapshot(id);
        if detached {
            self.volume = self.writer.attach(self.id, Mode::Write).await.expect("attached again");
        }
    }

    fn pick(&mut self) -> Option<usize> {
        let n = self.reference.shots.len() as u64;
        (n > 0).then(|| usize::try_from(self.random.below(n)).expect("small"))
    }

    async fn remove(&mut self) {
        let Some(i) = self.pick() else { return };
        let shot = self.reference.shots.remove(i);
        if self.readers.remove(&shot.id).is_some() {
            self.other.close(shot.id).await.expect("closed");
        }
        self.writer.engine.control.call(RemoveSnapshot { snapshot: shot.id }).await.expect("removed");
    }

    async fn reader(&mut self, id: SnapshotId) -> Arc<SnapshotReader<Path, Link>> {
        if let Some(r) = self.readers.get(&id) {
            return r.clone();
        }
        let r = self.other.open(id).await.expect("opened");
        self.readers.insert(id, r.clone());
        r
    }

    async fn read_snapshot(&mut self) {
        let Some(i) = self.pick() else { return };
        let id = self.reference.shots[i].id;
        let reader = self.reader(id).await;
        let (off, len) = self.range();
        let got = reader.read(off as u64, len).await.expect("read of a snapshot");
        let image = &self.reference.shots[i].image;
        same(&got, image, off, "snapshot");
        for data in [true, false] {
            let real = if data { reader.seek_data(off as u64) } else { reader.seek_hole(off as u64) };
            assert_eq!(real, seek(image, off, self.reference.block, data));
        }
        if self.random.below(8) == 0 {
            self.readers.remove(&id);
            self.other.close(id).await.expect("closed");
        }
    }

    /// Every block that differs is listed; no block is that was not touched. Blocks that the catalog does not know yet
    /// count once they are reported.
    async fn check_modified(&mut self) {
        let Some(i) = self.pick() else { return };
        self.flush_and_fold().await;
        let reader = self.reader(self.reference.shots[i].id).await;
        let modified = reader.modified().await.expect("the list of modified blocks");
        assert!(modified.complete);
        let block = self.reference.block;
        let listed: BTreeSet<usize> = modified
            .blocks
            .iter()
            .flat_map(|m| (0..64).filter(|b| m.blocks.has(*b)).map(|b| (m.au.0 * 64 + b) as usize).collect::<Vec<_>>())
            .collect();
        let shot = &self.reference.shots[i];
        let changed = self.reference.changed(shot);
        assert!(changed.is_subset(&listed), "not listed: {:?} (block of {block})", changed.difference(&listed).collect::<Vec<_>>());
        assert!(listed.is_subset(&shot.touched), "untouched: {:?}", listed.difference(&shot.touched).collect::<Vec<_>>());
    }

    async fn attach_again(&mut self) {
        self.writer.detach(self.id).await.expect("detach");
        assert!(self.volume.read(0, 1).await.is_err(), "a detached volume reads nothing");
        self.volume = self.writer.attach(self.id, Mode::Write).await.expect("attached again");
    }

    /// A reader on another host sees what is reported.
    async fn second_reader(&mut self) {
        self.flush_and_fold().await;
        let reader = match self.live_reader.take() {
            Some(r) => r,
            None => self.other.attach(self.id, Mode::Read).await.expect("attached for reading"),
        };
        settle().await;
        let (off, len) = self.range();
        same(&reader.read(off as u64, len).await.expect("read"), &self.reference.live, off, "second reader");
        if self.random.below(4) == 0 {
            self.other.detach(self.id).await.expect("detach");
        } else {
            self.live_reader = Some(reader);
        }
    }

    fn check_sparse(&mut self) {
        let (off, _) = self.range();
        let (image, block) = (&self.reference.live, self.reference.block);
        assert_eq!(self.volume.seek_data(off as u64), seek(image, off, block, true));
        assert_eq!(self.volume.seek_hole(off as u64), seek(image, off, block, false));
        let written = image.written.iter().filter(|w| **w).count() * block;
        assert_eq!(self.volume.written_bytes(), written as u64);
        let extents: u64 = self.volume.extents().iter().filter(|e| e.written).map(|e| e.len).sum();
        assert_eq!(extents, written as u64);
    }

    /// A disk dies, comes back or is given up; one is in trouble at a time.
    async fn trouble(&mut self) {
        match (self.disks.bad(), self.random.below(3)) {
            (None, _) => {
                // What lacks copies is not to lose more.
                let mut well = BTreeMap::new();
                for _ in 0..3 {
                    self.volume.look_after_copies(&mut well).await.expect("copied");
                    self.flush_and_fold().await;
                }
                let shown = self.volume.copying();
                if shown.todo == 0 && shown.out.is_empty() && !self.manager.has_thin_segments(self.id, self.disks.copies) {
                    let no = usize::try_from(self.random.below(self.disks.len())).expect("small");
                    // What only snapshots have is copied once nobody writes the volume: it may have one copy still.
                    if self.manager.is_beside(self.id, no) {
                        self.disks.kill(no);
                    }
                }
            }
            (Some(_), 0) => self.disks.heal(),
            (Some(no), 1) if self.disks.len() > u64::from(self.disks.copies) => {
                self.manager.admin(AdminRequest::DiskFail { disk: no.to_string(), failed: true }).expect("an administrator may say so");
            }
            (Some(_), _) => {}
        }
    }

    /// All disks are well again: soon every AU has all its copies, and they are equal.
    async fn make_whole(&mut self) {
        self.disks.heal();
        for no in self.disks.all() {
            self.manager.admin(AdminRequest::DiskFail { disk: no.to_string(), failed: false }).expect("an administrator may say so");
        }
        let mut well = BTreeMap::new();
        for _ in 0..64 {
            self.volume.look_after_copies(&mut well).await.expect("copied");
            self.flush_and_fold().await;
        }
        let shown = self.volume.copying();
        assert_eq!((shown.out.len(), shown.holes), (0, 0), "{shown:?}");
        let maps = self.manager.maps(self.id);
        // What only snapshots have is the manager's to copy.
        let in_sync = |e: &MapEntry| e.legs().iter().filter(|l| l.state == LegState::InSync).count();
        let lacks = maps[0].iter().find(|(_, e)| in_sync(e) < usize::from(self.disks.copies));
        assert_eq!(lacks, None, "{shown:?}");
        self.disks.check_equal(&maps[0], self.volume.block_size());
    }

    async fn check_all(&mut self) {
        let len = self.reference.live.bytes.len();
        same(&self.volume.read(0, len + 1).await.expect("read"), &self.reference.live, 0, "live, all of it");
        for i in 0..self.reference.shots.len() {
            let reader = self.reader(self.reference.shots[i].id).await;
            same(&reader.read(0, len).await.expect("read"), &self.reference.shots[i].image, 0, "snapshot, all of it");
        }
    }
}

/// Lets the other tasks come to rest.
pub async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

fn seek(image: &Image, off: usize, block: usize, data: bool) -> Option<u64> {
    let end = (!data).then_some(image.bytes.len() as u64);
    image.seek(off, block, data).or(end)
}

/// The bytes read at `off` are those of the image.
///
/// # Panics
/// If not, naming the first that differs.
pub fn same(got: &[u8], image: &Image, off: usize, what: &str) {
    let end = (off + got.len()).min(image.bytes.len());
    let want = &image.bytes[off..end];
    assert_eq!(got.len(), want.len(), "{what}: length at {off}");
    if let Some(i) = (0..got.len()).find(|i| got[*i] != want[*i]) {
        panic!("{what}: byte {} of the volume is {:#x}, not {:#x}", off + i, got[i], want[i]);
    }
}
