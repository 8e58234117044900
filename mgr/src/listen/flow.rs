//! What waits for one peer, and what it still owes or is owed: the books of a connection, shared by the driver and its two tasks.
//!
//! Invariants: an answer goes out only to a request that is open, once; an acknowledgement comes in only for a push that went out; what waits is
//! within `outgoing_frames` and `outgoing_hard`, or the connection is cut; after `close` nothing more is queued.

use super::ListenLimits;
use bytes::Bytes;
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::wire::codec::encode;
use fusevol_shared::wire::frame::FrameError;
use fusevol_shared::wire::messages::{FromManager, Push, Reply};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Most bytes that are taken for one write.
const BATCH_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Flow {
    limits: ListenLimits,
    books: Mutex<Books>,
    /// Something waits to be written, or the end has come.
    out: Notify,
    /// There may be room for another request.
    room: Notify,
    /// The `Welcome` goes out.
    welcomed: Notify,
    /// What waits is not to be written any more.
    cut: Notify,
}

#[derive(Default, Debug)]
struct Books {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Requests without an answer.
    open: BTreeSet<u64>,
    last_request: Option<u64>,
    /// Pushes without an acknowledgement.
    pushes: BTreeSet<u64>,
    end: Option<End>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct End {
    why: String,
    /// What waits is not written any more.
    cut: bool,
}

/// What the writer does next.
pub(super) enum Next {
    Write(Vec<Bytes>),
    Wait,
    /// Everything is written, or shall not be; and why.
    End(String),
}

impl Flow {
    pub(super) fn new(limits: ListenLimits) -> Self {
        Self { limits, books: Mutex::default(), out: Notify::new(), room: Notify::new(), welcomed: Notify::new(), cut: Notify::new() }
    }

    // ---- the driver's side ----

    pub(super) fn reply(&self, id: u64, result: Result<Reply, WireError>) {
        let mut books = self.books();
        if !books.open.remove(&id) {
            tracing::error!("request {id} is answered, but not open");
            return;
        }
        self.room.notify_one();
        if matches!(result, Ok(Reply::Welcome(_))) {
            // Before the frame can leave: whatever the peer sends once it has read it meets the wider limit.
            self.welcomed.notify_one();
        }
        let frame = encode(&FromManager::Reply { id, result }).or_else(|e| encode(&FromManager::Reply { id, result: Err(unsayable(&e)) }));
        self.queue(&mut books, frame);
    }

    pub(super) fn push(&self, push: u64, body: Push) {
        let mut books = self.books();
        books.pushes.insert(push);
        let frame = encode(&FromManager::Push { push, body });
        self.queue(&mut books, frame);
    }

    pub(super) fn close(&self, why: &str) {
        self.end(&mut self.books(), End { why: why.to_owned(), cut: false });
    }

    fn queue(&self, books: &mut Books, frame: Result<Bytes, FrameError>) {
        if books.end.is_some() {
            return;
        }
        let frame = match frame {
            Ok(frame) => frame,
            Err(e) => return self.end(books, End { why: format!("a message cannot be sent: {e}"), cut: true }),
        };
        books.bytes += frame.len();
        books.frames.push_back(frame);
        if books.bytes > self.limits.outgoing_hard || books.frames.len() > self.limits.outgoing_frames {
            let why = format!("too slow: {} frames, {} bytes wait for it", books.frames.len(), books.bytes);
            return self.end(books, End { why, cut: true });
        }
        self.out.notify_one();
    }

    fn end(&self, books: &mut Books, end: End) {
        if end.cut {
            self.cut.notify_one();
        }
        books.end.get_or_insert(end);
        self.out.notify_one();
    }

    // ---- the reader's side ----

    /// Waits until one more request may be open.
    pub(super) async fn room(&self) {
        loop {
            {
                let books = self.books();
                if books.open.len() < self.limits.in_flight && books.bytes <= self.limits.outgoing_soft {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// Waits for the `Welcome`.
    pub(super) async fn welcomed(&self) {
        self.welcomed.notified().await;
    }

    pub(super) fn requested(&self, id: u64) -> Result<(), FrameError> {
        let mut books = self.books();
        if books.last_request.is_some_and(|last| id <= last) {
            return Err(FrameError::Malformed(format!("request {id} does not come after the one before it")));
        }
        books.last_request = Some(id);
        books.open.insert(id);
        Ok(())
    }

    pub(super) fn acknowledged(&self, push: u64) -> Result<(), FrameError> {
        let known = self.books().pushes.remove(&push);
        if known { Ok(()) } else { Err(FrameError::Malformed(format!("push {push} is acknowledged, but was not sent here"))) }
    }

    // ---- the writer's side ----

    pub(super) fn next(&self) -> Next {
        let mut books = self.books();
        if let Some(end) = &books.end
            && (end.cut || books.frames.is_empty())
        {
            return Next::End(end.why.clone());
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(frame) = books.frames.pop_front()
        {
            bytes += frame.len();
            batch.push(frame);
        }
        if batch.is_empty() { Next::Wait } else { Next::Write(batch) }
    }

    /// These bytes have been taken by the peer's side.
    pub(super) fn written(&self, bytes: usize) {
        self.books().bytes -= bytes;
        self.room.notify_one();
    }

    /// Waits until what is being written is not to be finished; says why.
    pub(super) async fn cut(&self) -> String {
        self.cut.notified().await;
        self.books().end.as_ref().map(|end| end.why.clone()).unwrap_or_default()
    }

    pub(super) async fn wait(&self) {
        self.out.notified().await;
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unsayable(e: &FrameError) -> WireError {
    WireError { kind: Kind::Internal, message: format!("the answer cannot be sent: {e}"), hint: String::new() }
}
