//! Disks that are out for volumes that nobody writes, and answer again.
//!
//! A disk is taken back once it has answered for a while, so that one that comes and goes is not taken back each time. What its legs missed
//! is said by their states; the copier brings them up to date. Where somebody writes the volume it is for that writer to decide.

use super::{Core, Effect};
use crate::catalog::record::Record;
use fusevol_shared::clock::BootTime;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::units::DiskNo;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a disk must answer before it is taken back.
const WELL: Duration = Duration::from_secs(2);

/// What is known of a disk that is out.
#[derive(Debug, Default)]
pub(super) struct Look {
    asked: bool,
    /// Since when each look found it well.
    since: Option<BootTime>,
}

impl Core {
    /// Volumes that nobody writes and that could take this disk back.
    fn could_take_back(&self, disk: DiskNo) -> Vec<VolumeId> {
        if self.catalog.disk(disk).is_none_or(|d| d.failed) {
            return Vec::new();
        }
        let free = |v: VolumeId| self.catalog.writer(v).is_none() && !self.is_copied(v) && !self.pending.keys().any(|(p, _)| *p == v);
        self.catalog.volumes().filter(|v| v.out.contains(&disk) && free(v.entry.id)).map(|v| v.entry.id).collect()
    }

    /// Asks for the disks that may be back.
    pub(super) fn look_for_returns(&mut self) {
        let out: BTreeSet<DiskNo> = self.catalog.volumes().flat_map(|v| v.out.iter().copied()).collect();
        let wanted: Vec<DiskNo> = out.into_iter().filter(|d| !self.could_take_back(*d).is_empty()).collect();
        self.looks.retain(|d, l| l.asked || wanted.contains(d));
        for disk in wanted {
            let look = self.looks.entry(disk).or_default();
            if !look.asked {
                look.asked = true;
                self.out.effects.push(Effect::LookAtDisk { disk });
            }
        }
    }

    /// A disk was looked at: whether it answered, and is the pool's.
    pub(super) fn disk_looked(&mut self, disk: DiskNo, well: bool) {
        let now = self.now.boot;
        let Some(look) = self.looks.get_mut(&disk).filter(|l| l.asked) else { return };
        look.asked = false;
        if !well {
            look.since = None;
            return;
        }
        if look.since.get_or_insert(now).plus(WELL) > now {
            return;
        }
        for volume in self.could_take_back(disk) {
            self.commit_or_tell(Record::LegsBack { volume, disk });
            self.out_changed(volume);
            let name = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
            self.tell(
                super::admin_api::Level::Ok,
                "leg-back",
                format!("disk {disk} answers again: what its copies of volume '{name}' missed is copied"),
            );
        }
        self.looks.remove(&disk);
    }
}
