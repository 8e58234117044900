//! Repository format v1: every structure, its bytes and its one codec. `FORMAT.md` ("Repository") says the same in words.
//!
//! - [`envelope`]: what every file of metadata begins with. [`id`]: names of chunks, by content, and of files.
//! - [`config`], [`pack`], [`index`], [`node`] (the chunk table), [`manifest`].
//!
//! Invariants: integers are little-endian; every length is checked against what is there before anything is allocated
//! or cut; a decoder accepts exactly what its encoder writes (reserved bytes are zero); a change bumps [`VERSION`].

pub mod config;
pub mod envelope;
pub mod id;
pub mod index;
pub mod manifest;
pub mod node;
pub mod pack;

#[cfg(test)]
mod tests;

use fusevol_shared::error::{Error, Kind};

/// Version of the format.
/// 1: the first.
pub const VERSION: u16 = 1;
/// Smallest and largest chunk, bytes; always a power of two.
pub const CHUNK_MIN: u32 = 64 << 10;
/// See [`CHUNK_MIN`].
pub const CHUNK_MAX: u32 = 8 << 20;
/// Largest image that a manifest may name: 2^58 bytes, so that no sum of places overflows.
pub const IMAGE_MAX: u64 = 1 << 58;
/// Largest pack file, bytes; a full pack is far smaller, but its last entry may pass the mark.
pub const PACK_MAX: u64 = 256 << 20;
/// Largest file of metadata (index, manifest, config), bytes.
pub const META_MAX: u64 = 256 << 20;

/// Bytes that are not what their format says.
pub(crate) fn damaged(what: impl Into<String>) -> Error {
    Error::new(Kind::Damaged, what)
}

/// Reads fields one after another; past the end is an error, never a panic.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or_else(|| damaged("it ends too early"))?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or_else(|| damaged("it ends too early"))?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn zeros(&mut self, n: usize) -> Result<(), Error> {
        if self.take(n)?.iter().all(|b| *b == 0) { Ok(()) } else { Err(damaged("reserved bytes are not zero")) }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }
}
