//! The link's thread: one round of attempts after the other, a connection while it stands, a pause in between.

use super::config::Backoff;
use super::connection::{ClientStream, Connection, End};
use super::{Control, Owner, Phase, Pushed, Shared, closed};
use fusevol_shared::error::{Context, Error, Kind, Result, WireError};
use fusevol_shared::wire::tls::ClientTls;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// How long an address is tried before the next one is, beside it.
const HEAD_START: Duration = Duration::from_millis(250);

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
        let mut left = in_order(&shared.config.key.managers, self.good.as_ref());
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

    /// A connection to the first of these addresses that answers: one after the other, but who is slow is not waited for. Takes those away that
    /// failed, and the one that is used.
    async fn dial(&self, left: &mut Vec<String>, last: &mut Error) -> Option<(String, ClientStream)> {
        let mut asked = FuturesUnordered::new();
        let mut waiting = left.clone().into_iter();
        loop {
            if let Some(address) = waiting.next() {
                asked.push(async move { (self.connect(&address).await, address) });
            } else if asked.is_empty() {
                return None;
            }
            let head_start = async {
                if waiting.len() == 0 {
                    std::future::pending::<()>().await;
                }
                sleep(HEAD_START).await;
            };
            tokio::select! {
                Some((connected, address)) = asked.next() => {
                    left.retain(|a| *a != address);
                    match connected {
                        Ok(stream) => return Some((address, stream)),
                        Err(e) => *last = prefer(std::mem::replace(last, closed().into()), e.within(format_args!("manager at {address}"))),
                    }
                }
                () = head_start => {}
            }
        }
    }

    async fn connect(&self, address: &str) -> Result<ClientStream> {
        let limit = self.shared.config.connect;
        let late = || Error::new(Kind::Unreachable, format!("no answer within {} ms", limit.as_millis()));
        let connected = timeout(limit, self.shared.config.net.connect(address)).await.map_err(|_| late())?;
        let stream = connected.context(Kind::Unreachable, || "no connection")?;
        timeout(limit, self.tls.connect(stream)).await.map_err(|_| late())?
    }
}

/// The addresses as they are tried: the one that was good last, then the others in the order of the key file.
fn in_order(all: &[String], good: Option<&String>) -> Vec<String> {
    let good = all.iter().find(|a| Some(*a) == good);
    good.into_iter().chain(all.iter().filter(|a| Some(*a) != good)).cloned().collect()
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
