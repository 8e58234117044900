//! The requests that have no answer yet: no I/O, no clock.
//!
//! A request is *waiting* (not sent on this connection), or *open* (sent on it, not answered). `cursor` is the youngest that was sent on
//! this connection; a new connection begins at 0 and so sends all of them again, oldest first.
//!
//! Invariants: ids grow and are never reused; `open` only holds ids up to `cursor`; an answer goes to a call once, since answering removes it;
//! an answer to what is not open is a fault of the manager.

use super::{CALLS_MAX, IN_FLIGHT_MAX};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::wire::codec;
use fusevol_shared::wire::frame::FrameError;
use fusevol_shared::wire::messages::{FromClient, Reply, Request};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

#[cfg(test)]
mod tests;

/// Where an answer goes.
pub(super) type Answer = oneshot::Sender<Result<(Reply, BootTime)>>;
/// A frame as it goes out.
pub(super) type Frame = bytes::Bytes;

/// Requests without an answer.
pub(super) struct Pending {
    calls: BTreeMap<u64, Entry>,
    last_id: u64,
    cursor: u64,
    open: BTreeSet<u64>,
    /// Why no call is taken, once the link has ended.
    ended: Option<WireError>,
}

struct Entry {
    frame: Frame,
    answer: Answer,
    sent_at: BootTime,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self { calls: BTreeMap::new(), last_id: 0, cursor: 0, open: BTreeSet::new(), ended: None }
    }

    /// Takes a request. Id 0 is that of `Hello`.
    pub(super) fn add(&mut self, request: Request, answer: Answer) -> Result<u64> {
        if let Some(why) = &self.ended {
            return Err(why.clone().into());
        }
        if self.calls.len() >= CALLS_MAX {
            return Err(Error::new(Kind::Busy, format!("{CALLS_MAX} requests wait for the manager already")));
        }
        let id = self.last_id + 1;
        let name = request.name();
        let frame = codec::encode(&FromClient::Request { id, request }).map_err(|e| match e {
            FrameError::TooLong { .. } => Error::new(Kind::Refused, format!("{name}: {e}")),
            e => Error::new(Kind::Internal, format!("{name}: {e}")),
        })?;
        self.last_id = id;
        self.calls.insert(id, Entry { frame, answer, sent_at: BootTime(0) });
        Ok(id)
    }

    /// A new connection stands: everything is waiting again.
    pub(super) fn connected(&mut self) {
        self.cursor = 0;
        self.open.clear();
    }

    /// The next request to send on this connection, if one waits and the limit allows it.
    pub(super) fn next(&mut self, now: BootTime) -> Option<Frame> {
        if self.open.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let (id, entry) = self.calls.range_mut(self.cursor + 1..).next()?;
        entry.sent_at = now;
        self.cursor = *id;
        self.open.insert(*id);
        Some(entry.frame.clone())
    }

    /// Whether the manager owes an answer on this connection.
    pub(super) fn owed(&self) -> bool {
        !self.open.is_empty()
    }

    /// An answer has come on this connection.
    pub(super) fn answered(&mut self, id: u64, result: std::result::Result<Reply, WireError>) -> std::result::Result<(), FrameError> {
        if !self.open.remove(&id) {
            return Err(FrameError::Malformed(format!("an answer to request {id}, which is not open")));
        }
        // A call whose deadline has passed is not there any more; its answer ends here.
        if let Some(entry) = self.calls.remove(&id) {
            let _ = entry.answer.send(result.map(|reply| (reply, entry.sent_at)).map_err(Error::from));
        }
        Ok(())
    }

    /// A deadline has passed: it is not sent again.
    pub(super) fn abandon(&mut self, id: u64, why: Error) {
        if let Some(entry) = self.calls.remove(&id) {
            let _ = entry.answer.send(Err(why));
        }
    }

    /// The link has ended: every call fails, and every later one.
    pub(super) fn end(&mut self, why: &WireError) {
        self.ended = Some(why.clone());
        self.open.clear();
        for (_, entry) in std::mem::take(&mut self.calls) {
            let _ = entry.answer.send(Err(why.clone().into()));
        }
    }

    /// Whether no call is taken.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Calls are taken again.
    pub(super) fn reopen(&mut self) {
        self.ended = None;
    }
}
