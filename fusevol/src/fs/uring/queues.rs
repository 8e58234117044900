//! A thread for each core: its ring, its memory, the entries of its queues.
//!
//! The kernel has a queue for every *possible* CPU, and gives a request to that of the CPU its caller runs on. Queue `q` is served by thread
//! `q % threads`. The threads are not bound to CPUs: who is bound to its caller's waits for it, and wakes it on another one; left to the scheduler,
//! both have been measured to be quicker (so has sleeping rather than looking for completions in a loop). All of an entry's memory is there before the kernel is told of any ring.

use super::entry::{Entry, Queue};
use super::{BODY, Shared};
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Context, Error, Kind, Result};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Most memory for the data of requests under way, bytes.
const MEMORY: usize = 256 << 20;
/// Most entries of a queue: more under way only wait in the disks.
const DEPTH_MAX: usize = 32;

/// Number of queues, and of entries in each, on this host.
pub(super) fn size() -> Result<(u16, u16)> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").context(Kind::Io, || "the list of possible CPUs")?;
    let queues =
        count(text.trim()).ok_or_else(|| Error::new(Kind::Refused, format!("the possible CPUs are not in one row: {}", text.trim())))?;
    let depth = (MEMORY / BODY / usize::from(queues)).clamp(1, DEPTH_MAX);
    Ok((queues, u16::try_from(depth).unwrap_or(u16::MAX)))
}

/// CPUs in a list as `0-7`.
fn count(list: &str) -> Option<u16> {
    let last = match list.split_once('-') {
        Some(("0", last)) => last,
        None if list == "0" => list,
        _ => return None,
    };
    last.parse::<u16>().ok()?.checked_add(1)
}

/// A thread that is ready, and waits.
pub(super) struct Thread {
    go: SyncSender<Arc<Shared>>,
    handle: JoinHandle<()>,
}

/// Makes the threads for so many queues.
pub(super) fn prepare(queues: u16, depth: u16) -> Result<Vec<Thread>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(usize::from(queues));
    let made: Vec<_> = (0..threads).map(|n| Thread::new(n, (0..queues).skip(n).step_by(threads).map(Queue).collect(), depth)).collect();
    // Dropping a thread's `go` ends it.
    made.into_iter().collect()
}

impl Thread {
    fn new(n: usize, queues: Vec<Queue>, depth: u16) -> Result<Self> {
        let (go, gone) = sync_channel(1);
        let (ready, is_ready) = sync_channel(1);
        let body = move || run(&queues, depth, &ready, &gone);
        let handle = std::thread::Builder::new().name(format!("fusevol-ring-{n}")).spawn(body).context(Kind::Internal, || "no thread")?;
        let made: std::result::Result<Result<()>, mpsc::RecvError> = is_ready.recv();
        made.context(Kind::Internal, || "a ring's thread ended")??;
        Ok(Self { go, handle })
    }

    /// Lets it register its entries and serve.
    pub(super) fn run(self, shared: Arc<Shared>) -> JoinHandle<()> {
        // A thread that has ended by a panic has ended the process.
        let _ = self.go.send(shared);
        self.handle
    }
}

/// Ends the process where its thread panics: the callers of its queues would wait for ever.
struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the ring has ended: so does the process");
            std::process::abort();
        }
    }
}

fn run(queues: &[Queue], depth: u16, ready: &SyncSender<Result<()>>, gone: &Receiver<Arc<Shared>>) {
    let _fuse = Fuse;
    let entries: Vec<Entry> = queues.iter().flat_map(|q| (0..depth).map(|_| Entry::new(*q, BODY))).collect();
    let made = make_ring(&entries);
    let failed = made.is_err();
    // Who prepares waits for this.
    let _ = ready.send(made);
    if failed {
        return;
    }
    let Ok(shared) = gone.recv() else { return };
    ring::block_on(async {
        let mut tasks: FuturesUnordered<_> = entries.into_iter().map(|e| e.run(&shared)).collect();
        while tasks.next().await.is_some() {}
    });
}

fn make_ring(entries: &[Entry]) -> Result<()> {
    if !ring::takes_commands() {
        return Err(Error::new(Kind::Refused, "this kernel's io_uring takes no commands"));
    }
    let bodies: Vec<_> = entries.iter().map(Entry::body).collect();
    if let Err(e) = ring::register(&bodies) {
        tracing::warn!("memory and files are not registered with the ring ({e}): I/O costs more");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possible_cpus_are_counted() {
        assert_eq!((count("0"), count("0-1"), count("0-255")), (Some(1), Some(2), Some(256)));
        assert_eq!((count("1-2"), count("0,2"), count("0-1,4"), count("")), (None, None, None, None));
    }
}
