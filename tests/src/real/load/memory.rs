//! The memory that a thread of a load reads into and writes from.
//!
//! The kernel cuts a large `O_DIRECT` request at the pages of its memory, and each part is written by itself: where memory is not aligned to sectors, a
//! write that was cut off may be torn within a sector. So it is aligned to them; to pages only in one thread.

use super::sector::SECTOR;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::units::PAGE;

/// Longest act: an AU.
const MOST: usize = 1 << 20;

/// Whole sectors of memory.
pub(super) struct Memory {
    buf: IoBuf,
    /// Of the first byte, from the beginning of a page.
    from: usize,
}

impl Memory {
    /// That of a thread: as many sectors from the beginning of a page.
    pub(super) fn new(thread: u64) -> Self {
        let from = usize::try_from(thread).expect("few") * SECTOR;
        Self { buf: IoBuf::zeroed(MOST + PAGE), from }
    }

    /// The first so many bytes.
    pub(super) fn first(&mut self, len: usize) -> &mut [u8] {
        &mut self.buf[self.from..self.from + len]
    }
}
