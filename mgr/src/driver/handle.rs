//! The way to the driver, for the listener, the admin socket and the signals.

use super::join::{Joining, Opened};
use crate::core::{AdminReply, AdminRequest, Event};
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::units::DiskNo;
use tokio::sync::{mpsc, oneshot};

/// What the driver takes.
#[derive(Debug)]
pub enum Input {
    /// From the listener.
    Event(Event),
    /// From an administrator.
    Ask {
        /// What.
        request: AdminRequest,
        /// To whom the answer goes.
        answer: oneshot::Sender<std::result::Result<AdminReply, WireError>>,
    },
    /// From an administrator.
    AddDisk {
        /// Open and looked at.
        disk: Joining,
        /// To whom the answer goes.
        answer: oneshot::Sender<std::result::Result<AdminReply, WireError>>,
    },
    /// A disk of the manager that was lost is open again.
    Reopened {
        /// Which.
        no: DiskNo,
        /// It is locked, and nothing is done on it yet but that it was looked at.
        opened: Box<Opened>,
        /// Whether it is used from now on, or why not.
        answer: oneshot::Sender<Result<()>>,
    },
    /// End in order: what was asked before is done and answered.
    Stop,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Input::Event(event)
    }
}

/// For administrators.
#[derive(Clone, Debug)]
pub struct Handle {
    to: mpsc::Sender<Input>,
}

impl Handle {
    /// Sends to the driver that has the other end.
    #[must_use]
    pub fn new(to: mpsc::Sender<Input>) -> Self {
        Self { to }
    }

    /// Asks the core.
    ///
    /// # Errors
    /// What the core answers; `Unreachable` where the manager ends before it does.
    pub async fn ask(&self, request: AdminRequest) -> Result<AdminReply> {
        self.send(|answer| Input::Ask { request, answer }).await
    }

    /// Takes a disk into the pool.
    ///
    /// # Errors
    /// Why it cannot join; `Unreachable` where the manager ends before it has.
    pub async fn add_disk(&self, disk: Joining) -> Result<AdminReply> {
        self.send(|answer| Input::AddDisk { disk, answer }).await
    }

    /// Ends the manager.
    pub async fn stop(&self) {
        // A driver that is gone has stopped.
        let _ = self.to.send(Input::Stop).await;
    }

    async fn send(&self, input: impl FnOnce(oneshot::Sender<std::result::Result<AdminReply, WireError>>) -> Input) -> Result<AdminReply> {
        let ended = || Error::new(Kind::Unreachable, "the manager is ending");
        let (answer, coming) = oneshot::channel();
        self.to.send(input(answer)).await.map_err(|_| ended())?;
        coming.await.map_err(|_| ended())?.map_err(Error::from)
    }
}
