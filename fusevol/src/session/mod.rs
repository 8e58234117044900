//! A client's session: one life of this process with the pool's manager.
//!
//! - [`machine`]: what is decided, free of I/O and clock. [`driver`]: the thread that carries it out and renews the lease.
//! - [`open`]: from a key file to a session that stands: link, welcome, disks by label, byte locks.
//! - [`granted`]: which volumes and snapshots the client may see.
//! - [`file`] and [`snapshot`]: what is open, by whom, and what is attached for it.
//! - [`inbox`] and [`router`]: the manager's pushes, on a thread of their own, to what they speak of.
//! - [`caller`]: the data path's way to the manager.
//! - [`locker`]: the thread that carries out what processes want of locks.
//! - [`known`]: which disks there are.
//! - [`paths`]: how a path to a disk is opened, at the beginning and after it has failed.
//! - [`keeper`]: the thread that folds journals and refills reserves, beside the data path.
//!
//! Invariants: a volume is attached while somebody here has it open and not longer; every push is answered once; the
//! push thread never waits for a thread that waits for the manager; nothing is said to be closed before it is drained.

pub mod caller;
mod driver;
pub mod file;
pub mod granted;
mod inbox;
mod keeper;
mod known;
pub mod locker;
pub mod machine;
pub mod open;
mod paths;
mod router;
pub mod snapshot;

use crate::disks::Disks;
use crate::lease::Lease;
use crate::link::{Link, LinkState};
use crate::locks::Locks;
use crate::redirect::Redirect;
use crate::stale::Stale;
use crate::volume::Engine;
use caller::Caller;
pub use driver::Shown;
use file::VolumeFile;
use fusevol_shared::disk::any::PoolDisk;
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{SessionId, SnapshotId, VolumeId};
use fusevol_shared::random::{Random, SystemRandom};
use fusevol_shared::wire::messages::{Call, CreateSnapshot, Goodbye, RemoveSnapshot, SnapshotTaken, Welcome};
use granted::Granted;
pub use known::{Found, Known};
use locker::{Locker, Want, Way};
use snapshot::SnapshotFile;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A volume attached by this session.
pub type Volume = crate::volume::Volume<PoolDisk, Caller>;
/// A snapshot opened by this session.
pub type Reader = crate::snapshot::SnapshotReader<PoolDisk, Caller>;

/// How long the manager is waited for where a user waits.
const ASK: Duration = Duration::from_secs(10);
/// How long the end of a session is waited for; the manager finds it out by itself, too.
const GOODBYE: Duration = Duration::from_secs(5);

/// What is known of a session from its welcome.
#[derive(Clone)]
pub struct About {
    /// Chosen here.
    pub id: SessionId,
    /// What the manager said first.
    pub welcome: Welcome,
    /// The disks, those too that have joined since.
    pub known: Arc<Known>,
}

/// An open session.
pub struct Session {
    about: About,
    link: Link,
    engine: Engine<PoolDisk, Caller>,
    granted: Granted,
    open: Mutex<Open>,
    shown: Arc<Mutex<Shown>>,
    keeper: keeper::Keeper,
    locks: Arc<Locks<Way>>,
    locker: Locker,
    redirect: Arc<Redirect>,
    /// Ends the driver and the push thread when dropped.
    end: Mutex<Option<driver::End>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What is open here.
#[derive(Default)]
struct Open {
    volumes: HashMap<VolumeId, Arc<VolumeFile>>,
    snapshots: HashMap<SnapshotId, Arc<SnapshotFile>>,
    closing: bool,
}

impl Session {
    /// What is known from its welcome.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Where it stands, and by what it is kept.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where its connection stands.
    #[must_use]
    pub fn link(&self) -> LinkState {
        self.link.state().borrow().clone()
    }

    /// Its lease.
    #[must_use]
    pub fn lease(&self) -> &Arc<Lease> {
        &self.engine.lease
    }

    /// Its disks.
    #[must_use]
    pub fn disks(&self) -> &Arc<Disks<PoolDisk>> {
        &self.engine.disks
    }

    /// The locks that processes of this host hold.
    #[must_use]
    pub fn locks(&self) -> &Locks<Way> {
        &self.locks
    }

    /// Carries out what a process wants of locks; answered later, on another thread.
    pub fn want_lock(&self, want: Want) {
        self.locker.want(want);
    }

    /// What the kernel may hold and must not give any more.
    #[must_use]
    pub fn stale(&self) -> &Arc<Stale> {
        &self.engine.stale
    }

    /// The volumes and snapshots that the client may see.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    /// Bytes in a block of every volume.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.engine.au_size.block_bytes()
    }

    /// Asks the manager where a user waits. Not within `ring::block_on`.
    ///
    /// # Errors
    /// The manager's; `Unreachable` where it does not answer in time.
    pub fn ask<C: Call>(&self, call: C) -> Result<C::Reply> {
        ring::block_on(self.link.call(call, Some(ASK)))
    }

    /// The file of a volume, attached or not.
    ///
    /// # Errors
    /// `Lapsed` where the session is being closed.
    pub fn volume(&self, id: VolumeId) -> Result<Arc<VolumeFile>> {
        let mut open = self.opened();
        if open.closing {
            return Err(closing());
        }
        Ok(open.volumes.entry(id).or_insert_with(|| Arc::new(VolumeFile::new(id))).clone())
    }

    /// The file of a snapshot, open or not.
    ///
    /// # Errors
    /// As [`Session::volume`].
    pub fn snapshot(&self, id: SnapshotId) -> Result<Arc<SnapshotFile>> {
        let mut open = self.opened();
        if open.closing {
            return Err(closing());
        }
        Ok(open.snapshots.entry(id).or_insert_with(|| Arc::new(SnapshotFile::new(id))).clone())
    }

    /// The volume as it is attached here now, if it is.
    #[must_use]
    pub fn attached(&self, id: VolumeId) -> Option<Arc<Volume>> {
        let file = self.opened().volumes.get(&id).cloned();
        file.and_then(|f| f.attached())
    }

    /// What is attached here, with how many have it open: for reading, for writing.
    #[must_use]
    pub fn attachments(&self) -> Vec<(Arc<Volume>, file::Users)> {
        let files: Vec<_> = self.opened().volumes.values().cloned().collect();
        files.iter().filter_map(|f| f.attached().filter(|v| !v.is_closed()).map(|v| (v, f.users()))).collect()
    }

    /// Drops what is remembered of files that nobody has open.
    fn forget_unused(&self) {
        let list = self.granted.list();
        let mut open = self.opened();
        // One reference is the table's own: nobody else has it, and nobody can get it while the table is locked.
        open.volumes.retain(|id, f| Arc::strong_count(f) > 1 || f.in_use() || list.volume(*id).is_some());
        open.snapshots.retain(|_, f| Arc::strong_count(f) > 1 || f.in_use());
    }

    /// Takes a snapshot of a volume.
    ///
    /// # Errors
    /// The manager's: `Exists`, `Denied`, `Busy`, `NoSpace`.
    pub fn create_snapshot(&self, volume: VolumeId, name: &str) -> Result<SnapshotTaken> {
        let id = SnapshotId::from_random(SystemRandom.id());
        // A hold takes as long as the writer's flush; it has a deadline of its own.
        let taken = ring::block_on(self.link.call(CreateSnapshot { volume, id, name: name.to_owned() }, Some(3 * ASK)))?;
        self.granted.refresh(&self.link)?;
        Ok(taken)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// The manager's: `Busy` where somebody reads it.
    pub fn remove_snapshot(&self, snapshot: SnapshotId) -> Result<()> {
        self.ask(RemoveSnapshot { snapshot })?;
        self.granted.refresh(&self.link)
    }

    /// The list of volumes, asked for anew where it is older than `age` and the manager is there.
    pub fn list_within(&self, age: Duration) -> Arc<granted::List> {
        self.granted.within(&self.link, age)
    }

    /// The list of volumes, asked for now.
    ///
    /// # Errors
    /// The manager's; `Unreachable`.
    pub fn renew_list(&self) -> Result<Arc<granted::List>> {
        self.granted.refresh(&self.link)?;
        Ok(self.granted.list())
    }

    /// Drains, flushes and gives back everything; nothing can be opened after it. The session itself stands.
    ///
    /// # Errors
    /// The first that came up; what a volume's flush did not report is lost.
    pub fn drain(&self) -> Result<()> {
        let (volumes, snapshots) = {
            let mut open = self.opened();
            open.closing = true;
            (std::mem::take(&mut open.volumes), std::mem::take(&mut open.snapshots))
        };
        let mut result = Ok(());
        for file in snapshots.values() {
            result = result.and(file.shut());
        }
        for file in volumes.values() {
            result = result.and(file.shut().map_err(|e| e.within(format_args!("volume {}", self.granted.name_of(file.id())))));
        }
        result
    }

    /// Ends the session: everything is drained, then the manager is told. A second call does nothing.
    ///
    /// # Errors
    /// The first that came up. The session is over all the same.
    pub fn close(&self) -> Result<()> {
        let mut result = self.drain();
        let Some(end) = self.end.lock().unwrap_or_else(PoisonError::into_inner).take() else { return result };
        if self.engine.disks.has_unreturned() {
            tracing::warn!(
                "a write was not answered and may still land: the manager keeps where it may until this session is proven drained"
            );
        } else if !self.engine.lease.is_over() {
            let told = ring::block_on(self.link.call(Goodbye {}, Some(GOODBYE)));
            result = result.and(told.map(|_| ()));
        }
        drop(end);
        self.link.close();
        self.redirect.close();
        self.keeper.end();
        self.locker.end();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for t in threads {
            // A panic of one was reported where it happened.
            let _ = t.join();
        }
        result
    }

    fn opened(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closing() -> Error {
    Error::new(Kind::Lapsed, "the mount is being ended")
}
