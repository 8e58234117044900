//! The link's limits of time, with what they are outside tests.

use fusevol_shared::net::{Net, SystemNet};
use fusevol_shared::random::{Random, SystemRandom};
use fusevol_shared::wire::keyfile::KeyFile;
use std::sync::Arc;
use std::time::Duration;

/// How a link connects.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Who we are, and where the manager is.
    pub key: Arc<KeyFile>,
    /// How the manager is reached.
    pub net: Arc<dyn Net>,
    /// For one TCP connection, and then for its handshake, each.
    pub connect: Duration,
    /// For the answer to `Hello`.
    pub hello: Duration,
    /// With requests unanswered and nothing coming in for this long, the connection is given up.
    pub silence: Duration,
    /// Shortest and longest pause between rounds of attempts.
    pub pause: (Duration, Duration),
}

impl LinkConfig {
    /// With the usual limits.
    #[must_use]
    pub fn new(key: Arc<KeyFile>) -> Self {
        Self {
            key,
            net: Arc::new(SystemNet),
            connect: Duration::from_secs(3),
            hello: Duration::from_secs(10),
            silence: Duration::from_secs(15),
            pause: (Duration::from_millis(50), Duration::from_secs(1)),
        }
    }
}

/// The pause before the next attempt: doubled each time, with a quarter of jitter so that many clients do not come at once.
pub(super) struct Backoff {
    bounds: (Duration, Duration),
    next: Duration,
}

impl Backoff {
    pub(super) fn new(bounds: (Duration, Duration)) -> Self {
        Self { bounds, next: bounds.0 }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.bounds.0;
    }

    pub(super) fn pause(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.bounds.1);
        let mut byte = [0];
        SystemRandom.fill(&mut byte);
        (base * 3 / 4 + base * u32::from(byte[0]) / 512).min(self.bounds.1)
    }
}
