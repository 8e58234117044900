//! The manager's door: TCP, TLS, frames; events for the core, answers and pushes for the clients.
//!
//! A connection is *half open* (TLS handshake, at most [`ListenLimits::handshake`]), then *unwelcomed* (small frames only, at most
//! [`ListenLimits::hello`] until the core's `Welcome` goes out), then *open*, then gone. `Connected` is sent when the handshake is done and
//! `Disconnected` when the connection is gone, once each and in this order around everything else of it.
//!
//! Invariants: nothing here decides rights: a key that the authority has signed comes in, and the core denies what it does not know;
//! every queue, frame and wait has a limit of [`ListenLimits`]; a peer that is slow, floods or breaks the protocol loses its connection, and
//! the log says why; no peer can make another wait, but for its share of the bounded queue to the core.

mod accept;
mod connection;
mod flow;
#[cfg(test)]
mod tests;

use crate::core::{ConnId, Event};
use crate::data::DataDoor;
use accept::Door;
pub(crate) use connection::ServerStream;
use flow::Flow;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::net::{Net, SystemNet};
use fusevol_shared::wire::messages::{Push, Reply};
use fusevol_shared::wire::tls::ServerTls;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The limits of the door.
#[derive(Clone, Debug)]
pub struct ListenLimits {
    /// For a TLS handshake.
    pub handshake: Duration,
    /// From the handshake to the `Welcome`.
    pub hello: Duration,
    /// For a peer to take what was written to it.
    pub stall: Duration,
    /// Connections in a handshake; further ones wait in the kernel's queue.
    pub half_open: usize,
    /// Connections past their handshake.
    pub connections: usize,
    /// Of these, of one key.
    pub per_key: usize,
    /// Requests of one connection without an answer; it is not read beyond that. More than a client of ours ever has (64).
    pub in_flight: usize,
    /// Bytes that wait for a peer beyond which its requests are not read.
    pub outgoing_soft: usize,
    /// Bytes that wait for a peer beyond which it is given up.
    pub outgoing_hard: usize,
    /// Frames that wait for a peer beyond which it is given up.
    pub outgoing_frames: usize,
}

impl Default for ListenLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            hello: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            half_open: 256,
            connections: 2048,
            per_key: 64,
            in_flight: 128,
            outgoing_soft: 1 << 20,
            outgoing_hard: 64 << 20,
            outgoing_frames: 16_384,
        }
    }
}

/// The open door. Dropped, it closes every connection at once and sends no more events.
#[derive(Debug)]
pub struct Listener {
    addresses: Vec<SocketAddr>,
    connections: Connections,
    /// One for each socket; each holds its connections.
    doors: JoinSet<()>,
}

impl Listener {
    /// Listens by TCP at these addresses (`host:port`) and sends events for what comes. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// `Busy` where an address is taken, `Refused` where there is none or it is not this host's.
    pub async fn bind<E>(
        addresses: &[String],
        tls: ServerTls,
        data: Arc<dyn DataDoor>,
        limits: ListenLimits,
        events: mpsc::Sender<E>,
    ) -> Result<Self>
    where
        E: From<Event> + Send + 'static,
    {
        Self::bind_on(&SystemNet, addresses, tls, data, limits, events).await
    }

    /// The same on any net.
    ///
    /// # Errors
    /// As `bind`.
    pub async fn bind_on<E>(
        net: &dyn Net,
        addresses: &[String],
        tls: ServerTls,
        data: Arc<dyn DataDoor>,
        limits: ListenLimits,
        events: mpsc::Sender<E>,
    ) -> Result<Self>
    where
        E: From<Event> + Send + 'static,
    {
        if addresses.is_empty() {
            return Err(Error::new(Kind::Refused, "no address to listen at"));
        }
        let connections = Connections::default();
        let door = Arc::new(Door::new(tls, data, limits, connections.clone(), events));
        let mut doors = JoinSet::new();
        let mut bound = Vec::new();
        for address in addresses {
            let socket = net.listen(address).await.map_err(|e| cannot_listen(address, e))?;
            bound.push(socket.address());
            doors.spawn(accept::accept(socket, Arc::clone(&door)));
        }
        Ok(Self { addresses: bound, connections, doors })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Closes the door; once this returns the addresses are free again.
    pub async fn close(mut self) {
        self.doors.shutdown().await;
    }

    /// For answers and pushes.
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }
}

fn cannot_listen(address: &str, e: std::io::Error) -> Error {
    let (kind, hint) = match e.kind() {
        std::io::ErrorKind::AddrInUse => (Kind::Busy, "does a manager, or another program, run at this address already?"),
        _ => (Kind::Refused, "the address must be one of this host: host:port"),
    };
    Error::new(kind, format!("cannot listen at {address}")).because(e).hint(hint)
}

/// The connections that stand: where the driver's answers, pushes and closings go. None of them waits.
/// What is said to a connection that is gone is passed over.
#[derive(Clone, Default, Debug)]
pub struct Connections(Arc<Mutex<HashMap<ConnId, Arc<Flow>>>>);

impl Connections {
    /// Answers a request.
    pub fn reply(&self, conn: ConnId, id: u64, result: std::result::Result<Reply, WireError>) {
        if let Some(flow) = self.get(conn) {
            flow.reply(id, result);
        }
    }

    /// Says something to a client.
    pub fn push(&self, conn: ConnId, push: u64, body: Push) {
        if let Some(flow) = self.get(conn) {
            flow.push(push, body);
        }
    }

    /// Ends a connection after what was said before on it.
    pub fn close(&self, conn: ConnId, why: &str) {
        if let Some(flow) = self.get(conn) {
            flow.close(why);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table().len()
    }

    fn get(&self, conn: ConnId) -> Option<Arc<Flow>> {
        self.table().get(&conn).cloned()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ConnId, Arc<Flow>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
