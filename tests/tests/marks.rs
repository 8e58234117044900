//! What an append may say (PROTOCOL.md, J1), and dirty marks (M1, M2): what a crash leaves says of no block that it is written whose data is not
//! there, and of every region that may differ, or may have changed unsaid,
//! that it is dirty; and with the sentence switched off it does not.

use fusevol::control::Control;
use fusevol::volume::{Mode, Volume};
use fusevol_mgr::core::JournalRef;
use fusevol_mgr::session_io::SessionIo;
use fusevol_shared::change::{AUS_PER_REGION, Entry, Region};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::format::journal::Tail;
use fusevol_shared::ids::{DiskId, PoolId, SnapshotId, VolumeId};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{AuSize, DiskNo, DiskOff};
use fusevol_shared::wire::messages::CreateSnapshot;
use fusevol_tests::crash::CrashSet;
use fusevol_tests::model::host::Host;
use fusevol_tests::model::manager::{Link, Manager};
use fusevol_tests::model::run::{handles, pool, print};
use fusevol_tests::model::run_local;
use fusevol_tests::model::timed::{TimedDisk, Times};
use futures_util::future::join_all;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const AU: u64 = 256 << 10;

fn data(byte: u8) -> IoBytes {
    let mut b = IoBuf::zeroed(4096);
    b.fill(byte);
    b.freeze()
}

/// What the only journal of the pool says, on these disks.
async fn tail(journals: &[JournalRef], disks: &[(DiskNo, DiskId, MemDisk)]) -> Tail {
    let io = SessionIo::new(PoolId([1; 16]), AuSize::from_log2(18).expect("256 KiB"), disks, Duration::from_secs(60));
    io.read_journals(journals).await.pop().expect("one writer").1.expect("it can be read")
}

/// Attaches, writes once and gives back, and attaches again: the AU is not new, and its region is clean.
async fn written_once<D: Disk>(host: &Rc<Host<D>>, id: VolumeId) -> Arc<Volume<D, Link>> {
    let volume = host.attach(id, Mode::Write).await.expect("attached");
    volume.write(0, data(1)).await.expect("written");
    host.detach(id).await.expect("given back");
    host.attach(id, Mode::Write).await.expect("attached again")
}

fn numbered(disks: &[(DiskId, MemDisk)]) -> Vec<(DiskNo, DiskId, MemDisk)> {
    (0..).zip(disks).map(|(no, (id, d))| (DiskNo(no), *id, d.clone())).collect()
}

/// Whether the region that was written before and after a snapshot is dirty in the epoch after it.
async fn is_dirty_after_a_flip() -> bool {
    let (manager, id, disks) = pool(1, 64, 8 * AU);
    let writer = Host::start(&manager, print(1), handles(&disks, |d| d)).await;
    let other = Host::start(&manager, print(2), handles(&disks, |d| d)).await;
    let volume = written_once(&writer, id).await;
    volume.write(0, data(2)).await.expect("written, and marked before");
    let call = CreateSnapshot { volume: id, id: SnapshotId([9; 16]), name: "s".into() };
    let epoch = other.engine.control.call(call).await.expect("taken").snapshot.epoch;
    volume.write(0, data(3)).await.expect("written in the new epoch");
    let tail = tail(&manager.journals(), &numbered(&disks)).await;
    assert!(tail.epoch > epoch);
    tail.dirty.contains(&Region(0))
}

#[test]
fn a_flip_marks_dirty_regions_again() {
    assert!(run_local(is_dirty_after_a_flip()));
    assert!(!without(Tag::M1, || run_local(is_dirty_after_a_flip())), "the change list of the new epoch would miss the write");
}

/// First writes to clean regions, side by side, do not stand in a row: their marks share appends.
#[test]
fn marks_of_regions_that_are_written_at_once_share_appends() {
    const REGIONS: u64 = 24;
    run_local(async {
        let region = u64::from(AUS_PER_REGION) * AU;
        let (manager, id, disks) = pool(1, 64, REGIONS * region);
        let times = Times { durable: Duration::from_micros(200), ..Times::default() };
        let writer = Host::start(&manager, print(1), handles(&disks, |d| TimedDisk::new(d, times))).await;
        let volume = writer.attach(id, Mode::Write).await.expect("attached");
        for r in 0..REGIONS {
            volume.write(r * region, data(1)).await.expect("written");
        }
        writer.detach(id).await.expect("given back: all is clean");
        let volume = writer.attach(id, Mode::Write).await.expect("attached again");
        let before = volume.counters();
        join_all((0..REGIONS).map(|r| volume.write(r * region, data(2)))).await.into_iter().for_each(|w| w.expect("written"));
        let after = volume.counters();
        assert_eq!((before.dirty_regions, after.dirty_regions), (0, REGIONS));
        let appends = after.appends - before.appends;
        assert!((1..=3).contains(&appends), "{appends} appends for {REGIONS} regions");
    });
}

/// Whether some power cut leaves a journal that says "clean" over data that is not there.
async fn is_clean_without_its_data() -> bool {
    let (manager, id, disks): (Arc<Manager>, _, _) = pool(1, 64, 8 * AU);
    let (at, before) = {
        let first = Host::start(&manager, print(1), handles(&disks, |d| d)).await;
        let volume = written_once(&first, id).await;
        let at = volume.extents().first().expect("one block").at;
        first.detach(id).await.expect("given back");
        (at, disks.iter().map(|(_, d)| d.clone()).collect())
    };
    let set = CrashSet::over(before);
    let crash: Vec<_> = disks.iter().zip(set.disks()).map(|((id, _), d)| (*id, Arc::new(d))).collect();
    let writer = Host::start(&manager, print(2), crash).await;
    let volume = writer.attach(id, Mode::Write).await.expect("attached");
    volume.write(0, data(2)).await.expect("written");
    assert_eq!(volume.counters().dirty_regions, 1);
    while volume.counters().dirty_regions > 0 || volume.counters().appends < 2 {
        tokio::task::yield_now().await; // the region comes to rest
    }
    let (journals, last) = (manager.journals(), volume.counters().appends);
    let au_size = AuSize::from_log2(18).expect("256 KiB");
    for state in set.states(&mut SeededRandom(3), 8) {
        let disks: Vec<_> = (0..).zip(&disks).zip(state.disks).map(|((no, (id, _)), d)| (DiskNo(no), *id, d)).collect();
        let tail = tail(&journals, &disks).await;
        let byte = disks[usize::from(at.disk.0)].2.peek(at.au.start(au_size), 1)[0];
        if tail.last.0 == last && tail.dirty.is_empty() && byte != 2 {
            return true;
        }
    }
    false
}

#[test]
fn a_region_is_clean_only_once_its_data_is_there() {
    assert!(!run_local(is_clean_without_its_data()));
    assert!(without(Tag::M2, || run_local(is_clean_without_its_data())), "a mirror would stay different, unsaid");
}

/// Whether some power cut leaves a journal that says "written" of a block that holds what lay there before.
async fn is_written_without_its_data() -> bool {
    let (manager, id, disks): (Arc<Manager>, _, _) = pool(1, 64, 8 * AU);
    let sevens = vec![7; usize::try_from(60 * AU).expect("small")];
    disks.iter().for_each(|(_, d)| d.poke(DiskOff(0), &sevens));
    let set = CrashSet::over(disks.iter().map(|(_, d)| d.clone()).collect());
    let crash: Vec<_> = disks.iter().zip(set.disks()).map(|((id, _), d)| (*id, Arc::new(d))).collect();
    let writer = Host::start(&manager, print(1), crash).await;
    let volume = writer.attach(id, Mode::Write).await.expect("attached");
    volume.write(0, data(1)).await.expect("written: there is something to flush");
    // The write is in flight when the flush is submitted, and complete before the append.
    let (written, flushed) = futures_util::future::join(volume.write(4096, data(2)), volume.flush()).await;
    written.and(flushed).expect("both");
    let journals = manager.journals();
    let (at, au_size) = (volume.extents().first().expect("a block").at, AuSize::from_log2(18).expect("256 KiB"));
    for state in set.states(&mut SeededRandom(3), 8) {
        let disks: Vec<_> = (0..).zip(&disks).zip(state.disks).map(|((no, (id, _)), d)| (DiskNo(no), *id, d)).collect();
        let tail = tail(&journals, &disks).await;
        let says = |e: &Entry| matches!(e, Entry::Written { masks } if masks.iter().any(|m| m.blocks.has(1)));
        let said = tail.appends.iter().flat_map(|a| &a.entries).any(says);
        let byte = disks[usize::from(at.disk.0)].2.peek(at.au.start(au_size).plus(4096), 1)[0];
        if said && byte == 7 {
            return true;
        }
    }
    false
}

#[test]
fn a_block_is_said_to_be_written_only_once_its_data_is_there() {
    assert!(!run_local(is_written_without_its_data()));
    assert!(without(Tag::J1, || run_local(is_written_without_its_data())), "foreign bytes would be read");
}

/// SEMANTICS: who reads after a dead writer. What its successor may read of it, flushed or not, is there after a power cut, too: else it would be
/// read once, or frozen in a snapshot, and then be gone.
#[test]
fn what_a_dead_writer_left_unflushed_is_made_durable_before_its_journal_is_concluded() {
    run_local(async {
        let (manager, id, disks): (Arc<Manager>, _, _) = pool(1, 64, 8 * AU);
        let first = Host::start(&manager, print(1), handles(&disks, |d| d)).await;
        let at = written_once(&first, id).await.extents().first().expect("one block").at;
        first.detach(id).await.expect("given back");
        let set = CrashSet::over(disks.iter().map(|(_, d)| d.clone()).collect());
        let crash: Vec<_> = disks.iter().zip(set.disks()).map(|((id, _), d)| (*id, Arc::new(d))).collect();
        let writer = Host::start(&manager, print(2), crash.clone()).await;
        let volume = writer.attach(id, Mode::Write).await.expect("attached");
        volume.write(0, data(2)).await.expect("written, not flushed");
        // Here the writer dies, and is found drained.
        let members: Vec<_> = (0..).zip(crash).map(|(no, (id, d))| (DiskNo(no), id, d)).collect();
        let au_size = AuSize::from_log2(18).expect("256 KiB");
        let io = SessionIo::new(PoolId([1; 16]), au_size, &members, Duration::from_secs(60));
        io.read_journals(&manager.journals()).await.pop().expect("one writer").1.expect("it can be read");
        set.mark(1);
        let off = at.au.start(au_size);
        let after: Vec<u8> = set
            .states(&mut SeededRandom(3), 8)
            .filter(|s| s.acknowledged == 1)
            .map(|s| s.disks[usize::from(at.disk.0)].peek(off, 1)[0])
            .collect();
        assert!(!after.is_empty() && after.iter().all(|b| *b == 2), "{after:?}");
    });
}
