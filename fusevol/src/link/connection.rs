//! One connection to a manager: `Hello`, then requests and acknowledgements out, answers and pushes in, until either direction fails.

use super::pushes::{self, Receive};
use super::{Owner, Pushed, Shared, now};
use fusevol_shared::error::{Error, Kind};
use fusevol_shared::ids::SessionId;
use fusevol_shared::net::AnyStream;
use fusevol_shared::wire::codec::{Reader, encode};
use fusevol_shared::wire::frame::{FrameError, Limits};
use fusevol_shared::wire::messages::{FromClient, FromManager, Push, Reply, Request, Welcome};
use fusevol_shared::wire::tls;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::timeout;

/// Frames that go out before the connection is flushed.
const BATCH: usize = 16;
/// How long after a failed write the peer's own word is waited for.
const LAST_WORD: Duration = Duration::from_millis(250);

/// How a connection, or the attempt at one, has ended.
pub(super) enum End {
    /// Tried again.
    Lost(Error),
    /// The manager has refused the session for good.
    Refused(Error),
}

impl End {
    pub(super) fn within(self, address: impl Display) -> Self {
        match self {
            End::Lost(e) => End::Lost(e.within(format_args!("manager at {address}"))),
            End::Refused(e) => End::Refused(e),
        }
    }
}

/// A connection to the manager, over any net.
pub(super) type ClientStream = tls::ClientStream<AnyStream>;

pub(super) struct Connection<'a> {
    shared: &'a Arc<Shared>,
    owner: &'a dyn Owner,
    deliver: &'a mpsc::Sender<Pushed>,
    reader: Reader<ReadHalf<ClientStream>, FromManager>,
    writer: WriteHalf<ClientStream>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, owner: &'a dyn Owner, deliver: &'a mpsc::Sender<Pushed>, stream: ClientStream) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self { shared, owner, deliver, reader: Reader::new(read, Limits::OPEN), writer: write }
    }

    /// Says `Hello` and hears what the manager says to it. After `Ok` the queues are ready for this connection.
    pub(super) async fn hello(&mut self) -> Result<(), End> {
        let hello = self.owner.hello();
        let session = hello.session;
        let frame = encode(&FromClient::Request { id: 0, request: Request::Hello(hello) }).map_err(|e| End::Lost(e.into()))?;
        let limit = self.shared.config.hello;
        let sent_at = now();
        let exchange = async {
            let written = write(&mut self.writer, &[frame]).await;
            // A manager that refuses our certificate says so and closes: that word is worth more than our failed write.
            let heard = match &written {
                Ok(()) => self.reader.next().await,
                Err(_) => timeout(LAST_WORD, self.reader.next()).await.unwrap_or(Ok(None)),
            };
            match (heard, written) {
                (Ok(None), Err(e)) => Err(e),
                (heard, _) => heard,
            }
        };
        let late = || Error::new(Kind::Unreachable, format!("no answer to Hello within {} ms", limit.as_millis()));
        let heard = timeout(limit, exchange).await.map_err(|_| End::Lost(late()))?.map_err(|e| End::Lost(e.into()))?;
        match heard {
            Some(FromManager::Reply { id: 0, result: Ok(Reply::Welcome(welcome)) }) => {
                self.welcomed(&welcome, session, sent_at);
                Ok(())
            }
            Some(FromManager::Reply { id: 0, result: Err(e) }) => {
                Err(if is_final(e.kind) { End::Refused(e.into()) } else { End::Lost(e.into()) })
            }
            Some(_) => Err(End::Lost(Error::new(Kind::Damaged, "something else than an answer came to Hello"))),
            None => Err(End::Lost(Error::new(Kind::Unreachable, "the manager closed the connection"))),
        }
    }

    fn welcomed(&self, welcome: &Welcome, session: SessionId, sent_at: fusevol_shared::clock::BootTime) {
        self.owner.welcomed(welcome, sent_at);
        let mut queues = self.shared.queues();
        queues.pending.connected();
        queues.pushes.connected(welcome.generation, session);
    }

    /// Carries requests, answers and pushes until the connection ends.
    pub(super) async fn serve(self) -> End {
        let Connection { shared, deliver, mut reader, mut writer, .. } = self;
        let error = tokio::select! {
            e = receive(shared, deliver, &mut reader) => e,
            e = send(shared, &mut writer) => e,
        };
        End::Lost(error)
    }
}

/// Whether asking again with the same `Hello` cannot help.
fn is_final(kind: Kind) -> bool {
    matches!(kind, Kind::Lapsed | Kind::Denied | Kind::Version | Kind::Refused | Kind::NotFound | Kind::Exists)
}

async fn write(writer: &mut WriteHalf<ClientStream>, frames: &[bytes::Bytes]) -> Result<(), FrameError> {
    for frame in frames {
        writer.write_all(frame).await?;
    }
    Ok(writer.flush().await?)
}

async fn send(shared: &Shared, writer: &mut WriteHalf<ClientStream>) -> Error {
    loop {
        let frames = {
            let mut queues = shared.queues();
            let mut frames = Vec::with_capacity(BATCH);
            while frames.len() < BATCH
                && let Some(frame) = queues.pushes.next().or_else(|| queues.pending.next(now()))
            {
                frames.push(frame);
            }
            frames
        };
        if frames.is_empty() {
            shared.work.notified().await;
        } else if let Err(e) = write(writer, &frames).await {
            return e.into();
        }
    }
}

async fn receive(shared: &Arc<Shared>, deliver: &mpsc::Sender<Pushed>, reader: &mut Reader<ReadHalf<ClientStream>, FromManager>) -> Error {
    let silence = shared.config.silence;
    loop {
        let message = match timeout(silence, reader.next()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Error::new(Kind::Unreachable, "the manager closed the connection"),
            Ok(Err(e)) => return e.into(),
            Err(_) if shared.queues().pending.owed() => {
                return Error::new(Kind::Unreachable, format!("nothing was heard for {} ms", silence.as_millis()));
            }
            Err(_) => continue,
        };
        let taken = match message {
            FromManager::Reply { id, result } => {
                let taken = shared.queues().pending.answered(id, result);
                // There is room for one more in flight.
                shared.work.notify_one();
                taken.map_err(Error::from)
            }
            FromManager::Push { push, body } => pushed(shared, deliver, push, body),
        };
        if let Err(e) = taken {
            return e;
        }
    }
}

fn pushed(shared: &Arc<Shared>, deliver: &mpsc::Sender<Pushed>, push: u64, body: Push) -> Result<(), Error> {
    let received = shared.queues().pushes.received(push, &body)?;
    shared.work.notify_one();
    let Receive::Deliver(life) = received else { return Ok(()) };
    match deliver.try_send(pushes::pushed(shared, life, push, body)) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(pushed)) => {
            pushes::take_back(pushed);
            shared.queues().pushes.forget(push);
            Err(Error::new(Kind::Busy, "the client is behind with the manager's pushes"))
        }
        // Nobody listens: it is answered as failed when it falls.
        Err(TrySendError::Closed(pushed)) => {
            drop(pushed);
            Ok(())
        }
    }
}
