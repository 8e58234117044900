//! The kernel's locks as ours: numbers, and whether a process that waits was interrupted.
//!
//! flock(2) comes as a lock of every byte, as on NFS: the library does not say which of the two it is, so both are one here. An unlock at the
//! close of a process' descriptor comes as a flush that names the process; the last close of an open file (of OFD locks and flock the owner)
//! names nothing but the file.
//!
//! The library does not hand the kernel's INTERRUPT on, and after the first the kernel sends no other. So a process that waits is looked at:
//! where a signal is pending that it does not block, its wait ends.

use super::adapter::Adapter;
use super::nodes::Node;
use crate::locks::{Refusal, Wanted};
use crate::session::locker::Want;
use crate::stale::Whose;
use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyEmpty, ReplyLock};
use fusevol_shared::disk::ring;
use fusevol_shared::lock::{LAST_BYTE, LockKind, Piece, Span};

/// What the kernel says of a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub fh: FileHandle,
    pub owner: LockOwner,
    pub start: u64,
    pub end: u64,
    pub typ: i32,
    /// The process that the lock names.
    pub pid: u32,
    /// The thread that asks, as this process sees it; 0 where it does not.
    pub thread: u32,
    pub wait: bool,
}

/// `F_RDLCK`, `F_WRLCK`, `F_UNLCK` (the last as none).
fn kind(typ: i32) -> Result<Option<LockKind>, Errno> {
    match typ {
        libc::F_RDLCK => Ok(Some(LockKind::Read)),
        libc::F_WRLCK => Ok(Some(LockKind::Write)),
        libc::F_UNLCK => Ok(None),
        _ => Err(Errno::EINVAL),
    }
}

fn number(kind: LockKind) -> i32 {
    match kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
    }
}

impl Adapter {
    fn lockable(&self, ino: INodeNo) -> Result<Whose, Errno> {
        match self.node(ino)? {
            Node::Volume(id) => Ok(Whose::Volume(id)),
            Node::Snapshot(id) => Ok(Whose::Snapshot(id)),
            Node::Root | Node::Snapshots => Err(Errno::EINVAL),
        }
    }

    fn wanted(&self, ino: INodeNo, a: &Asked) -> Result<(Whose, Span, Option<LockKind>), Errno> {
        let span = Span::new(a.start, a.end.min(LAST_BYTE)).ok_or(Errno::EINVAL)?;
        Ok((self.lockable(ino)?, span, kind(a.typ)?))
    }

    /// Who is in the way.
    pub(super) fn get_lock(&self, ino: INodeNo, a: &Asked, reply: ReplyLock) {
        let (whose, span, kind) = match self.wanted(ino, a) {
            Ok((whose, span, Some(kind))) => (whose, span, kind),
            Ok((_, _, None)) => return reply.error(Errno::EINVAL),
            Err(e) => return reply.error(e),
        };
        let name = self.name(ino);
        let done = Box::new(move |answer: fusevol_shared::error::Result<Option<Piece>>| match answer {
            Ok(None) => reply.locked(0, 0, libc::F_UNLCK, 0),
            Ok(Some(p)) => reply.locked(p.span.start(), p.span.end(), number(p.kind), p.pid),
            Err(e) => reply.error(super::errno::logged(&format!("{name}: test of a lock"), &e)),
        });
        self.session.want_lock(Want::Test { whose, owner: a.owner.0, span, kind, done });
    }

    /// Locks or unlocks.
    pub(super) fn set_lock(&self, ino: INodeNo, a: &Asked, reply: ReplyEmpty) {
        let (whose, span, kind) = match self.wanted(ino, a) {
            Ok(wanted) => wanted,
            Err(e) => return reply.error(e),
        };
        let name = self.name(ino);
        let Some(kind) = kind else {
            return answer(&name, ring::block_on(self.session.locks().unlock(whose, a.owner.0, span)), reply);
        };
        let wanted = Wanted { whose, handle: a.fh.0, owner: a.owner.0, span, kind, pid: a.pid, wait: a.wait };
        let mut waiter = Waiter::new(a.thread);
        let done = Box::new(move |result| answer(&name, result, reply));
        self.session.want_lock(Want::Lock { wanted, interrupted: Box::new(move || waiter.interrupted()), done });
    }

    /// A process has closed a descriptor: what was written through it is on the disks, now its locks go.
    pub(super) async fn closes(&self, ino: INodeNo, owner: LockOwner) {
        if let Ok(whose) = self.lockable(ino) {
            self.session.locks().process_closes(whose, owner.0).await;
        }
    }
}

fn answer(name: &str, result: Result<(), Refusal>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(Refusal::InTheWay) => reply.error(Errno::EAGAIN),
        Err(Refusal::Interrupted) => reply.error(Errno::EINTR),
        Err(Refusal::Failed(why)) => {
            tracing::warn!("{name}: no lock: {why}");
            reply.error(Errno::ENOLCK);
        }
    }
}

/// A thread that waits for a lock.
struct Waiter {
    thread: u32,
    /// Signals of its process that were pending at the last look: another thread may be about to take them.
    before: u64,
}

/// Signals of a thread, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Signals {
    own: u64,
    shared: u64,
    /// Blocked, or ignored.
    not_taken: u64,
}

impl Waiter {
    fn new(thread: u32) -> Self {
        Self { thread, before: 0 }
    }

    /// Whether it has a signal to take.
    fn interrupted(&mut self) -> bool {
        if self.thread == 0 {
            return false;
        }
        match std::fs::read_to_string(format!("/proc/{}/status", self.thread)) {
            Ok(status) => signals(&status).is_some_and(|s| self.has(s)),
            // It is gone: nobody waits.
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        }
    }

    fn has(&mut self, s: Signals) -> bool {
        let shared = s.shared & !s.not_taken;
        let stays = shared & self.before != 0;
        self.before = shared;
        s.own & !s.not_taken != 0 || stays
    }
}

/// proc_pid_status(5).
fn signals(status: &str) -> Option<Signals> {
    let mask = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    Some(Signals { own: mask("SigPnd:")?, shared: mask("ShdPnd:")?, not_taken: mask("SigBlk:")? | mask("SigIgn:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_of_the_kernels_text() {
        let text = "Name:\tx\nSigQ:\t1/3\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000004002\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001000\n";
        let s = signals(text).expect("all four");
        assert_eq!(s, Signals { own: 0x100, shared: 0x4002, not_taken: 0x1002 });
        assert_eq!(signals("SigPnd:\tzz\n"), None);
        let own = signals(&std::fs::read_to_string("/proc/self/status").expect("there")).expect("all four");
        assert_eq!(own.own, 0);
    }

    #[test]
    fn one_of_the_process_counts_when_it_stays() {
        let none = Signals { own: 0, shared: 0, not_taken: 2 };
        let mut w = Waiter::new(1);
        assert!(!w.has(none) && !w.has(Signals { own: 2, ..none }), "blocked");
        assert!(!w.has(Signals { shared: 4, ..none }) && !w.has(none), "another thread has taken it");
        assert!(!w.has(Signals { shared: 4, ..none }) && w.has(Signals { shared: 4, ..none }));
        assert!(w.has(Signals { own: 1 << 8, ..none }), "killed");
        assert!(Waiter::new(u32::MAX).interrupted(), "gone");
        assert!(!Waiter::new(0).interrupted(), "not seen from here");
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (typ, ours) in [(libc::F_RDLCK, Some(LockKind::Read)), (libc::F_WRLCK, Some(LockKind::Write)), (libc::F_UNLCK, None)] {
            assert_eq!(kind(typ).ok(), Some(ours));
            ours.into_iter().for_each(|k| assert_eq!(number(k), typ));
        }
        assert!(kind(77).is_err());
    }
}
