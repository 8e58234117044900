//! Where the pushes about one object find it: kept while it is being attached, handed on while it is, let go otherwise.
//!
//! ```text
//!  Shut --begin--> Attaching(backlog) --open--> Open(object) --shut--> Shut
//!                        `--------------shut----------------------------^
//! ```
//!
//! Invariant: pushes reach the object in the order in which they came, those of the backlog first.

use crate::link::Pushed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

enum State<T> {
    Shut,
    Attaching(Vec<Pushed>),
    Open(Arc<T>),
}

/// One object's inbox.
pub(super) struct Inbox<T>(Mutex<State<T>>);

/// Where a push is to go.
pub(super) enum Place<T> {
    /// To the object.
    To(Arc<T>, Pushed),
    /// It is kept for later.
    Kept,
    /// There is nothing that it could concern.
    Nobody(Pushed),
}

impl<T> Inbox<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::Shut))
    }

    /// The object is about to be attached: pushes are kept from now on.
    pub(super) fn begin(&self) {
        *self.state() = State::Attaching(Vec::new());
    }

    /// The object is attached. Gives what was kept, to be handled before this is called again; opens when nothing is kept.
    pub(super) fn open(&self, object: &Arc<T>) -> Vec<Pushed> {
        let mut state = self.state();
        match &mut *state {
            State::Attaching(backlog) if !backlog.is_empty() => std::mem::take(backlog),
            State::Shut | State::Attaching(_) | State::Open(_) => {
                *state = State::Open(object.clone());
                Vec::new()
            }
        }
    }

    /// The object is not attached (any more). Gives what was kept: it concerns nobody.
    pub(super) fn shut(&self) -> Vec<Pushed> {
        match std::mem::replace(&mut *self.state(), State::Shut) {
            State::Attaching(backlog) => backlog,
            State::Shut | State::Open(_) => Vec::new(),
        }
    }

    /// The object, where it is attached.
    pub(super) fn object(&self) -> Option<Arc<T>> {
        if let State::Open(object) = &*self.state() { Some(object.clone()) } else { None }
    }

    /// Where this push is to go.
    pub(super) fn place(&self, push: Pushed) -> Place<T> {
        match &mut *self.state() {
            State::Shut => Place::Nobody(push),
            // The link bounds how many pushes are unanswered.
            State::Attaching(backlog) => {
                backlog.push(push);
                Place::Kept
            }
            State::Open(object) => Place::To(object.clone(), push),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
