//! The manager's end of data connections: I/O that clients cannot do by themselves (PROTOCOL.md, "Redirect").
//!
//! ```text
//!  connection --DataIo--> core: may it? --Verdict--> disks' thread --> answer
//! ```
//! - [`connection`]: one connection: requests in, answers out, in any order.
//! - [`disks`]: the thread that does the I/O, on its own ring.
//! - [`verdicts`]: questions to the core that wait for their answer.
//!
//! Invariants: nothing goes to a disk that the core has not let through; each write that it let through is said to have returned, once;
//! a session's new connection is opened when nothing of its former ones is in flight; what all clients together have under way is within
//! [`MEMORY`], what one connection has within 64 requests, what one disk has within [`PER_DISK`]: a client or a disk that is slow
//! holds up itself, and none of it the control connections, which this shares no queue of bytes with.

mod connection;
mod disks;
mod verdicts;

pub use disks::{DataDisks, Done, Table, on};
pub use verdicts::Verdicts;

use crate::core::Event;
use crate::listen::ServerStream;
use disks::PER_DISK;
use fusevol_shared::error::{Error, Kind};
use fusevol_shared::ids::{KeyPrint, SessionNo};
use fusevol_shared::units::DiskNo;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc, watch};

/// Bytes of all requests under way, in pages.
const MEMORY: usize = (256 << 20) / 4096;

/// Where the listener brings data connections.
pub trait DataDoor: Send + Sync + 'static {
    /// Serves it to its end; says why it ended.
    fn serve(&self, stream: ServerStream, print: KeyPrint) -> BoxFuture<'static, Error>;
}

/// For a listener without disks: no data connection is taken.
#[derive(Debug)]
pub struct NoData;

impl DataDoor for NoData {
    fn serve(&self, _: ServerStream, _: KeyPrint) -> BoxFuture<'static, Error> {
        Box::pin(async { Error::new(Kind::Refused, "this manager does no I/O for its clients") })
    }
}

/// The data connections of one manager.
pub struct DataServer<E>(Arc<Inner<E>>);

struct Inner<E> {
    events: mpsc::Sender<E>,
    verdicts: Verdicts,
    disks: DataDisks,
    memory: Arc<Semaphore>,
    per_disk: Mutex<HashMap<DiskNo, Arc<Semaphore>>>,
    sessions: Mutex<HashMap<SessionNo, Arc<OfSession>>>,
}

/// What is under way for one session, over all its connections.
struct OfSession {
    /// Requests that have not returned.
    under_way: watch::Sender<usize>,
    /// Number of the newest connection: the former ones end.
    newest: watch::Sender<u64>,
}

impl<E: From<Event> + Send + 'static> DataServer<E> {
    /// With these disks; questions go to `events`, their answers come by `verdicts`.
    #[must_use]
    pub fn new(events: mpsc::Sender<E>, verdicts: Verdicts, disks: DataDisks) -> Self {
        let memory = Arc::new(Semaphore::new(MEMORY));
        Self(Arc::new(Inner { events, verdicts, disks, memory, per_disk: Mutex::default(), sessions: Mutex::default() }))
    }
}

impl<E: From<Event> + Send + 'static> DataDoor for DataServer<E> {
    fn serve(&self, stream: ServerStream, print: KeyPrint) -> BoxFuture<'static, Error> {
        Box::pin(connection::serve(self.0.clone(), stream, print))
    }
}

impl<E> Inner<E> {
    fn session(&self, no: SessionNo) -> Arc<OfSession> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody has are forgotten: one reference is the table's own.
        sessions.retain(|of, s| *of == no || Arc::strong_count(s) > 1);
        let new = || Arc::new(OfSession { under_way: watch::Sender::new(0), newest: watch::Sender::new(0) });
        sessions.entry(no).or_insert_with(new).clone()
    }

    fn turns_of(&self, disk: DiskNo) -> Arc<Semaphore> {
        let mut all = self.per_disk.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(disk).or_insert_with(|| Arc::new(Semaphore::new(PER_DISK))).clone()
    }
}
