//! What an attachment counts of itself, for people and for measurements.

use super::Volume;
use crate::control::Control;
use fusevol_shared::disk::Disk;
use std::sync::atomic::Ordering;

/// Counted since the volume was attached; sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Counters {
    /// AUs granted and not bound.
    pub reserve_aus: u64,
    /// Grants that came.
    pub grants: u64,
    /// Writes that found the reserve empty and waited for a grant.
    pub grant_waits: u64,
    /// The longest of these waits, microseconds.
    pub grant_wait_us_max: u64,
    /// Appends to the journal.
    pub appends: u64,
    /// Of them, those that the catalog does not have yet.
    pub unfolded: u64,
    /// Bytes of the journal's half in use.
    pub journal_used: u64,
    /// Bytes of a half.
    pub journal_size: u64,
    /// The journal is full: appends wait for the manager.
    pub journal_full: bool,
    /// Dirty regions.
    pub dirty_regions: u64,
    /// Blocks that were preserved.
    pub preserved_blocks: u64,
    /// Snapshots were broken for want of space.
    pub broken: bool,
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// What it has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let Some(log) = &self.journal else { return Counters::default() };
        let (journal_used, journal_size) = log.fill().unwrap_or_default();
        Counters {
            reserve_aus: self.reserve.len().into(),
            grants: self.reserve.grants.load(Ordering::Relaxed),
            grant_waits: self.reserve.waits.load(Ordering::Relaxed),
            grant_wait_us_max: self.reserve.longest_wait.load(Ordering::Relaxed),
            appends: log.last().0,
            unfolded: log.unfolded(),
            journal_used,
            journal_size,
            journal_full: log.is_full(),
            dirty_regions: self.regions.dirty().len() as u64,
            preserved_blocks: self.preserved.blocks(),
            broken: self.broken.load(Ordering::SeqCst),
        }
    }
}
