//! Sockets to connections: the handshake with its limits, and the books of who is connected.

use super::connection::{ServerStream, serve};
use super::flow::Flow;
use super::{Connections, ListenLimits};
use crate::core::{ConnId, Event};
use crate::data::DataDoor;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::KeyPrint;
use fusevol_shared::net::{AnyStream, Listen};
use fusevol_shared::wire::tls::{ServerTls, Use};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Pause after the kernel refused a connection (no descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Door<E> {
    tls: ServerTls,
    data: Arc<dyn DataDoor>,
    limits: ListenLimits,
    connections: Connections,
    events: mpsc::Sender<E>,
    half_open: Arc<Semaphore>,
    open: Arc<Semaphore>,
    keys: Mutex<HashMap<KeyPrint, usize>>,
    last: AtomicU64,
}

impl<E: From<Event> + Send + 'static> Door<E> {
    pub(super) fn new(
        tls: ServerTls,
        data: Arc<dyn DataDoor>,
        limits: ListenLimits,
        connections: Connections,
        events: mpsc::Sender<E>,
    ) -> Self {
        let (half_open, open) = (Arc::new(Semaphore::new(limits.half_open)), Arc::new(Semaphore::new(limits.connections)));
        Self { tls, data, limits, connections, events, half_open, open, keys: Mutex::default(), last: AtomicU64::new(0) }
    }

    async fn connection(self: Arc<Self>, stream: AnyStream, from: SocketAddr, half_open: OwnedSemaphorePermit) {
        let (stream, print, purpose) = match self.handshake(stream).await {
            Ok(shaken) => shaken,
            Err(e) => return tracing::info!("{from}: no connection: {e}"),
        };
        let seat = match self.seat(print) {
            Ok(seat) => seat,
            Err(e) => return tracing::warn!("{from}: client {print:?} is turned away: {e}"),
        };
        drop(half_open);
        if purpose == Use::Data {
            let why = self.data.serve(stream, print).await;
            return tracing::info!("{from}: data connection {} of client {print:?} has ended: {why}", seat.conn.0);
        }
        if self.events.send(Event::Connected { conn: seat.conn, print }.into()).await.is_ok() {
            let why = serve(seat.conn, stream, &seat.flow, &self.limits, &self.events).await;
            tracing::info!("{from}: connection {} of client {print:?} has ended: {why}", seat.conn.0);
            let conn = seat.conn;
            // First no answers go to it any more, then it is said to be gone.
            drop(seat);
            let _ = self.events.send(Event::Disconnected { conn }.into()).await;
        }
    }

    async fn handshake(&self, stream: AnyStream) -> Result<(ServerStream, KeyPrint, Use)> {
        let limit = self.limits.handshake;
        let late = |_| Error::new(Kind::Refused, format!("the handshake was not done within {} ms", limit.as_millis()));
        timeout(limit, self.tls.accept(stream)).await.map_err(late)?
    }

    fn seat(self: &Arc<Self>, print: KeyPrint) -> Result<Seat<E>> {
        let full = |limit: usize, whose: &str| Error::new(Kind::Busy, format!("{limit} connections {whose} stand already"));
        let permit = Arc::clone(&self.open).try_acquire_owned().map_err(|_| full(self.limits.connections, "in all"))?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = keys.entry(print).or_default();
        if *of_key >= self.limits.per_key {
            return Err(full(self.limits.per_key, "of this client"));
        }
        *of_key += 1;
        let conn = ConnId(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let flow = Arc::new(Flow::new(self.limits.clone()));
        self.connections.table().insert(conn, Arc::clone(&flow));
        Ok(Seat { door: Arc::clone(self), conn, print, flow, _permit: permit })
    }
}

/// A connection's place in the books; given back however its task ends.
struct Seat<E> {
    door: Arc<Door<E>>,
    conn: ConnId,
    print: KeyPrint,
    flow: Arc<Flow>,
    _permit: OwnedSemaphorePermit,
}

impl<E> Drop for Seat<E> {
    fn drop(&mut self) {
        self.door.connections.table().remove(&self.conn);
        let mut keys = self.door.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut of_key) = keys.entry(self.print) {
            *of_key.get_mut() -= 1;
            if *of_key.get() == 0 {
                of_key.remove();
            }
        }
    }
}

/// Accepts until it is dropped, and with it its connections.
pub(super) async fn accept<E: From<Event> + Send + 'static>(mut socket: Box<dyn Listen>, door: Arc<Door<E>>) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&door.half_open).acquire_owned().await else { return };
        match socket.accept().await {
            Ok((stream, from)) => {
                tasks.spawn(Arc::clone(&door).connection(stream, from, permit));
            }
            Err(e) => {
                tracing::warn!("a connection cannot be accepted: {e}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
