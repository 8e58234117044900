//! A journal is read back as it was written; what is torn, stale, another's or damaged ends it, and damage is seen.

use super::*;
use crate::change::Entry;
use crate::ids::DiskId;
use crate::map::AuMask;
use crate::mask::BlockMask;
use crate::units::{DiskOff, VolAu};

const HALF: usize = 64 * PAGE;

fn id() -> JournalId {
    JournalId { pool: PoolId([1; 16]), volume: VolumeId([2; 16]), session: SessionNo(3), token: FenceToken(4), journal: 1 }
}

fn start() -> At {
    At { disk: DiskId([5; 16]), off: DiskOff(1 << 20) }
}

fn append(seq: u64, masks: usize) -> Append {
    let masks = (0..masks).map(|i| AuMask { au: VolAu(u32::try_from(i).expect("few")), blocks: BlockMask(seq) }).collect();
    Append { seq: Seq(seq), entries: vec![Entry::Written { masks }] }
}

/// Writes frames one after the other; gives where each begins.
fn half(turn: u64, state: &State, appends: &[Append]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = vec![0; HALF];
    let last = Seq(state.folded.0 + state.appends.len() as u64);
    let bodies = std::iter::once(Body::of_state(&id(), turn, last, state)).chain(appends.iter().map(|a| Body::of_append(&id(), turn, a)));
    let (mut pos, mut starts) = (0, Vec::new());
    for body in bodies {
        let at = At { off: start().off.plus(pos as u64), ..start() };
        body.seal_into(&id(), at, &mut bytes[pos..pos + body.frame_len()]);
        starts.push(pos);
        pos += body.frame_len();
    }
    (bytes, starts)
}

fn state() -> State {
    State { epoch: VolumeEpoch(7), folded: Seq(2), appends: vec![append(3, 1), append(4, 2)], dirty: vec![Region(9)] }
}

#[test]
fn what_was_written_is_read_back() {
    let appends = [append(5, 3), append(6, 700), append(7, 0)];
    let (bytes, starts) = half(1, &state(), &appends);
    assert!(starts[3] - starts[2] > PAGE, "an append may take more than a page");
    let h = read_half(&bytes, &id(), start(), 0).expect("a half");
    assert_eq!((h.turn, h.last, h.damaged), (1, Seq(7), false));
    assert_eq!((&h.state, h.appended.as_slice()), (&state(), appends.as_slice()));
    let (tail, damaged) = tail([h]).expect("begun");
    assert!(!damaged);
    assert_eq!(tail.appends.iter().map(|a| a.seq.0).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    assert_eq!(tail.dirty, [Region(9)]);
}

#[test]
fn a_torn_append_ends_it_and_a_later_one_shows_damage() {
    let appends = [append(5, 3), append(6, 700), append(7, 0)];
    let (mut bytes, starts) = half(1, &state(), &appends);
    bytes[starts[2] + PAGE + 17] ^= 1;
    let h = read_half(&bytes, &id(), start(), 0).expect("a half");
    assert_eq!((h.last, h.damaged, h.end), (Seq(5), true, starts[2] as u64));
    bytes[starts[3]] ^= 1;
    let h = read_half(&bytes, &id(), start(), 0).expect("a half");
    assert_eq!((h.last, h.damaged), (Seq(5), false), "the last two never came to their end");
}

#[test]
fn appends_without_their_state_are_seen() {
    let (mut bytes, starts) = half(3, &state(), &[append(5, 3), append(6, 1)]);
    assert_eq!(turn_seen(&bytes, &id(), start()), Some(3));
    bytes[100] ^= 1;
    assert!(read_half(&bytes, &id(), start(), 0).is_err());
    assert_eq!(turn_seen(&bytes, &id(), start()), Some(3), "the state is damaged, what follows shows it");
    assert_eq!(turn_seen(&bytes[..starts[1]], &id(), start()), None, "a state that never came to its end has none");
    assert_eq!(turn_seen(&bytes, &JournalId { token: FenceToken(5), ..id() }, start()), None);
}

#[test]
fn the_greater_turn_counts_and_of_it_the_longer_copy() {
    let old = half(1, &State::default(), &[append(1, 1), append(2, 1)]).0;
    let state = State { folded: Seq(1), appends: vec![append(2, 1)], ..State::default() };
    let short = half(2, &state, &[append(3, 1)]).0;
    let long = half(2, &state, &[append(3, 1), append(4, 1)]).0;
    let read = |b: &[u8], n| read_half(b, &id(), start(), n).expect("a half");
    let (tail, _) = tail([read(&old, 0), read(&long, 1), read(&short, 1)]).expect("begun");
    assert_eq!((tail.last, tail.appends.first().map(|a| a.seq)), (Seq(4), Some(Seq(2))));
    assert!(read_half(&old, &id(), start(), 1).is_err(), "a turn lies in its half alone");
}

#[test]
fn left_overs_of_others_do_not_open() {
    let (bytes, starts) = half(1, &state(), &[append(5, 1)]);
    for other in [
        JournalId { journal: 2, ..id() },
        JournalId { token: FenceToken(5), ..id() },
        JournalId { session: SessionNo(4), ..id() },
        JournalId { volume: VolumeId([9; 16]), ..id() },
    ] {
        assert_eq!(read_half(&bytes, &other, start(), 0), Err(NotJournal::OtherJournal));
    }
    let elsewhere = At { off: DiskOff(2 << 20), ..start() };
    assert!(matches!(read_half(&bytes, &id(), elsewhere, 0), Err(NotJournal::Envelope(Flaw::Elsewhere(..)))));
    // An append of an earlier turn of the same half, behind a shorter new state.
    let mut mixed = half(3, &State::default(), &[]).0;
    let old = Body::of_append(&id(), 1, &append(1, 1));
    let at = At { off: start().off.plus(PAGE as u64), ..start() };
    old.seal_into(&id(), at, &mut mixed[PAGE..2 * PAGE]);
    let h = read_half(&mixed, &id(), start(), 0).expect("a half");
    assert_eq!((h.turn, h.last, h.damaged), (3, Seq(0), false));
    assert_eq!(starts, [0, PAGE]);
}

#[test]
fn marks_follow_the_entries() {
    let marked = |r: u32| Entry::Marked { epoch: VolumeEpoch(0), regions: vec![Region(r)] };
    let segment = crate::change::Segment {
        no: 1,
        epoch: VolumeEpoch(1),
        token: FenceToken(4),
        session: SessionNo(3),
        legs: vec![crate::units::DiskAu { disk: crate::units::DiskNo(0), au: crate::units::AuNo(8) }],
    };
    let entries = vec![
        marked(1),
        marked(2),
        Entry::Cleared { epoch: VolumeEpoch(0), regions: vec![Region(1)], changed: vec![] },
        Entry::Flipped { epoch: VolumeEpoch(2), segment, dirty: vec![Region(2)] },
        marked(5),
    ];
    let h =
        Half { turn: 1, state: State::default(), appended: vec![Append { seq: Seq(1), entries }], last: Seq(1), end: 0, damaged: false };
    let (tail, _) = tail([h]).expect("begun");
    assert_eq!((tail.epoch, tail.dirty), (VolumeEpoch(2), vec![Region(2), Region(5)]));
}

#[test]
fn the_fixed_part_has_golden_bytes() {
    let body = Body::of_append(&id(), 0x0102, &Append { seq: Seq(6), entries: vec![] });
    let mut want = vec![2, 0, 0, 0, 1, 0, 0, 0];
    want.extend([2; 16]);
    want.extend([4, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(body.payload[..want.len()], want);
    assert_eq!((body.frame_len(), half_of(1), half_of(2)), (PAGE, 0, 1));
}

#[test]
fn no_bytes_panic() {
    use crate::random::SeededRandom;
    let mut random = SeededRandom(5);
    let (good, _) = half(1, &state(), &[append(5, 3)]);
    for _ in 0..500 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(4) {
            let at = usize::try_from(random.below(3 * PAGE as u64)).expect("small");
            bytes[at] = u8::try_from(random.below(256)).expect("a byte");
        }
        let cut = usize::try_from(random.below(HALF as u64 + 1)).expect("small");
        let _ = read_half(&bytes[..cut], &id(), start(), 0);
    }
}
