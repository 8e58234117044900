//! A volume's file: who has it open, and the attachment that stands for them.
//!
//! ```text
//!  Shut --open to read--> Reading --open to write--> Writing
//!   ^                        |                          |
//!   +------ last close ------+------- last close -------+     (drained and flushed before the manager is told)
//! ```
//!
//! Opening for writing what is read here detaches first and attaches anew; where that is refused it is read on.
//! What was opened for writing stays so until the last close, also where only readers are left.
//!
//! Invariants: an I/O holds `active` for reading from before it takes the volume until it has its answer, so a change of
//! attachment finds none in flight, and I/O that comes meanwhile waits for it without holding its thread; changes of attachment come one after the other (`users`).

use super::inbox::Inbox;
use super::{Session, Volume, router};
use crate::volume::Mode;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::VolumeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::RwLock;

/// How many have a file open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Users {
    /// For reading only.
    pub readers: u32,
    /// For writing.
    pub writers: u32,
}

impl Users {
    fn none(self) -> bool {
        self.readers == 0 && self.writers == 0
    }

    fn of(&mut self, mode: Mode) -> &mut u32 {
        match mode {
            Mode::Read => &mut self.readers,
            Mode::Write => &mut self.writers,
        }
    }
}

/// A volume's file.
pub struct VolumeFile {
    id: VolumeId,
    users: Mutex<Users>,
    active: RwLock<Option<Arc<Volume>>>,
    pub(super) inbox: Inbox<Volume>,
    /// Nanoseconds since 1970 UTC of the last change through this file; 0 before the first.
    changed: AtomicU64,
}

impl VolumeFile {
    pub(super) fn new(id: VolumeId) -> Self {
        Self { id, users: Mutex::default(), active: RwLock::new(None), inbox: Inbox::new(), changed: AtomicU64::new(0) }
    }

    /// Which volume.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// The volume as it is attached now, for questions that touch no disk.
    #[must_use]
    pub fn attached(&self) -> Option<Arc<Volume>> {
        self.inbox.object()
    }

    /// How many have it open.
    #[must_use]
    pub fn users(&self) -> Users {
        *self.lock_users()
    }

    pub(super) fn in_use(&self) -> bool {
        !self.users().none()
    }

    /// When it was last changed through this file, nanoseconds since 1970 UTC.
    #[must_use]
    pub fn changed(&self) -> Option<u64> {
        Some(self.changed.load(Ordering::Relaxed)).filter(|t| *t != 0)
    }

    /// Opens it: attaches where that is needed. Each open is closed once.
    ///
    /// # Errors
    /// The manager's: `NotFound`, `Denied`, `Busy` naming the holder; `Unreachable`, `Lapsed`.
    pub fn open(&self, session: &Session, mode: Mode) -> Result<()> {
        let mut users = self.lock_users();
        let standing = self.attached().filter(|v| !v.is_closed()).map(|v| v.mode());
        match (mode, standing) {
            (_, Some(Mode::Write)) | (Mode::Read, Some(Mode::Read)) => {}
            (_, None) => self.attach(session, mode)?,
            (Mode::Write, Some(Mode::Read)) => {
                self.detach()?;
                if let Err(e) = self.attach(session, Mode::Write) {
                    // Those who read it go on reading.
                    return self.attach(session, Mode::Read).and(Err(e));
                }
            }
        }
        *users.of(mode) += 1;
        Ok(())
    }

    /// Closes one open of this mode; the last one detaches.
    ///
    /// # Errors
    /// What the last flush or the manager says; it is closed all the same.
    pub fn close(&self, session: &Session, mode: Mode) -> Result<()> {
        let mut users = self.lock_users();
        let n = users.of(mode);
        *n = n.saturating_sub(1);
        if !users.none() {
            return Ok(());
        }
        let result = self.detach();
        drop(users);
        session.forget_unused();
        result
    }

    /// The end of the session: detaches whoever has it open.
    pub(super) fn shut(&self) -> Result<()> {
        *self.lock_users() = Users::default();
        self.detach()
    }

    fn attach(&self, session: &Session, mode: Mode) -> Result<()> {
        let mut active = ring::block_on(self.active.write());
        self.inbox.begin();
        let attached = ring::block_on(async {
            let volume = Volume::attach(&session.engine, self.id, mode).await?;
            // Each turn empties the backlog; the link bounds how much comes.
            loop {
                let backlog = self.inbox.open(&volume);
                if backlog.is_empty() {
                    return Ok(volume);
                }
                for push in backlog {
                    router::to_volume(&volume, push).await;
                }
            }
        });
        match attached {
            Ok(volume) => {
                if mode == Mode::Write {
                    session.keeper.keep(volume.clone());
                }
                *active = Some(volume);
                Ok(())
            }
            Err(e) => {
                self.inbox.shut().into_iter().for_each(router::to_nobody);
                Err(e)
            }
        }
    }

    fn detach(&self) -> Result<()> {
        // Waits for the I/O in flight: it holds the lock for reading.
        let mut active = ring::block_on(self.active.write());
        let Some(volume) = active.take() else { return Ok(()) };
        let result = ring::block_on(volume.detach());
        self.inbox.shut().into_iter().for_each(router::to_nobody);
        result
    }

    fn lock_users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one I/O on the volume as it is attached.
    async fn io<T>(&self, io: impl AsyncFnOnce(&Volume) -> Result<T>) -> Result<T> {
        let active = self.active.read().await;
        io(active.as_ref().ok_or_else(detached)?).await
    }

    async fn change(&self, io: impl AsyncFnOnce(&Volume) -> Result<()>) -> Result<()> {
        self.io(io).await?;
        self.changed.store(SystemClock.wall(), Ordering::Relaxed);
        Ok(())
    }

    /// Bytes `off..off + len` into the front of `buf`; how many: fewer where the volume ends. Gives `buf` back whole.
    ///
    /// # Errors
    /// As `Volume::read_into`; so below.
    pub async fn read_into(&self, off: u64, len: usize, buf: IoBuf) -> (Result<usize>, IoBuf) {
        let active = self.active.read().await;
        match active.as_ref() {
            Some(volume) => volume.read_into(off, len, buf).await,
            None => (Err(detached()), buf),
        }
    }

    /// Writes as much of `data` as lies within the volume; how many bytes. With `sync` they are durable when this returns.
    ///
    /// # Errors
    /// As `Volume::write` and `Volume::flush`.
    pub async fn write(&self, off: u64, data: &IoBytes, sync: bool) -> Result<usize> {
        let active = self.active.read().await;
        let volume = active.as_ref().ok_or_else(detached)?;
        let fits = usize::try_from(volume.size().saturating_sub(off)).map_or(data.len(), |room| room.min(data.len()));
        if fits == 0 {
            return Ok(0);
        }
        volume.write(off, data.slice(0, fits)).await?;
        if sync {
            volume.flush().await?;
        }
        self.changed.store(SystemClock.wall(), Ordering::Relaxed);
        Ok(fits)
    }

    /// Makes durable what was written; nothing to do where it is only read.
    ///
    /// # Errors
    /// As `Volume::flush`.
    pub async fn flush(&self) -> Result<()> {
        self.io(async |v| match v.mode() {
            Mode::Write => v.flush().await,
            Mode::Read => Ok(()),
        })
        .await
    }

    /// Gives space back; reads as zeros from now on.
    ///
    /// # Errors
    /// As `Volume::discard`.
    pub async fn discard(&self, off: u64, len: u64) -> Result<()> {
        self.change(async |v| v.discard(off, len).await).await
    }

    /// Reads as zeros from now on.
    ///
    /// # Errors
    /// As `Volume::zero`.
    pub async fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.change(async |v| v.zero(off, len).await).await
    }

    /// Gives space without writing.
    ///
    /// # Errors
    /// As `Volume::allocate`.
    pub async fn allocate(&self, off: u64, len: u64) -> Result<()> {
        self.change(async |v| v.allocate(off, len).await).await
    }
}

fn detached() -> Error {
    Error::new(Kind::Lapsed, "the volume is not attached any more").hint("open it again")
}
