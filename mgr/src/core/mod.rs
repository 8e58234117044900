//! The manager's state machine: events in, records and effects out. It does no I/O, reads no clock, spawns nothing.

pub mod admin_api;
mod config;
mod event;

pub use admin_api::{AdminReply, AdminRequest, Notice};
pub use config::{Config, Limits};
pub use event::{AdminId, ConnId, Effect, Event, Now, Output};

use crate::catalog::Catalog;
use fusevol_shared::clock::BootTime;
use fusevol_shared::ids::Generation;
use fusevol_shared::random::Random;

/// The manager's state machine.
pub struct Core {
    catalog: Catalog,
    generation: Generation,
}

impl Core {
    /// Takes up service with what the catalog says: every session of it is taken as alive for one lease and a margin.
    #[must_use]
    pub fn new(catalog: Catalog, _config: Config, generation: Generation, _now: Now, _random: Box<dyn Random>) -> Self {
        Self { catalog, generation }
    }

    /// One event. The state in memory is ahead of the disk until the records are committed.
    pub fn step(&mut self, _now: Now, _event: Event, _out: &mut Output) {
        let _ = self.generation;
    }

    /// When to send `Event::Tick` next.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        None
    }

    /// What the manager knows.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}
