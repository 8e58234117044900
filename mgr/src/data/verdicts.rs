//! Questions about data that the core has not answered yet.

use crate::core::{Ticket, Verdict};
use fusevol_shared::error::WireError;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

type Answer = Result<Verdict, WireError>;

/// The questions. As many as requests are under way.
#[derive(Clone, Default, Debug)]
pub struct Verdicts(Arc<Inner>);

#[derive(Default, Debug)]
struct Inner {
    last: AtomicU64,
    open: Mutex<HashMap<Ticket, oneshot::Sender<Answer>>>,
}

impl Verdicts {
    /// A new question.
    #[must_use]
    pub fn ask(&self) -> (Ticket, oneshot::Receiver<Answer>) {
        let ticket = Ticket(self.0.last.fetch_add(1, Ordering::Relaxed) + 1);
        let (to, answer) = oneshot::channel();
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, to);
        (ticket, answer)
    }

    /// The core's answer. Whether somebody hears it; who asked for I/O that was let through and does not, never does it.
    pub fn answer(&self, ticket: Ticket, answer: Answer) -> bool {
        let asker = self.0.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&ticket);
        asker.is_some_and(|to| to.send(answer).is_ok())
    }
}
