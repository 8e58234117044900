//! How far the recovery of a volume is, and what its copier may do.
//!
//! What is to be done is derived from the map alone: AUs that have fewer copies in sync, on disks that are not out, than there should be.
//! It is counted once for each version of the map that is asked about, not in each step.

use super::Core;
use super::change::refused;
use super::rights::no_volume;
use crate::catalog::Catalog;
use fusevol_shared::error::Result;
use fusevol_shared::ids::{MapVersion, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::map::{LegState, MapEntry};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::Reply;
use fusevol_shared::wire::recovery::{Recovery, RecoveryOrders, SAYS_MAX};

/// Counted for this state of the volume's maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    version: MapVersion,
    out: Vec<DiskNo>,
    snapshots: Vec<SnapshotId>,
    todo: u64,
}

/// Whether an AU has fewer copies than it should.
pub(super) fn lacks(e: &MapEntry, copies: u8, out: &[DiskNo]) -> bool {
    e.legs().iter().filter(|l| l.state == LegState::InSync && !out.contains(&l.at.disk)).count() < usize::from(copies)
}

/// AUs of a volume that lack copies: of its live map, and those that only snapshots have.
pub(super) fn count(catalog: &Catalog, volume: VolumeId) -> u64 {
    let Some(v) = catalog.volume(volume) else { return 0 };
    let (copies, out) = (v.entry.legs, &v.out);
    let live = v.map.iter().filter(|(_, e)| lacks(e, copies, out)).count();
    let snapshots = catalog.snapshots_of(volume);
    let mut frozen = 0;
    for (i, s) in snapshots.iter().enumerate() {
        // Newer maps first: an AU that one of them has under the same name was counted with it.
        let seen = |au, e: &MapEntry| {
            let newer = snapshots[i + 1..].iter().map(|s| &s.map).chain([&v.map]);
            newer.into_iter().any(|m| m.get(au).is_some_and(|x| x.name() == e.name()))
        };
        frozen += s.map.iter().filter(|(au, e)| lacks(e, copies, out) && !seen(*au, e)).count();
    }
    (live + frozen) as u64
}

impl Core {
    pub(super) fn recovery(&mut self, session: SessionNo, m: &Recovery) -> Result<Reply> {
        self.writing(session, m.volume, m.token)?;
        if m.says.len() > SAYS_MAX {
            return Err(refused("a copier says too much"));
        }
        let todo = self.todo(m.volume);
        let copies = self.catalog.volume(m.volume).ok_or_else(no_volume)?.entry.legs;
        let given_up = self.given_up(m.volume);
        Ok(Reply::RecoveryOrders(RecoveryOrders { given_up, todo, paused: false, limit: 0, copies }))
    }

    /// AUs of a volume that lack copies, as far as is folded.
    pub(super) fn todo(&mut self, volume: VolumeId) -> u64 {
        let Some(v) = self.catalog.volume(volume).filter(|v| v.entry.legs > 1) else { return 0 };
        let (version, out) = (v.entry.version, v.out.clone());
        let snapshots: Vec<SnapshotId> = self.catalog.snapshots_of(volume).iter().map(|s| s.entry.id).collect();
        let known = self.counted.get(&volume).filter(|c| c.version == version && c.out == out && c.snapshots == snapshots);
        if let Some(c) = known {
            return c.todo;
        }
        let todo = count(&self.catalog, volume);
        self.counted.insert(volume, Counted { version, out, snapshots, todo });
        todo
    }
}
