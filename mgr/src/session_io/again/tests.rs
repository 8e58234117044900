//! Segments that lie at one more place, on memory disks.

use super::*;
use crate::core::errand::{KeptBlock, Laid};
use crate::session_io::Member;
use fusevol_shared::change::Segment;
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::format::preserve::checksum;
use fusevol_shared::ids::{DiskId, FenceToken, PoolId, SessionNo, VolumeEpoch, VolumeId};
use fusevol_shared::units::{AuNo, AuSize, DiskNo};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

const SIZE: AuSize = AuSize::DEFAULT;
const V: VolumeId = VolumeId([7; 16]);
const T: FenceToken = FenceToken(3);

fn at(disk: u16, au: u32) -> DiskAu {
    DiskAu { disk: DiskNo(disk), au: AuNo(au) }
}

fn segment(no: u32, legs: &[DiskAu]) -> Segment {
    Segment { no, epoch: VolumeEpoch(1), token: T, session: SessionNo(2), legs: legs.to_vec() }
}

struct World(Vec<Member<MemDisk>>);

impl World {
    /// Segment 1 on disks 0 and 1 has a block of AU 50 of disk 0, and is closed by the name of `next`, if there is one.
    fn new(next: Option<Segment>) -> Self {
        let w = Self((0u8..3).map(|n| (DiskNo(n.into()), DiskId([n + 1; 16]), MemDisk::new(64 << 20))).collect());
        let block = vec![9; usize::try_from(SIZE.block_bytes()).expect("small")];
        w.0[0].2.poke(at(0, 40).au.start(SIZE), &block);
        let crc = checksum(&block);
        let old = KeptBlock { epoch: VolumeEpoch(1), segment: 0, seq: Seq(1), legs: vec![at(0, 40)], pos: 0, at: at(0, 50), block: 5, crc };
        let laid = Laid { segment: segment(1, &LEGS), blocks: vec![(old, at(0, 50))], next };
        block_on(w.io().lay(V, &laid, &Cell::new(false))).expect("laid down");
        w
    }

    fn io(&self) -> SessionIo<'_, MemDisk> {
        SessionIo::new(PoolId([1; 16]), SIZE, &self.0, Duration::from_secs(1))
    }

    fn again(&self, over: bool) -> LayEnd {
        let job = LayJob { volume: V, segment: segment(1, &LEGS), over, from: LEGS.to_vec(), to: at(2, 30) };
        block_on(self.io().lay_again(&job))
    }

    /// What stands in it there: its blocks, and whether it is open.
    fn read(&self, leg: DiskAu) -> (Vec<(DiskAu, u32, u32)>, bool) {
        let end = block_on(self.io().read_log(V, T, &[segment(1, &[leg])], &BTreeSet::from([at(0, 50)]))).expect("read");
        (end.blocks.iter().map(|b| (b.at, b.block, b.crc)).collect(), end.ended == [1])
    }
}

const LEGS: [DiskAu; 2] = [DiskAu { disk: DiskNo(0), au: AuNo(20) }, DiskAu { disk: DiskNo(1), au: AuNo(20) }];

#[test]
fn a_closed_segment_says_the_same_at_its_new_place() {
    let w = World::new(Some(segment(2, &[at(0, 21)])));
    assert_eq!(w.again(false), LayEnd::Done);
    let (blocks, open) = w.read(at(2, 30));
    assert!(blocks.len() == 1 && !open, "{blocks:?}");
    assert_eq!((blocks, open), w.read(LEGS[1]));
}

#[test]
fn one_that_may_still_be_written_to_is_left_until_its_writer_is_gone() {
    let w = World::new(None);
    assert_eq!(w.again(false), LayEnd::Open);
    assert!(w.read(at(2, 30)).0.is_empty(), "nothing was written");
    assert_eq!(w.again(true), LayEnd::Done);
    assert_eq!(w.read(at(2, 30)), w.read(LEGS[0]));
}

#[test]
fn the_leg_that_goes_furthest_is_the_one() {
    let w = World::new(Some(segment(2, &[at(0, 21)])));
    // The first leg has rotted.
    w.0[0].2.poke(LEGS[0].au.start(SIZE), &[0; PAGE]);
    assert_eq!(w.again(false), LayEnd::Done);
    assert_eq!(w.read(at(2, 30)), w.read(LEGS[1]));
    assert_eq!(w.read(at(2, 30)).0.len(), 1);
}

#[test]
fn what_was_there_before_is_not_taken_for_records() {
    let w = World::new(None);
    let whole = |no: u16| w.0[usize::from(no)].2.clone();
    // An empty segment, over what looks like one of the same log: its pages name another place, and it has none.
    let copy = block_on(w.io().read_au(LEGS[0])).expect("read").0;
    whole(2).poke(at(2, 30).au.start(SIZE), &copy);
    assert!(w.read(at(2, 30)).0.is_empty());
    whole(0).poke(LEGS[0].au.start(SIZE), &[0; PAGE]);
    whole(1).poke(LEGS[1].au.start(SIZE), &[0; PAGE]);
    assert_eq!(w.again(true), LayEnd::Done);
    assert!(w.read(at(2, 30)).0.is_empty());
}
