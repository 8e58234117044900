//! What several records must hold to: parts of maps, places, limbo, preserve segments.

use super::record::LimboEntry;
use super::{Attachment, Catalog, Volume, must, unfit};
use fusevol_shared::change::Journal;
use fusevol_shared::error::Result;
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeId};
use fusevol_shared::map::{Leg, LegState, MapEntry, MapRun};
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::Segment;
use std::collections::BTreeSet;

/// Places that an AU of a volume had, and does not have any more.
pub(super) type Left = (VolAu, Vec<DiskAu>);

/// The places of an entry that leaves every map.
pub(super) fn all_of(au: VolAu, e: &MapEntry) -> Left {
    (au, e.legs().iter().map(|l| l.at).collect())
}

/// Most copies of a journal.
pub const JOURNAL_COPIES: usize = 2;

/// Whether these replicas can be those of one AU: as many as there should be or fewer, on different disks.
pub(super) fn legs_fit(legs: &[DiskAu], count: u8) -> bool {
    let disks: BTreeSet<_> = legs.iter().map(|l| l.disk).collect();
    (1..=usize::from(count)).contains(&legs.len()) && disks.len() == legs.len()
}

/// Whether an entry can be in a map: its copies on different disks, one of them in sync; one that is given up stands first, as the name.
pub(super) fn entry_fits(e: &MapEntry, count: u8) -> bool {
    let (gone, copies): (Vec<Leg>, Vec<Leg>) = e.legs().iter().partition(|l| l.state == LegState::Gone);
    let places: Vec<DiskAu> = copies.iter().map(|l| l.at).collect();
    let named = gone.iter().all(|l| l.at == e.name() && !places.contains(&l.at)) && gone.len() <= 1;
    named && legs_fit(&places, count) && e.first_in_sync().is_some()
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

/// Whether entries may be part of a map of this volume: inside it, each as an entry can be.
pub(super) fn entries_fit(volume: &Volume, aus: u32, entries: &[(VolAu, MapEntry)]) -> Result<()> {
    must(entries.iter().all(|(au, _)| au.0 < aus), "a map goes beyond its volume")?;
    must(entries.iter().all(|(_, e)| entry_fits(e, volume.entry.legs)), "the replicas of an AU do not fit its volume")
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

    /// Whether a session may have something of a volume in use: it has it attached, or reads a snapshot of it.
    pub(super) fn holds(&self, volume: VolumeId, session: SessionNo) -> bool {
        self.attachment_of(volume, session).is_some() || self.reads_frozen(volume, session)
    }

    /// A session holds nothing of a volume any more: it is not waited for.
    pub(super) fn waits_no_more(&mut self, volume: VolumeId, session: SessionNo) {
        if !self.holds(volume, session) {
            self.limbo.values_mut().filter(|l| l.volume == volume).for_each(|l| l.waits.retain(|s| *s != session));
        }
    }

    /// Whether a list of waiting sessions is one: ascending, each of which holds something of the volume.
    pub(super) fn waits_fit(&self, volume: VolumeId, waits: &[SessionNo]) -> Result<()> {
        must(waits.is_sorted_by(|a, b| a < b), "a list of waiting sessions is out of order")?;
        must(waits.iter().all(|s| self.holds(volume, *s)), "a session is waited for that holds nothing")
    }

    /// Whether a limbo entry can begin.
    pub(super) fn limbo_fits(&self, no: u64, left: &[Left]) -> Result<()> {
        must(left.is_empty() || no == self.counters.limbo && no < u64::MAX, "limbo has a number that is not the next")
    }

    /// What left the maps waits here; nothing where nothing did.
    pub(super) fn limbo_entered(&mut self, no: u64, volume: VolumeId, left: &[Left], waits: &[SessionNo]) {
        if left.is_empty() {
            return;
        }
        let places = left.iter().flat_map(|(_, places)| places).copied().collect();
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
