//! Locks of byte ranges as POSIX has them: who holds which bytes, and how (fcntl(2), "Advisory record locking").
//!
//! A lock is held by an *owner*. Of one owner a byte has one lock at most: a new one takes the place of what it covers, so that
//! what is left is cut or split, and pieces of one kind side by side are one. Locks of different owners conflict
//! where they share a byte and one of them is for writing.
//!
//! The same table is the manager's (an owner is a process or an open file of a session) and the client's own.
//! Invariants: the pieces of an owner are sorted, do not overlap, and two that touch differ in kind; no two owners conflict, where
//! each [`LockTable::set`] was asked for by [`LockTable::conflict`] before.

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;

/// The last byte that a lock can speak of: `OFFSET_MAX` of the kernel.
pub const LAST_BYTE: u64 = i64::MAX.unsigned_abs();

/// How bytes are locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum LockKind {
    /// Beside other readers.
    Read,
    /// Alone.
    Write,
}

impl LockKind {
    /// Whether two owners cannot hold one byte so.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        self == Self::Write || other == Self::Write
    }
}

/// Bytes from the first to the last, both of them within: never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// Every byte.
    pub const ALL: Self = Self { start: 0, end: LAST_BYTE };

    /// Bytes `start..=end`; `None` where that is nothing, or past the last byte.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start <= end && end <= LAST_BYTE).then_some(Self { start, end })
    }

    /// The same span, if it is one: what came from the wire may not be.
    #[must_use]
    pub fn checked(self) -> Option<Self> {
        Self::new(self.start, self.end)
    }

    /// First byte.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// Last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.end
    }

    /// Whether a byte is in both.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }
}

/// Some bytes, locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Piece {
    /// Which.
    pub span: Span,
    /// How.
    pub kind: LockKind,
    /// The process that asked, on its own host; for people.
    pub pid: u32,
}

/// All locks of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockTable<O: Ord>(BTreeMap<O, Vec<Piece>>);

impl<O: Ord> Default for LockTable<O> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<O: Ord + Copy> LockTable<O> {
    /// A lock of another owner that is in the way.
    #[must_use]
    pub fn conflict(&self, owner: O, span: Span, kind: LockKind) -> Option<(O, Piece)> {
        let others = self.0.iter().filter(|(o, _)| **o != owner);
        let mut in_the_way =
            others.flat_map(|(o, pieces)| pieces.iter().filter(|p| p.span.meets(span) && p.kind.conflicts(kind)).map(|p| (*o, *p)));
        in_the_way.next()
    }

    /// Puts the owner's lock of these bytes in place of what it had there; `None` unlocks. Whether a byte is locked less than before: then
    /// others may get what they could not.
    pub fn set(&mut self, owner: O, span: Span, kind: Option<LockKind>, pid: u32) -> bool {
        let old = self.0.remove(&owner).unwrap_or_default();
        let weaker = old.iter().any(|p| p.span.meets(span) && Some(p.kind) > kind);
        let mut new: Vec<Piece> = old.iter().flat_map(|p| without(*p, span)).collect();
        if let Some(kind) = kind {
            new.push(Piece { span, kind, pid });
        }
        new.sort_unstable_by_key(|p| p.span.start);
        let mut merged: Vec<Piece> = Vec::with_capacity(new.len());
        for p in new {
            match merged.last_mut() {
                Some(last) if last.kind == p.kind && last.span.end + 1 == p.span.start => {
                    (last.span.end, last.pid) = (p.span.end, p.pid);
                }
                Some(_) | None => merged.push(p),
            }
        }
        if !merged.is_empty() {
            self.0.insert(owner, merged);
        }
        weaker
    }

    /// Whether the owner has every one of these bytes, so or stronger.
    #[must_use]
    pub fn covers(&self, owner: O, span: Span, kind: LockKind) -> bool {
        let mut next = span.start;
        for p in self.pieces(owner).iter().filter(|p| p.kind >= kind && p.span.meets(span)) {
            if p.span.start > next {
                return false;
            }
            if p.span.end >= span.end {
                return true;
            }
            next = p.span.end + 1;
        }
        false
    }

    /// What the owner has, in order.
    #[must_use]
    pub fn pieces(&self, owner: O) -> &[Piece] {
        self.0.get(&owner).map_or(&[], Vec::as_slice)
    }

    /// These bytes as the owner has them, from the first to the last: what is not locked, too.
    #[must_use]
    pub fn within(&self, owner: O, span: Span) -> Vec<(Span, Option<Piece>)> {
        let (mut out, mut next) = (Vec::new(), Some(span.start));
        for p in self.pieces(owner) {
            let (Some(part), Some(from)) = (p.span.and(span), next) else { continue };
            out.extend(part.start.checked_sub(1).and_then(|end| Span::new(from, end)).map(|gap| (gap, None)));
            out.push((part, Some(*p)));
            next = part.end.checked_add(1);
        }
        out.extend(next.and_then(|from| Span::new(from, span.end)).map(|gap| (gap, None)));
        out
    }

    /// Every lock.
    pub fn iter(&self) -> impl Iterator<Item = (O, Piece)> + '_ {
        self.0.iter().flat_map(|(o, pieces)| pieces.iter().map(|p| (*o, *p)))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops the locks of these owners. Whether there were any.
    pub fn drop_owners(&mut self, gone: impl Fn(O) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|o, _| !gone(*o));
        self.0.len() < before
    }
}

/// What is left of a piece once these bytes are cut out.
fn without(p: Piece, cut: Span) -> impl Iterator<Item = Piece> {
    let before = if cut.start > p.span.start { Span::new(p.span.start, p.span.end.min(cut.start - 1)) } else { None };
    let after = if cut.end < p.span.end { Span::new(p.span.start.max(cut.end + 1), p.span.end) } else { None };
    before.into_iter().chain(after).map(move |span| Piece { span, ..p })
}

#[cfg(test)]
mod tests;
