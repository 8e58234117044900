//! The net door: connections between client and manager are made and accepted through [`Net`], so that a test can
//! stand in.
//!
//! - [`SystemNet`]: TCP, tuned for small frames and a peer that is noticed when it is gone.
//! - [`memory`]: streams within the process, with faults: stalled (what dropped packets are to a stream), delayed, cut, refused.
//!
//! Invariants: a stream is a stream on every net: bytes arrive in order and once, or the stream ends; nothing here reads
//! what goes over it. Time limits are the caller's.

pub mod memory;

use crate::wire::tcp;
use futures_util::future::BoxFuture;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, lookup_host};

/// Bytes to and from a peer.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Any stream.
pub type AnyStream = Box<dyn Stream>;

/// Makes connections, and doors at which they arrive.
pub trait Net: Send + Sync + std::fmt::Debug {
    /// Connects to `host:port`; of a name's several addresses the first that answers.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<AnyStream>>;

    /// Opens a door at `host:port`; port 0 takes any free one.
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listen>>>;
}

/// An open door; closed when dropped.
pub trait Listen: Send {
    /// Where it is.
    fn address(&self) -> SocketAddr;

    /// The next connection, and from where it comes. Cancelled, it loses none.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(AnyStream, SocketAddr)>>;
}

/// The kernel's TCP.
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemNet;

impl Net for SystemNet {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<AnyStream>> {
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for to in lookup_host(address).await? {
                match TcpStream::connect(to).await {
                    Ok(stream) => return Ok(tuned(stream)),
                    Err(e) => last = e,
                }
            }
            Err(last)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listen>>> {
        Box::pin(async move {
            let socket = TcpListener::bind(address).await?;
            let address = socket.local_addr()?;
            Ok(Box::new(TcpDoor { socket, address }) as Box<dyn Listen>)
        })
    }
}

fn tuned(stream: TcpStream) -> AnyStream {
    // Refused only by a socket whose peer is gone again: the first read says so, to that connection alone.
    let _ = tcp::tune(&stream);
    Box::new(stream)
}

struct TcpDoor {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listen for TcpDoor {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(AnyStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.socket.accept().await?;
            Ok((tuned(stream), from))
        })
    }
}

#[cfg(test)]
mod tests;
