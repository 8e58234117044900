//! The link's thread: one round of attempts after the other, a connection while it stands, a pause in between.

use super::config::Backoff;
use super::connection::{ClientStream, Connection, End};
use super::dial;
use super::{Control, Owner, Phase, Pushed, Shared, closed};
use fusevol_shared::error::{Context, Error, Kind, Result, WireError};
use fusevol_shared::wire::tls::ClientTls;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

pub(super) struct Run {
    shared: Arc<Shared>,
    /// The address that welcomed us last.
    good: Option<String>,
    owner: Arc<dyn Owner>,
    tls: ClientTls,
    deliver: mpsc::Sender<Pushed>,
    control: watch::Receiver<Control>,
}

impl Run {
    pub(super) fn new(shared: Arc<Shared>, owner: Arc<dyn Owner>, tls: ClientTls, deliver: mpsc::Sender<Pushed>) -> Self {
        let control = shared.control.subscribe();
        Self { shared, good: None, owner, tls, deliver, control }
    }

    pub(super) async fn run(mut self) {
        let _last = LastWord(Arc::clone(&self.shared));
        let mut backoff = Backoff::new(self.shared.config.pause);
        let mut control = self.control.clone();
        while !control.borrow_and_update().close {
            self.shared.enter(Phase::Connecting);
            let round = tokio::select! {
                round = self.round(&mut backoff) => round,
                _ = control.changed() => continue,
            };
            match round {
                End::Lost(e) => {
                    tracing::info!("no manager: {e}");
                    self.shared.failed(&e);
                }
                End::Refused(e) => {
                    tracing::warn!("the manager has refused the session: {e}");
                    self.shared.failed(&e);
                    let why = WireError::from(&e);
                    self.shared.queues().pending.end(&why);
                    self.shared.enter(Phase::Ended(why));
                    while self.shared.queues().pending.has_ended() && !control.borrow_and_update().close {
                        let _ = control.changed().await;
                    }
                    backoff.reset();
                    continue;
                }
            }
            self.shared.enter(Phase::Connecting);
            tokio::select! { () = sleep(backoff.pause()) => {}, _ = control.changed() => {} }
        }
    }

    /// One attempt at each address; serves the first that welcomes us until that connection ends.
    async fn round(&mut self, backoff: &mut Backoff) -> End {
        let shared = Arc::clone(&self.shared);
        let mut last = Error::new(Kind::Unreachable, "the key file names no manager");
        let mut left = dial::in_order(&shared.config.key.managers, self.good.as_ref());
        while let Some((address, stream)) = self.dial(&mut left, &mut last).await {
            let mut connection = Connection::new(&shared, &*self.owner, &self.deliver, stream);
            match connection.hello().await {
                Ok(()) => {
                    backoff.reset();
                    self.good = Some(address.clone());
                    shared.enter(Phase::Connected { address: address.clone() });
                    tracing::info!("connected to the manager at {address}");
                    return connection.serve().await.within(address);
                }
                Err(End::Lost(e)) => last = prefer(last, e.within(format_args!("manager at {address}"))),
                Err(refused) => return refused,
            }
        }
        End::Lost(last)
    }

    async fn dial(&self, left: &mut Vec<String>, last: &mut Error) -> Option<(String, ClientStream)> {
        let failed = |address: &str, e: Error| {
            *last = prefer(std::mem::replace(last, closed().into()), e.within(format_args!("manager at {address}")));
        };
        dial::first(left, async |address: &str| self.connect(address).await, failed).await
    }

    async fn connect(&self, address: &str) -> Result<ClientStream> {
        let limit = self.shared.config.connect;
        let late = || Error::new(Kind::Unreachable, format!("no answer within {} ms", limit.as_millis()));
        let connected = timeout(limit, self.shared.config.net.connect(address)).await.map_err(|_| late())?;
        let stream = connected.context(Kind::Unreachable, || "no connection")?;
        timeout(limit, self.tls.connect(stream)).await.map_err(|_| late())?
    }
}

/// Of two failures the one that says more: distrust over silence.
fn prefer(old: Error, new: Error) -> Error {
    if old.kind() == Kind::Denied { old } else { new }
}

/// However the thread ends, a panic included, no call is left without an answer.
struct LastWord(Arc<Shared>);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.queues().pending.end(&closed());
        self.0.enter(Phase::Closed);
    }
}
