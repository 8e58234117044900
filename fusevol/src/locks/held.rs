//! What the session holds: the tables of its files, which open file each owner came through, and which grants still count.

use super::Wanted;
use crate::stale::Whose;
use fusevol_shared::lock::{LockKind, LockTable, Piece, Span};
use fusevol_shared::wire::lock::{HeldLock, LOCKS_PER_SESSION};
use std::collections::{BTreeMap, BTreeSet};

type Owner = (Whose, u64);

/// All locks of a session.
#[derive(Default)]
pub(super) struct Held {
    tables: BTreeMap<Whose, LockTable<u64>>,
    /// Owners that took locks through an open file.
    handles: BTreeMap<u64, BTreeSet<Owner>>,
    /// Grows with each manager that begins anew.
    life: u64,
    /// Owners for whom the manager is asked: how often, and how often something of theirs was unlocked meanwhile.
    asking: BTreeMap<Owner, (u32, u64)>,
}

/// A question to the manager, and when it was asked.
#[derive(Debug)]
pub(super) struct Asked {
    owner: Owner,
    life: u64,
    unlocked: u64,
}

impl Held {
    pub fn count(&self) -> usize {
        self.tables.values().map(LockTable::len).sum()
    }

    /// Whether one lock more may be had.
    pub fn room(&self) -> Result<(), String> {
        if self.count() < LOCKS_PER_SESSION { Ok(()) } else { Err("the mount holds too many locks".to_owned()) }
    }

    pub fn covers(&self, w: &Wanted) -> bool {
        self.tables.get(&w.whose).is_some_and(|t| t.covers(w.owner, w.span, w.kind))
    }

    pub fn conflict(&self, whose: Whose, owner: u64, span: Span, kind: LockKind) -> Option<Piece> {
        self.tables.get(&whose).and_then(|t| t.conflict(owner, span, kind)).map(|(_, p)| p)
    }

    pub fn within(&self, whose: Whose, owner: u64, span: Span) -> Vec<(Span, Option<Piece>)> {
        self.tables.get(&whose).map_or_else(|| vec![(span, None)], |t| t.within(owner, span))
    }

    /// Had. Whether a byte is locked less than before.
    pub fn set(&mut self, w: &Wanted) -> bool {
        self.handles.entry(w.handle).or_default().insert((w.whose, w.owner));
        let weaker = self.tables.entry(w.whose).or_default().set(w.owner, w.span, Some(w.kind), w.pid);
        if weaker {
            self.unlocked((w.whose, w.owner));
        }
        weaker
    }

    /// Whether an unlock leaves more pieces than there were.
    pub fn splits(&self, whose: Whose, owner: u64, span: Span) -> bool {
        let pieces = self.tables.get(&whose).map_or(&[][..], |t| t.pieces(owner));
        pieces.iter().any(|p| p.span.start() < span.start() && span.end() < p.span.end())
    }

    /// Gone. Whether there was anything.
    pub fn unset(&mut self, whose: Whose, owner: u64, span: Span) -> bool {
        self.unlocked((whose, owner));
        let Some(table) = self.tables.get_mut(&whose) else { return false };
        let weaker = table.set(owner, span, None, 0);
        let gone = table.pieces(owner).is_empty();
        if table.is_empty() {
            self.tables.remove(&whose);
        }
        if weaker && gone {
            self.handles.retain(|_, owners| {
                owners.remove(&(whose, owner));
                !owners.is_empty()
            });
        }
        weaker
    }

    fn unlocked(&mut self, owner: Owner) {
        if let Some((_, unlocked)) = self.asking.get_mut(&owner) {
            *unlocked += 1;
        }
    }

    /// The owners that have locks through this open file, which is gone.
    pub fn through(&mut self, handle: u64) -> BTreeSet<Owner> {
        self.handles.remove(&handle).unwrap_or_default()
    }

    /// The manager is asked.
    pub fn asked(&mut self, w: &Wanted) -> Asked {
        let owner = (w.whose, w.owner);
        let (times, unlocked) = self.asking.entry(owner).or_default();
        *times += 1;
        Asked { owner, life: self.life, unlocked: *unlocked }
    }

    /// It has answered, or nobody listens any more: whether a grant counts.
    pub fn counts(&mut self, asked: Asked) -> bool {
        let Some((times, unlocked)) = self.asking.get_mut(&asked.owner) else { return false };
        let same = *unlocked == asked.unlocked && self.life == asked.life;
        *times -= 1;
        if *times == 0 {
            self.asking.remove(&asked.owner);
        }
        same
    }

    /// Another manager begins: what is held in volumes.
    pub fn begin_anew(&mut self) -> Vec<HeldLock> {
        self.life += 1;
        let of = |(whose, table): (&Whose, &LockTable<u64>)| match whose {
            Whose::Volume(volume) => table.iter().map(|(owner, piece)| HeldLock { volume: *volume, owner, piece }).collect(),
            Whose::Snapshot(_) => Vec::new(),
        };
        self.tables.iter().flat_map(of).collect()
    }
}
