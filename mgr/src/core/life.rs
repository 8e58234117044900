//! What is known of a session besides its records: connection, lease, pushes, proof of drain.
//!
//! ```text
//!         Hello                 connection lost               lease and margin over
//! (none) -------> live <-----------------------------> away -----------------------> lapsed
//!                  |            Hello{resume}            ^------- Hello{resume} --------'
//!                  '--- Goodbye, or proven drained (byte lock free, confirm-dead) in any state ---> ending -> ended
//! ```
//! A lapsed session keeps what it holds until it is ended: nothing was given away, so it may be taken up again,
//! unless it is *doomed* (its client was revoked, or it did not answer): then it is never renewed, and its slot is sealed (`seal`).
//! One that is *ending* is drained; its journals are being read (`death`).

use super::ConnId;
use super::death::Closing;
use super::fence::Fence;
use super::mail::Posted;
use super::reader::Reader;
use super::remap::Remap;
use super::seal::{Seal, Watch};
use super::slots::Mover;
use fusevol_shared::clock::BootTime;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::wire::messages::Push;
use std::collections::BTreeMap;
use std::time::Duration;

/// First wait between two probes of a byte lock; it doubles.
pub(super) const PROBE_FIRST: Duration = Duration::from_millis(250);

/// When the byte lock is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub next: BootTime,
    pub wait: Duration,
    /// Asked, not answered.
    pub asked: bool,
}

/// The state of one session in memory.
#[derive(Debug)]
pub(super) struct Life {
    pub conn: Option<ConnId>,
    /// Lease and margin, by the manager's clock.
    pub until: BootTime,
    pub lapsed: bool,
    pub doomed: bool,
    pub next_push: u64,
    /// Not answered.
    pub pushes: BTreeMap<u64, Push>,
    /// What it must be told of volumes that it has attached.
    pub readers: BTreeMap<VolumeId, Reader>,
    /// Volumes that it shall give back, until when.
    pub recalled: BTreeMap<VolumeId, BootTime>,
    /// The list of its volumes has changed since it was told.
    pub volumes_changed: bool,
    pub probe: Probe,
    /// Somebody wants what it reads.
    pub wanted: bool,
    /// Its heartbeat is being watched.
    pub watch: Option<Watch>,
    pub seal: Seal,
    pub fence: Fence,
    /// The administrator's word, or a fence: it writes no more once its lease is over.
    pub confirmed: bool,
    /// Writes that the manager does for it.
    pub proxied: u32,
    /// Journals that are being read.
    pub closing: Option<Closing>,
    /// What it could still write is being taken from it.
    pub remap: Option<Remap>,
    /// A step of that is under way on the disks, also where it is not wanted any more: nothing that it writes to is free before it has returned.
    pub errand: bool,
    /// What it is told through the disks.
    pub letter: Option<Posted>,
    /// Before that no letter to it is begun: others had to wait.
    pub mail_rest: BootTime,
    /// Its slot gets other disks.
    pub mover: Mover,
}

impl Life {
    /// One that is connected.
    pub fn live(conn: ConnId, until: BootTime, first_push: u64, now: BootTime) -> Self {
        Self { conn: Some(conn), ..Self::away(until, first_push, now) }
    }

    /// One of which nothing was heard yet.
    pub fn away(until: BootTime, first_push: u64, now: BootTime) -> Self {
        Self {
            conn: None,
            until,
            lapsed: false,
            doomed: false,
            next_push: first_push,
            pushes: BTreeMap::new(),
            readers: BTreeMap::new(),
            recalled: BTreeMap::new(),
            volumes_changed: false,
            probe: Probe { next: now.plus(PROBE_FIRST), wait: PROBE_FIRST, asked: false },
            wanted: false,
            watch: None,
            seal: Seal::Open,
            fence: Fence::none(),
            confirmed: false,
            proxied: 0,
            closing: None,
            remap: None,
            errand: false,
            letter: None,
            mail_rest: now,
            mover: Mover::default(),
        }
    }

    /// Whether a free byte lock proves it drained: only one that may be dead is asked about.
    pub fn may_be_dead(&self) -> bool {
        self.conn.is_none() || self.lapsed
    }

    /// Whether what it could still write may be taken from it now: somebody wants it, its end is not proven, and no step is under way.
    pub fn may_be_taken_from(&self) -> bool {
        let sealed = matches!(self.seal, Seal::Settling { .. } | Seal::Over);
        sealed && self.wanted && !self.confirmed && self.closing.is_none() && !self.errand
    }

    /// Whether it is drained, and only its journals are to be read.
    pub fn is_ending(&self) -> bool {
        self.closing.as_ref().is_some_and(|c| c.whole)
    }

    /// Whether the manager does something for it that may still write to what it holds.
    pub fn is_written_for(&self) -> bool {
        self.proxied > 0 || self.errand
    }

    /// Whether its SEAL may be set on the disks.
    pub fn is_sealed(&self) -> bool {
        !matches!(self.seal, Seal::Open)
    }

    /// Looks at the lock at once, and then at growing intervals.
    pub fn probe_now(&mut self, now: BootTime) {
        self.probe = Probe { next: now, wait: PROBE_FIRST, asked: self.probe.asked };
    }
}
