//! How far the recovery of a volume is, and what its copier may do.
//!
//! What is to be done is derived from the map alone: AUs that have fewer copies in sync, on disks that are not out, than there should be.
//! It is counted once for each version of the map that is asked about, not in each step.

use super::change::refused;
use super::rights::no_volume;
use super::{Core, segments};
use crate::catalog::Catalog;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::Result;
use fusevol_shared::ids::{MapVersion, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::map::{LegState, MapEntry};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::Reply;
use fusevol_shared::wire::recovery::{Recovery, RecoveryOrders, SAYS_MAX};
use std::collections::BTreeSet;
use std::time::Duration;

/// Counted for this state of the volume's maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    version: MapVersion,
    out: Vec<DiskNo>,
    snapshots: Vec<SnapshotId>,
    /// AUs of the live map that lack copies.
    live: u64,
    /// AUs that only snapshots have, and that lack copies.
    pub frozen: u64,
    /// Preserve segments that lack copies; and how many there were when they were counted, and the number of the next one.
    pub segments: u64,
    of: (usize, u32),
    /// AUs in all, with segments, of which each is one.
    pub total: u64,
    at: BootTime,
}

impl Counted {
    /// AUs that lack copies, with segments.
    pub fn todo(&self) -> u64 {
        self.live + self.frozen + self.segments
    }
}

/// Whether an AU has fewer copies than it should.
pub(super) fn lacks(e: &MapEntry, copies: u8, out: &[DiskNo]) -> bool {
    e.legs().iter().filter(|l| l.state == LegState::InSync && !out.contains(&l.at.disk)).count() < usize::from(copies)
}

/// AUs of a volume that lack copies, of its live map, and of those that only snapshots have; and AUs in all.
fn count(catalog: &Catalog, volume: VolumeId, out: &[DiskNo]) -> (u64, u64, u64) {
    let Some(v) = catalog.volume(volume) else { return (0, 0, 0) };
    let copies = v.entry.legs;
    let live = v.map.iter().filter(|(_, e)| lacks(e, copies, out)).count();
    let snapshots = catalog.snapshots_of(volume);
    let (mut frozen, mut total) = (0, v.map.aus());
    for (i, s) in snapshots.iter().enumerate() {
        // Newer maps first: an AU that one of them has under the same name was counted with it.
        let seen = |au, e: &MapEntry| {
            let newer = snapshots[i + 1..].iter().map(|s| &s.map).chain([&v.map]);
            newer.into_iter().any(|m| m.get(au).is_some_and(|x| x.name() == e.name()))
        };
        for (_, e) in s.map.iter().filter(|(au, e)| !seen(*au, e)) {
            total += 1;
            frozen += u64::from(lacks(&e, copies, out));
        }
    }
    (live as u64, frozen, total)
}

/// How long a count stands for a map of so many AUs, whatever changes meanwhile: a large one is not counted each second.
fn stands(aus: u64) -> Duration {
    Duration::from_millis(aus / 4096 * 40)
}

impl Core {
    pub(super) fn recovery(&mut self, session: SessionNo, m: &Recovery) -> Result<Reply> {
        self.writing(session, m.volume, m.token)?;
        if m.says.len() > SAYS_MAX {
            return Err(refused("a copier says too much"));
        }
        self.todo(m.volume);
        self.copier_says(m.volume, &m.says);
        // What only snapshots have the manager copies, once nobody writes the volume.
        let todo = self.counted.get(&m.volume).map_or(0, |c| c.live);
        let v = self.catalog.volume(m.volume).ok_or_else(no_volume)?;
        let (copies, paused, limit) = (v.entry.legs, v.paused, v.limit);
        let given_up: BTreeSet<DiskNo> =
            self.given_up(m.volume).into_iter().chain(self.catalog.disks().filter(|d| d.failed).map(|d| d.entry.no)).collect();
        let given_up = given_up.into_iter().collect();
        Ok(Reply::RecoveryOrders(RecoveryOrders { given_up, todo, paused, limit, copies, look_at: self.suspects(m.volume) }))
    }

    /// AUs of a volume that lack copies, as far as is folded.
    pub(super) fn todo(&mut self, volume: VolumeId) -> u64 {
        let Some(v) = self.catalog.volume(volume).filter(|v| v.entry.legs > 1) else { return 0 };
        let (version, of) = (v.entry.version, (v.segments.len(), v.entry.next_segment));
        let (out, now) = (self.lost_disks(volume), self.now.boot);
        let snapshots: Vec<SnapshotId> = self.catalog.snapshots_of(volume).iter().map(|s| s.entry.id).collect();
        let known = self
            .counted
            .get(&volume)
            .filter(|c| c.out == out && c.snapshots == snapshots)
            .filter(|c| (c.version, c.of) == (version, of) || c.at.plus(stands(c.total)) > now);
        if let Some(c) = known {
            return c.todo();
        }
        let (live, frozen, total) = count(&self.catalog, volume, &out);
        let segments = segments::lacking(v, &out);
        let total = total + v.segments.len() as u64;
        let counted = Counted { version, out, snapshots, live, frozen, segments, of, total, at: now };
        let todo = counted.todo();
        self.counted.insert(volume, counted);
        todo
    }

    /// Disks on which copies of a volume do not count.
    pub(super) fn lost_disks(&self, volume: VolumeId) -> Vec<DiskNo> {
        let out = self.catalog.volume(volume).map(|v| v.out.clone()).unwrap_or_default();
        let failed = self.catalog.disks().filter(|d| d.failed).map(|d| d.entry.no);
        out.into_iter().chain(failed).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
