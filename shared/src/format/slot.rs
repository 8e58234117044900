//! A session's slot: its heartbeat, and its SEAL: two pages on each of the session's slot disks.
//!
//! The session writes the first page, again and again; the manager writes the second: *clear* before it welcomes a session
//! that is new, *sealed* when it ends one that may still live. The rule of [`super::owner`] holds here too: **a session goes on
//! only while it reads, valid, `clear` for its own number, identity and opening generation** ([`SlotSeal::is_clear_for`]); anything else, a torn
//! page too, means that it is over. The generation keeps a manager of the past, frozen before it wrote a clear SEAL, from undoing a
//! later one's: a session knows which manager welcomed it first, whose clear SEAL was written before that.

use super::envelope::{self, BlockKind, Flaw, Head, Place};
use super::layout::Layout;
use crate::ids::{DiskId, Generation, PoolId, Seq, SessionId, SessionNo};
use crate::units::{DiskOff, PAGE_U64};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where a slot lies on one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotAt {
    /// The pool.
    pub pool: PoolId,
    /// The disk.
    pub disk: DiskId,
    /// Of the heartbeat; the SEAL is one page further on.
    pub off: DiskOff,
}

impl SlotAt {
    /// The slot of this session on a disk of this layout.
    #[must_use]
    pub fn new(pool: PoolId, disk: DiskId, layout: &Layout, session: SessionNo) -> Self {
        Self { pool, disk, off: layout.slot(session) }
    }

    /// Where the SEAL lies.
    #[must_use]
    pub fn seal(&self) -> DiskOff {
        self.off.plus(PAGE_U64)
    }
}

/// What a session says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// Its number.
    pub session: SessionNo,
    /// Its identity.
    pub id: SessionId,
    /// Grows with each.
    pub beat: Seq,
    /// Written by a session that opens a path to this disk, for the manager to find over its own (PROTOCOL.md, P2); else 0.
    pub nonce: u64,
    /// The last letter that it has answered.
    pub answer: Option<Answer>,
}

/// What a session says to a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Number of the push.
    pub push: u64,
    /// Done as asked; or it could not be.
    pub done: bool,
}

/// What the manager says of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSeal {
    /// Its number.
    pub session: SessionNo,
    /// Its identity.
    pub id: SessionId,
    /// The manager that wrote this.
    pub generation: Generation,
    /// Whether the session is over.
    pub sealed: bool,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSlot {
    id: [u8; 16],
    session: U32,
    sealed: U32,
    nonce: U64,
    answered: U64,
    /// 0 none, 1 done, 2 not done.
    answer: U32,
    room: [u8; 212],
}

/// The page under this head.
fn encode(head: &Head, id: SessionId, no: SessionNo, sealed: bool, (nonce, answer): (u64, Option<Answer>)) -> Vec<u8> {
    let (id, session, sealed) = (id.0, no.0.into(), u32::from(sealed).into());
    let (answered, answer) = answer.map_or((0, 0), |a| (a.push, if a.done { 1 } else { 2 }));
    let raw = RawSlot { id, session, sealed, nonce: nonce.into(), answered: answered.into(), answer: answer.into(), room: [0; 212] };
    envelope::seal(head, raw.as_bytes())
}

/// What a page holds.
struct Decoded {
    head: Head,
    id: SessionId,
    session: SessionNo,
    sealed: bool,
    nonce: u64,
    answer: Option<Answer>,
}

fn decode(kind: BlockKind, page: &[u8], at: SlotAt, off: DiskOff) -> Result<Decoded, Flaw> {
    let block = envelope::open(page, &Place { kind, pool: Some(at.pool), disk: Some(at.disk), at: off })?;
    let bad = Flaw::Length(u32::try_from(block.payload.len()).unwrap_or(u32::MAX));
    let raw = RawSlot::ref_from_bytes(block.payload).map_err(|_| bad)?;
    let answer = match raw.answer.get() {
        0 => None,
        n @ (1 | 2) => Some(Answer { push: raw.answered.get(), done: n == 1 }),
        _ => return Err(bad),
    };
    let (id, session, nonce) = (SessionId(raw.id), SessionNo(raw.session.get()), raw.nonce.get());
    match raw.sealed.get() {
        n @ (0 | 1) => Ok(Decoded { head: block.head, id, session, sealed: n == 1, nonce, answer }),
        _ => Err(bad),
    }
}

impl Heartbeat {
    /// The page for this place.
    #[must_use]
    pub fn encode(&self, at: SlotAt) -> Vec<u8> {
        let (pool, disk, generation) = (at.pool, at.disk, Generation(0));
        encode(
            &Head { kind: BlockKind::Slot, pool, disk, at: at.off, generation, seq: self.beat },
            self.id,
            self.session,
            false,
            (self.nonce, self.answer),
        )
    }

    /// The heartbeat in this page.
    ///
    /// # Errors
    /// Why there is none.
    pub fn decode(page: &[u8], at: SlotAt) -> Result<Self, Flaw> {
        let Decoded { head, id, session, nonce, answer, .. } = decode(BlockKind::Slot, page, at, at.off)?;
        Ok(Self { session, id, beat: head.seq, nonce, answer })
    }
}

impl SlotSeal {
    /// Whether the session of this number and identity, opened under this generation, may go on.
    #[must_use]
    pub fn is_clear_for(&self, session: SessionNo, id: SessionId, opened: Generation) -> bool {
        !self.sealed && (self.session, self.id, self.generation) == (session, id, opened)
    }

    /// The page for this place.
    #[must_use]
    pub fn encode(&self, at: SlotAt) -> Vec<u8> {
        let seq = Seq(1 + u64::from(self.sealed));
        let head = Head { kind: BlockKind::SlotSeal, pool: at.pool, disk: at.disk, at: at.seal(), generation: self.generation, seq };
        encode(&head, self.id, self.session, self.sealed, (0, None))
    }

    /// The SEAL in this page.
    ///
    /// # Errors
    /// Why there is none.
    pub fn decode(page: &[u8], at: SlotAt) -> Result<Self, Flaw> {
        let Decoded { head, id, session, sealed, .. } = decode(BlockKind::SlotSeal, page, at, at.seal())?;
        Ok(Self { session, id, generation: head.generation, sealed })
    }
}

/// Most disks that carry a slot.
pub const SLOT_DISKS: usize = 3;

/// Of `n` slot disks, how many must say so: any two such sets share one.
#[must_use]
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// How many of `n` slot disks a session must hear before it goes on: so many that each majority that was sealed has one of them. Of two disks one may be
/// lost.
#[must_use]
pub fn enough(n: usize) -> usize {
    n - n / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{AuSize, PAGE};

    fn place() -> SlotAt {
        let layout = Layout::for_disk(AuSize::DEFAULT, 64 << 20).expect("large enough");
        SlotAt::new(PoolId([1; 16]), DiskId([2; 16]), &layout, SessionNo(2050))
    }

    #[test]
    fn pages_are_read_back_and_only_from_their_place() {
        let answer = Some(Answer { push: 5, done: false });
        let beat = Heartbeat { session: SessionNo(2050), id: SessionId([3; 16]), beat: Seq(9), nonce: 7, answer };
        let page = beat.encode(place());
        assert_eq!((page.len(), Heartbeat::decode(&page, place())), (PAGE, Ok(beat)));
        assert!(matches!(Heartbeat::decode(&page, SlotAt { off: DiskOff(0), ..place() }), Err(Flaw::Elsewhere(..))));
        assert!(matches!(SlotSeal::decode(&page, place()), Err(Flaw::Kind(5))));
        let golden =
            [[3; 16].as_slice(), &[2, 8, 0, 0], &[0; 4], &[7, 0, 0, 0, 0, 0, 0, 0], &[5, 0, 0, 0, 0, 0, 0, 0], &[2, 0, 0, 0]].concat();
        assert_eq!(page[envelope::HEADER..envelope::HEADER + 44], golden);
        let silent = Heartbeat { answer: None, ..beat };
        assert_eq!(Heartbeat::decode(&silent.encode(place()), place()), Ok(silent));
    }

    #[test]
    fn only_the_own_clear_seal_lets_a_session_go_on() {
        let clear = SlotSeal { session: SessionNo(2050), id: SessionId([3; 16]), generation: Generation(4), sealed: false };
        let back = |s: SlotSeal| SlotSeal::decode(&s.encode(place()), place()).expect("whole");
        let may = |s: SlotSeal| back(s).is_clear_for(SessionNo(2050), SessionId([3; 16]), Generation(4));
        assert!(may(clear));
        assert!(!may(SlotSeal { sealed: true, ..clear }));
        assert!(!may(SlotSeal { generation: Generation(3), ..clear }), "a clear SEAL of a manager of the past");
        assert!(!may(SlotSeal { session: SessionNo(2), ..clear }), "the slot's former owner");
        assert!(!may(SlotSeal { id: SessionId([4; 16]), ..clear }));
        let mut torn = SlotSeal { sealed: true, ..clear }.encode(place());
        torn[600] ^= 1;
        assert_eq!(SlotSeal::decode(&torn, place()), Err(Flaw::Checksum));
    }

    #[test]
    fn any_two_majorities_share_a_disk() {
        for n in 1..=SLOT_DISKS {
            assert!(2 * majority(n) > n);
        }
    }
}
