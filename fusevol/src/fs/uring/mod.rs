//! The transport over io_uring: the kernel hands requests to one ring per core, and each is served on that ring, disks included.
//!
//! ```text
//!  kernel == ring entries ==> entry tasks --(read, write, sync, fallocate, seek)--> ops --> volume --> disks, on the same ring
//!                                  `----- all else -----> relay == socket pair ==> the library's loops, as on the other transport
//!  kernel == /dev/fuse =====> pump -------------------------^
//! ```
//!
//! - [`entry`]: the task that an entry is. [`queues`]: a core's thread and its entries. [`relay`], [`pump`]: the ways to the loops.
//!   [`abi`]: the kernel's structures. [`kernel`]: whether this kernel has it, and switching it on.
//!
//! States: *prepared* (every thread has its ring and its memory) -> INIT is answered, the ring taken -> *registering* -> ready (the kernel
//! uses the ring once every queue has an entry) -> ended (unmounted: every command comes back with ENOTCONN).
//! What fails before INIT is answered leaves the mount to the classic transport. Where an entry cannot be registered, the kernel gives the ring
//! up for this mount, and everything goes over `/dev/fuse`, the pump and the loops: slower, and right; [`Transport::served`] tells why.
//!
//! Invariants: an entry's memory belongs to the kernel, to its task, or to a disk request, never to two; a request is answered by its
//! entry exactly once; a thread of the ring waits for nothing but its ring; a panic in it ends the process, since its queue would hang.

mod abi;
mod entry;
mod kernel;
mod pump;
mod queues;
mod relay;

use super::adapter::{Adapter, Front};
use super::transport::Served;
use entry::Queue;
use fuser::{BackgroundSession, Config, SessionACL};
use fusevol_shared::error::{Context, Kind, Result};
pub(super) use kernel::possible;
use queues::Thread;
use relay::Relay;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Most bytes of data in a request: `max_write` of the adapter, and as many pages.
pub(super) const LARGEST: u32 = 1 << 20;
/// The same as a length of memory.
const BODY: usize = LARGEST as usize;
/// Loops for everything that is not data; some wait for the manager.
const LOOPS: usize = 16;

/// What all threads of the transport share.
struct Shared {
    /// `/dev/fuse`, mounted.
    fuse: Arc<OwnedFd>,
    adapter: Arc<Adapter>,
    relay: Relay,
    /// Why the ring is not used.
    failed: Failed,
}

/// Why the ring is not used, once that is so.
type Failed = Arc<Mutex<Option<String>>>;

impl Shared {
    /// An entry serves nothing any more.
    fn entry_ended(&self, queue: Queue, registering: bool, errno: i32) {
        let over = matches!(errno, libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV);
        if over {
            return;
        }
        let error = std::io::Error::from_raw_os_error(errno);
        match registering {
            true => self.fail(format!("an entry of queue {} cannot be registered: {error}", queue.0)),
            false => tracing::error!("an entry of queue {} is lost: {error}", queue.0),
        }
    }

    fn fail(&self, why: String) {
        tracing::warn!("the mount is served without the ring: {why}");
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

/// A mount that is served over rings.
pub(super) struct Transport {
    shared: Arc<Shared>,
    loops: BackgroundSession,
    threads: Vec<JoinHandle<()>>,
    queues: u16,
    depth: u16,
}

/// The threads with their rings and memory, before anything was said to the kernel.
pub(super) struct Prepared {
    threads: Vec<Thread>,
    queues: u16,
    depth: u16,
}

/// Makes rings and memory for this host.
///
/// # Errors
/// `Refused` where there is no such ring; `Internal` where a thread or memory is not to be had.
pub(super) fn prepare() -> Result<Prepared> {
    let (queues, depth) = queues::size()?;
    Ok(Prepared { threads: queues::prepare(queues, depth)?, queues, depth })
}

/// Serves the mount behind `fuse`.
///
/// # Errors
/// `Io` with what the kernel or the library says.
pub(super) fn start(prepared: Prepared, adapter: Arc<Adapter>, fuse: OwnedFd, acl: SessionACL) -> Result<Transport> {
    let Prepared { threads, queues, depth } = prepared;
    let (relay, theirs) = Relay::new()?;
    let shared = Arc::new(Shared { fuse: Arc::new(fuse), adapter: adapter.clone(), relay, failed: Failed::default() });
    let offered = pump::first(&shared)?;
    let mut config = Config::default();
    (config.acl, config.n_threads) = (acl, Some(LOOPS));
    let loops = fuser::Session::from_fd(Front(adapter), theirs, acl, config).context(Kind::Io, || "the mount cannot be served")?;
    let taken = pump::second(&shared, offered)?;
    let mut running = Vec::new();
    match taken {
        true => running.extend(threads.into_iter().map(|t| t.run(shared.clone()))),
        false => shared.fail("the kernel does not offer the ring".to_owned()),
    }
    let loops = loops.spawn().context(Kind::Io, || "the loops do not start")?;
    running.push(spawn("fusevol-answers", &shared, pump::answers)?);
    running.push(spawn("fusevol-pump", &shared, |shared| pump::requests(shared, LOOPS))?);
    Ok(Transport { shared, loops, threads: running, queues, depth })
}

fn spawn(name: &str, shared: &Arc<Shared>, body: impl FnOnce(&Shared) + Send + 'static) -> Result<JoinHandle<()>> {
    let shared = shared.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || body(&shared)).context(Kind::Internal, || "no thread")
}

impl Transport {
    /// Tells how the mount is served now, for as long as anybody asks.
    pub(super) fn served(&self) -> impl Fn() -> Served + Send + Sync + 'static {
        let (failed, queues, depth) = (self.shared.failed.clone(), self.queues, self.depth);
        move || match &*failed.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Served::Uring { queues, depth },
            Some(why) => Served::Classic { why: Some(why.clone()) },
        }
    }

    /// Serves until it is unmounted.
    ///
    /// # Errors
    /// `Io` where a loop or a thread ended in another way.
    pub(super) fn join(self) -> Result<()> {
        let served = self.loops.join().context(Kind::Io, || "a serving thread ended");
        for thread in self.threads {
            // A panic in it has ended the process.
            let _ = thread.join();
        }
        served
    }
}
