//! The disk door: everything that reads or writes a shared disk does it through [`Disk`].
//!
//! - [`buf`]: aligned memory that can be split and rejoined, so that one request's pieces go to disks without a copy.
//! - [`ring`]: a thread's io_uring, and the executor that runs one future on it.
//! - [`file`]: a plain file or block device, `O_DIRECT`, by io_uring.
//! - [`nbd`]: an export of an NBD server. [`absent`]: one that was not found. [`any`]: one or the other, by its address.
//! - [`label`]: reads whose a disk is.
//! - [`mem`]: memory, for tests and models. [`fault`]: a decorator that fails, delays or hangs chosen I/O.
//! - [`reservations`]: who may write to a disk, kept by the disk itself.
//! - [`find`]: the pool's disks among everything that this host sees, by label.
//!
//! Invariants: every offset, length and address is a multiple of `PAGE`; a buffer belongs to the kernel until its
//! completion has come, whatever happens to the future that asked; a completed write is durable only after a flush
//! that was *submitted* after that completion, or when it was written with `write_durable`.

pub mod absent;
pub mod any;
pub mod buf;
pub mod fault;
pub mod file;
pub mod find;
mod ioctl;
pub mod label;
pub mod mem;
pub mod nbd;
pub mod reservations;
pub mod ring;

use crate::ids::Life;
use crate::units::{DiskOff, PAGE, PAGE_U64};
use crate::wire::data::Failure;
use buf::{IoBuf, IoBytes};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

/// Whether the disk has answered a failed request: decides what may be sent again (PROTOCOL.md, "Redirect").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The disk (or file) itself refused this request: it will not be executed later.
    Answered,
    /// Nothing is known: the request may still land.
    NotReturned,
}

/// A failed disk request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskError {
    /// Whether it may still land.
    pub answer: Answer,
    /// `errno` (Linux numbers).
    pub errno: i32,
    /// `read`, `write`, `flush` and where, for people.
    pub what: String,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, std::io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for DiskError {}

impl DiskError {
    /// An error that the disk (or this host, before it asked the disk) answered with.
    pub fn answered(errno: i32, what: impl Into<String>) -> Self {
        Self { answer: Answer::Answered, errno, what: what.into() }
    }
}

impl From<DiskError> for Failure {
    fn from(e: DiskError) -> Self {
        Failure::Disk { answered: e.answer == Answer::Answered, errno: e.errno, what: e.what }
    }
}

/// Result of a disk request.
pub type DiskResult<T> = Result<T, DiskError>;

/// One disk. Futures need not be `Send`: they run on the thread whose ring they were submitted to.
pub trait Disk: Send + Sync + 'static {
    /// Its size in bytes when it was opened.
    fn size(&self) -> u64;

    /// Fills the whole of `buf` from `at`; gives the buffer back in either case (its content undefined on error).
    fn read(&self, at: DiskOff, buf: IoBuf) -> impl Future<Output = (DiskResult<()>, IoBuf)>;

    /// Writes all of `data` at `at`. Completion is not durability.
    fn write(&self, at: DiskOff, data: IoBytes) -> impl Future<Output = DiskResult<()>>;

    /// Writes all of `data` at `at`, durable once it completes (FUA).
    fn write_durable(&self, at: DiskOff, data: IoBytes) -> impl Future<Output = DiskResult<()>>;

    /// Makes every write durable that completed before this was submitted.
    fn flush(&self) -> impl Future<Output = DiskResult<()>>;

    /// Which life of its path this is. Where that is not [`Life::LASTING`], its end may be the end of what was written and not flushed: a flush by
    /// another life covers only what was written after that other one had begun (PROTOCOL.md, P1).
    fn life(&self) -> Life {
        Life::LASTING
    }
}

impl<D: Disk> Disk for Arc<D> {
    fn size(&self) -> u64 {
        D::size(self)
    }
    fn read(&self, at: DiskOff, buf: IoBuf) -> impl Future<Output = (DiskResult<()>, IoBuf)> {
        D::read(self, at, buf)
    }
    fn write(&self, at: DiskOff, data: IoBytes) -> impl Future<Output = DiskResult<()>> {
        D::write(self, at, data)
    }
    fn write_durable(&self, at: DiskOff, data: IoBytes) -> impl Future<Output = DiskResult<()>> {
        D::write_durable(self, at, data)
    }
    fn flush(&self) -> impl Future<Output = DiskResult<()>> {
        D::flush(self)
    }
    fn life(&self) -> Life {
        D::life(self)
    }
}

/// The rule of the door, kept by every disk: offset, length and memory are multiples of `PAGE`, and the range lies within `size`.
///
/// # Errors
/// `EINVAL`, answered, saying what is wrong; nothing was sent.
pub fn admit(verb: &str, at: DiskOff, memory: &[u8], size: u64) -> DiskResult<()> {
    let len = memory.len() as u64;
    let refuse = |why: &str| Err(DiskError::answered(libc::EINVAL, format!("{verb} of {len} bytes at {at}: {why}")));
    if !at.0.is_multiple_of(PAGE_U64) || !memory.len().is_multiple_of(PAGE) || !(memory.as_ptr() as usize).is_multiple_of(PAGE) {
        return refuse("not aligned to a page");
    }
    if at.0.checked_add(len).is_none_or(|end| end > size) {
        return refuse("past the end of the disk");
    }
    Ok(())
}
