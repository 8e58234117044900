//! The preserve log under failed records, failed successors, damage, and the loss of a leg.

use super::log_reader::{LogReader, read_copy};
use super::*;
use fusevol_shared::clock::{BootTime, SystemClock};
use fusevol_shared::disk::Answer;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::fault::{Fault, FaultDisk, Ops, Rule};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::format::preserve::successor_at;
use fusevol_shared::ids::{DiskId, VolumeEpoch};
use fusevol_shared::units::{AuNo, DiskNo, DiskOff};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

const POOL: PoolId = PoolId([1; 16]);
const VOLUME: VolumeId = VolumeId([2; 16]);
const EIO: i32 = 5;

struct Bench {
    size: AuSize,
    disks: Disks<FaultDisk<MemDisk>>,
    lease: Lease,
    log: PreserveLog,
    granted: Cell<u32>,
    legs: u16,
}

impl Bench {
    fn new(legs: u16) -> Self {
        let size = AuSize::from_log2(18).expect("256 KiB");
        let disks = Disks::new();
        for no in 0..2 {
            let disk = FaultDisk::new(MemDisk::new(64 * size.bytes()));
            disks.set_present(DiskNo(no), DiskId([u8::try_from(no).expect("small"); 16]), Arc::new(disk));
        }
        let lease = Lease::new(Arc::new(SystemClock), Duration::from_secs(1));
        lease.extend(BootTime(u64::MAX));
        let first = segment(1, 1, legs);
        let log = PreserveLog::new(
            Whose { pool: POOL, volume: VOLUME, session: SessionNo(1), token: FenceToken(1) },
            size,
            Some(first),
            Arc::default(),
        );
        Self { size, disks, lease, log, granted: Cell::new(1), legs }
    }

    fn keep(&self, blocks: &[(u32, u8)]) -> Result<()> {
        let old = blocks.iter().map(|(block, byte)| Old { at: place(), block: *block, data: self.block(*byte).freeze() }).collect();
        let grant = async || {
            self.granted.set(self.granted.get() + 1);
            Ok(segment(self.granted.get(), 1, self.legs))
        };
        block_on(self.log.preserve(&self.disks, &self.lease, old, grant))
    }

    fn block(&self, byte: u8) -> IoBuf {
        let mut b = IoBuf::zeroed(usize::try_from(self.size.block_bytes()).expect("small"));
        b.fill(byte);
        b
    }

    fn reader(&self) -> LogReader {
        let mut r = LogReader::new(POOL, VOLUME, VolumeEpoch(1), self.size, Arc::default());
        r.add(&segment(1, 1, self.legs));
        r
    }

    fn refresh(&self, r: &mut LogReader) -> Result<()> {
        block_on(r.refresh(&self.disks))
    }

    /// First byte of the best copy of a block; `None` where it is not listed, or damaged.
    fn copy(&self, r: &LogReader, block: u32) -> Option<u8> {
        let best = r.copies(place(), block).first()?;
        block_on(read_copy(&self.disks, VOLUME, self.size, &r.legs(best), best)).expect("the disk can be read").map(|b| b[0])
    }

    fn faults(&self, disk: u16, rule: Rule) {
        self.disks.get(DiskNo(disk)).expect("present").path().direct().expect("direct").faults().add(rule);
    }

    /// Writes zeros over a page of segment `no`, on the leg on `disk`.
    fn wipe(&self, disk: u16, no: u32, pos: u64) {
        let at = DiskOff(u64::from(no) * self.size.bytes() + pos);
        self.disks.get(DiskNo(disk)).expect("present").path().direct().expect("direct").inner().poke(at, &[0; 4096]);
    }
}

/// What is preserved.
fn place() -> DiskAu {
    DiskAu { disk: DiskNo(0), au: AuNo(60) }
}

/// Segment `no` lies in AU `no` of each of its disks.
fn segment(no: u32, epoch: u64, legs: u16) -> Segment {
    let legs = (0..legs).map(|d| DiskAu { disk: DiskNo(d), au: AuNo(no) }).collect();
    Segment { no, epoch: VolumeEpoch(epoch), token: FenceToken(1), session: SessionNo(1), legs }
}

fn fail_once() -> Rule {
    Rule::on(Ops::WRITE, Fault::Fail(EIO, Answer::Answered)).times(1)
}

#[test]
fn the_reader_follows_over_many_segments_and_the_first_copy_wins() {
    let b = Bench::new(1);
    let mut r = b.reader();
    for n in 0..200u32 {
        let byte = u8::try_from(n % 251).expect("small");
        b.keep(&[(n % 64, byte), ((n + 1) % 64, byte)]).expect("kept");
        if n % 7 == 0 {
            b.refresh(&mut r).expect("read on");
        }
    }
    b.refresh(&mut r).expect("read on");
    assert!(b.granted.get() > 5, "many segments were used");
    assert_eq!((b.copy(&r, 0), b.copy(&r, 1), b.copy(&r, 63)), (Some(0), Some(0), Some(62)));
    assert_eq!(r.copies(place(), 5).len(), 8);
}

#[test]
fn a_request_larger_than_a_segment_is_kept_whole() {
    let b = Bench::new(2);
    let all: Vec<(u32, u8)> = (0..64).map(|n| (n, u8::try_from(n).expect("small"))).collect();
    b.keep(&all).expect("kept");
    let mut r = b.reader();
    b.refresh(&mut r).expect("read");
    assert!((0..64).all(|n| b.copy(&r, n) == u8::try_from(n).ok()));
}

/// J2, and "after a failed append the log goes on in a fresh segment".
#[test]
fn after_a_failed_record_the_log_goes_on_in_a_fresh_segment() {
    for fault in [Fault::Fail(EIO, Answer::Answered), Fault::LandThenFail(EIO, Answer::NotReturned)] {
        let b = Bench::new(1);
        let mut r = b.reader();
        b.keep(&[(1, 1)]).expect("kept");
        b.faults(0, Rule::on(Ops::WRITE, fault).times(1));
        b.keep(&[(2, 2)]).expect("kept in the next segment");
        b.keep(&[(3, 3)]).expect("kept");
        b.refresh(&mut r).expect("read");
        assert_eq!((b.copy(&r, 1), b.copy(&r, 2), b.copy(&r, 3)), (Some(1), Some(2), Some(3)));
        assert_eq!(b.granted.get(), 2);
    }
}

#[test]
fn a_successor_that_could_not_be_written_is_written_before_anything_else() {
    let b = Bench::new(1);
    b.keep(&[(1, 1)]).expect("kept");
    let end = b.size.bytes() + successor_at(b.size);
    b.faults(0, fail_once().within(b.size.bytes()..end));
    b.faults(0, fail_once().within(end..end + 4096));
    assert!(b.keep(&[(2, 2)]).is_err(), "nothing counts that a reader would not find");
    b.keep(&[(3, 3)]).expect("kept");
    let mut r = b.reader();
    b.refresh(&mut r).expect("read");
    assert_eq!((b.copy(&r, 1), b.copy(&r, 2), b.copy(&r, 3)), (Some(1), None, Some(3)));
}

#[test]
fn flips_whose_page_cannot_be_written_are_all_passed_through() {
    let b = Bench::new(2);
    b.keep(&[(0, 1)]).expect("kept");
    // The first leg has the page that names segment 40, and the second one fails: a reader may be there already.
    b.faults(1, fail_once());
    assert!(block_on(b.log.flip(&b.disks, segment(40, 2, 2))).is_err());
    let mut r = b.reader();
    b.refresh(&mut r).expect("read");
    b.faults(1, fail_once());
    assert!(block_on(b.log.flip(&b.disks, segment(41, 3, 2))).is_err());
    b.keep(&[(1, 2)]).expect("kept");
    b.refresh(&mut r).expect("read");
    assert_eq!((b.copy(&r, 0), b.copy(&r, 1)), (Some(1), Some(2)));
    assert_eq!(r.copies(place(), 1)[0].epoch, VolumeEpoch(3), "for the snapshot of that epoch, too");
}

#[test]
fn a_flip_goes_on_in_its_segment() {
    let b = Bench::new(1);
    b.keep(&[(1, 1)]).expect("kept");
    block_on(b.log.flip(&b.disks, segment(40, 2, 1))).expect("flipped");
    b.keep(&[(1, 9), (2, 2)]).expect("kept");
    let mut r = b.reader();
    b.refresh(&mut r).expect("read");
    assert_eq!((b.copy(&r, 1), b.copy(&r, 2)), (Some(1), Some(2)));
    let mut later = LogReader::new(POOL, VOLUME, VolumeEpoch(2), b.size, Arc::default());
    later.add(&segment(40, 2, 1));
    b.refresh(&mut later).expect("read");
    assert_eq!(b.copy(&later, 1), Some(9), "a later snapshot does not take copies of an earlier epoch");
}

#[test]
fn damage_to_what_counts_is_seen() {
    let b = Bench::new(1);
    b.keep(&[(1, 1)]).expect("kept");
    b.keep(&[(2, 2)]).expect("kept");
    let second = record_len(b.size, 1);
    b.wipe(0, 1, 4096); // the bytes of the first record's block
    let mut r = b.reader();
    b.refresh(&mut r).expect("read");
    let first = *r.copies(place(), 1).first().expect("listed");
    assert!(r.counts(&first) && b.copy(&r, 1).is_none(), "damaged, and known to be");
    b.wipe(0, 1, second + 4096);
    let last = *r.copies(place(), 2).first().expect("listed");
    assert!(!r.counts(&last), "the last record may be one that is being written");
    block_on(b.log.flip(&b.disks, segment(40, 2, 1))).expect("flipped");
    b.refresh(&mut r).expect("read");
    assert!(r.counts(&last), "the successor shows that it was not");
    b.wipe(0, 1, second);
    assert_eq!(b.refresh(&mut b.reader()).expect_err("a record is gone").kind(), Kind::Damaged);
}

#[test]
fn a_second_leg_saves_what_the_first_lost() {
    let b = Bench::new(2);
    b.keep(&[(1, 1)]).expect("kept");
    b.keep(&[(2, 2)]).expect("kept");
    b.wipe(0, 1, 4096);
    b.wipe(0, 1, record_len(b.size, 1));
    let mut r = b.reader();
    b.refresh(&mut r).expect("read");
    assert_eq!((b.copy(&r, 1), b.copy(&r, 2)), (Some(1), Some(2)));
}

#[test]
fn a_broken_log_is_seen_by_who_reads_it_and_goes_on_after_a_flip() {
    let b = Bench::new(1);
    b.keep(&[(1, 7)]).expect("kept");
    let mut r = b.reader();
    b.refresh(&mut r).expect("read");
    assert!(!r.is_broken());
    block_on(b.log.break_off(&b.disks)).expect("written");
    b.refresh(&mut r).expect("read");
    assert!(r.is_broken(), "who has the log open");
    let mut late = b.reader();
    b.refresh(&mut late).expect("read");
    assert!(late.is_broken(), "who opens it later");
    let mut newer = LogReader::new(POOL, VOLUME, VolumeEpoch(2), b.size, Arc::default());
    newer.add(&segment(1, 1, 1));
    newer.add(&segment(9, 2, 1));
    block_on(b.log.flip(&b.disks, segment(9, 2, 1))).expect("begun");
    b.keep(&[(2, 9)]).expect("kept for the newer snapshot");
    b.refresh(&mut newer).expect("read");
    assert!(!newer.is_broken() && b.copy(&newer, 2) == Some(9));
}
