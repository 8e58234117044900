//! One connection that stands: requests go out as they come, replies come in any order.
//!
//! Three tasks on one thread: the *writer* takes requests from the queue, as long as the table has room, and sends several of
//! them by one system call, their data from where they lie; the *reader* reads replies, data straight into the memory of
//! their request; the *clock* looks whether the oldest request is answered in time. Whichever ends first ends the life of all
//! connections of the disk; what is in flight then is answered by being dropped (`request`).

use super::life::{Life, Loss};
use super::request::Request;
use super::table::Table;
use super::wire::{CHUNK_BYTES, Chunk, Command, SIMPLE_BYTES, SIMPLE_MAGIC, STRUCTURED_MAGIC, errno_of, error_chunk, request};
use super::wire::{u16_at, u32_at, u64_at};
use crate::disk::buf::IoBytes;
use std::io::{self, IoSlice};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Data in flight on a connection, bytes: little enough that a slow disk answers all of it in time.
const BYTES_MAX: u64 = 16 << 20;
/// Requests that go out by one system call.
const BATCH: usize = 16;
/// Many short replies come by one system call; of data, no more than this is copied once.
const READ_AHEAD: usize = 512;
/// Longest error chunk: two numbers, a text of at most 4 KiB, an offset.
const ERROR_MAX: u32 = 6 + 4096 + 8;

/// What a connection keeps to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub in_flight: usize,
    pub answer: Duration,
    /// Without any answer, while a read or write waits.
    pub stall: Duration,
}

/// Serves the queue until the disk is closed, or lost.
pub(super) async fn serve<S>(stream: S, structured: bool, mut queue: mpsc::Receiver<Request>, limits: Limits, life: &Life)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let table = Table::new(limits.in_flight, BYTES_MAX);
    let (from, mut to) = tokio::io::split(stream);
    let mut from = BufReader::with_capacity(READ_AHEAD, from);
    // Each of them says why before it ends: what is dropped with the others is answered by that.
    let reader = async { life.lose(read_replies(&mut from, &table, structured).await) };
    let writer = async { write_requests(&mut to, &table, &mut queue, life).await.into_iter().for_each(|loss| life.lose(loss)) };
    let clock = async { life.lose(watch(&table, limits).await) };
    tokio::select! {
        () = reader => {}
        () = writer => {}
        () = clock => {}
        () = life.until_lost() => {}
    }
    drop((from, to, table));
    // Who is just putting a request into the queue is waited for: none stays there unanswered.
    queue.close();
    while let Some(unsent) = queue.recv().await {
        drop(unsent);
    }
}

/// A flush may take its time; a read or write that is not answered while nothing else is says that the server stands still, or the network.
async fn watch(table: &Table, limits: Limits) -> Loss {
    loop {
        let Some(oldest) = table.oldest() else {
            table.until_begun().await;
            continue;
        };
        let (late, stalled) = (oldest + limits.answer, table.silent_since().map(|since| since + limits.stall));
        let now = Instant::now();
        if late <= now {
            return Loss::late(format!("a request was not answered within {:?}", limits.answer));
        }
        match stalled {
            Some(at) if at <= now => return Loss::late(format!("nothing was answered for {:?}", limits.stall)),
            Some(at) => sleep_until(at.min(late)).await,
            // Only flushes wait: until the first other request comes.
            None => drop(timeout_at(late, table.until_next()).await),
        }
    }
}

/// `None` once nobody can ask any more and everything is answered.
async fn write_requests<W>(to: &mut W, table: &Table, queue: &mut mpsc::Receiver<Request>, life: &Life) -> Option<Loss>
where
    W: AsyncWrite + Unpin,
{
    let mut batch: Vec<([u8; super::wire::REQUEST_BYTES], Option<IoBytes>)> = Vec::with_capacity(BATCH);
    loop {
        table.until_room().await;
        let Some(first) = queue.recv().await else { break };
        let mut next = Some(first);
        while let Some(mut request) = next {
            // One that nobody waits for any more was never sent, and need not be; nor one of a disk that is lost over another connection.
            if request.is_wanted() && life.loss().is_none() {
                let cookie = table.enter(request.len, request.command == Command::Flush);
                batch.push(request.send(cookie));
                table.put(cookie, request);
            }
            next = if batch.len() < BATCH && table.has_room() { queue.try_recv().ok() } else { None };
        }
        if let Err(e) = write_all(to, &batch).await {
            return Some(Loss::broken(format!("the connection is lost: {e}")));
        }
        batch.clear();
    }
    table.until_empty().await;
    // The server need not hear it: the connection ends in any case.
    let _ = to.write_all(&request(Command::Disconnect, 0, 0, 0, 0)).await;
    let _ = to.shutdown().await;
    None
}

async fn write_all<W, const N: usize>(to: &mut W, batch: &[([u8; N], Option<IoBytes>)]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(2 * batch.len());
    for (head, data) in batch {
        slices.push(IoSlice::new(head));
        slices.extend(data.as_ref().map(|d| IoSlice::new(d)));
    }
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        match to.write_vectored(left).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => IoSlice::advance_slices(&mut left, n),
        }
    }
    to.flush().await
}

fn broken(e: &io::Error) -> Loss {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => Loss::broken("the server closed the connection"),
        _ => Loss::broken(format!("the connection is lost: {e}")),
    }
}

fn protocol(what: &str) -> Loss {
    Loss::broken(format!("the server does not keep to the protocol: {what}"))
}

async fn read_replies<R: AsyncRead + Unpin>(from: &mut R, table: &Table, structured: bool) -> Loss {
    loop {
        if let Err(loss) = read_reply(from, table, structured).await {
            return loss;
        }
    }
}

async fn read_exact<R: AsyncRead + Unpin>(from: &mut R, buf: &mut [u8]) -> Result<(), Loss> {
    from.read_exact(buf).await.map(drop).map_err(|e| broken(&e))
}

async fn read_reply<R: AsyncRead + Unpin>(from: &mut R, table: &Table, structured: bool) -> Result<(), Loss> {
    let mut head = [0; CHUNK_BYTES];
    read_exact(from, &mut head[..SIMPLE_BYTES]).await?;
    let cookie = u64_at(&head, 8).unwrap_or_default();
    table.heard();
    let Some(mut request) = table.take(cookie) else { return Err(protocol("a reply to something that was not asked")) };
    let reply = reply_to(from, &mut head, &mut request, structured).await;
    table.heard();
    match reply {
        Ok(true) => {
            request.finish();
            table.leave(cookie);
            Ok(())
        }
        Ok(false) => {
            table.put(cookie, request);
            Ok(())
        }
        // It is answered when the table ends, and then the loss is known.
        Err(loss) => {
            table.put(cookie, request);
            Err(loss)
        }
    }
}

/// Reads a reply, or a chunk of one; whether it was the last.
async fn reply_to<R>(from: &mut R, head: &mut [u8; CHUNK_BYTES], request: &mut Request, structured: bool) -> Result<bool, Loss>
where
    R: AsyncRead + Unpin,
{
    let number = |head: &[u8], at: usize| u32_at(head, at).unwrap_or_default();
    let done = match number(head, 0) {
        SIMPLE_MAGIC if structured && request.command == Command::Read => return Err(protocol("a simple reply to a read")),
        SIMPLE_MAGIC => {
            simple(from, request, number(head, 4)).await?;
            true
        }
        STRUCTURED_MAGIC if structured => {
            read_exact(from, &mut head[SIMPLE_BYTES..]).await?;
            let word = |at: usize| u16_at(head, at).unwrap_or_default();
            let done = word(4) & 1 == 1;
            chunk(from, request, Chunk::of(word(6)), number(head, 16), done).await?;
            done
        }
        _ => return Err(protocol("a reply without its magic")),
    };
    if done && !request.is_complete() {
        return Err(protocol("a reply to a read without all its data"));
    }
    Ok(done)
}

async fn simple<R: AsyncRead + Unpin>(from: &mut R, request: &mut Request, errno: u32) -> Result<(), Loss> {
    if errno != 0 {
        request.fail(errno_of(errno), String::new());
    } else if request.command == Command::Read {
        let (at, len) = (request.at, request.len);
        let whole = request.part(at, len).map_err(|why| protocol(&why))?;
        read_exact(from, whole).await?;
    }
    Ok(())
}

/// Reads the rest of a chunk into its request.
async fn chunk<R: AsyncRead + Unpin>(from: &mut R, request: &mut Request, kind: Chunk, len: u32, done: bool) -> Result<(), Loss> {
    match (kind, len) {
        (Chunk::None, 0) if done => {}
        (Chunk::Data, 9..) => {
            let at = from.read_u64().await.map_err(|e| broken(&e))?;
            let part = request.part(at, len - 8).map_err(|why| protocol(&why))?;
            read_exact(from, part).await?;
        }
        (Chunk::Hole, 12) => {
            let at = from.read_u64().await.map_err(|e| broken(&e))?;
            let zeros = from.read_u32().await.map_err(|e| broken(&e))?;
            request.part(at, zeros).map_err(|why| protocol(&why))?.fill(0);
        }
        (Chunk::Error | Chunk::ErrorAt, 6..=ERROR_MAX) => {
            let mut bytes = vec![0; usize::try_from(len).expect("4 KiB and a little")];
            read_exact(from, &mut bytes).await?;
            let (errno, text) = error_chunk(&bytes, kind == Chunk::ErrorAt).ok_or_else(|| protocol("an error chunk"))?;
            if errno == 0 {
                return Err(protocol("an error that is none"));
            }
            request.fail(errno_of(errno), text.escape_default().to_string());
        }
        _ => return Err(protocol("a chunk that cannot be")),
    }
    Ok(())
}
