//! What the driver needs of the store and of the listener, as traits, so that a test can stand in.

use crate::catalog::Catalog;
use crate::catalog::record::Record;
use crate::core::admin_api::Level;
use crate::core::{AdminRequest, Effect, Event, Notice};
use crate::data::Verdicts;
use crate::listen::Connections;
use fusevol_shared::disk::any::PoolDisk;
use fusevol_shared::error::Result;
use fusevol_shared::format::label::DiskLabel;
use fusevol_shared::format::mark::Age;
use fusevol_shared::ids::{DiskId, Life, SessionId, SessionNo};
use fusevol_shared::units::DiskNo;
use std::time::Duration;

/// A disk that shall join the pool, open and looked at.
#[derive(Debug)]
pub struct Joining {
    /// Open for writing.
    pub disk: PoolDisk,
    /// What its label says, if it is this pool's: it has joined, or the manager died before the catalog had it.
    pub was: Option<DiskId>,
}

/// A disk of the pool that was lost and is open again, with what it shows, read by the very connections that will be used.
#[derive(Debug)]
pub struct Opened {
    /// Open for writing.
    pub disk: PoolDisk,
    /// Its label: it is the pool's, and has the right identity.
    pub label: DiskLabel,
    /// Its newest mark.
    pub mark: Option<Age>,
}

/// Where records are kept, and the disks.
pub trait Log {
    /// Makes `records` durable as one transaction. `checkpoint` gives the whole state, these records included.
    ///
    /// # Errors
    /// Any ends the manager.
    fn commit(&mut self, records: &[Record], checkpoint: impl FnOnce() -> Vec<Record>) -> Result<()>;

    /// How often `heartbeat` wants to be called.
    fn heartbeat_every(&self) -> Duration;

    /// Shows on the disks that this manager is alive, and looks whether it was superseded.
    ///
    /// # Errors
    /// Any ends the manager.
    fn heartbeat(&mut self) -> Result<()>;

    /// Looks whether this manager was superseded.
    ///
    /// # Errors
    /// Any ends the manager.
    fn check(&mut self) -> Result<()>;

    /// Whether what makes the catalog larger is to be refused.
    fn is_tight(&self) -> bool;

    /// Whether every disk knows byte locks: only then do they prove anything of a session.
    fn has_locks(&self) -> bool;

    /// Whether a session's byte lock is held on any disk; what cannot be asked counts as held.
    fn lock_held(&self, session: SessionNo) -> bool;

    /// Writes the clear SEAL of a session that is about to be welcomed, within a short time. Where too few disks take it, or one that the
    /// session can read did not, the session finds it out by itself and does not begin.
    fn open_slot(&mut self, session: SessionNo, id: SessionId, slots: &[DiskNo]);

    /// Begins an `OpenPlaces`, `SealSlot`, `ReadSlot`, `ReadNonce`, `ReadJournals`, `WriteLetter`, `ReadAnswer`, `Errand`, `Copy`, `LayAgain`, `LookAtDisk` or `Fence`; others are passed over. It never waits: the answer comes as an event, through the
    /// driver's queue. One that cannot be begun is answered by the event that is given back.
    fn begin(&mut self, effect: Effect) -> Option<Event>;

    /// Labels a disk, and gives the request that makes it the pool's: until the catalog has it, it counts for nothing.
    ///
    /// # Errors
    /// Why it cannot join; the pool is as before then.
    fn label(&mut self, disk: Joining, catalog: &Catalog) -> Result<AdminRequest>;

    /// A disk that was lost is open again: it is used from now on, and takes a copy of the catalog again where it had lost it. `checkpoint` gives
    /// the whole state, which is durable. One that is not fit is not used: why is the inner error.
    ///
    /// # Errors
    /// Any ends the manager.
    fn reopened(&mut self, no: DiskNo, opened: Opened, checkpoint: impl FnOnce() -> Vec<Record>) -> Result<Result<()>>;

    /// The disks that this manager has lost, or has not found, and why.
    fn lost(&self) -> Vec<(DiskNo, String)>;

    /// The lives of the manager's paths to its disks.
    fn lives(&self) -> Vec<(DiskNo, Life)>;

    /// The end, in order: the next manager need not wait.
    ///
    /// # Errors
    /// The disks' own; what was committed is durable all the same.
    fn close(self) -> Result<()>;
}

/// Where what is said to clients goes.
pub trait Clients {
    /// Carries out a `Reply`, `Push`, `Close` or `Verdict`; others are passed over. It never waits: a client that does not take what
    /// it is told loses its connection.
    fn carry_out(&mut self, effect: Effect);
}

/// Control and data connections.
pub struct Outside {
    /// Answers and pushes.
    pub connections: Connections,
    /// What may be done on data connections.
    pub verdicts: Verdicts,
}

impl Clients for Outside {
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { conn, id, result } => self.connections.reply(conn, id, result),
            Effect::Push { conn, push, body } => self.connections.push(conn, push, body),
            Effect::Close { conn } => self.connections.close(conn, "ended by the manager"),
            Effect::Verdict { ticket, result } => {
                // An asker that is gone does nothing.
                let _ = self.verdicts.answer(ticket, result);
            }
            Effect::AdminReply { .. } | Effect::ProbeLock { .. } | Effect::Fence { .. } | Effect::Notice(_) => {}
            Effect::OpenSlot { .. }
            | Effect::OpenPlaces { .. }
            | Effect::SealSlot { .. }
            | Effect::ReadSlot { .. }
            | Effect::ReadJournals { .. }
            | Effect::Copy { .. }
            | Effect::LayAgain { .. }
            | Effect::LookAtDisk { .. }
            | Effect::Errand { .. }
            | Effect::ReadNonce { .. }
            | Effect::WriteLetter { .. }
            | Effect::ReadAnswer { .. } => {}
        }
    }
}

/// Into the manager's log; `events` has them from the core.
pub fn log_notice(notice: &Notice) {
    match notice.level {
        Level::Ok => tracing::info!("{}: {}", notice.what, notice.text),
        Level::Warning => tracing::warn!("{}: {}", notice.what, notice.text),
        Level::Critical => tracing::error!("{}: {}", notice.what, notice.text),
    }
}
