//! Records of the manager's own copier: for volumes that nobody writes.
//!
//! ```text
//!  free --CopyBegun--> the copier's --Copied--> a leg of the AU          a stale leg --CopyBegun--> the same, a target --Copied--> in sync
//!                           '------CopyEnded--> free                           '--- its AU goes ---> the copier's --CopyEnded--> free
//! ```
//! A manager that died may still write where its copier wrote (PROTOCOLS, K1): what it had begun and not ended stays the copier's until that is
//! proven drained, and stale legs that it was writing to are legs no more. So nothing is lost, and what lands late lands where nobody reads.

use super::fits::{Left, legs_fit};
use super::record::{Base, Copied, CopyTarget, Record};
use super::{Catalog, must, unfit};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{Generation, SessionNo, VolumeId};
use fusevol_shared::map::{Leg, LegState, MapEntry};
use fusevol_shared::units::{DiskAu, VolAu};
use std::collections::BTreeSet;

/// A place to which a manager's copier may still write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copying {
    /// Which manager's.
    pub generation: Generation,
    /// It is a leg of this AU; none where nobody has it but the copier.
    pub target: Option<(VolumeId, VolAu)>,
}

impl Catalog {
    /// What a volume has under this name at this AU, in its live map or a snapshot's.
    #[must_use]
    pub fn named(&self, volume: VolumeId, au: VolAu, name: DiskAu) -> Option<MapEntry> {
        let live = self.volume(volume).and_then(|v| v.map.get(au));
        let frozen = self.snapshots.values().filter(|s| s.entry.volume == volume).filter_map(|s| s.map.get(au));
        live.into_iter().chain(frozen).find(|e| e.name() == name)
    }

    /// Gives an AU of this name these legs, wherever it is.
    fn relegged(&mut self, volume: VolumeId, au: VolAu, name: DiskAu, legs: &MapEntry) {
        if let Some(v) = self.volumes.get_mut(&volume)
            && let Some(e) = v.map.get(au).filter(|e| e.name() == name)
        {
            v.map.set(au, MapEntry::new(legs.legs(), e.written));
        }
        self.freeze_legs(volume, au, name, legs);
    }

    fn has_stale(&self, t: &CopyTarget) -> bool {
        let live = self.volume(t.volume).and_then(|v| v.map.get(t.au));
        let frozen = self.snapshots.values().filter(|s| s.entry.volume == t.volume).filter_map(|s| s.map.get(t.au));
        live.into_iter().chain(frozen).any(|e| e.legs().iter().any(|l| l.at == t.at && l.state == LegState::Stale))
    }

    pub(super) fn copy_begun(&mut self, generation: Generation, fresh: &[DiskAu], targets: &[CopyTarget]) -> Result<()> {
        must(self.all_free(fresh), "a copy is made at a place that is not free")?;
        let once: BTreeSet<DiskAu> = targets.iter().map(|t| t.at).collect();
        must(once.len() == targets.len() && once.iter().all(|p| !self.copying.contains_key(p)), "a leg is copied to twice")?;
        must(targets.iter().all(|t| self.has_stale(t) && self.writer(t.volume).is_none()), "a leg is copied to that is not stale")?;
        self.take(fresh.iter().copied());
        self.copying.extend(fresh.iter().map(|p| (*p, Copying { generation, target: None })));
        self.copying.extend(targets.iter().map(|t| (t.at, Copying { generation, target: Some((t.volume, t.au)) })));
        Ok(())
    }

    pub(super) fn copied(&mut self, volume: VolumeId, copies: &[Copied], limbo: u64, waits: &[SessionNo]) -> Result<()> {
        must(self.writer(volume).is_none(), "copies are made under a writer")?;
        let legs = self.volume(volume).ok_or_else(|| unfit("copies of no volume"))?.entry.legs;
        let snapshots = self.snapshots_of(volume);
        let mut used: BTreeSet<DiskAu> = BTreeSet::new();
        let mut left: Vec<Left> = Vec::new();
        let mut all = Vec::new();
        for c in copies {
            must(legs_fit(&c.legs, legs), "the replicas of an AU do not fit its volume")?;
            let e = self.named(volume, c.au, c.name).ok_or_else(|| unfit("copies of an AU that is not there"))?;
            let own = |p: &DiskAu| self.copying.get(p).is_some_and(|x| x.target.is_none());
            let has = |p: &DiskAu| e.legs().iter().any(|l| l.at == *p && l.state != LegState::Gone);
            must(c.legs.iter().all(|p| (has(p) || own(p)) && used.insert(*p)), "a copy lies where none was made")?;
            let new = e.placed(&c.legs, Self::shared(&snapshots, c.au, &e)).ok_or_else(|| unfit("an AU gets too many copies"))?;
            let gone: Vec<DiskAu> = e.legs().iter().map(|l| l.at).filter(|at| new.legs().iter().all(|l| l.at != *at)).collect();
            left.extend((!gone.is_empty()).then_some((c.au, gone)));
            all.push((c.au, c.name, new));
        }
        self.waits_fit(volume, waits)?;
        self.limbo_fits(limbo, &left)?;
        for (au, name, new) in all {
            self.relegged(volume, au, name, &new);
        }
        used.iter().for_each(|p| _ = self.copying.remove(p));
        self.limbo_entered(limbo, volume, &left, waits);
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.entry.version.0 += 1;
        }
        Ok(())
    }

    pub(super) fn segment_placed(&mut self, volume: VolumeId, no: u32, legs: &[DiskAu]) -> Result<()> {
        let v = self.volume(volume).ok_or_else(|| unfit("a preserve segment of no volume"))?;
        let s = v.segments.get(&no).ok_or_else(|| unfit("copies of a preserve segment that is not there"))?;
        let own = |p: &DiskAu| self.copying.get(p).is_some_and(|x| x.target.is_none());
        let once: BTreeSet<&DiskAu> = legs.iter().collect();
        must(legs_fit(legs, v.entry.legs) && once.len() == legs.len(), "the copies of a preserve segment do not fit its volume")?;
        must(legs.iter().any(|p| s.legs.contains(p)), "a preserve segment loses all that it had")?;
        must(legs.iter().all(|p| s.legs.contains(p) || own(p)), "a preserve segment lies where it was not copied to")?;
        let lost: Vec<DiskAu> = s.legs.iter().filter(|p| !legs.contains(p)).copied().collect();
        legs.iter().for_each(|p| _ = self.copying.remove(p));
        let Some(v) = self.volumes.get_mut(&volume) else { return Ok(()) };
        if let Some(s) = v.segments.get_mut(&no) {
            s.legs = legs.to_vec();
        }
        if !lost.is_empty() {
            v.husks.entry(no).or_default().extend(lost);
        }
        Ok(())
    }

    pub(super) fn copy_ended(&mut self, places: &[DiskAu]) -> Result<()> {
        let once: BTreeSet<&DiskAu> = places.iter().collect();
        must(once.len() == places.len() && places.iter().all(|p| self.copying.contains_key(p)), "a copy ends that was not begun")?;
        let own: Vec<DiskAu> = places.iter().filter_map(|p| self.copying.remove(p).filter(|c| c.target.is_none()).map(|_| *p)).collect();
        self.release(own);
        Ok(())
    }

    /// The AU of a target without that leg; a name stays, as what is given up.
    fn without(e: &MapEntry, at: DiskAu) -> Option<MapEntry> {
        let legs: Vec<Leg> = e
            .legs()
            .iter()
            .filter(|l| l.at != at || l.at == e.name())
            .map(|l| if l.at == at { Leg { state: LegState::Gone, ..*l } } else { *l })
            .collect();
        MapEntry::new(&legs, e.written)
    }

    pub(super) fn targets_lost(&mut self, places: &[DiskAu]) -> Result<()> {
        let mut all = Vec::new();
        for p in places {
            let target = self.copying.get(p).and_then(|c| c.target);
            let (volume, au) = target.ok_or_else(|| unfit("a leg is lost that was not copied to"))?;
            let live = self.volume(volume).and_then(|v| v.map.get(au));
            let frozen = self.snapshots.values().filter(|s| s.entry.volume == volume).filter_map(|s| s.map.get(au));
            let has = |e: &MapEntry| e.legs().iter().any(|l| l.at == *p && l.state == LegState::Stale);
            let e = live.into_iter().chain(frozen).find(has).ok_or_else(|| unfit("a leg is lost that is not stale"))?;
            all.push((*p, volume, au, e.name()));
        }
        for (p, volume, au, name) in all {
            // One AU may lose two.
            let Some(new) = self.named(volume, au, name).and_then(|e| Self::without(&e, p)) else { continue };
            self.relegged(volume, au, name, &new);
            if p != name
                && let Some(c) = self.copying.get_mut(&p)
            {
                c.target = None;
            }
            if let Some(v) = self.volumes.get_mut(&volume) {
                v.entry.version.0 += 1;
            }
        }
        Ok(())
    }

    pub(super) fn copying_loaded(&mut self, generation: Generation, own: &[DiskAu], targets: &[CopyTarget]) -> Result<()> {
        must(self.all_free(own), "an AU gets a second owner")?;
        let taken = |p: &DiskAu| self.disk(p.disk).is_some_and(|d| d.space.holds(p.au) && !d.space.is_free(p.au));
        must(targets.iter().all(|t| taken(&t.at) && !self.copying.contains_key(&t.at)), "a leg that is copied to is nobody's")?;
        self.take(own.iter().copied());
        self.copying.extend(own.iter().map(|p| (*p, Copying { generation, target: None })));
        self.copying.extend(targets.iter().map(|t| (t.at, Copying { generation, target: Some((t.volume, t.au)) })));
        Ok(())
    }

    pub(super) fn dump_copying(&self, out: &mut Vec<Record>) {
        for generation in self.copying.values().map(|c| c.generation).collect::<BTreeSet<_>>() {
            let of = || self.copying.iter().filter(move |(_, c)| c.generation == generation);
            let own = of().filter(|(_, c)| c.target.is_none()).map(|(p, _)| *p).collect();
            let target = |(p, c): (&DiskAu, &Copying)| c.target.map(|(volume, au)| CopyTarget { volume, au, at: *p });
            let targets = of().filter_map(target).collect();
            out.push(Record::Base(Base::Copying { generation, own, targets }));
        }
    }
}
