//! One connection past its handshake: a reader that turns frames into events, a writer that empties the queue, until one of them ends.

use super::ListenLimits;
use super::flow::{Flow, Next};
use crate::core::{ConnId, Event};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::net::AnyStream;
use fusevol_shared::wire::codec::Reader;
use fusevol_shared::wire::frame::Limits;
use fusevol_shared::wire::messages::FromClient;
use fusevol_shared::wire::tls;
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Serves it to its end; says why it ended.
pub(super) async fn serve<E: From<Event>>(
    conn: ConnId,
    stream: ServerStream,
    flow: &Arc<Flow>,
    limits: &ListenLimits,
    events: &mpsc::Sender<E>,
) -> Error {
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = Reader::new(read, Limits::BEFORE_HELLO);
    tokio::select! {
        e = receive(conn, &mut reader, flow, limits, events) => e,
        e = send(&mut write, flow, limits) => e,
    }
}

/// A connection past its handshake, over any net.
pub(crate) type ServerStream = tls::ServerStream<AnyStream>;

type Incoming = Reader<ReadHalf<ServerStream>, FromClient>;

async fn receive<E: From<Event>>(
    conn: ConnId,
    reader: &mut Incoming,
    flow: &Flow,
    limits: &ListenLimits,
    events: &mpsc::Sender<E>,
) -> Error {
    let late = sleep(limits.hello);
    tokio::pin!(late);
    let mut welcomed = false;
    loop {
        let message = tokio::select! {
            biased;
            () = flow.welcomed(), if !welcomed => {
                welcomed = true;
                reader.set_limits(Limits::OPEN);
                continue;
            }
            () = &mut late, if !welcomed => {
                return Error::new(Kind::Refused, format!("no session within {} ms", limits.hello.as_millis()));
            }
            message = next(reader, flow) => message,
        };
        let event = match message {
            Ok(FromClient::Request { id, request }) => {
                flow.requested(id).map(|()| Event::Request { conn, id, request }).map_err(Error::from)
            }
            Ok(FromClient::Ack { push, ack }) => flow.acknowledged(push).map(|()| Event::Ack { conn, push, ack }).map_err(Error::from),
            Err(e) => Err(e),
        };
        match event {
            Ok(event) => {
                if events.send(event.into()).await.is_err() {
                    return Error::new(Kind::Unreachable, "the manager is ending");
                }
            }
            Err(e) => return e,
        }
    }
}

/// The next message, once there is room for what it may ask. May be cancelled without loss.
async fn next(reader: &mut Incoming, flow: &Flow) -> Result<FromClient> {
    flow.room().await;
    reader.next().await?.ok_or_else(|| Error::new(Kind::Unreachable, "it was closed by the client"))
}

async fn send(writer: &mut WriteHalf<ServerStream>, flow: &Flow, limits: &ListenLimits) -> Error {
    loop {
        match flow.next() {
            Next::Wait => flow.wait().await,
            Next::End(why) => {
                // A farewell that the peer does not take is not waited for.
                let _ = timeout(limits.stall, writer.shutdown()).await;
                return Error::new(Kind::Refused, why);
            }
            Next::Write(batch) => {
                let bytes = batch.iter().map(bytes::Bytes::len).sum();
                let write = async {
                    for frame in &batch {
                        writer.write_all(frame).await?;
                    }
                    writer.flush().await
                };
                tokio::select! {
                    written = timeout(limits.stall, write) => match written {
                        Ok(Ok(())) => flow.written(bytes),
                        Ok(Err(e)) => return fusevol_shared::wire::tls::explain(e),
                        Err(_) => return Error::new(Kind::Busy, format!("too slow: {bytes} bytes not taken within {} ms", limits.stall.as_millis())),
                    },
                    why = flow.cut() => return Error::new(Kind::Busy, why),
                }
            }
        }
    }
}
