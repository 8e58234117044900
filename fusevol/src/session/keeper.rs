//! The keeper: one thread with its own ring that looks after the attached volumes beside their data path: it folds what their journals
//! hold and refills their reserves, so that no write waits for the manager.
//!
//! A volume is handed over once, when it is attached for writing, and is let go when its [`Volume::tend`] ends, which it does once the
//! volume is closed. Invariant: a volume that waits for the manager here, or whose tending panics, holds up no other one.

use super::Volume;
use super::open::spawn;
use fusevol_shared::disk::ring;
use fusevol_shared::error::Result;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// The session's end of it; the thread ends when this is dropped.
pub(super) struct Keeper(Mutex<Option<Running>>);

struct Running {
    to: mpsc::UnboundedSender<Arc<Volume>>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Internal` without a thread.
    pub(super) fn start() -> Result<Self> {
        // As long as the list of attached volumes: each is sent once.
        let (to, volumes) = mpsc::unbounded_channel();
        let thread = spawn("fusevol-keeper", move || ring::block_on(keep(volumes)))?;
        Ok(Self(Mutex::new(Some(Running { to, thread }))))
    }

    /// Looks after this volume until it is closed.
    pub(super) fn keep(&self, volume: Arc<Volume>) {
        if let Some(running) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // Who has ended already keeps nothing: the session is closed, and its volumes with it.
            let _ = running.to.send(volume);
        }
    }

    /// Ends the thread: every volume is closed. A second call does nothing.
    pub(super) fn end(&self) {
        if let Some(Running { to, thread }) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(to);
            // A panic of it was reported where it happened.
            let _ = thread.join();
        }
    }
}

async fn keep(mut volumes: mpsc::UnboundedReceiver<Arc<Volume>>) {
    let mut kept = FuturesUnordered::new();
    loop {
        tokio::select! {
            volume = volumes.recv() => match volume {
                Some(volume) => {
                    let id = volume.id();
                    kept.push(AssertUnwindSafe(volume.tend()).catch_unwind().map(move |end| (id, end)));
                }
                None => return,
            },
            Some((id, end)) = kept.next() => if end.is_err() {
                tracing::error!("what looks after volume {id} panicked, its message stands above: the volume is to be mounted again");
            }
        }
    }
}
