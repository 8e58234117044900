//! Open files: the number that the kernel gives back with each request, and what it stands for.

use crate::session::Session;
use crate::session::file::VolumeFile;
use crate::session::snapshot::SnapshotFile;
use crate::volume::Mode;
use arc_swap::ArcSwap;
use fusevol_shared::error::Result;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an open file is.
#[derive(Clone)]
pub(super) enum Handle {
    /// A volume, opened in this mode.
    Volume(Arc<VolumeFile>, Mode),
    /// A snapshot.
    Snapshot(Arc<SnapshotFile>),
}

impl Handle {
    /// The last use of this open.
    pub(super) fn close(&self, session: &Session) -> Result<()> {
        match self {
            Handle::Volume(file, mode) => file.close(session, *mode),
            Handle::Snapshot(file) => file.close(session),
        }
    }
}

/// All open files of a mount. The kernel bounds their number by the processes' limits. Looking one up waits for nobody: the table
/// is replaced as a whole.
#[derive(Default)]
pub(super) struct Handles {
    open: ArcSwap<HashMap<u64, Handle>>,
    given: AtomicU64,
}

impl Handles {
    /// A new number for this.
    pub(super) fn add(&self, handle: Handle) -> u64 {
        let fh = self.given.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.insert(fh, handle.clone());
            open
        });
        fh
    }

    /// What the number stands for.
    pub(super) fn get(&self, fh: u64) -> Option<Handle> {
        self.open.load().get(&fh).cloned()
    }

    /// Takes the number back.
    pub(super) fn remove(&self, fh: u64) -> Option<Handle> {
        let before = self.open.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.remove(&fh);
            open
        });
        before.get(&fh).cloned()
    }
}
