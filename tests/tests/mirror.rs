//! Mirrored volumes: disks that die, come back and are given up under a volume in use (PROTOCOL.md, "Mirrors and rebuild").

use fusevol::control::Control;
use fusevol::volume::{Mode, Volume};
use fusevol_mgr::copies;
use fusevol_mgr::core::{AdminReply, AdminRequest};
use fusevol_shared::disk::Answer;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::fault::{Fault, FaultDisk, Faults, Ops, Rule};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::ids::{DiskId, SnapshotId, VolumeId};
use fusevol_shared::map::LegState;
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{DiskAu, DiskNo, DiskOff, VolAu};
use fusevol_shared::wire::messages::CreateSnapshot;
use fusevol_tests::model::copies::Disks;
use fusevol_tests::model::host::Host;
use fusevol_tests::model::manager::{Link, Manager};
use fusevol_tests::model::run::{World, handles, pool_of, print, settle};
use fusevol_tests::model::run_local;
use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const AU: u64 = 256 << 10;
const ENODATA: i32 = 61;
const EIO: i32 = 5;

/// > A disk that fails under a mirrored volume is an error to nobody: it goes on with the other copies.
#[test]
fn random_operations_while_disks_die_and_come_back() {
    for seed in 1..=16 {
        for (disks, copies) in [(2, 2), (3, 2), (4, 2), (4, 3)] {
            eprintln!("seed {seed}, {copies} copies on {disks} disks");
            run_local(async { World::of(seed, disks, copies).await.run(250).await });
        }
    }
}

fn page(n: u8) -> IoBytes {
    IoBuf::copy_of(&[n; 4096]).freeze()
}

/// A volume of two copies on three disks that one host writes.
struct Mirror {
    manager: Arc<Manager>,
    id: VolumeId,
    memory: Vec<(DiskId, MemDisk)>,
    faults: Vec<Faults>,
    host: Rc<Host<FaultDisk<MemDisk>>>,
}

impl Mirror {
    async fn new(disks: u8) -> Self {
        let (manager, id, memory) = pool_of(1, 64, 8 * AU, disks, 2);
        let paths = handles(&memory, FaultDisk::new);
        let faults = paths.iter().map(|(_, p)| p.faults()).collect();
        let host = Host::start(&manager, print(1), paths).await;
        Self { manager, id, memory, faults, host }
    }

    /// The disks of the copies of the first AU, in order.
    fn legs(&self) -> Vec<DiskNo> {
        let map = self.manager.maps(self.id).remove(0);
        map.iter().next().map(|(_, e)| e.legs().iter().map(|l| l.at.disk).collect()).unwrap_or_default()
    }

    fn faults(&self, no: DiskNo) -> &Faults {
        &self.faults[usize::from(no.0)]
    }

    /// The first byte of this place.
    fn byte(&self, at: DiskAu) -> u8 {
        let memory = &self.memory[usize::from(at.disk.0)].1;
        let read = fusevol_shared::disk::Disk::read(memory, DiskOff(u64::from(at.au.0) * AU), IoBuf::zeroed(4096));
        read.now_or_never().expect("memory does not wait").1[0]
    }

    fn check_equal(&self) {
        let disks = Disks::new(2, self.memory.clone(), Vec::new());
        disks.check_equal(&self.manager.maps(self.id)[0], AU / 64);
    }
}

/// > A bad sector is read from another copy, and written anew.
#[test]
fn a_bad_sector_is_repaired_from_the_other_copy() {
    run_local(async {
        let m = Mirror::new(3).await;
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
        volume.write(0, page(7)).await.expect("written");
        volume.flush().await.expect("flushed");
        settle().await;
        for no in m.legs() {
            // A medium error: until it is written.
            let bad = Rule::on(Ops::READ, Fault::Fail(ENODATA, Answer::Answered));
            m.faults(no).add(bad.times(1));
            let before = m.faults(no).counts();
            while m.faults(no).counts().failed == before.failed {
                assert_eq!(volume.read(0, 4096).await.expect("from the other copy")[0], 7);
                volume.write(0, page(7)).await.expect("the region is dirty: all read the first copy");
                if m.legs()[0] != no {
                    break;
                }
            }
        }
        assert!(volume.copying().out.is_empty(), "a bad sector is no reason to give a copy up");
        m.check_equal();
        m.host.detach(m.id).await.expect("given back");
        assert_eq!(m.manager.prove(), Vec::<String>::new());
    });
}

/// > What was acknowledged by fsync survives the loss of any one disk of a volume with two copies.
///
/// One is given up, the copies lie elsewhere, and then the other one dies.
#[test]
fn a_dead_disk_is_given_up_and_then_another_one_dies() {
    run_local(async {
        let m = Mirror::new(3).await;
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
        for n in 0..8 {
            volume.write(n * AU, page(1)).await.expect("written");
        }
        volume.flush().await.expect("flushed");
        settle().await;
        let legs = m.legs();
        m.faults(legs[0]).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
        volume.write(0, page(2)).await.expect("on the other copy");
        volume.flush().await.expect("flushed");
        assert_eq!(volume.copying().out, [legs[0].0]);
        assert_eq!(volume.read(0, 4096).await.expect("read")[0], 2);
        m.manager.admin(AdminRequest::DiskFail { disk: legs[0].to_string(), failed: true }).expect("given up");
        let mut well = BTreeMap::new();
        for _ in 0..8 {
            volume.look_after_copies(&mut well).await.expect("copied");
            volume.flush().await.expect("flushed");
            settle().await;
        }
        assert_eq!(volume.copying().todo, 0, "{:?}", volume.copying());
        m.check_equal();
        m.faults(legs[1]).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
        for n in 0..8 {
            assert_eq!(volume.read(n * AU, 4096).await.expect("from the new copies")[0], if n == 0 { 2 } else { 1 });
        }
        volume.write(AU, page(3)).await.expect("written");
        volume.flush().await.expect("flushed");
        m.host.detach(m.id).await.expect("given back");
        assert_eq!(m.manager.prove(), Vec::<String>::new());
    });
}

/// > A disk that comes back gets what its copies missed, and no more.
#[test]
fn a_disk_that_returns_gets_its_dirty_regions_only() {
    run_local(async {
        let m = Mirror::new(2).await;
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
        for n in 0..8 {
            volume.write(n * AU, page(1)).await.expect("written");
        }
        volume.flush().await.expect("flushed");
        m.host.detach(m.id).await.expect("given back");
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached anew: nothing is dirty");
        let bad = m.faults(DiskNo(1)).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
        volume.write(0, page(2)).await.expect("on the other copy");
        volume.flush().await.expect("flushed");
        assert_eq!(volume.copying().out, [1]);
        m.faults(DiskNo(1)).remove(bad);
        let mut well = BTreeMap::new();
        for _ in 0..8 {
            volume.look_after_copies(&mut well).await.expect("copied");
            volume.flush().await.expect("flushed");
            settle().await;
        }
        let shown = volume.copying();
        assert_eq!((shown.todo, shown.out.len()), (0, 0), "{shown:?}");
        assert_eq!(shown.copied, AU / 64, "one block differed");
        m.check_equal();
        m.host.detach(m.id).await.expect("given back");
        assert_eq!(m.manager.prove(), Vec::<String>::new());
    });
}

impl Mirror {
    /// Does what the manager asks of the disks.
    async fn serve(&self) {
        let au_size = self.host.engine.au_size;
        let members: Vec<_> = (0..).zip(&self.memory).map(|(n, (id, d))| (DiskNo(n), *id, d.clone())).collect();
        while let Some(effect) = self.manager.errand() {
            if let Some(event) = copies::carry_out(self.host.engine.pool, au_size, &members, &effect).await {
                self.manager.step(event);
            }
        }
    }

    /// One of its disks is given up, and everything it had is made again on the others.
    async fn loses(&self, volume: &Arc<Volume<FaultDisk<MemDisk>, Link>>, no: DiskNo) {
        self.faults(no).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
        self.manager.admin(AdminRequest::DiskFail { disk: no.to_string(), failed: true }).expect("given up");
        let mut well = BTreeMap::new();
        for _ in 0..8 {
            volume.look_after_copies(&mut well).await.expect("copied");
            volume.flush().await.expect("flushed");
            settle().await;
            self.manager.advance(Duration::from_millis(600));
            self.serve().await;
        }
        assert_eq!(volume.copying().todo, 0, "{:?}", volume.copying());
        assert_eq!(self.jobs(), Vec::<String>::new());
    }

    /// What is lacking, as the manager says it.
    fn jobs(&self) -> Vec<String> {
        let AdminReply::Jobs(jobs) = self.manager.admin(AdminRequest::JobList).expect("jobs") else { panic!("jobs") };
        jobs.iter().map(|j| format!("{j:?}")).collect()
    }
}

/// > A snapshot survives the loss of any one disk of a volume with two copies; and of another one, once its copies lie elsewhere.
#[test]
fn what_is_preserved_is_copied_elsewhere_too() {
    run_local(async {
        let m = Mirror::new(4).await;
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
        for n in 0..8 {
            volume.write(n * AU, page(1)).await.expect("written");
        }
        volume.flush().await.expect("flushed");
        let id = SnapshotId([3; 16]);
        let shot = CreateSnapshot { volume: m.id, id, name: "s".into() };
        m.host.engine.control.call(shot).await.expect("a snapshot is taken");
        settle().await;
        m.manager.helped();
        // Preserved in a segment that is open, and on four disks there are two that have all of it.
        for n in 0..4 {
            volume.write(n * AU, page(2)).await.expect("written");
        }
        volume.flush().await.expect("flushed");
        settle().await;
        let (other, _) = reader(&m).await;
        let known = other.open(id).await.expect("opened before");
        let segments = || m.manager.look(|c| c.catalog().volume(m.id).map(|v| v.segments.clone())).expect("a volume");
        let first: Vec<DiskNo> = segments().values().next().expect("a segment").legs.iter().map(|l| l.disk).collect();
        assert_eq!(first.len(), 2);
        m.loses(&volume, first[0]).await;
        for n in 4..8 {
            volume.write(n * AU, page(2)).await.expect("written");
        }
        m.loses(&volume, first[1]).await;
        assert!(segments().values().all(|s| s.legs.iter().all(|l| !first.contains(&l.disk))), "{:?}", segments());
        let fresh = m.host.open(id).await.expect("opened after");
        for n in 0..8 {
            assert_eq!(fresh.read(n * AU, 4096).await.expect("preserved")[0], 1, "AU {n}");
            assert_eq!(known.read(n * AU, 4096).await.expect("preserved")[0], 1, "AU {n}, by a reader from before");
            assert_eq!(volume.read(n * AU, 4096).await.expect("read")[0], 2);
        }
        other.close(id).await.expect("closed");
        m.host.close(id).await.expect("closed");
        m.host.detach(m.id).await.expect("given back");
        assert_eq!(m.manager.prove(), Vec::<String>::new());
    });
}

/// A second host that reads the volume, by paths of its own.
async fn reader(m: &Mirror) -> (Rc<Host<FaultDisk<MemDisk>>>, Vec<Faults>) {
    let paths = handles(&m.memory, FaultDisk::new);
    let faults = paths.iter().map(|(_, p)| p.faults()).collect();
    (Host::start(&m.manager, print(2), paths).await, faults)
}

/// A writer loses its path to the copy that another host reads: what that host reads after the next write was acknowledged.
async fn read_beside_a_lost_copy() -> u8 {
    let m = Mirror::new(3).await;
    let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
    volume.write(0, page(1)).await.expect("written");
    volume.flush().await.expect("flushed");
    settle().await;
    let (other, _) = reader(&m).await;
    let read = other.attach(m.id, Mode::Read).await.expect("attached for reading");
    assert_eq!(read.read(0, 4096).await.expect("read")[0], 1);
    m.faults(m.legs()[0]).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
    volume.write(0, page(2)).await.expect("on the other copy");
    volume.flush().await.expect("flushed");
    read.read(0, 4096).await.expect("read")[0]
}

/// PROTOCOL, R2: nothing that missed a copy is acknowledged before every holder knows.
#[test]
fn without_r2_a_reader_sees_a_copy_that_missed_a_write() {
    assert_eq!(run_local(read_beside_a_lost_copy()), 2);
    assert_eq!(without(Tag::R2, || run_local(read_beside_a_lost_copy())), 1);
}

/// A write is under way on the first copy and done on the second: what a read of the second AU gives meanwhile, and what would be left of it
/// if the writer died now.
async fn read_in_the_midst_of_a_write() -> (u8, u8) {
    let m = Mirror::new(2).await;
    let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
    for n in 0..2 {
        volume.write(n * AU, page(1)).await.expect("written");
    }
    volume.flush().await.expect("flushed");
    settle().await;
    let name = m.manager.maps(m.id)[0].get(VolAu(1)).map(|e| e.name()).expect("it has space");
    let first = name.disk;
    let place = u64::from(name.au.0) * AU..u64::from(name.au.0 + 1) * AU;
    let hang = m.faults(first).add(Rule::on(Ops::WRITE, Fault::Hang).within(place));
    let (mine, at) = (volume.clone(), AU);
    let write = tokio::task::spawn_local(async move { mine.write(at, page(2)).await });
    settle().await;
    assert_eq!(m.faults(first).counts().hanging, 1, "it has not landed on the first copy");
    let read = volume.read(at, 4096).await.expect("read")[0];
    let map = m.manager.maps(m.id).remove(0);
    let source = map.get(VolAu(1)).and_then(|e| e.left_by_its_writer(&[]).first_in_sync()).expect("a copy is in sync");
    let left = m.byte(source);
    m.faults(first).remove(hang);
    write.await.expect("no panic").expect("written");
    (read, left)
}

/// PROTOCOL, R3: in a region that is being written only the first copy is read.
#[test]
fn without_r3_a_value_is_read_that_a_crash_takes_back() {
    let (read, left) = run_local(read_in_the_midst_of_a_write());
    assert_eq!((read, left), (1, 1));
    let (read, left) = without(Tag::R3, || run_local(read_in_the_midst_of_a_write()));
    assert_eq!((read, left), (2, 1));
}

/// A reader on another host finds a bad sector on the first copy while the volume is written: what the volume holds in the end.
async fn a_bad_sector_beside_a_writer() -> u8 {
    let m = Mirror::new(2).await;
    let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
    volume.write(0, page(1)).await.expect("written");
    volume.flush().await.expect("flushed");
    settle().await;
    let (other, faults) = reader(&m).await;
    let read = other.attach(m.id, Mode::Read).await.expect("attached for reading");
    let bad = &faults[usize::from(m.legs()[0].0)];
    // The read, and what is asked again copy by copy.
    bad.add(Rule::on(Ops::READ, Fault::Fail(ENODATA, Answer::Answered)).times(2));
    let hang = bad.add(Rule::on(Ops::WRITE, Fault::Hang));
    let reading = tokio::task::spawn_local(async move { read.read(0, 4096).await.map(|b| b[0]) });
    settle().await;
    volume.write(0, page(2)).await.expect("written");
    volume.flush().await.expect("flushed");
    bad.remove(hang);
    settle().await;
    // It may see an error, since a writer lives; it must change nothing.
    drop(reading.await.expect("no panic"));
    volume.read(0, 4096).await.expect("read")[0]
}

/// PROTOCOL, R4: only the writer repairs.
#[test]
fn without_r4_a_reader_undoes_a_write() {
    assert_eq!(run_local(a_bad_sector_beside_a_writer()), 2);
    assert_eq!(without(Tag::R3, || without(Tag::R4, || run_local(a_bad_sector_beside_a_writer()))), 1);
}

/// A block is written while its AU is copied to a disk that has come back; whether the copies are equal afterwards.
async fn a_write_beside_the_copier() -> bool {
    let m = Mirror::new(2).await;
    let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
    volume.write(0, page(1)).await.expect("written");
    volume.flush().await.expect("flushed");
    let second = DiskNo(1);
    let dead = m.faults(second).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
    volume.write(0, page(2)).await.expect("on the other copy");
    volume.flush().await.expect("flushed");
    settle().await;
    m.faults(second).remove(dead);
    let map = m.manager.maps(m.id).remove(0);
    let leg = map.get(VolAu(0)).and_then(|e| e.legs().iter().find(|l| l.at.disk == second).map(|l| l.at)).expect("a copy is there");
    let place = u64::from(leg.au.0) * AU..u64::from(leg.au.0 + 1) * AU;
    let hang = m.faults(second).add(Rule::on(Ops::WRITE, Fault::Hang).within(place));
    let copied = volume.clone();
    let copier = tokio::task::spawn_local(async move {
        let mut well = BTreeMap::new();
        for _ in 0..4 {
            copied.look_after_copies(&mut well).await.expect("copied");
        }
    });
    while m.faults(second).counts().hanging == 0 {
        settle().await;
    }
    let written = volume.clone();
    let writer = tokio::task::spawn_local(async move { written.write(0, page(3)).await });
    settle().await;
    m.faults(second).remove(hang);
    writer.await.expect("no panic").expect("written");
    copier.await.expect("no panic");
    volume.flush().await.expect("flushed");
    for _ in 0..64 {
        settle().await;
    }
    assert_eq!(volume.counters().unfolded, 0);
    assert_eq!(volume.copying().out, Vec::<u16>::new());
    let map = m.manager.maps(m.id).remove(0);
    let entry = map.get(VolAu(0)).expect("written");
    let in_sync: Vec<u8> = entry.legs().iter().filter(|l| l.state == LegState::InSync).map(|l| m.byte(l.at)).collect();
    in_sync.len() == 2 && in_sync.iter().all(|b| *b == 3)
}

/// PROTOCOL, B1: what is copied is what the writer has written, and from then on it writes both.
#[test]
fn without_b1_a_copy_misses_a_write() {
    assert!(run_local(a_write_beside_the_copier()));
    assert!(!without(Tag::B1, || run_local(a_write_beside_the_copier())));
}
