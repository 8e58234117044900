//! Memory for direct I/O: page-aligned, zeroed, splittable.
//!
//! An [`IoBuf`] is the only owner of its range of a region; `split_to` makes two owners of disjoint ranges, `rejoin`
//! one again. Frozen into [`IoBytes`] it is shared and read-only. So pieces of one request go to several disks in
//! parallel, and one buffer to several mirrors, without a copy and without a borrow that a dropped future could break.
//!
//! - [`shelf`]: large regions that are used again, where one is needed for each request.
#![allow(unsafe_code)]

mod shelf;

pub use shelf::Shelf;

use crate::units::PAGE;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

/// Memory from the allocator; given back when dropped.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    size: usize,
    /// `None` only while it is dropped.
    memory: Option<Memory>,
    /// Where the memory goes in the end.
    shelf: Option<Arc<Shelf>>,
    registered: OnceLock<Registered>,
}

/// A region that one ring knows: its I/O there finds the memory by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Registered {
    /// Which ring of this process.
    pub ring: u64,
    /// Its number with that ring.
    pub index: u16,
}

// SAFETY: plain memory, with one owner.
unsafe impl Send for Memory {}
// SAFETY: it is not touched by way of this.
unsafe impl Sync for Memory {}
// SAFETY: the region is plain memory; who may touch which range is decided by the owners below.
unsafe impl Send for Region {}
// SAFETY: as above; ranges of `IoBuf`s never overlap, `IoBytes` only read.
unsafe impl Sync for Region {}

impl Memory {
    fn zeroed(len: usize) -> Self {
        let layout =
            Layout::from_size_align(len.next_multiple_of(PAGE).max(PAGE), PAGE).expect("an I/O buffer is far smaller than isize::MAX");
        // SAFETY: the layout's size is at least PAGE, never zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout; this is its only owner.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Region {
    fn new(memory: Memory, shelf: Option<Arc<Shelf>>) -> Self {
        Self { start: memory.start, size: memory.layout.size(), memory: Some(memory), shelf, registered: OnceLock::new() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // The last owner is gone.
        if let (Some(shelf), Some(memory)) = (&self.shelf, self.memory.take()) {
            shelf.put(memory);
        }
    }
}

/// Exclusive owner of a range of aligned memory.
#[derive(Debug)]
pub struct IoBuf {
    region: Arc<Region>,
    off: usize,
    len: usize,
}

impl IoBuf {
    /// `len` zero bytes, aligned to `PAGE`.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self { region: Arc::new(Region::new(Memory::zeroed(len), None)), off: 0, len }
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut b = Self::zeroed(bytes.len());
        b.copy_from_slice(bytes);
        b
    }

    /// Cuts the first `n` bytes off into their own buffer.
    ///
    /// # Panics
    /// If `n` is more than the length.
    #[must_use]
    pub fn split_to(&mut self, n: usize) -> Self {
        assert!(n <= self.len, "split at {n} of {}", self.len);
        let head = Self { region: self.region.clone(), off: self.off, len: n };
        self.off += n;
        self.len -= n;
        head
    }

    /// Joins `next`, which must follow directly in the same region (as `split_to` left it).
    ///
    /// # Errors
    /// Gives `next` back where it does not follow.
    pub fn rejoin(&mut self, next: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.region, &next.region) || self.off + self.len != next.off {
            return Err(next);
        }
        self.len += next.len;
        Ok(())
    }

    /// Makes it read-only and shared.
    #[must_use]
    pub fn freeze(self) -> IoBytes {
        IoBytes { region: self.region, off: self.off, len: self.len }
    }

    /// Where it lies, for the kernel. Stays valid as long as `self` lives.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: `off` lies within the region.
        unsafe { self.region.start.as_ptr().add(self.off) }
    }
}

impl IoBuf {
    /// The whole region that this is a part of: where it begins, and its length.
    pub(super) fn region(&self) -> (*mut u8, usize) {
        (self.region.start.as_ptr(), self.region.size)
    }

    /// The region is known to a ring from now on; `false` where it is known to one already.
    pub(super) fn set_registered(&self, registered: Registered) -> bool {
        self.region.registered.set(registered).is_ok()
    }

    /// Which ring knows it.
    pub(super) fn registered(&self) -> Option<Registered> {
        self.region.registered.get().copied()
    }
}

impl Deref for IoBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies within the region, is initialised, and no other owner writes it.
        unsafe { std::slice::from_raw_parts(self.region.start.as_ptr().add(self.off), self.len) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only access to the only owner of the range.
        unsafe { std::slice::from_raw_parts_mut(self.region.start.as_ptr().add(self.off), self.len) }
    }
}

/// Shared, read-only bytes in aligned memory.
#[derive(Clone, Debug)]
pub struct IoBytes {
    region: Arc<Region>,
    off: usize,
    len: usize,
}

impl IoBytes {
    /// Bytes `from..from + len` of these.
    ///
    /// # Panics
    /// If the range is not within.
    #[must_use]
    pub fn slice(&self, from: usize, len: usize) -> Self {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "slice {from}+{len} of {}", self.len);
        Self { region: self.region.clone(), off: self.off + from, len }
    }

    /// Which ring knows it.
    pub(super) fn registered(&self) -> Option<Registered> {
        self.region.registered.get().copied()
    }

    /// The memory as a writable buffer again, where nobody else shares it.
    ///
    /// # Errors
    /// Gives itself back where it is shared.
    pub fn try_thaw(mut self) -> Result<IoBuf, Self> {
        if Arc::get_mut(&mut self.region).is_none() {
            return Err(self);
        }
        Ok(IoBuf { region: self.region, off: self.off, len: self.len })
    }
}

impl Deref for IoBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies within the region and is initialised; frozen ranges are never written.
        unsafe { std::slice::from_raw_parts(self.region.start.as_ptr().add(self.off), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_and_rejoins_without_a_copy() {
        let mut tail = IoBuf::zeroed(3 * PAGE);
        let mut head = tail.split_to(PAGE);
        head.fill(1);
        tail.fill(2);
        head.rejoin(tail).expect("the tail follows the head");
        assert_eq!((head[0], head[PAGE], head.len()), (1, 2, 3 * PAGE));
        assert_eq!(head.as_ptr() as usize % PAGE, 0);
    }

    #[test]
    fn strangers_do_not_join() {
        let mut a = IoBuf::zeroed(PAGE);
        assert!(a.rejoin(IoBuf::zeroed(PAGE)).is_err());
    }

    #[test]
    fn thaws_only_when_alone() {
        let a = IoBuf::zeroed(PAGE).freeze();
        let b = a.clone();
        assert!(a.try_thaw().is_err());
        assert!(b.try_thaw().is_ok());
    }
}
