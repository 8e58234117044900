//! The manager's pushes: each handed to the owner once, answered as often as it is repeated; whether they come over a connection or by letter.
//!
//! A push is *new*, then *handed on* (no answer yet), then *answered*. The manager repeats what it has not seen answered on each new
//! connection; numbers belong to one life of the manager (`Generation`) and one session, so all is forgotten when either changes. A letter of a
//! manager before the last that was heard of is nobody's; one of a later manager begins its life.
//!
//! Invariants: an answer is sent only on a connection on which the push was received, so that the manager can hold the two against each other;
//! at most [`MEMORY`] pushes are remembered, and of them at most [`super::PUSHES_MAX`] wait for the owner.

use super::Shared;
use super::pending::Frame;
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::format::slot;
use fusevol_shared::ids::{Generation, SessionId};
use fusevol_shared::wire::codec;
use fusevol_shared::wire::frame::FrameError;
use fusevol_shared::wire::messages::{Ack, FromClient, Push};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Weak;

#[cfg(test)]
mod tests;

/// Most pushes that are remembered.
const MEMORY: usize = 4096;

/// A push for the owner, to be answered once. Dropped without an answer it is answered as failed.
pub struct Pushed {
    /// What the manager says.
    pub body: Push,
    ticket: Option<Ticket>,
}

struct Ticket {
    shared: Weak<Shared>,
    life: u64,
    push: u64,
}

impl Pushed {
    /// Answers it. Where the connection is gone the answer is kept until the manager asks again.
    pub fn ack(mut self, ack: Ack) {
        self.answer(ack);
    }

    fn answer(&mut self, ack: Ack) {
        let Some(ticket) = self.ticket.take() else { return };
        if let Some(shared) = ticket.shared.upgrade() {
            shared.queues().pushes.answer(ticket.life, ticket.push, ack);
            shared.work.notify_one();
            shared.show_answer();
        }
    }
}

impl Drop for Pushed {
    fn drop(&mut self) {
        let message = "the client has let the push fall".to_owned();
        self.answer(Ack::Failed(WireError { kind: Kind::Internal, message, hint: String::new() }));
    }
}

impl std::fmt::Debug for Pushed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.body.fmt(f)
    }
}

/// Pushes of this session and this manager's life, and the answers that wait to be sent.
pub(super) struct Pushes {
    of: Option<(Generation, SessionId)>,
    life: u64,
    known: BTreeMap<u64, Known>,
    out: VecDeque<Frame>,
    /// The answer to the last letter.
    mailed: Option<slot::Answer>,
}

struct Known {
    body: Push,
    ack: Option<Ack>,
    /// Received on the connection that stands.
    here: bool,
    /// It came by letter, too.
    by_letter: bool,
}

/// What to do with a push that has come.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Receive {
    /// Hand it to the owner, under this life's number.
    Deliver(u64),
    /// It is being handled, or was answered again from memory.
    Known,
}

impl Pushes {
    pub(super) fn new() -> Self {
        Self { of: None, life: 0, known: BTreeMap::new(), out: VecDeque::new(), mailed: None }
    }

    /// A new connection stands: nothing has been received on it yet.
    pub(super) fn connected(&mut self, generation: Generation, session: SessionId) {
        if self.of != Some((generation, session)) {
            self.of = Some((generation, session));
            self.life += 1;
            self.known.clear();
        }
        self.out.clear();
        self.known.values_mut().for_each(|k| k.here = false);
    }

    /// A push has come on this connection.
    pub(super) fn received(&mut self, push: u64, body: &Push) -> Result<Receive, FrameError> {
        if let Some(known) = self.known.get_mut(&push) {
            if known.body != *body || known.here {
                return Err(FrameError::Malformed(format!("push {push} was said before")));
            }
            known.here = true;
            if let Some(ack) = known.ack.clone() {
                self.send(push, ack)?;
            }
            return Ok(Receive::Known);
        }
        self.know(push, Known { body: body.clone(), ack: None, here: true, by_letter: false })?;
        Ok(Receive::Deliver(self.life))
    }

    /// A push has come by letter. Before the first connection there is no session to which it could.
    pub(super) fn by_letter(&mut self, generation: Generation, push: u64, body: &Push) -> Result<Receive, FrameError> {
        let Some((known, session)) = self.of.filter(|(known, _)| generation >= *known) else { return Ok(Receive::Known) };
        if generation > known {
            self.connected(generation, session);
        }
        if let Some(known) = self.known.get_mut(&push) {
            if known.body != *body {
                return Err(FrameError::Malformed(format!("push {push} was said before")));
            }
            known.by_letter = true;
            if let Some(ack) = &known.ack {
                self.mailed = Some(answer_of(push, ack));
            }
            return Ok(Receive::Known);
        }
        self.know(push, Known { body: body.clone(), ack: None, here: false, by_letter: true })?;
        Ok(Receive::Deliver(self.life))
    }

    /// The answer to the last letter that was answered.
    pub(super) fn mailed(&self) -> Option<slot::Answer> {
        self.mailed
    }

    fn know(&mut self, push: u64, new: Known) -> Result<(), FrameError> {
        if self.known.len() >= MEMORY {
            let oldest = self.known.iter().find(|(_, k)| k.ack.is_some()).map(|(push, _)| *push);
            let oldest = oldest.ok_or_else(|| FrameError::Malformed(format!("{MEMORY} pushes wait for an answer already")))?;
            self.known.remove(&oldest);
        }
        self.known.insert(push, new);
        Ok(())
    }

    /// The owner could not take it: as if it had not come.
    pub(super) fn forget(&mut self, push: u64) {
        self.known.remove(&push);
    }

    /// The owner has answered.
    pub(super) fn answer(&mut self, life: u64, push: u64, ack: Ack) {
        if life != self.life {
            return;
        }
        let Some(known) = self.known.get_mut(&push) else { return };
        known.ack = Some(ack.clone());
        if known.by_letter {
            self.mailed = Some(answer_of(push, &ack));
        }
        if known.here
            && let Err(e) = self.send(push, ack)
        {
            tracing::error!("the answer to push {push} cannot be sent: {e}");
        }
    }

    /// The next answer to send.
    pub(super) fn next(&mut self) -> Option<Frame> {
        self.out.pop_front()
    }

    fn send(&mut self, push: u64, ack: Ack) -> Result<(), FrameError> {
        self.out.push_back(codec::encode(&FromClient::Ack { push, ack })?);
        Ok(())
    }
}

fn answer_of(push: u64, ack: &Ack) -> slot::Answer {
    slot::Answer { push, done: !matches!(ack, Ack::Failed(_)) }
}

/// A push on its way to the owner.
pub(super) fn pushed(shared: &std::sync::Arc<Shared>, life: u64, push: u64, body: Push) -> Pushed {
    Pushed { body, ticket: Some(Ticket { shared: std::sync::Arc::downgrade(shared), life, push }) }
}

/// Takes a push back from a full queue without an answer.
pub(super) fn take_back(mut pushed: Pushed) {
    pushed.ticket = None;
}
