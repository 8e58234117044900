//! Byte-range locks of the volumes: who holds which bytes (SEMANTICS.md, "Locks").
//!
//! ```text
//!  SetLock, GetLock -> granted, or in the way of another, or *unknown*     -> wait: told by LocksFreed, then asked again
//!  a new manager: nothing is known of who had a volume attached            -> RetakeLocks, or its end, makes it known
//! ```
//! Locks are no part of the catalog. A session that had a volume attached when this manager began may hold any lock of it, until it has said
//! which: nobody gets a lock there before. That is the grace period: it has no clock of its own; live sessions are back within a lease, and
//! one that is not is ended by the way that ends every dead session (`session`, `seal`).
//!
//! Invariants: no two sessions hold locks that conflict; what a session holds it keeps until it unlocks, is over, or has to give the
//! volume back (a detach by its own wish takes nothing: it attaches in another way); a request is answered at once, so that
//! nobody who waits takes a place on a connection; who waits is a session a volume, which bounds it.

use super::Core;
use super::admin_api::Level;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{SessionNo, VolumeId};
use fusevol_shared::lock::{LockKind, LockTable, Piece, Span};
use fusevol_shared::wire::lock::{GetLock, HeldLock, LOCKS_PER_SESSION, LockState, LocksFreed, LocksTaken, RetakeLocks, SetLock};
use fusevol_shared::wire::messages::{Push, Reply};
use fusevol_shared::wire::rights::Right;
use std::collections::{BTreeMap, BTreeSet};

/// A process or an open file of a session.
type Owner = (SessionNo, u64);

/// The locks of all volumes.
#[derive(Default)]
pub(super) struct Locks {
    tables: BTreeMap<VolumeId, LockTable<Owner>>,
    /// Sessions of which it is not known what they hold.
    unknown: BTreeMap<VolumeId, BTreeSet<SessionNo>>,
    /// Sessions that are told when something is given back.
    waiting: BTreeMap<VolumeId, BTreeSet<SessionNo>>,
}

impl Locks {
    /// At the beginning of a manager's life: of who has a volume attached nothing is known.
    pub fn of_unknown(attached: impl Iterator<Item = (VolumeId, SessionNo)>) -> Self {
        let mut locks = Self::default();
        attached.for_each(|(volume, session)| _ = locks.unknown.entry(volume).or_default().insert(session));
        locks
    }

    fn held_by(&self, session: SessionNo) -> usize {
        self.tables.values().flat_map(LockTable::iter).filter(|((s, _), _)| *s == session).count()
    }
}

fn state(conflict: Option<Piece>, unknown: bool) -> Reply {
    Reply::LockState(LockState { conflict, unknown })
}

fn no_span() -> Error {
    Error::new(Kind::Refused, "a lock of no bytes")
}

impl Core {
    /// Locks or unlocks.
    pub(super) fn set_lock(&mut self, session: SessionNo, m: &SetLock) -> Result<Reply> {
        let span = m.span.checked().ok_or_else(no_span)?;
        let owner = (session, m.owner);
        let Some(kind) = m.kind else {
            self.put_lock(m.volume, owner, span, None, m.pid);
            return Ok(state(None, false));
        };
        let own = self.locks.tables.get(&m.volume).is_some_and(|t| t.covers(owner, span, kind));
        // What is its own already nobody else can have.
        if !own && let Some(answer) = self.in_the_way(m.volume, owner, span, kind) {
            if m.wait {
                self.locks.waiting.entry(m.volume).or_default().insert(session);
            }
            return Ok(answer);
        }
        if self.locks.held_by(session) >= LOCKS_PER_SESSION {
            return Err(Error::new(Kind::NoSpace, "the session holds too many locks"));
        }
        self.put_lock(m.volume, owner, span, Some(kind), m.pid);
        Ok(state(None, false))
    }

    /// Who is in the way of a lock.
    pub(super) fn get_lock(&mut self, session: SessionNo, m: &GetLock) -> Result<Reply> {
        let span = m.span.checked().ok_or_else(no_span)?;
        Ok(self.in_the_way(m.volume, (session, m.owner), span, m.kind).unwrap_or_else(|| state(None, false)))
    }

    fn in_the_way(&mut self, volume: VolumeId, owner: Owner, span: Span, kind: LockKind) -> Option<Reply> {
        let conflict = self.locks.tables.get(&volume).and_then(|t| t.conflict(owner, span, kind));
        if let Some(((holder, _), piece)) = conflict {
            self.lock_is_wanted(holder);
            return Some(state(Some(piece), false));
        }
        let unknown: Vec<SessionNo> = self.locks.unknown.get(&volume)?.iter().copied().collect();
        unknown.into_iter().for_each(|s| self.lock_is_wanted(s));
        Some(state(None, true))
    }

    /// Somebody waits for what this session holds: if it may be dead, that is to be found out.
    fn lock_is_wanted(&mut self, session: SessionNo) {
        let (now, probed) = (self.now.boot, self.is_probed(session));
        let Some(life) = self.lives.get_mut(&session).filter(|l| l.may_be_dead()) else { return };
        life.wanted |= life.lapsed;
        if probed && life.probe.next > now.plus(super::life::PROBE_FIRST) {
            life.probe_now(now);
        }
    }

    fn put_lock(&mut self, volume: VolumeId, owner: Owner, span: Span, kind: Option<LockKind>, pid: u32) {
        let table = self.locks.tables.entry(volume).or_default();
        let weaker = table.set(owner, span, kind, pid);
        if table.is_empty() {
            self.locks.tables.remove(&volume);
        }
        if weaker {
            self.locks_freed(volume);
        }
    }

    /// Tells those who wait that it is worth to ask again.
    fn locks_freed(&mut self, volume: VolumeId) {
        for session in self.locks.waiting.remove(&volume).unwrap_or_default() {
            let body = Push::LocksFreed(LocksFreed { volume });
            // One that is not answered yet says the same.
            if self.lives.get(&session).is_some_and(|l| !l.pushes.values().any(|p| *p == body)) {
                self.push(session, body);
            }
        }
    }

    /// A session says what it holds.
    pub(super) fn retake_locks(&mut self, session: SessionNo, m: &RetakeLocks) -> Result<Reply> {
        if m.locks.len() > LOCKS_PER_SESSION {
            return Err(Error::new(Kind::Refused, "too many locks"));
        }
        let former: Vec<VolumeId> = self.locks.tables.keys().copied().collect();
        former.iter().for_each(|v| self.drop_locks(*v, session));
        let client = self.catalog.session(session).map(|s| s.client);
        let mut lost = Vec::new();
        for lock in &m.locks {
            let HeldLock { volume, owner, piece } = lock;
            let owner = (session, *owner);
            let allowed =
                client.is_some_and(|c| self.catalog.rights(*volume, c).has(Right::Read)) && self.catalog.volume(*volume).is_some();
            let free = |span| self.locks.tables.get(volume).is_none_or(|t| t.conflict(owner, span, piece.kind).is_none());
            match piece.span.checked().filter(|span| allowed && free(*span)) {
                Some(span) => self.put_lock(*volume, owner, span, Some(piece.kind), piece.pid),
                None => lost.push(lock.clone()),
            }
        }
        let known: Vec<VolumeId> = self.locks.unknown.iter().filter(|(_, s)| s.contains(&session)).map(|(v, _)| *v).collect();
        known.into_iter().for_each(|v| self.locks_are_known(v, session));
        former.into_iter().for_each(|v| self.locks_freed(v));
        if !lost.is_empty() {
            let text = format!("{} of {} locks of {} are lost: others have them", lost.len(), m.locks.len(), self.who(session));
            self.tell(Level::Critical, "locks-lost", text);
        }
        Ok(Reply::LocksTaken(LocksTaken { lost }))
    }

    fn locks_are_known(&mut self, volume: VolumeId, session: SessionNo) {
        let Some(unknown) = self.locks.unknown.get_mut(&volume) else { return };
        unknown.remove(&session);
        if unknown.is_empty() {
            self.locks.unknown.remove(&volume);
            self.locks_freed(volume);
        }
    }

    fn drop_locks(&mut self, volume: VolumeId, session: SessionNo) {
        if let Some(table) = self.locks.tables.get_mut(&volume) {
            table.drop_owners(|(s, _)| s == session);
            if table.is_empty() {
                self.locks.tables.remove(&volume);
            }
        }
    }

    /// A session has to give a volume back, or is over: it holds no lock there any more.
    pub(super) fn locks_gone(&mut self, volume: VolumeId, session: SessionNo) {
        self.drop_locks(volume, session);
        if let Some(waiting) = self.locks.waiting.get_mut(&volume) {
            waiting.remove(&session);
        }
        self.locks_are_known(volume, session);
        self.locks_freed(volume);
    }

    /// A session is over.
    pub(super) fn locks_of_session_gone(&mut self, session: SessionNo) {
        let l = &self.locks;
        let volumes: BTreeSet<VolumeId> = l.tables.keys().chain(l.unknown.keys()).chain(l.waiting.keys()).copied().collect();
        for volume in volumes {
            let holds = |t: &LockTable<Owner>| t.iter().any(|((s, _), _)| s == session);
            let named = |m: &BTreeMap<VolumeId, BTreeSet<SessionNo>>| m.get(&volume).is_some_and(|s| s.contains(&session));
            let concerned = self.locks.tables.get(&volume).is_some_and(holds) || named(&self.locks.unknown) || named(&self.locks.waiting);
            if concerned {
                self.locks_gone(volume, session);
            }
        }
    }

    /// A volume is removed.
    pub(super) fn locks_of_volume_gone(&mut self, volume: VolumeId) {
        self.locks.tables.remove(&volume);
        self.locks.unknown.remove(&volume);
        self.locks_freed(volume);
    }
}
