//! Records of a takeover without a fence (PROTOCOL.md, T1-T4): what the manager has to copy to, and the one transaction that ends an attachment whose
//! writer is not proven dead.
//!
//! After it no map names a place that the old writer could still write: its marked and fresh AUs lie elsewhere in the live map and in all snapshots, so
//! do the records of its open preserve segments. The former places, its reserve and its journal are in quarantine for its session, which stands
//! until it is proven drained.

use super::apply_copy::Copying;
use super::fits::{Left, all_of, entries_fit, entries_of, legs_fit};
use super::record::{KeptEntry, Takeover};
use super::reserve::{Reserve, spots};
use super::{Catalog, must, unfit};
use fusevol_shared::change::{Journal, Places, Segment};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{FenceToken, Generation, SessionNo, SnapshotId};
use fusevol_shared::map::{Leg, LegState, MapEntry};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::{DiskAu, VolAu};
use std::collections::{BTreeMap, BTreeSet};

/// Most AUs that a takeover copies: their record must fit into one transaction.
pub const TAKEOVER_MAX: usize = 65_536;

/// What open snapshots may still read; [`KeptEntry`] is the same in a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    no: u64,
    /// Who has what open.
    pub opens: BTreeSet<(SnapshotId, SessionNo)>,
    /// Which places.
    pub places: BTreeSet<DiskAu>,
    /// Those of them that nothing else holds.
    pub freed: BTreeSet<DiskAu>,
}

impl Kept {
    pub(super) fn entry(&self) -> KeptEntry {
        let (no, opens) = (self.no, self.opens.iter().copied().collect());
        KeptEntry { no, opens, places: self.places.iter().copied().collect(), freed: self.freed.iter().copied().collect() }
    }
}

/// A takeover that fits.
struct Fitting {
    session: SessionNo,
    /// Each AU as it was, and as it will be.
    moves: Vec<(VolAu, MapEntry, MapEntry)>,
    /// Of what was granted to it.
    used: BTreeSet<Vec<DiskAu>>,
}

impl Catalog {
    pub(super) fn takeover_granted(&mut self, token: FenceToken, places: &[Places]) -> Result<()> {
        let (a, v) = self.writing(token)?;
        let sealed = self.session(a.session).is_some_and(|s| s.sealed);
        must(sealed, "a takeover of a session that is not sealed")?;
        let new = spots(places, TAKEOVER_MAX).ok_or_else(|| unfit("what a takeover is granted does not fit together"))?;
        must(!new.is_empty() && new.iter().all(|l| legs_fit(l, v.entry.legs)), "what a takeover is granted does not fit its volume")?;
        let flat: Vec<DiskAu> = new.iter().flatten().copied().collect();
        must(self.all_free(&flat), "a takeover is granted a place that is not free")?;
        self.take(flat);
        self.taking.entry(token).or_default().add(new);
        Ok(())
    }

    /// What it copied may still land, whatever becomes of the session: its places are the copier's until that is proven drained.
    pub(super) fn takeover_dropped(&mut self, token: FenceToken, generation: Generation) -> Result<()> {
        let dropped = self.taking.remove(&token).ok_or_else(|| unfit("a takeover is dropped that did not begin"))?;
        self.copying.extend(dropped.places().map(|p| (p, Copying { generation, target: None })));
        Ok(())
    }

    pub(super) fn taken_over(&mut self, t: &Takeover) -> Result<()> {
        let Fitting { session, moves, used } = self.takeover_fits(t)?;
        let Some(a) = self.attachments.remove(&t.token) else { return Err(unfit("a takeover of nothing")) };
        let ended = self.segments_ended(t, &a);
        self.keep_for_readers(&a, &moves, &ended);
        self.move_all(&a, &moves);
        let former: Vec<Left> = moves.iter().map(|(au, was, _)| all_of(*au, was)).collect();
        for place in former.iter().flat_map(|(_, places)| places) {
            self.late.entry(*place).or_insert(session);
        }
        self.limbo_entered(t.limbo, a.volume, &former, &t.waits);
        let mut taking = self.taking.remove(&t.token).unwrap_or_default();
        taking.remove(&used);
        let journal = a.journal.iter().flat_map(Journal::places);
        let mut aside: Vec<DiskAu> = journal.chain(ended).chain(taking.places()).collect();
        if holds(Tag::T3) {
            aside.extend(a.reserve.places());
        } else {
            self.release(a.reserve.places().collect::<Vec<_>>());
        }
        self.quarantined(session, aside);
        t.segments.iter().for_each(|s| self.segment_begun(a.volume, s.clone()));
        Ok(())
    }

    fn takeover_fits(&self, t: &Takeover) -> Result<Fitting> {
        let (a, v) = self.writing(t.token)?;
        must(self.session(a.session).is_some_and(|s| s.sealed), "a takeover of a session that is not sealed")?;
        must(t.closing == a.folded, "a journal is closed at a number that is not folded")?;
        let entries = entries_of(&t.moves)?;
        entries_fit(v, self.aus_of(v.entry.size)?, &entries)?;
        let none = Reserve::default();
        let taking = self.taking.get(&t.token).unwrap_or(&none);
        let (mut used, mut moves) = (BTreeSet::new(), Vec::new());
        for (au, new) in entries {
            let was = v.map.get(au).filter(|was| was.written == new.written);
            let was = was.ok_or_else(|| unfit("a takeover moves an AU that is not as it says"))?;
            let plain = |l: &Leg| l.generation.0 == 0 && l.state == LegState::InSync;
            must(new.legs().iter().all(plain), "a place that was copied to is not new")?;
            let legs: Vec<DiskAu> = new.legs().iter().map(|l| l.at).collect();
            must(taking.has(&legs) && used.insert(legs), "a takeover uses a place that it was not granted")?;
            moves.push((au, was, new));
        }
        let again = |s: &&Segment| t.ended.contains(&s.no);
        let next = t.segments.iter().filter(|s| !again(s)).zip(u64::from(v.entry.next_segment)..);
        must(
            next.into_iter().all(|(s, no)| u64::from(s.no) == no && s.no < u32::MAX),
            "a preserve segment has a number that is not the next",
        )?;
        let numbers: BTreeSet<u32> = t.segments.iter().map(|s| s.no).collect();
        must(numbers.len() == t.segments.len(), "a preserve segment is laid down twice")?;
        let as_it_was = |s: &Segment| v.segments.get(&s.no).is_none_or(|was| was.epoch == s.epoch);
        for s in &t.segments {
            must(as_it_was(s), "a preserve segment is laid down in another epoch")?;
            must(s.token == t.token && s.session == a.session, "a preserve segment of another attachment")?;
            must(s.epoch < v.entry.epoch && legs_fit(&s.legs, v.entry.legs), "a preserve segment does not fit its volume")?;
            must(taking.has(&s.legs) && used.insert(s.legs.clone()), "a takeover uses a place that it was not granted")?;
        }
        let own = |no: &u32| v.segments.get(no).is_some_and(|s| s.token == t.token);
        must(t.ended.iter().all(own) && t.ended.is_sorted_by(|x, y| x < y), "a takeover ends segments that are not the writer's")?;
        self.waits_fit(a.volume, &t.waits)?;
        let left: Vec<Left> = moves.iter().map(|(au, was, _)| all_of(*au, was)).collect();
        self.limbo_fits(t.limbo, &left)?;
        Ok(Fitting { session: a.session, moves, used })
    }

    /// Takes the ended segments out; gives their places, and those that they had lost.
    fn segments_ended(&mut self, t: &Takeover, a: &super::Attachment) -> Vec<DiskAu> {
        let Some(v) = self.volumes.get_mut(&a.volume) else { return Vec::new() };
        let of = |no: &u32| {
            let (segment, husks) = (v.segments.remove(no), v.husks.remove(no));
            segment.into_iter().flat_map(|s| s.legs).chain(husks.into_iter().flatten()).collect::<Vec<_>>()
        };
        t.ended.iter().flat_map(of).collect()
    }

    /// Who has a snapshot open goes on with the map and the segments that it has: what it reads there is right as long as nobody else writes there.
    fn keep_for_readers(&mut self, a: &super::Attachment, moves: &[(VolAu, MapEntry, MapEntry)], ended: &[DiskAu]) {
        let of = |id: &SnapshotId| self.snapshots.get(id).filter(|s| s.entry.volume == a.volume);
        let opens: BTreeSet<_> = self.opens.iter().filter(|(id, _)| of(id).is_some()).copied().collect();
        if opens.is_empty() {
            return;
        }
        let read = |au: &VolAu, was: &MapEntry| {
            opens.iter().filter_map(|(id, _)| of(id)).any(|s| s.map.get(*au).is_some_and(|e| e.legs() == was.legs()))
        };
        let moved = moves.iter().filter(|(au, was, _)| read(au, was));
        let places: BTreeSet<DiskAu> = Self::places(moved.map(|(_, was, _)| was)).into_iter().chain(ended.iter().copied()).collect();
        if places.is_empty() {
            return;
        }
        let no = self.counters.quarantine;
        self.counters.quarantine = no + 1;
        self.kept.insert(no, Kept { no, opens, places, freed: BTreeSet::new() });
    }

    /// The live map and every snapshot that shares a former place have the new one.
    fn move_all(&mut self, a: &super::Attachment, moves: &[(VolAu, MapEntry, MapEntry)]) {
        for s in self.snapshots.values_mut().filter(|s| s.entry.volume == a.volume) {
            for (au, was, new) in moves {
                if let Some(e) = s.map.get(*au).filter(|e| e.legs() == was.legs()) {
                    s.map.set(*au, MapEntry::new(new.legs(), e.written));
                }
            }
        }
        if let Some(v) = self.volumes.get_mut(&a.volume) {
            moves.iter().for_each(|(au, _, new)| v.map.set(*au, Some(*new)));
            v.entry.version.0 += 1;
        }
    }

    /// Snapshots are closed: what was kept for their readers alone is free.
    pub(super) fn opens_over(&mut self, over: impl Fn(&(SnapshotId, SessionNo)) -> bool) {
        self.kept.values_mut().for_each(|k| k.opens.retain(|o| !over(o)));
        let (gone, left): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.kept).into_iter().partition(|(_, k)| k.opens.is_empty());
        self.kept = left;
        for k in gone.into_values() {
            self.release(k.freed);
        }
    }

    pub(super) fn fresh_loaded(&mut self, token: FenceToken, regions: &[(fusevol_shared::change::Region, u64)]) -> Result<()> {
        let (a, _) = self.writing(token)?;
        let all: Vec<_> = a.fresh.regions().into_iter().chain(regions.iter().copied()).collect();
        let fresh = super::fresh::Fresh::new(&all).ok_or_else(|| unfit("AUs that are not at rest come twice"))?;
        if let Some(a) = self.attachments.get_mut(&token) {
            a.fresh = fresh;
        }
        Ok(())
    }

    pub(super) fn kept_loaded(&mut self, e: &KeptEntry) -> Result<()> {
        let (opens, places) = (e.opens.iter().copied().collect::<BTreeSet<_>>(), e.places.iter().copied().collect::<BTreeSet<_>>());
        let freed: BTreeSet<DiskAu> = e.freed.iter().copied().collect();
        must(!self.kept.contains_key(&e.no) && !opens.is_empty(), "what open snapshots may read comes twice, or is nobody's")?;
        must(
            opens.iter().all(|o| self.opens.contains(o)) && freed.is_subset(&places),
            "what open snapshots may read does not fit together",
        )?;
        must(self.all_free(&e.freed), "an AU gets a second owner")?;
        self.take(e.freed.clone());
        self.kept.insert(e.no, Kept { no: e.no, opens, places, freed });
        Ok(())
    }
}
