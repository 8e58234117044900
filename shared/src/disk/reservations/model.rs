//! A disk that knows reservations, in memory, as the standard has it for what [`super::Reservations`] asks: for tests and models.

use super::{HostKey, NotReserved, Reservations};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    /// By host.
    registered: BTreeMap<u32, HostKey>,
    reserved: bool,
}

/// The disk.
#[derive(Clone, Default)]
pub struct Target(Arc<Mutex<State>>);

/// The disk, as one host sees it.
pub struct Nexus {
    target: Target,
    host: u32,
}

impl Target {
    /// What a host has open.
    #[must_use]
    pub fn seen_by(&self, host: u32) -> Nexus {
        Nexus { target: self.clone(), host }
    }

    /// Whether a write of this host is accepted.
    #[must_use]
    pub fn accepts(&self, host: u32) -> bool {
        let state = self.state();
        !state.reserved || state.registered.contains_key(&host)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has(&self, host: u32, key: HostKey) -> Result<(), NotReserved> {
        if self.registered.get(&host) == Some(&key) { Ok(()) } else { Err(NotReserved::Conflict) }
    }
}

impl Reservations for Nexus {
    fn register(&self, key: HostKey) -> Result<(), NotReserved> {
        self.target.state().registered.insert(self.host, key);
        Ok(())
    }

    fn reserve(&self, key: HostKey) -> Result<(), NotReserved> {
        let mut state = self.target.state();
        state.has(self.host, key)?;
        state.reserved = true;
        Ok(())
    }

    fn expel(&self, own: HostKey, other: HostKey) -> Result<(), NotReserved> {
        let mut state = self.target.state();
        state.has(self.host, own)?;
        let before = state.registered.len();
        state.registered.retain(|_, key| *key != other);
        if state.registered.len() < before { Ok(()) } else { Err(NotReserved::Conflict) }
    }
}
