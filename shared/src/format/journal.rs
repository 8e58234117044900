//! The journal of an attachment on disk: what makes its changes durable without the manager.
//!
//! A journal has one or two copies on different disks; a copy is two *halves* of one AU each, the same content on each copy
//! but for the address in the envelopes:
//!
//! | bytes of a half | what |
//! |---|---|
//! | from 0 | a *state*: every append that is not folded yet, and every dirty region |
//! | then | *appends*, one after the other without a gap |
//!
//! All are frames of kind `Journal` (see [`super::envelope`]) of one or more pages; `seq` in the envelope is the number of the append,
//! or for a state that of the last append that it stands for. The halves are written in turn; a frame carries the *turn* of
//! its half, which grows by one with each state: turn 1 lies in the first half.
//!
//! Invariants: an append is written only after all before it, and the state of its half, are durable on every copy. So of a
//! half only the last append can be in doubt, and one copy alone is enough to read a journal to its end.

use super::envelope::{self, BlockKind, Flaw, Head, Place, frame_len};
use super::preserve::At;
use crate::change::{Append, Region};
use crate::ids::{FenceToken, Generation, PoolId, Seq, SessionNo, VolumeEpoch, VolumeId};
use crate::units::{PAGE, PAGE_U64};
use rkyv::rancor;
use rkyv::util::AlignedVec;
use std::collections::BTreeSet;
use std::fmt;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const STATE: u8 = 1;
const APPEND: u8 = 2;

/// Whose journal a frame belongs to: anything else ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalId {
    /// The pool.
    pub pool: PoolId,
    /// The volume.
    pub volume: VolumeId,
    /// The session that writes.
    pub session: SessionNo,
    /// Its attachment.
    pub token: FenceToken,
    /// Which life of the journal.
    pub journal: u32,
}

/// What a half begins with.
#[derive(Clone, PartialEq, Eq, Default, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(derive(Debug))]
#[allow(missing_docs)] // of the twin that rkyv derives
pub struct State {
    /// The current epoch.
    pub epoch: VolumeEpoch,
    /// Nothing up to and with this number is among `appends`: it is folded.
    pub folded: Seq,
    /// Consecutive, from `folded` on.
    pub appends: Vec<Append>,
    /// Regions that are dirty, ascending.
    pub dirty: Vec<Region>,
}

/// What a half says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Half {
    /// Which turn; the greater counts.
    pub turn: u64,
    /// What it begins with.
    pub state: State,
    /// What was appended to it.
    pub appended: Vec<Append>,
    /// Number of the last append that it stands for.
    pub last: Seq,
    /// Byte at which the next frame would begin.
    pub end: u64,
    /// A frame of this half stands behind its end: an append that counted is damaged on this copy.
    pub damaged: bool,
}

/// A journal, read to its end: what its successor folds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tail {
    /// Number of the last append: the closing number.
    pub last: Seq,
    /// Every append that is known, ascending and consecutive up to `last`; those at or below the catalog's folded number are passed over.
    pub appends: Vec<Append>,
    /// The epoch at the end.
    pub epoch: VolumeEpoch,
    /// Regions that are dirty at the end: what may have changed unsaid.
    pub dirty: Vec<Region>,
}

/// Why bytes are not the frame that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotJournal {
    /// The envelope says so.
    Envelope(Flaw),
    /// Whole, but of another journal, or another kind of frame.
    OtherJournal,
    /// Whole, but it does not fit together.
    Malformed,
}

impl fmt::Display for NotJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotJournal::Envelope(flaw) => write!(f, "{flaw}"),
            NotJournal::OtherJournal => f.write_str("a frame of another journal"),
            NotJournal::Malformed => f.write_str("a frame that does not fit together"),
        }
    }
}

/// The fixed part of a frame's payload; an rkyv archive follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFrame {
    what: u8,
    reserved: [u8; 3],
    journal: U32,
    volume: [u8; 16],
    token: U64,
    turn: U64,
    session: U32,
    reserved2: U32,
}

fn raw(what: u8, id: &JournalId, turn: u64) -> RawFrame {
    RawFrame {
        what,
        reserved: [0; 3],
        journal: id.journal.into(),
        volume: id.volume.0,
        token: id.token.0.into(),
        turn: turn.into(),
        session: id.session.0.into(),
        reserved2: 0.into(),
    }
}

/// The body of a frame, laid out once for all copies.
#[derive(Clone, Debug)]
pub struct Body {
    seq: Seq,
    payload: Vec<u8>,
}

impl Body {
    /// Of an append in the half of this turn.
    ///
    /// # Panics
    /// If it cannot be archived, which plain data always can.
    #[must_use]
    pub fn of_append(id: &JournalId, turn: u64, append: &Append) -> Self {
        let archive = rkyv::to_bytes::<rancor::Error>(append).expect("plain data can be archived");
        Self { seq: append.seq, payload: [raw(APPEND, id, turn).as_bytes(), &archive].concat() }
    }

    /// Of the state that begins the half of this turn; `last` is the number of the last append that it stands for.
    ///
    /// # Panics
    /// As above.
    #[must_use]
    pub fn of_state(id: &JournalId, turn: u64, last: Seq, state: &State) -> Self {
        let archive = rkyv::to_bytes::<rancor::Error>(state).expect("plain data can be archived");
        Self { seq: last, payload: [raw(STATE, id, turn).as_bytes(), &archive].concat() }
    }

    /// Bytes of its frame: whole pages.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        frame_len(self.payload.len())
    }

    /// Lays the frame out for its place; `frame` has the length [`Body::frame_len`].
    pub fn seal_into(&self, id: &JournalId, at: At, frame: &mut [u8]) {
        let head = Head { kind: BlockKind::Journal, pool: id.pool, disk: at.disk, at: at.off, generation: Generation(0), seq: self.seq };
        envelope::seal_into(&head, &self.payload, frame);
    }
}

/// A frame that passed every check but the archive's.
struct Opened<'a> {
    seq: Seq,
    turn: u64,
    archive: &'a [u8],
    len: usize,
}

fn open<'a>(bytes: &'a [u8], id: &JournalId, at: At, what: u8) -> Result<Opened<'a>, NotJournal> {
    let place = Place { kind: BlockKind::Journal, pool: Some(id.pool), disk: Some(at.disk), at: at.off };
    let block = envelope::open(bytes, &place).map_err(NotJournal::Envelope)?;
    let (got, archive) = RawFrame::read_from_prefix(block.payload).map_err(|_| NotJournal::Malformed)?;
    let turn = got.turn.get();
    if got.as_bytes() != raw(what, id, turn).as_bytes() {
        return Err(NotJournal::OtherJournal);
    }
    Ok(Opened { seq: block.head.seq, turn, archive, len: frame_len(block.payload.len()) })
}

fn aligned(archive: &[u8]) -> AlignedVec {
    let mut out = AlignedVec::with_capacity(archive.len());
    out.extend_from_slice(archive);
    out
}

fn open_state(bytes: &[u8], id: &JournalId, at: At) -> Result<(u64, Seq, State, usize), NotJournal> {
    let o = open(bytes, id, at, STATE)?;
    let state: State = rkyv::from_bytes::<State, rancor::Error>(&aligned(o.archive)).map_err(|_| NotJournal::Malformed)?;
    let consecutive = state.appends.iter().zip(state.folded.0 + 1..).all(|(a, n)| a.seq.0 == n);
    if !consecutive || state.folded.0.checked_add(state.appends.len() as u64) != Some(o.seq.0) {
        return Err(NotJournal::Malformed);
    }
    Ok((o.turn, o.seq, state, o.len))
}

fn open_append(bytes: &[u8], id: &JournalId, at: At) -> Result<(u64, Append, usize), NotJournal> {
    let o = open(bytes, id, at, APPEND)?;
    let append: Append = rkyv::from_bytes::<Append, rancor::Error>(&aligned(o.archive)).map_err(|_| NotJournal::Malformed)?;
    if append.seq != o.seq {
        return Err(NotJournal::Malformed);
    }
    Ok((o.turn, append, o.len))
}

/// Reads the half `half` (0 or 1) of one copy, of which these are the bytes; `at` is where it begins.
///
/// # Errors
/// Why it does not begin with a state of this journal.
pub fn read_half(bytes: &[u8], id: &JournalId, at: At, half: usize) -> Result<Half, NotJournal> {
    let (turn, mut last, state, len) = open_state(bytes, id, at)?;
    if turn == 0 || half_of(turn) != half {
        return Err(NotJournal::OtherJournal);
    }
    let mut pos = len;
    let mut appended = Vec::new();
    let place = |pos: usize| At { disk: at.disk, off: at.off.plus(pos as u64) };
    while let Some(rest) = bytes.get(pos..).filter(|r| r.len() >= PAGE) {
        match open_append(rest, id, place(pos)) {
            Ok((t, append, len)) if t == turn && append.seq == last.next() => {
                last = append.seq;
                appended.push(append);
                pos += len;
            }
            _ => break,
        }
    }
    let behind = |p: usize| open_append(&bytes[p..], id, place(p)).is_ok_and(|(t, a, _)| t == turn && a.seq > last.next());
    let damaged = (pos..bytes.len().saturating_sub(PAGE - 1)).step_by(PAGE).any(behind);
    Ok(Half { turn, state, appended, last, end: pos as u64, damaged })
}

/// The greatest turn of which an append of this journal stands anywhere in a half, also where the state before it is damaged. An append
/// is written only after the state of its turn was durable: a half that has one, and does not begin with that state, is damaged.
#[must_use]
pub fn turn_seen(bytes: &[u8], id: &JournalId, at: At) -> Option<u64> {
    let place = |pos: usize| At { disk: at.disk, off: at.off.plus(pos as u64) };
    let pages = (0..(bytes.len() + 1).saturating_sub(PAGE)).step_by(PAGE);
    pages.filter_map(|pos| open_append(&bytes[pos..], id, place(pos)).ok()).map(|(turn, ..)| turn).max()
}

/// Which half a turn lies in.
#[must_use]
pub fn half_of(turn: u64) -> usize {
    usize::from(turn.is_multiple_of(2))
}

/// The journal's end, from all halves of all copies that could be read: the greatest turn, and of it the copy that goes furthest.
/// `None` where no half of it is there: the journal was never begun.
///
/// The second value says whether an append that counted is damaged on every copy: then nothing may be concluded.
#[must_use]
pub fn tail(halves: impl IntoIterator<Item = Half>) -> Option<(Tail, bool)> {
    let halves: Vec<Half> = halves.into_iter().collect();
    let best = halves.iter().max_by_key(|h| (h.turn, h.last))?;
    let damaged = halves.iter().filter(|h| h.turn == best.turn).all(|h| h.damaged);
    let mut dirty: BTreeSet<Region> = best.state.dirty.iter().copied().collect();
    let mut epoch = best.state.epoch;
    for entry in best.appended.iter().flat_map(|a| &a.entries) {
        mark(entry, &mut epoch, &mut dirty);
    }
    let appends = best.state.appends.iter().chain(&best.appended).cloned().collect();
    Some((Tail { last: best.last, appends, epoch, dirty: dirty.into_iter().collect() }, damaged))
}

/// What an entry does to the dirty regions.
pub fn mark(entry: &crate::change::Entry, epoch: &mut VolumeEpoch, dirty: &mut BTreeSet<Region>) {
    use crate::change::Entry;
    match entry {
        Entry::Marked { regions, .. } => dirty.extend(regions),
        Entry::Cleared { regions, .. } => regions.iter().for_each(|r| _ = dirty.remove(r)),
        Entry::Flipped { epoch: begun, dirty: again, .. } => {
            *epoch = *begun;
            *dirty = again.iter().copied().collect();
        }
        Entry::Bound { .. }
        | Entry::Written { .. }
        | Entry::Discarded { .. }
        | Entry::Segment(_)
        | Entry::Broken { .. }
        | Entry::Moved { .. }
        | Entry::Late { .. }
        | Entry::Placed { .. }
        | Entry::Returned { .. } => {}
    }
}

/// Bytes in a half that frames may fill.
#[must_use]
pub fn half_bytes(size: crate::units::AuSize) -> u64 {
    size.bytes() / PAGE_U64 * PAGE_U64
}

#[cfg(test)]
mod tests;
