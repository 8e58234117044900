//! The thread's life: a connection while there is something to do, a pause after each that failed.

use super::connection::{Connection, End};
use super::queue::Queue;
use crate::link::dial;
use fusevol_shared::error::{Error, Kind};
use fusevol_shared::ids::SessionId;
use fusevol_shared::net::Net;
use fusevol_shared::wire::keyfile::KeyFile;
use fusevol_shared::wire::tls::ClientTls;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// For a TCP connection, and for its handshake, each.
const CONNECT: Duration = Duration::from_secs(3);
/// The shortest and longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often it is looked who has waited for too long, and what the manager had no path for is asked again.
const LOOK: Duration = Duration::from_millis(200);

pub(super) struct Run {
    pub(super) queue: Arc<Queue>,
    pub(super) key: Arc<KeyFile>,
    pub(super) net: Arc<dyn Net>,
    pub(super) tls: ClientTls,
    pub(super) session: SessionId,
    /// Where a manager answers now.
    pub(super) at: super::At,
}

impl Run {
    pub(super) async fn run(self, mut ends: watch::Receiver<bool>) {
        tokio::select! {
            _ = ends.wait_for(|end| *end) => {}
            () = self.serve() => {}
            () = self.expire() => {}
        }
        self.queue.close();
    }

    async fn expire(&self) {
        loop {
            sleep(LOOK).await;
            self.queue.look();
        }
    }

    async fn serve(&self) {
        let mut pause = PAUSE.0;
        loop {
            while self.queue.is_empty() {
                self.queue.work.notified().await;
            }
            match self.round().await {
                End::Idle => pause = PAUSE.0,
                End::Lost { served, why } => {
                    tracing::info!("I/O through the manager: {why}");
                    self.queue.trouble(&why);
                    if served {
                        pause = PAUSE.0;
                    }
                    sleep(pause).await;
                    pause = (2 * pause).min(PAUSE.1);
                }
            }
        }
    }

    /// One connection, to the manager that answers, or to whichever takes it.
    async fn round(&self) -> End {
        let mut why = Error::new(Kind::Unreachable, "the key names no manager");
        let mut left = dial::in_order(&self.key.managers, (self.at)().as_ref());
        let failed = |address: &str, e: Error| {
            why = e.within(format_args!("manager at {address}"));
        };
        let connected = dial::first(&mut left, async |address: &str| self.connect(address).await, failed).await;
        let Some((address, connection)) = connected else { return End::Lost { served: false, why } };
        tokio::select! {
            end = connection.serve(&self.queue, self.session) => end,
            other = self.moved_from(&address) => {
                let why = format!("the manager is reached at {other} now, and not at {address} any more");
                End::Lost { served: true, why: Error::new(Kind::Unreachable, why) }
            }
        }
    }

    /// Returns when a manager answers at another address than this one.
    async fn moved_from(&self, address: &str) -> String {
        loop {
            sleep(LOOK).await;
            if let Some(other) = (self.at)().filter(|a| a != address) {
                return other;
            }
        }
    }

    async fn connect(&self, address: &str) -> Result<Connection, Error> {
        let late = |what: &str| Error::new(Kind::Unreachable, format!("no {what} within {} s", CONNECT.as_secs()));
        let stream = timeout(CONNECT, self.net.connect(address)).await.map_err(|_| late("connection"))?;
        let stream = stream.map_err(|e| Error::new(Kind::Unreachable, "no connection").because(e))?;
        let stream = timeout(CONNECT, self.tls.connect(stream)).await.map_err(|_| late("handshake"))??;
        Ok(Connection::new(stream))
    }
}
