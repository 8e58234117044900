//! What several records must hold to: parts of maps, places, limbo, preserve segments.

use super::record::LimboEntry;
use super::{Attachment, Catalog, Volume, must, unfit};
use fusevol_shared::change::Journal;
use fusevol_shared::error::Result;
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeId};
use fusevol_shared::map::{MapEntry, MapRun};
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::Segment;
use std::collections::BTreeSet;

/// Most copies of a journal.
pub const JOURNAL_COPIES: usize = 2;

/// Whether these replicas can be those of one AU.
pub(super) fn legs_fit(legs: &[DiskAu], count: u8) -> bool {
    let disks: BTreeSet<_> = legs.iter().map(|l| l.disk).collect();
    legs.len() == usize::from(count) && disks.len() == legs.len()
}

/// Whether a journal can lie there: its copies on different disks, the halves of each on one.
pub(super) fn journal_fits(journal: &Journal) -> bool {
    let disks: BTreeSet<_> = journal.copies.iter().map(|c| c.first.disk).collect();
    let apart = |c: &fusevol_shared::change::JournalCopy| c.first.disk == c.second.disk && c.first.au != c.second.au;
    (1..=JOURNAL_COPIES).contains(&journal.copies.len()) && disks.len() == journal.copies.len() && journal.copies.iter().all(apart)
}

/// The entries of runs; no AU may be named twice.
pub(super) fn entries_of(runs: &[MapRun]) -> Result<Vec<(VolAu, MapEntry)>> {
    let mut out = Vec::new();
    for run in runs {
        out.extend(run.entries().ok_or_else(|| unfit("a run of a map does not fit together"))?);
    }
    let aus: BTreeSet<_> = out.iter().map(|(au, _)| *au).collect();
    must(aus.len() == out.len(), "a part of a map names an AU twice")?;
    Ok(out)
}

/// Whether entries may be part of a map of this volume: inside it, with its number of legs, on different disks.
pub(super) fn entries_fit(volume: &Volume, aus: u32, entries: &[(VolAu, MapEntry)]) -> Result<()> {
    must(entries.iter().all(|(au, _)| au.0 < aus), "a map goes beyond its volume")?;
    let fit = |e: &MapEntry| legs_fit(&e.legs().iter().map(|l| l.at).collect::<Vec<_>>(), volume.entry.legs);
    must(entries.iter().all(|(_, e)| fit(e)), "the replicas of an AU do not fit its volume")
}

impl Catalog {
    /// AUs of a volume or snapshot of this size.
    pub(super) fn aus_of(&self, size: u64) -> Result<u32> {
        self.au_size().aus_for(size).ok_or_else(|| unfit("a volume has more AUs than can be"))
    }

    /// Whether all places are free data AUs, none of them named twice.
    pub(super) fn all_free(&self, places: &[DiskAu]) -> bool {
        let set: BTreeSet<_> = places.iter().collect();
        set.len() == places.len() && places.iter().all(|p| self.disk(p.disk).is_some_and(|d| d.space.is_free(p.au)))
    }

    /// The attachment that writes under this token.
    pub(super) fn writing(&self, token: FenceToken) -> Result<(&Attachment, &Volume)> {
        let a = self.attachment(token).filter(|a| a.writes()).ok_or_else(|| unfit("a change by nobody who may write"))?;
        Ok((a, self.volume(a.volume).ok_or_else(|| unfit("a change of no volume"))?))
    }

    /// Whether a list of waiting sessions is one: ascending, all of them attached to the volume.
    pub(super) fn waits_fit(&self, volume: VolumeId, waits: &[SessionNo]) -> Result<()> {
        must(waits.is_sorted_by(|a, b| a < b), "a list of waiting sessions is out of order")?;
        must(waits.iter().all(|s| self.attachment_of(volume, *s).is_some()), "a session is waited for that holds nothing")
    }

    /// Whether a limbo entry can begin.
    pub(super) fn limbo_fits(&self, no: u64, left: &[(VolAu, MapEntry)]) -> Result<()> {
        must(left.is_empty() || no == self.counters.limbo && no < u64::MAX, "limbo has a number that is not the next")
    }

    /// What left the maps waits here; nothing where nothing did.
    pub(super) fn limbo_entered(&mut self, no: u64, volume: VolumeId, left: &[(VolAu, MapEntry)], waits: &[SessionNo]) {
        if left.is_empty() {
            return;
        }
        let places = Self::places(left.iter().map(|(_, e)| e));
        let aus: BTreeSet<VolAu> = left.iter().map(|(au, _)| *au).collect();
        self.limbo.insert(no, LimboEntry { no, volume, aus: aus.into_iter().collect(), places, waits: waits.to_vec() });
        self.counters.limbo = no + 1;
    }

    /// Takes up a segment that fits; its places have an owner already, or are taken by the caller.
    pub(super) fn segment_begun(&mut self, volume: VolumeId, segment: Segment) {
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.entry.next_segment = v.entry.next_segment.max(segment.no + 1);
            v.segments.insert(segment.no, segment);
        }
    }

    /// Keeps of what changed only what an increment can ask for: the epochs after the oldest snapshot.
    pub(super) fn forget_changes(&mut self, volume: VolumeId) {
        let oldest = self.snapshots.values().filter(|s| s.entry.volume == volume).map(|s| s.entry.epoch).min();
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.changed.retain(|epoch, _| oldest.is_some_and(|o| *epoch > o));
        }
    }
}
