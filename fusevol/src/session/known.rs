//! The pool's disks as a session has heard of them: in its first welcome, in every later one, and by the manager's word when one joins.
//!
//! A disk that is new is not reached from here at first: its I/O goes through the manager, until the [paths' keeper](crate::path::keeper) has
//! opened it.

use crate::disks::Disks;
use fusevol_shared::disk::any::PoolDisk;
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::DiskInfo;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A disk, and where it was found, for people.
pub type Found = (DiskInfo, String);

/// See the head of this file.
#[derive(Default)]
pub struct Known {
    disks: OnceLock<Arc<Disks<PoolDisk>>>,
    found: Mutex<Vec<Found>>,
}

impl Known {
    /// The disks of the first welcome are in the table.
    pub(super) fn begin(&self, disks: Arc<Disks<PoolDisk>>, found: Vec<Found>) {
        *self.found() = found;
        // A session begins once.
        let _ = self.disks.set(disks);
    }

    /// The manager names these; those of which nothing was heard yet are used from now on. Before the first welcome is dealt with nothing is new.
    pub(super) fn hear(&self, infos: &[DiskInfo]) {
        let Some(disks) = self.disks.get() else { return };
        let mut found = self.found();
        for info in infos {
            if let Some((d, _)) = found.iter_mut().find(|(d, _)| d.no == info.no) {
                // It was first heard of without its paths.
                if d.paths.is_empty() {
                    d.paths.clone_from(&info.paths);
                }
                continue;
            }
            tracing::info!("disk {} ({}) has joined the pool", info.no, info.id);
            found.push((info.clone(), info.paths.first().cloned().unwrap_or_default()));
            disks.set_unreached(info.no, info.id, "it has just joined the pool".to_owned());
            disks.moved().notify_one();
        }
    }

    /// Where a disk was found.
    pub(super) fn found_at(&self, no: DiskNo, path: String) {
        if let Some((_, known)) = self.found().iter_mut().find(|(d, _)| d.no == no) {
            *known = path;
        }
    }

    /// What is known of a disk.
    pub(super) fn info(&self, no: DiskNo) -> Option<DiskInfo> {
        self.found().iter().find(|(d, _)| d.no == no).map(|(d, _)| d.clone())
    }

    /// All of them, in the order in which they were heard of.
    #[must_use]
    pub fn all(&self) -> Vec<Found> {
        self.found().clone()
    }

    fn found(&self) -> MutexGuard<'_, Vec<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::ids::DiskId;

    fn info(no: u16) -> DiskInfo {
        DiskInfo { no: DiskNo(no), id: DiskId([u8::try_from(no).expect("small"); 16]), aus: 100, paths: vec![format!("/dev/d{no}")] }
    }

    #[test]
    fn a_disk_that_joins_is_in_the_table_at_once() {
        let (known, disks) = (Known::default(), Arc::new(Disks::new()));
        known.hear(&[info(0), info(1)]);
        assert!(known.all().is_empty(), "the first welcome is dealt with by who opens the session");
        known.begin(disks.clone(), vec![(info(0), "/dev/sda".to_owned())]);
        disks.set_missing(DiskNo(0), "a test");
        known.hear(&[info(0), info(1)]);
        known.hear(&[info(1)]);
        assert!(disks.get(DiskNo(0)).is_err(), "what was known stays as it is");
        assert!(disks.get(DiskNo(1)).is_ok_and(|m| m.id() == info(1).id && m.path().direct().is_none()));
        known.found_at(DiskNo(1), "/dev/sdb".to_owned());
        assert_eq!(known.all(), [(info(0), "/dev/sda".to_owned()), (info(1), "/dev/sdb".to_owned())]);
    }
}
