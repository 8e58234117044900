//! The core's settings and limits.

use fusevol_shared::ids::BootId;
use std::time::Duration;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// A session's lease, counted by the client from when it asked.
    pub lease: Duration,
    /// Longest hold of a volume's writes.
    pub hold: Duration,
    /// How long a recall, or a reader's answer to a new preserve log, is waited for.
    pub patience: Duration,
    /// Boot of this host: byte locks speak for sessions of the same boot only.
    pub boot: BootId,
    /// Nothing is in flight that an earlier manager did for its clients or copied by itself: their byte locks were free, or they ended in order.
    pub drained: bool,
    /// Limits.
    pub limits: Limits,
}

impl Config {
    /// The usual settings with this lease.
    #[must_use]
    pub fn new(lease: Duration, boot: BootId) -> Self {
        Self { lease, hold: Duration::from_secs(5), patience: lease * 2, boot, drained: false, limits: Limits::default() }
    }

    /// What the manager waits beyond the lease: a quarter.
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.lease / 4
    }
}

/// How many of each the manager bears.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Sessions of one client.
    pub sessions_per_client: usize,
    /// Sessions in all.
    pub sessions: usize,
    /// Attachments and open snapshots of one session.
    pub holdings_per_session: usize,
    /// Pushes of one session that are not answered.
    pub pushes_per_session: usize,
    /// Volumes of the pool.
    pub volumes: usize,
    /// Clients of the pool.
    pub clients: usize,
    /// Snapshots of one volume.
    pub snapshots_per_volume: usize,
    /// Disks of the pool.
    pub disks: usize,
    /// Events kept.
    pub notices: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            sessions_per_client: 64,
            sessions: 2048,
            holdings_per_session: 1024,
            pushes_per_session: 8192,
            volumes: 65_536,
            clients: 16_384,
            snapshots_per_volume: 1024,
            disks: 1024,
            notices: 4096,
        }
    }
}
