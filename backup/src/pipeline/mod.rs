//! Storing and restoring images: reading, hashing, compressing and writing overlap, in bounded memory.
//!
//! ```text
//! backup:  reader --buffers--> workers (zero? known? compress) --entries--> pack writer --packs--> sealer
//!            ^                    |
//!            +--- buffers ----- collector (in order: chunk table; its nodes are entries too)
//! restore: walker (chunk table) --chunks--> workers (read, decode, check, write in place)
//! ```
//!
//! Invariants: a stage never leaves before the stream before it has ended: after a failure it goes on taking and throws
//! away, so that nobody waits for ever; the first failure is the one reported. A buffer comes back only when its chunk
//! is in the table, so the distance between reader and table is bounded by the number of buffers.

pub mod backup;
pub mod dump;
pub(crate) mod inuse;
pub mod restore;
pub mod sink;
pub mod source;
pub mod target;

#[cfg(test)]
mod tests;

use fusevol_shared::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes compared at once.
const PAGE: usize = fusevol_shared::units::PAGE;

/// Tells long work that the user wants it to end.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The flag, for a signal handler to set.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// An error once it is set.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::new(Kind::Interrupted, "interrupted")) } else { Ok(()) }
    }
}

/// Is told how far the work is, from any thread.
pub trait Progress: Sync {
    /// The image has this many bytes.
    fn begin(&self, total: u64);
    /// All of the image before `position` is done; `moved` bytes of data were moved so far, `stored` added to the repository.
    fn at(&self, position: u64, moved: u64, stored: u64);
    /// It is over, well or not.
    fn end(&self);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: u64) {}
    fn at(&self, _: u64, _: u64, _: u64) {}
    fn end(&self) {}
}

/// Threads that hash, compress and decode: one for each core that this process may use.
#[must_use]
pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The first failure of any stage.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    failed: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Failure {
    pub(crate) fn note(&self, e: Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(e);
        self.failed.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Runs `work` unless something has failed; its failure is noted.
    pub(crate) fn guard<T>(&self, work: impl FnOnce() -> Result<T>) -> Option<T> {
        if self.is_set() {
            return None;
        }
        work().map_err(|e| self.note(e)).ok()
    }

    pub(crate) fn into_result(self) -> Result<()> {
        self.first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// The next item of a stream that several threads take from.
pub(crate) fn next<T>(stream: &Mutex<Receiver<T>>) -> Option<T> {
    stream.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; PAGE] = [0; PAGE];
    bytes.chunks(PAGE).all(|c| c == &ZEROS[..c.len()])
}
