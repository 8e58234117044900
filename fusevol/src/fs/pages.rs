//! The kernel's page cache of this mount: dropping what has become stale ([`crate::stale`] says when), and how far it reads ahead.
//!
//! A thread of its own tells the kernel, straight on `/dev/fuse`: the call waits until pages under way have their answer, which the
//! serving threads give; so none of these may make it. Invariant: it ends with the mount.

use super::adapter::Adapter;
use super::nodes::Node;
use super::table;
use crate::stale::{What, Whose};
use fusevol_shared::error::{Context, Kind, Result};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use zerocopy::{Immutable, IntoBytes};

/// Inodes whose pages are dropped at the same time: one that waits for a request under way keeps few others waiting.
const AT_ONCE: usize = 8;
/// As far as one request goes. The library offers less to the kernel than the kernel takes later.
const READ_AHEAD_KIB: u32 = super::uring::LARGEST >> 10;

/// `FUSE_NOTIFY_INVAL_INODE`: `struct fuse_out_header`, `struct fuse_notify_inval_inode_out` (`linux/fuse.h`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Notice {
    len: u32,
    code: i32,
    unique: u64,
    ino: u64,
    off: i64,
    length: i64,
}

impl Notice {
    /// All pages of an inode.
    fn whole(ino: u64) -> Self {
        Self { len: 40, code: 2, unique: 0, ino, off: 0, length: 0 }
    }
}

/// The thread. Ends when dropped.
pub(super) struct Pages {
    adapter: Arc<Adapter>,
    thread: Option<JoinHandle<()>>,
}

impl Pages {
    /// Starts it, for the mount behind `fuse`.
    pub(super) fn start(adapter: &Arc<Adapter>, fuse: &OwnedFd) -> Result<Self> {
        let cannot = || "the thread that drops pages";
        let (ours, fuse) = (adapter.clone(), fuse.try_clone().context(Kind::Io, cannot)?);
        let body = move || ours.session.stale().serve(|what| drop_all(&fuse, &inodes(&ours, &what)));
        let thread = std::thread::Builder::new().name("fusevol-pages".to_owned()).spawn(body).context(Kind::Internal, cannot)?;
        Ok(Self { adapter: adapter.clone(), thread: Some(thread) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.adapter.session.stale().end();
        // A panic in it was reported where it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn inodes(adapter: &Adapter, what: &What) -> Vec<u64> {
    let node = |w: &Whose| match w {
        Whose::Volume(id) => Node::Volume(*id),
        Whose::Snapshot(id) => Node::Snapshot(*id),
    };
    match what {
        What::All => adapter.nodes.files(),
        What::These(these) => these.iter().filter_map(|w| adapter.nodes.known(node(w))).collect(),
    }
}

fn drop_all(fuse: &OwnedFd, inodes: &[u64]) {
    let next = Mutex::new(inodes.iter());
    let work = || {
        while let Some(ino) = { next.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            // The kernel may not know it (any more), or the mount may have ended: then it has no page of it.
            let _ = rustix::io::write(fuse, Notice::whole(*ino).as_bytes());
        }
    };
    if inodes.len() <= 1 {
        return work();
    }
    std::thread::scope(|scope| {
        for _ in 0..inodes.len().min(AT_ONCE) {
            // Without a thread the others do its part.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

/// Lets the kernel read ahead a whole request for who reads in sequence through the page cache.
pub(super) fn read_ahead(dir: &Path) {
    let set = table::device(dir).and_then(|device| {
        let knob = format!("/sys/class/bdi/{device}/read_ahead_kb");
        std::fs::write(&knob, READ_AHEAD_KIB.to_string()).context(Kind::Io, || knob)
    });
    if let Err(e) = set {
        tracing::info!("the kernel reads ahead as it likes: {e}");
    }
}
