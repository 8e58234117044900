//! The kernel's ring itself: with entries of 128 bytes, which commands to a driver need, or plain where the kernel is older.
//!
//! Also what the ring knows by number: the descriptors of disks, and memory. A descriptor is registered at its first use and
//! forgotten when its number is needed and nobody else has it any more; while it is known here, its file stays open.
#![allow(unsafe_code)]

use crate::disk::buf::{IoBuf, Registered};
use io_uring::types::SubmitArgs;
use io_uring::{IoUring, Submitter, squeue};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of the submission queue; a full one is handed over early.
const QUEUE: u32 = 256;
/// Entries of the completion queue: the requests, as many cancellations, and the eventfd's poll.
const COMPLETIONS: u32 = 2048;
/// Descriptors that a ring knows by number.
const FILES: u32 = 64;

enum Ring {
    Wide(IoUring<squeue::Entry128>),
    Plain(IoUring),
}

/// An entry of either size.
pub(super) enum Entry {
    Short(squeue::Entry),
    /// Only a wide ring takes it.
    Wide(squeue::Entry128),
}

/// One thread's ring.
pub(super) struct Kernel {
    ring: Ring,
    id: u64,
    /// By number; empty where descriptors are not registered.
    files: Vec<Option<Arc<OwnedFd>>>,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

macro_rules! either {
    ($ring:expr, $r:ident => $body:expr) => {
        match $ring {
            Ring::Wide($r) => $body,
            Ring::Plain($r) => $body,
        }
    };
}

impl Kernel {
    /// A ring for this thread alone.
    pub(super) fn new() -> io::Result<Self> {
        let mut quick = IoUring::<squeue::Entry128>::builder();
        quick.setup_cqsize(COMPLETIONS).setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let mut wide = IoUring::<squeue::Entry128>::builder();
        wide.setup_cqsize(COMPLETIONS);
        let mut plain = IoUring::builder();
        plain.setup_cqsize(COMPLETIONS);
        // Kernels before 6.1 don't know the flags of the first, those before 5.19 not the size of the second.
        let older = |e: &io::Error| e.raw_os_error() == Some(libc::EINVAL);
        let mut ring = match quick.build(QUEUE) {
            Err(e) if older(&e) => match wide.build(QUEUE) {
                Err(e) if older(&e) => Ring::Plain(plain.build(QUEUE)?),
                built => Ring::Wide(built?),
            },
            built => Ring::Wide(built?),
        };
        // Saves the look-up of its descriptor in every call; kernels before 5.18 refuse, and go on without.
        let _ = either!(&mut ring, r => r.submitter().register_ring_fd());
        Ok(Self { ring, id: next_id(), files: Vec::new() })
    }

    /// Which ring of this process it is.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    fn submitter(&self) -> Submitter<'_> {
        either!(&self.ring, r => r.submitter())
    }

    /// Queues the entry; `false` where the queue is full, or takes no entry of this size.
    ///
    /// # Safety
    /// What the entry points to stays valid until its completion has been reaped.
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            match (&mut self.ring, entry) {
                (Ring::Wide(r), Entry::Wide(e)) => r.submission().push(e).is_ok(),
                (Ring::Wide(r), Entry::Short(e)) => r.submission().push(&e.clone().into()).is_ok(),
                (Ring::Plain(r), Entry::Short(e)) => r.submission().push(e).is_ok(),
                (Ring::Plain(_), Entry::Wide(_)) => false,
            }
        }
    }

    /// Whether it takes commands.
    pub(super) fn is_wide(&self) -> bool {
        matches!(self.ring, Ring::Wide(_))
    }

    /// Whether anything is queued.
    pub(super) fn has_queued(&mut self) -> bool {
        either!(&mut self.ring, r => !r.submission().is_empty())
    }

    /// Hands the queue over; with `wait`, until there is a completion.
    pub(super) fn enter(&self, wait: bool) -> io::Result<usize> {
        self.submitter().submit_and_wait(usize::from(wait))
    }

    /// The same, no longer than `args` say.
    pub(super) fn enter_for(&self, args: &SubmitArgs<'_, '_>) -> io::Result<usize> {
        self.submitter().submit_with_args(1, args)
    }

    /// Adds `user_data` and result of every completion.
    pub(super) fn completions(&mut self, out: &mut Vec<(u64, i32)>) {
        either!(&mut self.ring, r => out.extend(r.completion().map(|c| (c.user_data(), c.result()))));
    }

    /// From now on descriptors are registered at their first use, and this memory is known by number.
    pub(super) fn register(&mut self, memory: &[&IoBuf]) -> io::Result<()> {
        self.submitter().register_files_sparse(FILES)?;
        self.files = vec![None; FILES as usize];
        if memory.is_empty() {
            return Ok(());
        }
        let regions: Vec<libc::iovec> = memory.iter().map(|b| b.region()).map(|(at, len)| iovec(at, len)).collect();
        // SAFETY: the kernel holds on to the pages, not to the addresses; who frees the memory has no buffer left to do I/O with.
        unsafe { self.submitter().register_buffers(&regions)? };
        for (i, buf) in memory.iter().enumerate() {
            // A region that another ring knows is only not known here.
            let _ = buf.set_registered(Registered { ring: self.id, index: u16::try_from(i).unwrap_or(u16::MAX) });
        }
        Ok(())
    }

    /// The number of this descriptor, if it has one or can get one.
    pub(super) fn file(&mut self, fd: &Arc<OwnedFd>) -> Option<i32> {
        let known = self.files.iter().position(|f| f.as_ref().is_some_and(|f| Arc::ptr_eq(f, fd)));
        let index = match known {
            Some(i) => i,
            None => self.add_file(fd)?,
        };
        i32::try_from(index).ok()
    }

    fn add_file(&mut self, fd: &Arc<OwnedFd>) -> Option<usize> {
        let free = |f: &Option<Arc<OwnedFd>>| f.as_ref().is_none_or(|f| Arc::strong_count(f) == 1);
        let index = self.files.iter().position(free)?;
        self.submitter().register_files_update(u32::try_from(index).ok()?, &[fd.as_raw_fd()]).ok()?;
        self.files[index] = Some(fd.clone());
        Some(index)
    }
}

pub(super) fn iovec(at: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: at.cast(), iov_len: len }
}
