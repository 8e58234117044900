//! The messages of byte-range locks; the list in [`super::messages`] has what each needs.
//!
//! Every request says what shall be, not what shall change: asked twice it is done once. An owner is whatever the client's kernel calls
//! one (a process, an open file), within its session.

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

use crate::ids::VolumeId;
use crate::lock::{LockKind, Piece, Span};
use rkyv::{Archive, Deserialize, Serialize};

/// Most locks of one session: all of them stand in one `RetakeLocks`.
pub const LOCKS_PER_SESSION: usize = 4096;

macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
        #[rkyv(derive(Debug))]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
    };
}

message!(/// Locks, changes a lock, or unlocks; never waits.
    SetLock {
    /// In which volume.
    volume: VolumeId,
    /// For whom, within the session.
    owner: u64,
    /// Which bytes.
    span: Span,
    /// How; none unlocks.
    kind: Option<LockKind>,
    /// The process, for people.
    pid: u32,
    /// Where it cannot be had, `LocksFreed` shall come once it is worth to ask again.
    wait: bool,
});
message!(/// Asks who is in the way of a lock.
    GetLock {
    /// In which volume.
    volume: VolumeId,
    /// For whom, within the session.
    owner: u64,
    /// Which bytes.
    span: Span,
    /// How.
    kind: LockKind,
});
message!(/// Whether a lock is had, or could be.
    LockState {
    /// A lock that is in the way; none where it is had.
    conflict: Option<Piece>,
    /// A session has the volume and has not said yet which locks it holds: it may be any. Neither had nor in the way.
    unknown: bool,
});
message!(/// One lock that a session holds.
    HeldLock {
    /// In which volume.
    volume: VolumeId,
    /// Whose, within the session.
    owner: u64,
    /// What.
    piece: Piece,
});
message!(/// All locks that the session holds, said to a new manager: they take the place of what this one knows of them.
    RetakeLocks {
    /// At most `LOCKS_PER_SESSION`.
    locks: Vec<HeldLock>,
});
message!(/// They stand.
    LocksTaken {
    /// But for these: another has what conflicts with them.
    lost: Vec<HeldLock>,
});
message!(/// Pushed: locks of this volume were given back, so that what was refused may be had.
    LocksFreed {
    /// Which.
    volume: VolumeId,
});
