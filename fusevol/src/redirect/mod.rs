//! I/O through the manager: the client's end of a data connection (PROTOCOL.md, "Redirect").
//!
//! A [`Redirect`] has a thread of its own, which connects when there is I/O to do and lets the connection go when there was none for a
//! while. Who asks waits: through lost connections and restarts of the manager, until it is done or its time is over.
//!
//! ```text
//!  queued -> sent -> answered
//!    ^        |
//!    '--------'  the connection was lost: sent again, if the new one says that nothing of ours is in flight any more; a read in any case
//!             '-> not returned: it may still land (another manager's life, or time is over)
//! ```
//! What the manager has no path for itself it does not send, and is asked again ([`queue`]). What was never sent is taken back when the direct path is there again.
//! Where the volume can do without the disk ([`Spare`]), it is not asked again for long ([`DEAD`]): the disk is taken for dead, and the volume goes on without it.
//!
//! Invariants: a write is sent again only where nothing of an earlier sending can land after it; what waits is within [`WAITING`] requests
//! and [`BYTES`]; each request is answered once.

mod connection;
pub mod queue;
mod run;

use crate::path::door::{Door, Got};
use crate::path::spare::Spare;
use fusevol_shared::disk::buf::IoBytes;
use fusevol_shared::disk::{Answer, DiskError};
use fusevol_shared::error::{Context, Kind, Result};
use fusevol_shared::ids::{SessionId, VolumeId};
use fusevol_shared::net::Net;
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::data::Io;
use fusevol_shared::wire::keyfile::KeyFile;
use fusevol_shared::wire::tls::Use;
use futures_util::future::LocalBoxFuture;
use queue::Queue;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Most requests that wait or are under way.
const WAITING: usize = 4096;
/// Most bytes of writes among them.
const BYTES: usize = 256 << 20;

/// How long neither this host nor the manager may have a path to a disk before it is dead to volumes that can do without it. The manager opens a server's
/// export that was started again within that time.
const DEAD: Duration = Duration::from_secs(2);

/// Where a manager answers now.
pub type At = Box<dyn Fn() -> Option<String> + Send>;

/// How it is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who we are.
    pub key: Arc<KeyFile>,
    /// How managers are reached.
    pub net: Arc<dyn Net>,
    /// The pool's AU size.
    pub au_size: AuSize,
    /// How long a request waits in all.
    pub patience: Duration,
}

/// I/O through the manager. The thread ends when this is dropped or closed; what waits fails then.
pub struct Redirect {
    queue: Arc<Queue>,
    au_size: AuSize,
    patience: Duration,
    end: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Redirect {
    /// For this session. `at` says at which address a manager answers now.
    ///
    /// # Errors
    /// `Refused` where the key's certificates are unusable, `Internal` without a thread.
    pub fn start(options: &Options, session: SessionId, at: At) -> Result<Self> {
        let tls = options.key.tls_for(Use::Data)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(Kind::Internal, || "no runtime")?;
        let queue = Arc::new(Queue::default());
        let (end, ends) = watch::channel(false);
        let run = run::Run { queue: queue.clone(), key: options.key.clone(), net: options.net.clone(), tls, session, at };
        let thread = std::thread::Builder::new()
            .name("fusevol-data".into())
            .spawn(move || runtime.block_on(run.run(ends)))
            .context(Kind::Internal, || "no thread")?;
        Ok(Self { queue, au_size: options.au_size, patience: options.patience, end, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread; what waits fails. A second call does nothing.
    pub fn close(&self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of it was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        self.close();
    }
}

impl Door for Redirect {
    fn io(&self, io: Io, data: IoBytes) -> LocalBoxFuture<'_, std::result::Result<Got, DiskError>> {
        let answer = self.queue.add(io, data, self.patience);
        Box::pin(async move {
            let lost = |_| Err(DiskError { answer: Answer::NotReturned, errno: libc::ESHUTDOWN, what: "the mount is being ended".into() });
            answer?.await.unwrap_or_else(lost)
        })
    }

    fn release(&self, disk: DiskNo) {
        self.queue.release(disk);
    }

    fn spare(&self, volume: VolumeId, spare: Weak<Spare>) {
        self.queue.spare(volume, spare);
    }

    fn au_size(&self) -> AuSize {
        self.au_size
    }
}
