//! One data connection of the client: `Open`, then requests out and answers in, until either fails, or nothing was to be done for a while.

use super::queue::Queue;
use crate::path::lives::ManagerLife;
use fusevol_shared::disk::buf::{IoBuf, Shelf};
use fusevol_shared::error::{Error, Kind};
use fusevol_shared::ids::{Generation, SessionId};
use fusevol_shared::net::AnyStream;
use fusevol_shared::wire::data::{FromClient, FromManager, receive, send};
use fusevol_shared::wire::frame::Limits;
use fusevol_shared::wire::tls::ClientStream;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

/// How long the manager may take to open it: what is in flight of an earlier one returns first.
const OPENING: Duration = Duration::from_secs(15);
/// With requests unanswered and nothing coming in for so long it is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// A connection on which nothing is to be done is let go after so long.
const IDLE: Duration = Duration::from_secs(30);

/// Bytes of answers that were taken which a connection keeps for the next ones.
const KEPT: usize = 16 << 20;

type Stream = ClientStream<AnyStream>;

/// How it has ended.
pub(super) enum End {
    /// Nothing was to be done.
    Idle,
    /// It failed.
    Lost {
        /// It had been opened.
        served: bool,
        why: Error,
    },
}

pub(super) struct Connection {
    read: ReadHalf<Stream>,
    write: WriteHalf<Stream>,
}

fn lost(served: bool, why: impl Into<Error>) -> End {
    End::Lost { served, why: why.into() }
}

fn unreachable(what: impl Into<String>) -> Error {
    Error::new(Kind::Unreachable, what)
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self { read, write }
    }

    pub(super) async fn serve(mut self, queue: &Queue, session: SessionId) -> End {
        let generation = match timeout(OPENING, self.open(queue, session)).await {
            Ok(Ok(generation)) => generation,
            Ok(Err(e)) => return lost(false, e),
            Err(_) => return lost(false, unreachable(format!("it was not opened within {} s", OPENING.as_secs()))),
        };
        let Connection { mut read, mut write } = self;
        tokio::select! {
            end = take(queue, generation, &mut read) => end,
            e = give(queue, generation, &mut write) => lost(true, e),
        }
    }

    async fn open(&mut self, queue: &Queue, session: SessionId) -> Result<Generation, Error> {
        send(&mut self.write, &FromClient::Open { session }, &[]).await?;
        self.write.flush().await.map_err(|e| unreachable("the connection failed").because(e))?;
        match receive::<FromManager, _>(&mut self.read, Limits::DATA, IoBuf::zeroed).await? {
            Some((FromManager::Opened { generation, drained }, _)) => {
                queue.opened(generation, drained);
                Ok(generation)
            }
            Some((FromManager::Refused(e), _)) => {
                queue.refused(&e);
                Err(e.into())
            }
            Some((FromManager::Done { .. } | FromManager::Flushed { .. }, _)) => {
                Err(Error::new(Kind::Damaged, "an answer before anything was asked"))
            }
            None => Err(unreachable("the manager closed the connection")),
        }
    }
}

async fn take(queue: &Queue, of: Generation, read: &mut ReadHalf<Stream>) -> End {
    let (mut idle, shelf) = (Duration::ZERO, Shelf::new(KEPT));
    loop {
        // Not cancelled by the select above unless the whole connection ends.
        let message = receive::<FromManager, _>(read, Limits::DATA, |len| shelf.take(len));
        tokio::pin!(message);
        let message = loop {
            match timeout(SILENCE, &mut message).await {
                Ok(message) => break message,
                Err(_) if !queue.is_empty() => {
                    return lost(true, unreachable(format!("nothing was heard for {} s", SILENCE.as_secs())));
                }
                Err(_) => {
                    idle += SILENCE;
                    if idle >= IDLE {
                        return End::Idle;
                    }
                }
            }
        };
        idle = Duration::ZERO;
        match message {
            Ok(Some((message @ (FromManager::Done { .. } | FromManager::Flushed { .. }), payload))) => {
                let (id, result) = match message {
                    FromManager::Flushed { id, life } => (id, Ok(ManagerLife { generation: of, life })),
                    FromManager::Done { id, result } => (id, result.map(|()| ManagerLife::default())),
                    FromManager::Opened { .. } | FromManager::Refused(_) => continue,
                };
                if !queue.answered(id, result, payload) {
                    return lost(true, Error::new(Kind::Damaged, format!("an answer to request {id}, which was not asked")));
                }
            }
            Ok(Some(_)) => return lost(true, Error::new(Kind::Damaged, "something else than an answer came")),
            Ok(None) => return lost(true, unreachable("the manager closed the connection")),
            Err(e) => return lost(true, Error::from(e)),
        }
    }
}

async fn give(queue: &Queue, to: Generation, write: &mut WriteHalf<Stream>) -> Error {
    loop {
        let mut any = false;
        while let Some((id, io, data)) = queue.next(to) {
            if let Err(e) = send(write, &FromClient::Io { id, io }, &data).await {
                return e.into();
            }
            any = true;
        }
        if any && let Err(e) = write.flush().await {
            return unreachable("the connection failed").because(e);
        }
        if !any {
            queue.work.notified().await;
        }
    }
}
