//! A disk of the pool that was not found: to its user it is as one whose path is lost, from the beginning on. It becomes another one when it is found.
//!
//! Invariants: nothing is ever sent, so each request fails at once, answered, as those of a lost path do; it says nothing of locks: who wants them proven
//! gets no proof; its life is nobody's.

use super::any::Address;
use super::buf::{IoBuf, IoBytes};
use super::{Disk, DiskError, DiskResult};
use crate::ids::Life;
use crate::units::DiskOff;
use std::fmt;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct AbsentDisk {
    /// Where it was known to be.
    hints: Vec<Address>,
    /// Bytes, by what is known of it.
    size: u64,
    why: String,
}

impl AbsentDisk {
    /// One of at least this size that was looked for at these addresses, and why it was not found.
    #[must_use]
    pub fn new(hints: Vec<Address>, size: u64, why: String) -> Self {
        Self { hints, size, why }
    }

    /// Where it was known to be.
    #[must_use]
    pub fn hints(&self) -> &[Address] {
        &self.hints
    }

    /// Why it cannot be used.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    fn fails<T>(&self) -> DiskResult<T> {
        Err(DiskError::answered(libc::ENOTCONN, self.to_string()))
    }
}

impl fmt::Display for AbsentDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a disk that is missing ({})", self.why)
    }
}

impl Disk for AbsentDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, _: DiskOff, buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        (self.fails(), buf)
    }

    async fn write(&self, _: DiskOff, _: IoBytes) -> DiskResult<()> {
        self.fails()
    }

    async fn write_durable(&self, _: DiskOff, _: IoBytes) -> DiskResult<()> {
        self.fails()
    }

    async fn flush(&self) -> DiskResult<()> {
        self.fails()
    }

    fn life(&self) -> Life {
        Life::NONE
    }
}
