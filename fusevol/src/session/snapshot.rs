//! A snapshot's file: open for its readers from the first open to the last close, unchanging in between.

use super::inbox::Inbox;
use super::{Reader, Session, router};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::SnapshotId;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::RwLock;

/// A snapshot's file.
pub struct SnapshotFile {
    id: SnapshotId,
    users: Mutex<u32>,
    active: RwLock<Option<Arc<Reader>>>,
    pub(super) inbox: Inbox<Reader>,
}

impl SnapshotFile {
    pub(super) fn new(id: SnapshotId) -> Self {
        Self { id, users: Mutex::new(0), active: RwLock::new(None), inbox: Inbox::new() }
    }

    /// The snapshot's reader, where it is open.
    #[must_use]
    pub fn reader(&self) -> Option<Arc<Reader>> {
        self.inbox.object()
    }

    pub(super) fn in_use(&self) -> bool {
        *self.users.lock().unwrap_or_else(PoisonError::into_inner) > 0
    }

    /// Opens it for one more reader. Each open is closed once.
    ///
    /// # Errors
    /// The manager's: `NotFound`, `Denied`; `Damaged` for a broken snapshot.
    pub fn open(&self, session: &Session) -> Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if *users == 0 {
            let mut active = ring::block_on(self.active.write());
            self.inbox.begin();
            match ring::block_on(self.begin(session)) {
                Ok(reader) => *active = Some(reader),
                Err(e) => {
                    self.inbox.shut().into_iter().for_each(router::to_nobody);
                    return Err(e);
                }
            }
        }
        *users += 1;
        Ok(())
    }

    async fn begin(&self, session: &Session) -> Result<Arc<Reader>> {
        let reader = Reader::open(&session.engine, self.id).await?;
        // Each turn empties the backlog; the link bounds how much comes.
        loop {
            let backlog = self.inbox.open(&reader);
            if backlog.is_empty() {
                return Ok(reader);
            }
            for push in backlog {
                router::to_snapshot(&reader, push).await;
            }
        }
    }

    /// Closes it for one reader; the last one lets the manager remove it.
    ///
    /// # Errors
    /// Where the manager could not be told; it is closed all the same.
    pub fn close(&self, session: &Session) -> Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        *users = users.saturating_sub(1);
        if *users > 0 {
            return Ok(());
        }
        let result = self.end();
        drop(users);
        session.forget_unused();
        result
    }

    pub(super) fn shut(&self) -> Result<()> {
        *self.users.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.end()
    }

    fn end(&self) -> Result<()> {
        // Waits for the reads in flight: they hold the lock for reading.
        let mut active = ring::block_on(self.active.write());
        let Some(reader) = active.take() else { return Ok(()) };
        let result = ring::block_on(reader.close());
        self.inbox.shut().into_iter().for_each(router::to_nobody);
        result
    }

    /// Runs one question on the open snapshot.
    ///
    /// # Errors
    /// `Lapsed` where it is not open any more; the question's.
    pub async fn with<T>(&self, ask: impl AsyncFnOnce(&Reader) -> Result<T>) -> Result<T> {
        let active = self.active.read().await;
        ask(active.as_ref().ok_or_else(shut)?).await
    }

    /// Bytes `off..off + len`, as they were, into the front of `buf`; how many: fewer where the snapshot ends. Gives `buf` back whole.
    ///
    /// # Errors
    /// As `SnapshotReader::read_into`.
    pub async fn read_into(&self, off: u64, len: usize, buf: IoBuf) -> (Result<usize>, IoBuf) {
        let active = self.active.read().await;
        match active.as_ref() {
            Some(reader) => reader.read_into(off, len, buf).await,
            None => (Err(shut()), buf),
        }
    }
}

fn shut() -> Error {
    Error::new(Kind::Lapsed, "the snapshot is not open any more")
}
