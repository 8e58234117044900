//! Large regions that are used again: memory fresh from the kernel costs a fault for each page, more than a request's bytes cost to be copied.
//!
//! Invariants: what a shelf holds is within its limit, and nobody else has it; memory of before is given out by size only, and not zeroed: who takes it
//! fills it whole or lets nobody read it.

use super::{IoBuf, Memory, Region};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Smaller ones come from the allocator.
const LEAST: usize = 32 << 10;

/// Regions at rest. Buffers hold on to it, and bring theirs back when their last owner is gone.
#[derive(Debug)]
pub struct Shelf {
    limit: usize,
    free: Mutex<Free>,
}

#[derive(Default, Debug)]
struct Free {
    bytes: usize,
    all: Vec<Memory>,
}

impl Shelf {
    /// Holds at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, free: Mutex::default() })
    }

    /// `len` bytes, aligned as [`IoBuf`] is: zeros, or whatever they held before.
    #[must_use]
    pub fn take(self: &Arc<Self>, len: usize) -> IoBuf {
        if len < LEAST {
            return IoBuf::zeroed(len);
        }
        let size = len.next_power_of_two();
        let memory = self.free().take(size).unwrap_or_else(|| Memory::zeroed(size));
        IoBuf { region: Arc::new(Region::new(memory, Some(Arc::clone(self)))), off: 0, len }
    }

    pub(super) fn put(&self, memory: Memory) {
        let mut free = self.free();
        if free.bytes + memory.layout.size() <= self.limit {
            free.bytes += memory.layout.size();
            free.all.push(memory);
        }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Free {
    /// The one that was used last: it may still be in a cache.
    fn take(&mut self, size: usize) -> Option<Memory> {
        let at = self.all.iter().rposition(|m| m.layout.size() == size)?;
        self.bytes -= size;
        Some(self.all.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_its_last_owner_is_gone() {
        let shelf = Shelf::new(1 << 20);
        let mut a = shelf.take(100_000);
        let (at, tail) = (a.as_ptr(), a.split_to(4096));
        assert_eq!((a.len(), tail.len(), at as usize % 4096), (100_000 - 4096, 4096, 0));
        let shared = tail.freeze();
        drop(a);
        let other = shelf.take(100_000);
        assert_ne!(other.as_ptr(), at, "a part of it is in use");
        drop(shared);
        assert_eq!(shelf.take(LEAST + LEAST / 2 + 1).len(), LEAST + LEAST / 2 + 1);
        assert_eq!(shelf.take(70_000).as_ptr(), at, "of the same size");
    }

    #[test]
    fn it_holds_no_more_than_its_limit() {
        let shelf = Shelf::new(3 << 16);
        let all: Vec<IoBuf> = (0..5).map(|_| shelf.take(1 << 16)).collect();
        drop(all);
        let rest = || {
            let free = shelf.free();
            (free.bytes, free.all.len())
        };
        assert_eq!(rest(), (3 << 16, 3));
        drop(shelf.take(1));
        assert_eq!(rest(), (3 << 16, 3), "small ones do not come here");
    }
}
