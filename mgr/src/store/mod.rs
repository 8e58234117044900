//! The catalog on the shared disks: a log of records with copies on up to three of them, behind labels that say where.
//!
//! - [`create`] makes a pool, [`open`] wins one, [`Takeover::start`] serves it, [`Store::commit`] makes records durable,
//!   [`inspect`] only reads. The log knows nothing of what the records mean ([`LogRecord`]).
//! - `survey`: labels and quorum. `open`: winning a generation. `replay`: reading the log. `start`, `init`: writing the
//!   first checkpoint. `log`: serving. `area`: the bytes of a unit. `group`: several disks at once. [`Door`]: lock, sleep.
//!
//! # States
//! disks: blank -> `Preparing` -> `Member`. Manager: `Claiming` -> `Serving` -> `Ended`, or sealed by a successor at any
//! time. Log: an area per (generation, switch); the newest label of the pool names the one that counts.
//!
//! # What the medium is trusted with
//! A sector of 512 bytes is written whole or not at all; a larger write may tear at any sector, and writes may reach the
//! medium in any order, or not, until a flush that was submitted after they had completed has completed. A flush that
//! succeeded is kept. A block may rot, go to a wrong place, or not be written at all, on *one* copy of two. A process'
//! requests may land after its death, but not once its byte lock is free. Over NBD there is no such lock.
//!
//! # Crash analysis
//! *Commit.* A unit is appended to every copy and flushed on each before it is answered, and the next begins only then: so
//! what is answered is whole on every copy of the set, and at most one unit, the last, is in doubt. A torn unit lacks a
//! valid block and is not counted. After an error nothing is appended any more in this life, and a new life begins an area
//! of its own: nothing is ever appended behind a doubtful unit.
//!
//! *Replay.* Each page is taken from any copy that has it, so a damaged copy of two harms nothing. The end is where no copy
//! has a page. If a later unit follows, the one at the end was durable and is lost: the pool is refused, not rolled back.
//!
//! *Switch.* The checkpoint is flushed on all copies before the first label names it. Labels are written copy after copy,
//! each flushed, so every disk always has a valid label, the old or the new; the newest decides for all. A switch stands
//! for its transaction, which is answered when the labels are written: seen before that, it is the old or the new state.
//!
//! *Drop and growth.* The set changes by one disk at a time, so any quorum of the old set (two of three, both of two) and any
//! of the new one share a disk, and the newest label that either sees is the newer one's. A failed copy leaves the set only
//! by labels on *all* copies left, before anything is answered: of three, one may go, then of two, one; two at once end the
//! manager. Where labels move the log, so many of the recorded set must be told that no quorum of it misses all of them; if
//! they cannot be, nothing more is written.
//!
//! *Return.* A disk whose path was lost and is open anew comes back as a disk that holds nothing: it takes a copy like one that joins, in an area that this
//! manager had not used when it failed. What was sent by the former path and not answered is at most one unit, in the area before; where it lands in a
//! later life of that area it spoils one page of one copy. One that failed nothing is still whole: all that was answered was flushed by the former path.
//!
//! *Takeover.* The successor writes its claim and the SEALs, durable on a quorum, and then reads the labels again; the
//! manager writes blocks or labels, durable, and then reads its SEAL, and answers only if it is clear. Whichever comes
//! second sees the first. So either the successor's replay has the commit, or the commit is not answered.
//! The log area of a predecessor whose I/O may still land is not used again before it is proven drained (quarantine);
//! before each label copy the SEAL is read, so a sealed manager that wakes up late spoils at most one copy of a label,
//! which by its generation is older than the two others.
//!
//! *Claim.* Managers of one boot exclude each other by byte locks where every disk knows them. Others write their claim and read it again one lease
//! and a margin later; the last writer stays, and whoever lost finds the other's claim in place of its own SEAL. (This
//! needs a write to land within lease and margin. One that lands later still finds, or leaves, a SEAL that is not clear:
//! then one manager too many ends, but never two serve.)
//!
//! *A disk that is not here.* A quorum of the recorded set is, else nothing begins; so the newest label that is seen is the newest there is, and its log has
//! all that was answered. A manager that lives has a copy on one of the disks that are here, for any quorum shares a disk with its set: on this boot
//! its lock is held there; elsewhere its heart beats there, and the SEAL that is written there ends it before it answers again. With fewer
//! than a quorum neither side begins, so two never serve apart, but by force: a disk that comes back with a label that another manager has written
//! under the own generation or a later one is not used. The lock of a predecessor on the missing disk cannot be asked, and what it has under way to it may
//! land once it is back: a disk that is not here counts as one that knows no locks, so a predecessor that did not end in order is waited for, its area
//! is kept in quarantine, and nothing counts as drained (K1), until a manager has won with all disks.
//!
//! *Init.* Labels say `Preparing` until all else is durable; the catalog disks become members last.
//!
//! Every step of recovery only writes into an own area, own table entry, SEALs and newer labels: a crash within recovery
//! leaves what a crash before it left, or the new state.

mod area;
mod door;
mod group;
mod init;
mod inspect;
mod log;
mod open;
mod record;
mod rejoin;
mod replay;
mod start;
mod survey;

pub use door::{Door, HostDoor, Who};
pub use init::{NewDisk, NewPool, create};
pub use inspect::{Inspection, inspect};
pub use log::{Room, Store};
pub use open::open;
pub use record::{LogRecord, unpack};
pub use start::Takeover;
pub use survey::quorum;

use fusevol_shared::error::Result;
use fusevol_shared::ids::{Generation, PoolId};
use std::time::Duration;

/// A disk that may belong to the pool.
#[derive(Clone, Debug)]
pub struct Candidate<D> {
    /// The disk; open for writing where the pool is to be served.
    pub disk: D,
    /// Its path, for people.
    pub path: String,
}

/// How a pool is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which pool, where the disks may be of several.
    pub pool: Option<PoolId>,
    /// The administrator's word: no other manager of this pool is alive, nothing of one is under way, and missing catalog
    /// disks are to be left behind.
    pub force: bool,
    /// Every disk of the pool is among the candidates.
    pub whole: bool,
    /// How long to look for heartbeats of a manager on another host: longer than between two of them.
    pub watch: Duration,
    /// What is waited beyond the lease after sealing.
    pub margin: Duration,
    /// How long a disk may take for one request.
    pub limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pool: None,
            force: false,
            whole: true,
            watch: Duration::from_secs(5),
            margin: Duration::from_millis(2500),
            limit: Duration::from_secs(30),
        }
    }
}

/// Where the catalog's records are kept: on the shared disks by [`Store`].
pub trait Log<R> {
    /// Makes these records durable, all or none; `checkpoint` gives the state with them applied.
    ///
    /// # Errors
    /// Any error ends the manager.
    fn commit(&mut self, records: &[R], checkpoint: impl FnOnce() -> Vec<R>) -> impl Future<Output = Result<()>>;
    /// Whether this manager may still answer.
    ///
    /// # Errors
    /// Any error ends the manager.
    fn check(&mut self) -> impl Future<Output = Result<()>>;
    /// Shows that this manager lives, and whether it may go on.
    ///
    /// # Errors
    /// Any error ends the manager.
    fn heartbeat(&mut self) -> impl Future<Output = Result<()>>;
    /// The generation that serves.
    fn generation(&self) -> Generation;
}

#[cfg(test)]
mod tests;
