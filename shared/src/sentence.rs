//! Test-only switches of the protocols' sentences: one for each tag. A test that switches a sentence off must see its
//! promise broken; that shows that it is this sentence which keeps it.
//!
//! A switch is the thread's own, so that tests beside each other do not meet. In a build without debug assertions nothing
//! can be switched off, and [`holds`] is the constant `true`.

/// A sentence of the protocols, by the tag of its counter-example.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Tag {
    /// A session's successor waits until what it could still write is proven drained.
    K1,
    /// Every AU granted under an attachment counts as one that its session may still write.
    T3,
    /// An append carries a bit only if its data was complete before the flush that precedes the append was submitted.
    J1,
    /// A record counts only when it and all before it are durable.
    J2,
    /// The closing number of a journal is committed with the fold; nothing above it is ever applied.
    F1,
    /// The last folded number is committed with the fold; nothing at or below it is applied again.
    F2,
    /// What left a map is free only when every holder has answered.
    R1,
    /// At a flip every dirty region is marked again in the new epoch.
    M1,
    /// A mark is cleared only after a flush that began after its last write had returned.
    M2,
    /// A heartbeat extends the lease only after it was written and the own SEAL was then read clear.
    L1,
    /// "Unwritten" and "allocated after" are judged by the snapshot's own map; live first, then the list.
    S1,
    /// After its answer to a hold a client goes on only in the new epoch.
    H1,
    /// The first write to an unwritten block writes the whole block.
    W1,
    /// What was not answered is not sent again before its range is blocked or its AU is remapped.
    P1,
    /// A path opens only after the manager has found the client's nonce over its own.
    P2,
    /// A leg that missed a write is stale, durably and for every holder, before the write is acknowledged.
    R2,
    /// All but the writer, and the writer in marked regions, read the first replica in sync.
    R3,
    /// Only the writer repairs.
    R4,
    /// A copy counts only after it holds all that its writer has written, and was flushed, and is written from then on.
    B1,
    /// A client reads its SEAL clear after it marked a region and before it writes there, and after its append (or its flush) and before it answers an fsync.
    T1,
    /// A takeover copies what is marked before it reads the preserve log.
    T2,
    /// A takeover reads and closes the journal before it copies.
    T4,
}

#[cfg(debug_assertions)]
mod switches {
    use super::Tag;
    use std::cell::Cell;

    thread_local! {
        static OFF: Cell<u32> = const { Cell::new(0) };
    }

    /// Whether the sentence is kept.
    #[must_use]
    pub fn holds(tag: Tag) -> bool {
        OFF.get() >> (tag as u8) & 1 == 0
    }

    /// Runs `f` with the sentence switched off on this thread.
    pub fn without<T>(tag: Tag, f: impl FnOnce() -> T) -> T {
        struct Back(u32);
        impl Drop for Back {
            fn drop(&mut self) {
                OFF.set(self.0);
            }
        }
        let _back = Back(OFF.get());
        OFF.set(OFF.get() | 1 << (tag as u8));
        f()
    }
}

#[cfg(debug_assertions)]
pub use switches::{holds, without};

/// Whether the sentence is kept: always.
#[cfg(not(debug_assertions))]
#[must_use]
#[inline(always)]
pub const fn holds(_: Tag) -> bool {
    true
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_off_within_and_on_again_after() {
        let seen = without(Tag::J1, || (holds(Tag::J1), holds(Tag::J2)));
        assert_eq!(seen, (false, true));
        assert!(holds(Tag::J1));
        let panicked = std::panic::catch_unwind(|| without(Tag::J1, || panic!("within")));
        assert!(panicked.is_err() && holds(Tag::J1));
    }
}
