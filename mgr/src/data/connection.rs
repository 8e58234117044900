//! One data connection: `Open`, then I/O in, answers out, until either direction fails or a newer connection of the session comes.

use super::disks::Done;
use super::{Inner, OfSession};
use crate::core::{Event, Verdict};
use crate::listen::ServerStream;
use fusevol_shared::disk::buf::{IoBuf, Shelf};
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::ids::{KeyPrint, SessionNo};
use fusevol_shared::units::PAGE;
use fusevol_shared::wire::data::{Failure, FromClient, FromManager, IN_FLIGHT, Io, Verb, fits, receive, send};
use fusevol_shared::wire::frame::Limits;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

/// How long a client may take to say whose I/O it is.
const OPENING: Duration = Duration::from_secs(10);
/// How long a client may take to read an answer.
const STALL: Duration = Duration::from_secs(10);

/// Bytes of requests that are done which one connection keeps for the next ones.
const KEPT: usize = 16 << 20;

type Answers = mpsc::Sender<(FromManager, IoBuf)>;

/// One that counts as under way until it is dropped.
struct UnderWay(Arc<OfSession>);

impl UnderWay {
    fn new(of: &Arc<OfSession>) -> Self {
        of.under_way.send_modify(|n| *n += 1);
        Self(of.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|n| *n -= 1);
    }
}

pub(super) async fn serve<E: From<Event> + Send + 'static>(inner: Arc<Inner<E>>, stream: ServerStream, print: KeyPrint) -> Error {
    let (mut read, mut write) = tokio::io::split(stream);
    let opened = match timeout(OPENING, open(&inner, &mut read, print)).await {
        Ok(opened) => opened,
        Err(_) => Err(Error::new(Kind::Refused, "it was not said whose I/O it is")),
    };
    let (no, welcome) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            // A client that is gone is not told.
            let _ = send(&mut write, &FromManager::Refused(WireError::from(&e)), &[]).await;
            let _ = write.shutdown().await;
            return e;
        }
    };
    let of = inner.session(no);
    let mut mine = 0;
    of.newest.send_modify(|n| {
        *n += 1;
        mine = *n;
    });
    let mut newer = of.newest.subscribe();
    let (answers, outgoing) = mpsc::channel(IN_FLIGHT);
    tokio::select! {
        e = take(&inner, &of, (no, mine), &mut read, welcome, answers) => e,
        e = give(&mut write, outgoing) => e,
        _ = newer.wait_for(|n| *n > mine) => Error::new(Kind::Refused, "the session has opened another data connection"),
    }
}

async fn open<E: From<Event>>(inner: &Inner<E>, read: &mut (impl AsyncRead + Unpin), print: KeyPrint) -> Result<(SessionNo, FromManager)> {
    let (message, _) = receive::<FromClient, _>(read, Limits::DATA_UNOPENED, IoBuf::zeroed).await?.ok_or_else(closed)?;
    let FromClient::Open { session } = message else { return Err(Error::new(Kind::Damaged, "I/O before it is said whose it is")) };
    let (ticket, answer) = inner.verdicts.ask();
    inner.events.send(Event::DataOpen { ticket, print, session }.into()).await.map_err(|_| ending())?;
    match answer.await.map_err(|_| ending())?? {
        Verdict::Opened { session, generation, drained } => Ok((session, FromManager::Opened { generation, drained })),
        Verdict::May => Err(Error::new(Kind::Internal, "an answer to another question")),
    }
}

fn closed() -> Error {
    Error::new(Kind::Unreachable, "it was closed by the client")
}

fn ending() -> Error {
    Error::new(Kind::Unreachable, "the manager is ending")
}

/// Takes requests, once nothing of former connections is under way.
async fn take<E: From<Event> + Send + 'static>(
    inner: &Arc<Inner<E>>,
    of: &Arc<OfSession>,
    (session, mine): (SessionNo, u64),
    read: &mut (impl AsyncRead + Unpin),
    welcome: FromManager,
    answers: Answers,
) -> Error {
    let mut under_way = of.under_way.subscribe();
    if under_way.wait_for(|n| *n == 0).await.is_err() || answers.send((welcome, IoBuf::zeroed(0))).await.is_err() {
        return closed();
    }
    let (turns, shelf) = (Arc::new(Semaphore::new(IN_FLIGHT)), Shelf::new(KEPT));
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return ending() };
        let (id, io, payload) = match receive::<FromClient, _>(read, Limits::DATA, |len| shelf.take(len)).await {
            Ok(Some((FromClient::Io { id, io }, payload))) => (id, io, payload),
            Ok(Some((FromClient::Open { .. }, _))) => return Error::new(Kind::Damaged, "it was opened already"),
            Ok(None) => return closed(),
            Err(e) => return e.into(),
        };
        if let Err(e) = fits(&io, &payload) {
            return e;
        }
        let pages = u32::try_from(io.len as usize / PAGE).unwrap_or(u32::MAX).max(1);
        let Ok(memory) = inner.memory.clone().acquire_many_owned(pages).await else { return ending() };
        // Counted first, then looked: a newer connection looks for what is counted after it has said that it is there.
        let under_way = UnderWay::new(of);
        if *of.newest.borrow() != mine {
            return Error::new(Kind::Refused, "the session has opened another data connection");
        }
        // Whatever it held before: an answer has it only where all of it was read.
        let buf = if io.verb == Verb::Read { shelf.take(io.len as usize) } else { payload };
        let held = Held { _turn: turn, _memory: memory, _under_way: under_way };
        // Not part of this connection: it goes on to its end when the connection does not.
        tokio::spawn(serve_one(inner.clone(), session, id, io, buf, answers.clone(), held));
    }
}

/// What a request holds until it has returned and its answer is on its way.
struct Held {
    _turn: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
    _under_way: UnderWay,
}

async fn serve_one<E: From<Event> + Send + 'static>(
    inner: Arc<Inner<E>>,
    session: SessionNo,
    id: u64,
    io: Io,
    buf: IoBuf,
    answers: Answers,
    held: Held,
) {
    let (result, buf) = done(&inner, session, io, buf).await;
    let payload = if io.verb == Verb::Read && result.is_ok() { buf } else { IoBuf::zeroed(0) };
    let Held { _turn, _memory, _under_way } = held;
    drop(_under_way);
    let answer = match (io.verb, result) {
        (Verb::Flush, Ok(life)) => FromManager::Flushed { id, life },
        (_, result) => FromManager::Done { id, result: result.map(drop) },
    };
    // A connection that has ended takes no answer.
    let _ = answers.send((answer, payload)).await;
}

async fn done<E: From<Event>>(inner: &Inner<E>, session: SessionNo, io: Io, buf: IoBuf) -> Done {
    let refused = |e: WireError| (Err(Failure::Refused(e)), IoBuf::zeroed(0));
    let Ok(_turn) = inner.turns_of(io.disk).acquire_owned().await else { return refused((&ending()).into()) };
    let (ticket, answer) = inner.verdicts.ask();
    if inner.events.send(Event::DataIo { ticket, session, io }.into()).await.is_err() {
        return refused((&ending()).into());
    }
    match answer.await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => return refused(e),
        Err(_) => return refused((&ending()).into()),
    }
    let done = inner.disks.io(io, buf).await;
    if matches!(io.verb, Verb::Write | Verb::WriteDurable) {
        // A manager that is ending counts no more.
        let _ = inner.events.send(Event::DataDone { session }.into()).await;
    }
    done
}

/// Brings the answers out.
async fn give(write: &mut WriteHalf<ServerStream>, mut outgoing: mpsc::Receiver<(FromManager, IoBuf)>) -> Error {
    while let Some((message, payload)) = outgoing.recv().await {
        let sent = timeout(STALL, async {
            send(write, &message, &payload).await?;
            // What is there already goes with it.
            if outgoing.is_empty() { Ok(write.flush().await?) } else { Ok(()) }
        });
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err::<(), fusevol_shared::wire::frame::FrameError>(e)) => return e.into(),
            Err(_) => return Error::new(Kind::Busy, "too slow: an answer was not taken"),
        }
    }
    closed()
}
