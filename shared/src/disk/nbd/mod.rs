//! An NBD export as a disk: our own client of the NBD protocol, fixed newstyle, over TCP, TLS or a unix socket.
//!
//! An [`NbdDisk`] is *one life* of the connections to an export. It never connects again by itself:
//!
//! ```text
//! (open) --> stands --(any connection ends, the server breaks the protocol, a request is not answered in time)--> lost, for ever
//! ```
//! Who wants the disk back opens it anew and reads its label again: behind the address may be another disk by then.
//!
//! Invariants:
//! - What was sent and not answered when the disk was lost ends as `NotReturned`: it may still land. What was not sent, and
//!   whatever is asked later, ends as `Answered` with `ENOTCONN`. An error that the server replies with is `Answered`.
//! - A request's memory is its own until it is answered or its connection has ended, also when its future is dropped.
//! - Several connections only where the server promises `CAN_MULTI_CONN`: then a flush over one of them covers each write that
//!   was answered over any before the flush was sent. So a flush goes out once, over any of them.
//! - Nothing that a server sends makes us wait for ever, allocate, or panic: limits on lengths, pieces, answers, and time.
//! - An export is written only if it can make writes durable: by `FLUSH`, or, where it knows `FUA` alone, every write carries
//!   FUA and a flush has nothing to do. (The protocol does not say that a server without both has no cache.)
//!
//! Files: `uri` addresses; `wire` bytes; `stream` sockets and TLS; `negotiate` the beginning; `connection` what goes out and
//! comes in; `request`, `table` what is under way; `life` the end.

mod connection;
mod life;
mod negotiate;
mod request;
mod stream;
mod table;
#[cfg(test)]
mod tests;
pub mod uri;
mod wire;

use super::buf::{IoBuf, IoBytes};
use super::file::{Identity, OpenMode};
use super::{Answer, Disk, DiskError, DiskResult, admit};
use crate::ids;
use crate::units::DiskOff;
use connection::{Limits, serve};
use futures_util::future::join_all;
use life::{Life, Loss};
use negotiate::{Agreed, Failed};
use request::{Body, End, Request};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use stream::{Peer, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use uri::{NbdUri, Server};
use wire::{Command, ExportFlags, FLAG_FUA};

/// How long a connection beyond the first may take: a server may allow fewer than it promises.
const FURTHER: Duration = Duration::from_secs(2);

/// Lives of this process.
static LIVES: AtomicU64 = AtomicU64::new(1);

/// How an export is used.
#[derive(Clone, Copy, Debug)]
pub struct NbdOptions {
    /// Connections, where the export allows several.
    pub connections: usize,
    /// How long connecting and negotiation may take.
    pub negotiation: Duration,
    /// How long the server may take for one request; then the disk is lost.
    pub answer: Duration,
    /// How long a connection may be without any answer while a read or write waits for one; then the disk is lost. `None`: as long as for one request.
    /// An address may say another time.
    pub stall: Option<Duration>,
    /// Requests in flight on a connection.
    pub in_flight: usize,
}

impl NbdOptions {
    /// For who has no other path: a server that stands still is waited for as long as for one request.
    #[must_use]
    pub fn patient() -> Self {
        Self { stall: None, ..Self::default() }
    }
}

impl Default for NbdOptions {
    fn default() -> Self {
        let (negotiation, answer) = (Duration::from_secs(30), Duration::from_secs(10));
        Self { connections: 4, negotiation, answer, stall: Some(Duration::from_millis(1500)), in_flight: 128 }
    }
}

/// One life of the connections to an export.
pub struct NbdDisk {
    uri: NbdUri,
    mode: OpenMode,
    agreed: Agreed,
    identity: Identity,
    queues: Vec<mpsc::Sender<Request>>,
    next: AtomicUsize,
    life: Arc<Life>,
    number: ids::Life,
}

/// What the thread has made.
struct Opened {
    agreed: Agreed,
    peer: Peer,
    queues: Vec<mpsc::Sender<Request>>,
}

impl NbdDisk {
    /// Connects to an export and agrees with its server. Its connections live on a thread of their own, until the disk is dropped and
    /// everything is answered. May be awaited on any executor.
    ///
    /// # Errors
    /// Answered, nothing is under way: what the network or the server says, `EPROTO` for a server that breaks the protocol, `ENOENT`
    /// without such an export, `EROFS` where it cannot be written, `EACCES` where it must not be spoken to like this, `ETIMEDOUT`.
    pub async fn open(uri: &NbdUri, mode: OpenMode, options: &NbdOptions) -> DiskResult<Self> {
        let refused = |e: Failed| DiskError::answered(e.errno, format!("open {uri} ({})", e.why));
        let life = Arc::new(Life::new(uri.to_string()));
        let (tell, opened) = oneshot::channel();
        let (to, its, options) = (uri.clone(), life.clone(), *options);
        let thread = std::thread::Builder::new().name("fusevol-nbd".to_owned());
        let thread = thread.spawn(move || run(&to, &options, &its, tell));
        thread.map_err(|e| refused(Failed::io(&e, "no thread for it")))?;
        let opened = opened.await.unwrap_or_else(|_| Err(Failed::new(libc::EIO, "its thread has ended"))).map_err(refused)?;
        let Opened { agreed, peer, queues } = opened;
        if mode == OpenMode::ReadWrite {
            writable(agreed.flags, uri).map_err(refused)?;
        }
        let identity = identity(&peer, &uri.export);
        Ok(Self {
            uri: uri.clone(),
            mode,
            agreed,
            identity,
            queues,
            next: AtomicUsize::new(0),
            life,
            number: ids::Life(LIVES.fetch_add(1, Ordering::Relaxed)),
        })
    }

    /// Its address.
    #[must_use]
    pub fn uri(&self) -> &NbdUri {
        &self.uri
    }

    /// Which export of which server it is, whatever the address says.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What the export can do, for people.
    #[must_use]
    pub fn abilities(&self) -> String {
        format!("{:?}", self.agreed.flags)
    }

    /// Whether the server promises that all who use the export see the same: without it, one that serves several hosts from
    /// separate caches keeps to the protocol.
    #[must_use]
    pub fn is_coherent(&self) -> bool {
        self.agreed.flags.multi_conn()
    }

    /// Connections that it has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.queues.len()
    }

    /// Why it is lost, once it is.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.life.loss().map(|l| l.why.clone())
    }

    /// Waits until it is lost. On any executor.
    pub async fn until_lost(&self) {
        self.life.until_lost().await;
    }

    /// Every write carries FUA, or nobody may write: there is nothing to flush.
    fn writes_through(&self) -> bool {
        self.uri.write_through || !self.agreed.flags.flush()
    }

    async fn ask(&self, command: Command, flags: u16, at: DiskOff, body: Body) -> End {
        let (request, end) = Request::new(command, flags, at, body, &self.life);
        let queue = &self.queues[self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len()];
        // A lost disk sends nothing more, though another of its connections may not have heard of it yet. And a queue that is closed gives
        // the request back. Dropping it answers it.
        match self.life.loss() {
            Some(_) => drop(request),
            None => drop(queue.send(request).await),
        }
        end.await.expect("a request is answered, at the latest when it is dropped")
    }

    /// Bytes of `len` that go with the next request.
    fn piece(&self, len: usize) -> usize {
        len.min(usize::try_from(self.agreed.largest).unwrap_or(usize::MAX))
    }

    async fn write_all(&self, at: DiskOff, data: IoBytes, durable: bool) -> DiskResult<()> {
        admit("write", at, &data, self.agreed.size)?;
        if self.mode == OpenMode::Read {
            return Err(DiskError::answered(libc::EROFS, format!("write {self} at {at} (it is open for reading)")));
        }
        let (can_fua, can_flush) = (self.agreed.flags.fua(), self.agreed.flags.flush());
        let flags = if can_fua && (durable || !can_flush || self.uri.write_through) { FLAG_FUA } else { 0 };
        let whole = data.len() == self.piece(data.len());
        if whole && !data.is_empty() {
            self.ask(Command::Write, flags, at, Body::Data(data)).await.0?;
            return if durable && !can_fua { self.flush().await } else { Ok(()) };
        }
        let (mut from, mut pieces) = (0, Vec::new());
        while from < data.len() {
            let len = self.piece(data.len() - from);
            pieces.push(self.ask(Command::Write, flags, at.plus(from as u64), Body::Data(data.slice(from, len))));
            from += len;
        }
        worst(join_all(pieces).await.into_iter().map(|(result, _)| result))?;
        if durable && !can_fua { self.flush().await } else { Ok(()) }
    }
}

/// An error that leaves a piece open says the most.
fn worst(results: impl Iterator<Item = DiskResult<()>>) -> DiskResult<()> {
    let mut worst = Ok(());
    for e in results.filter_map(Result::err) {
        if worst.is_ok() || e.answer == Answer::NotReturned {
            worst = Err(e);
        }
    }
    worst
}

fn writable(flags: ExportFlags, uri: &NbdUri) -> Result<(), Failed> {
    if flags.read_only() {
        return Err(Failed::new(libc::EROFS, "the server exports it for reading only"));
    }
    if uri.write_through && !flags.fua() {
        return Err(Failed::new(libc::EOPNOTSUPP, "the server knows no FUA: nothing can be written through, as its address asks for"));
    }
    if !flags.flush() && !flags.fua() {
        return Err(Failed::new(
            libc::EOPNOTSUPP,
            "the server can neither flush nor FUA: nothing that is written there is known to be durable",
        ));
    }
    Ok(())
}

/// Of a server that is reached over different addresses, each counts as another: then a disk seen twice is refused as a copy.
fn identity(peer: &Peer, export: &str) -> Identity {
    let place = match peer {
        Peer::Tcp(address) => format!("tcp {address}"),
        Peer::Unix(path) => format!("unix {}", std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()).display()),
    };
    let hash = blake3::hash(format!("{place}\0{export}").as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    Identity::Export(u128::from_be_bytes(*first))
}

/// The thread of a disk's connections.
fn run(uri: &NbdUri, options: &NbdOptions, life: &Life, tell: oneshot::Sender<Result<Opened, Failed>>) {
    /// However the thread ends, the disk is lost then.
    struct Ended<'a>(&'a Life);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.lose(Loss::broken("it was closed"));
        }
    }
    let _ended = Ended(life);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            // Who has opened it is gone: nobody is to be told.
            let _ = tell.send(Err(Failed::io(&e, "no runtime for it")));
            return;
        }
    };
    runtime.block_on(async {
        let (agreed, peer, streams) = match establish(uri, options).await {
            Ok(made) => made,
            Err(e) => return drop(tell.send(Err(e))),
        };
        let stall = options.stall.map_or(options.answer, |stall| uri.stall.unwrap_or(stall));
        let limits = Limits { in_flight: options.in_flight, answer: options.answer, stall };
        let (queues, ends): (Vec<_>, Vec<_>) = streams.iter().map(|_| mpsc::channel(options.in_flight.max(1))).unzip();
        let served = streams.into_iter().zip(ends).map(|(stream, queue)| serve(stream, agreed.structured, queue, limits, life));
        let served = join_all(served);
        // Who has opened it is gone: the queues end with what was to be told.
        drop(tell.send(Ok(Opened { agreed, peer, queues })));
        served.await;
    });
    // A question for a host's name may hang; nobody waits for it.
    runtime.shutdown_background();
}

async fn establish(uri: &NbdUri, options: &NbdOptions) -> Result<(Agreed, Peer, Vec<Stream>), Failed> {
    let secured = match &uri.server {
        Server::Tls { host, certificates, .. } => Some((host.as_str(), stream::connector(certificates)?)),
        Server::Tcp { .. } | Server::Unix(_) => None,
    };
    let begin = async |mut stream: Stream| {
        negotiate::greet(&mut stream).await?;
        if let Some((host, connector)) = &secured {
            negotiate::start_tls(&mut stream).await?;
            stream = stream::secure(stream, host, connector).await?;
        }
        let agreed = negotiate::go(&mut stream, &uri.export).await?;
        Ok((agreed, stream))
    };
    let first = async {
        let (stream, peer) = stream::dial(&uri.server).await?;
        let (agreed, stream) = begin(stream).await?;
        Ok((agreed, peer, stream))
    };
    let late = || Failed::new(libc::ETIMEDOUT, format!("the server did not agree within {:?}", options.negotiation));
    let (agreed, peer, stream) = timeout(options.negotiation, first).await.map_err(|_| late())??;
    let mut streams = vec![stream];
    if agreed.flags.multi_conn() && options.connections > 1 {
        let further = (1..options.connections).map(|_| timeout(FURTHER, async { begin(stream::redial(&peer).await?).await }));
        for made in join_all(further).await {
            // A server that takes no more connections is used over those that it took.
            let Ok(Ok((same, stream))) = made else { continue };
            if same != agreed {
                return Err(Failed::new(libc::EPROTO, "the export is another one over each connection"));
            }
            streams.push(stream);
        }
    }
    Ok((agreed, peer, streams))
}

impl fmt::Display for NbdDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.life.address())
    }
}

impl fmt::Debug for NbdDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NbdDisk({self}, {:?}, {} connections, lost {:?})", self.agreed.flags, self.queues.len(), self.life.loss())
    }
}

impl Disk for NbdDisk {
    fn size(&self) -> u64 {
        self.agreed.size
    }

    async fn read(&self, at: DiskOff, mut buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        if let Err(e) = admit("read", at, &buf, self.agreed.size) {
            return (Err(e), buf);
        }
        if buf.len() == self.piece(buf.len()) && !buf.is_empty() {
            let (result, back) = self.ask(Command::Read, 0, at, Body::Fill(buf)).await;
            return (result, back.expect("a read gives its memory back"));
        }
        let (mut from, mut pieces) = (0, Vec::new());
        // What is left behind is empty, and shows where the pieces are joined again.
        let mut whole = buf.split_to(0);
        while !buf.is_empty() {
            let piece = buf.split_to(self.piece(buf.len()));
            let here = at.plus(from);
            from += piece.len() as u64;
            pieces.push(self.ask(Command::Read, 0, here, Body::Fill(piece)));
        }
        let mut results = Vec::with_capacity(pieces.len());
        for (result, piece) in join_all(pieces).await {
            let piece = piece.expect("a read gives its memory back");
            whole.rejoin(piece).expect("the pieces come in their order");
            results.push(result);
        }
        whole.rejoin(buf).expect("the empty rest lies behind the last piece");
        (worst(results.into_iter()), whole)
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.write_all(at, data, false).await
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.write_all(at, data, true).await
    }

    async fn flush(&self) -> DiskResult<()> {
        if self.writes_through() {
            return match self.life.loss() {
                None => Ok(()),
                Some(loss) => Err(DiskError::answered(libc::ENOTCONN, format!("flush {self} ({})", loss.why))),
            };
        }
        self.ask(Command::Flush, 0, DiskOff(0), Body::Nothing).await.0
    }

    fn life(&self) -> ids::Life {
        // What is durable when it is answered is not lost with a connection.
        if self.writes_through() { ids::Life::LASTING } else { self.number }
    }
}
