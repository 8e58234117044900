//! The fold of a writer's appends, in order, each once (PROTOCOL.md, F2).
//!
//! All appends of a record are laid out in a [`Draft`] first, beside the state; only a draft that fits to its end is taken over. So a
//! record that does not fit changes nothing, and what one entry needs of those before it (an AU that is bound, discarded and
//! bound again; a snapshot that is taken between two writes) it finds in the draft.

use super::fits::{Left, all_of, entries_fit, entries_of, legs_fit};
use super::fresh::Step;
use super::record::SnapshotEntry;
use super::{Attachment, Catalog, Snapshot, Volume, must, unfit};
use fusevol_shared::change::{Append, Entry, Placed, Region};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, SnapshotId, VolumeEpoch};
use fusevol_shared::map::{AuMask, Leg, LegState, MapEntry, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::{DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::Segment;
use std::collections::{BTreeMap, BTreeSet};

type Changed = BTreeMap<VolumeEpoch, BTreeMap<VolAu, BlockMask>>;

/// What a fold does, not done yet.
struct Draft<'a> {
    catalog: &'a Catalog,
    a: &'a Attachment,
    volume: &'a Volume,
    snapshots: Vec<&'a Snapshot>,
    /// AUs of the volume.
    aus: u32,
    done: Done,
}

/// The outcome, without the state that it was drawn up from.
struct Done {
    /// The epoch before the one in which the writer is.
    flipped: VolumeEpoch,
    /// Entries of the live map that are others now.
    map: BTreeMap<VolAu, Option<MapEntry>>,
    /// Out of the reserve.
    taken: BTreeSet<Vec<DiskAu>>,
    /// What the snapshots have of these AUs of these names from now on: the same legs as the live map.
    frozen: BTreeMap<(VolAu, DiskAu), MapEntry>,
    /// Disks whose legs of the volume miss writes.
    out: Vec<DiskNo>,
    /// Regions of AUs that were bound since the last flip.
    bound: BTreeSet<Region>,
    /// Places that left every map.
    left: Vec<Left>,
    /// Places that the session may still write.
    late: BTreeSet<DiskAu>,
    /// Of segments that are begun without some of their legs.
    husks: BTreeMap<u32, Vec<DiskAu>>,
    segments: Vec<Segment>,
    snapshot: Option<Snapshot>,
    broken: BTreeSet<SnapshotId>,
    changed: Changed,
    /// What becomes of the AUs that are not at rest.
    fresh: Vec<Step>,
}

fn change(changed: &mut Changed, epoch: VolumeEpoch, masks: impl IntoIterator<Item = AuMask>) {
    let of = changed.entry(epoch).or_default();
    for m in masks {
        let mask = of.entry(m.au).or_default();
        *mask = mask.or(m.blocks);
    }
}

impl<'a> Draft<'a> {
    fn new(catalog: &'a Catalog, token: FenceToken) -> Result<Self> {
        let (a, volume) = catalog.writing(token)?;
        let done = Done {
            flipped: a.flipped,
            map: BTreeMap::new(),
            taken: BTreeSet::new(),
            frozen: BTreeMap::new(),
            out: volume.out.clone(),
            bound: a.bound.clone(),
            husks: BTreeMap::new(),
            left: Vec::new(),
            late: BTreeSet::new(),
            segments: Vec::new(),
            snapshot: None,
            broken: BTreeSet::new(),
            changed: Changed::new(),
            fresh: Vec::new(),
        };
        let aus = catalog.aus_of(volume.entry.size)?;
        Ok(Self { catalog, a, volume, snapshots: catalog.snapshots_of(a.volume), aus, done })
    }

    fn get(&self, au: VolAu) -> Option<MapEntry> {
        self.done.map.get(&au).copied().unwrap_or_else(|| self.volume.map.get(au))
    }

    /// The epoch in which the writer is.
    fn epoch(&self) -> VolumeEpoch {
        VolumeEpoch(self.done.flipped.0.saturating_add(1))
    }

    fn take(&mut self, legs: Vec<DiskAu>) -> Result<()> {
        must(self.a.reserve.has(&legs), "a writer uses a place that is not in its reserve")?;
        must(self.done.taken.insert(legs), "a writer uses a place of its reserve twice")
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        match entry {
            Entry::Bound { runs } => self.bound(runs),
            Entry::Moved { runs } => self.moved(runs),
            Entry::Late { places } => self.late(places),
            Entry::Written { masks } => self.written(masks),
            Entry::Discarded { cleared } => self.discarded(cleared),
            Entry::Segment(segment) => self.segment(segment),
            Entry::Flipped { epoch, segment, dirty } => self.flipped(*epoch, segment, dirty),
            Entry::Broken { epoch } => self.broken(*epoch),
            Entry::Marked { epoch, regions } => {
                self.current(*epoch)?;
                self.regions(regions)?;
                self.marked(regions);
                Ok(())
            }
            Entry::Placed { runs } => self.placed(runs),
            Entry::Returned { disk } => self.returned(*disk),
            Entry::Cleared { epoch, regions, changed } => {
                self.current(*epoch)?;
                self.regions(regions)?;
                must(changed.iter().all(|c| c.au.0 < self.aus), "a change lies beyond its volume")?;
                change(&mut self.done.changed, *epoch, changed.iter().copied());
                self.done.fresh.push(Step::Cleared(regions.clone()));
                Ok(())
            }
        }
    }

    fn current(&self, epoch: VolumeEpoch) -> Result<()> {
        must(epoch == self.epoch(), "a mark is of an epoch in which the writer is not")
    }

    fn regions(&self, regions: &[Region]) -> Result<()> {
        must(regions.iter().all(|r| r.aus().start < self.aus), "a region lies beyond its volume")
    }

    fn bound(&mut self, runs: &[MapRun]) -> Result<()> {
        let entries = entries_of(runs)?;
        entries_fit(self.volume, self.aus, &entries)?;
        let fresh = |l: &Leg| l.generation.0 == 0 && l.state == LegState::InSync;
        must(entries.iter().all(|(_, e)| e.written.is_empty() && e.legs().iter().all(fresh)), "new space is not new")?;
        for (au, e) in entries {
            must(self.get(au).is_none(), "an AU gets space twice")?;
            self.take(e.legs().iter().map(|l| l.at).collect())?;
            self.begins(au, &e);
            self.done.fresh.push(Step::Bound(au));
        }
        Ok(())
    }

    /// An AU lies in new places. What is written there the legs that are out miss, from the first block on: one disk after the other, as it may
    /// have been written when only the first of them was out, and the last one has it then.
    fn begins(&mut self, au: VolAu, e: &MapEntry) {
        let out = &self.done.out;
        let missed = (1..=out.len()).fold(*e, |e, n| e.missed_by(&out[..n]));
        self.done.map.insert(au, Some(missed));
        if self.volume.entry.legs > 1 {
            self.done.bound.insert(au.region());
        }
    }

    /// What is about to be written the legs that are out miss.
    fn marked(&mut self, regions: &[Region]) {
        if self.done.out.is_empty() {
            return;
        }
        let end = self.aus;
        for au in regions.iter().flat_map(|r| r.aus()).filter(|au| *au < end).map(VolAu) {
            if let Some(e) = self.get(au) {
                let now = e.missed_by(&self.done.out);
                self.relegged(au, &e, now);
            }
        }
    }

    /// An AU has other legs, or in other states: in the snapshots that share it, too, the one of this fold among them.
    fn relegged(&mut self, au: VolAu, former: &MapEntry, e: MapEntry) {
        if e.legs() == former.legs() {
            return;
        }
        self.done.map.insert(au, Some(e));
        if Catalog::shared(&self.snapshots, au, former) {
            self.done.frozen.insert((au, former.name()), e);
        }
        if let Some(s) = &mut self.done.snapshot
            && let Some(f) = s.map.get(au).filter(|f| f.name() == former.name())
        {
            s.map.set(au, MapEntry::new(e.legs(), f.written));
        }
    }

    fn placed(&mut self, runs: &[Placed]) -> Result<()> {
        for run in runs {
            let each = run.each().filter(|e| !e.is_empty()).ok_or_else(|| unfit("copies of AUs do not fit together"))?;
            each.into_iter().try_for_each(|(au, legs)| self.place(au, &legs, run.named))?;
        }
        Ok(())
    }

    /// An AU has exactly these copies from now on. What the writer gives up on a disk that is out it may still write there.
    fn place(&mut self, au: VolAu, legs: &[DiskAu], named: bool) -> Result<()> {
        must(legs_fit(legs, self.volume.entry.legs), "the replicas of an AU do not fit its volume")?;
        let former = self.get(au).ok_or_else(|| unfit("an AU gets copies that has no space"))?;
        for place in legs {
            if !former.legs().iter().any(|l| l.at == *place && l.state != LegState::Gone) {
                self.take(vec![*place])?;
            }
        }
        let fresh = self.done.snapshot.iter().collect::<Vec<_>>();
        // A snapshot may be gone of which the writer has not heard: its word counts, so that both have one name.
        let shared = Catalog::shared(&self.snapshots, au, &former) || Catalog::shared(&fresh, au, &former);
        must(named || !shared, "an AU loses its name that a snapshot shares")?;
        let e = former.placed(legs, named).ok_or_else(|| unfit("an AU gets too many copies"))?;
        let given_up: Vec<DiskAu> = former.legs().iter().map(|l| l.at).filter(|at| !legs.contains(at)).collect();
        self.done.late.extend(given_up.iter().filter(|at| self.done.out.contains(&at.disk)));
        let left: Vec<DiskAu> = given_up.into_iter().filter(|at| e.legs().iter().all(|l| l.at != *at)).collect();
        self.relegged(au, &former, e);
        if !left.is_empty() {
            self.done.left.push((au, left));
        }
        Ok(())
    }

    fn returned(&mut self, disk: DiskNo) -> Result<()> {
        must(self.done.out.contains(&disk), "a disk returns that was not out")?;
        self.done.out.retain(|d| *d != disk);
        Ok(())
    }

    fn moved(&mut self, runs: &[MapRun]) -> Result<()> {
        let entries = entries_of(runs)?;
        entries_fit(self.volume, self.aus, &entries)?;
        let fresh = |l: &Leg| l.generation.0 == 0 && l.state == LegState::InSync;
        must(entries.iter().all(|(_, e)| e.legs().iter().all(fresh)), "a place that was moved to is not new")?;
        for (au, e) in entries {
            let former = self.get(au).ok_or_else(|| unfit("an AU is moved that has no space"))?;
            self.take(e.legs().iter().map(|l| l.at).collect())?;
            self.begins(au, &e);
            self.done.late.extend(former.legs().iter().map(|l| l.at));
            self.done.fresh.push(Step::Bound(au));
            self.leaves(au, former);
        }
        Ok(())
    }

    fn late(&mut self, places: &[DiskAu]) -> Result<()> {
        let of = |s: &Segment, p: &DiskAu| s.session == self.a.session && s.legs.contains(p);
        let segment = |p: &DiskAu| self.volume.segments.values().chain(&self.done.segments).any(|s| of(s, p));
        let husk = |p: &DiskAu| self.volume.husks.values().chain(self.done.husks.values()).flatten().any(|h| h == p);
        let own = |p: &DiskAu| self.a.reserve.holds(*p) || segment(p) || husk(p);
        must(places.iter().all(own), "a place is late that is not the writer's")?;
        self.done.late.extend(places);
        Ok(())
    }

    /// An entry is not in the live map any more: unless a snapshot shares it, it is in none.
    fn leaves(&mut self, au: VolAu, e: MapEntry) {
        let fresh = self.done.snapshot.iter().collect::<Vec<_>>();
        if !Catalog::shared(&self.snapshots, au, &e) && !Catalog::shared(&fresh, au, &e) {
            self.done.left.push(all_of(au, &e));
        }
    }

    fn written(&mut self, masks: &[AuMask]) -> Result<()> {
        for m in masks {
            let mut e = self.get(m.au).ok_or_else(|| unfit("a block is written that has no space"))?;
            e.written = e.written.or(m.blocks);
            self.done.map.insert(m.au, Some(e));
        }
        let epoch = self.epoch();
        change(&mut self.done.changed, epoch, masks.iter().copied());
        Ok(())
    }

    fn discarded(&mut self, cleared: &[AuMask]) -> Result<()> {
        let mut gone: BTreeMap<VolAu, BlockMask> = BTreeMap::new();
        for c in cleared {
            let mask = gone.entry(c.au).or_default();
            *mask = mask.or(c.blocks);
        }
        for (au, mask) in gone {
            let e = self.get(au).ok_or_else(|| unfit("a block is discarded that has no space"))?;
            if mask != BlockMask::ALL {
                self.done.map.insert(au, MapEntry::new(e.legs(), e.written.minus(mask)));
                continue;
            }
            self.done.map.insert(au, None);
            self.done.fresh.push(Step::Left(au));
            self.leaves(au, e);
        }
        let epoch = self.epoch();
        change(&mut self.done.changed, epoch, cleared.iter().copied());
        Ok(())
    }

    /// A segment of the epoch before the writer's: a reader of a snapshot looks at those of its own epoch and above.
    fn segment(&mut self, segment: &Segment) -> Result<()> {
        let next = u64::from(self.volume.entry.next_segment) + self.done.segments.len() as u64;
        must(u64::from(segment.no) == next && segment.no < u32::MAX, "a preserve segment has a number that is not the next")?;
        must(segment.epoch == self.done.flipped, "a preserve segment is not of the epoch before the writer's")?;
        must(segment.token == self.a.token && segment.session == self.a.session, "a preserve segment of another attachment")?;
        self.take(segment.legs.clone())?;
        // What is preserved the legs that are out miss: they do not belong to it, where others do.
        let (lost, left): (Vec<DiskAu>, Vec<DiskAu>) = segment.legs.iter().partition(|l| self.done.out.contains(&l.disk));
        let mut segment = segment.clone();
        if !left.is_empty() && !lost.is_empty() {
            segment.legs = left;
            self.done.late.extend(&lost);
            self.done.husks.insert(segment.no, lost);
        }
        self.done.segments.push(segment);
        Ok(())
    }

    fn flipped(&mut self, epoch: VolumeEpoch, segment: &Segment, dirty: &[Region]) -> Result<()> {
        self.regions(dirty)?;
        // A flip may come late, when its hold was dropped and another one began a further epoch.
        must(epoch > self.epoch() && epoch <= self.volume.entry.epoch, "a flip to an epoch that did not begin")?;
        self.done.flipped = VolumeEpoch(epoch.0 - 1);
        self.done.bound.clear();
        self.done.fresh.push(Step::Flipped);
        self.segment(segment)?;
        let due = self.volume.entry.pending.as_ref().filter(|_| epoch == self.volume.entry.epoch);
        if let Some(p) = due {
            let (volume, size) = (self.volume.entry.id, self.volume.entry.size);
            let closed = self.done.flipped;
            let entry = SnapshotEntry { id: p.id, volume, name: p.name.clone(), epoch: closed, size, created: p.created, broken: false };
            self.catalog.snapshot_fits(&entry)?;
            let mut map = self.volume.map.clone();
            self.done.map.iter().for_each(|(au, e)| map.set(*au, *e));
            self.done.snapshot = Some(Snapshot { entry, map });
        }
        Ok(())
    }

    fn broken(&mut self, epoch: VolumeEpoch) -> Result<()> {
        must(epoch <= self.done.flipped, "a snapshot breaks that is not taken")?;
        let old = self.snapshots.iter().filter(|s| s.entry.epoch <= epoch && !s.entry.broken).map(|s| s.entry.id);
        self.done.broken.extend(old);
        if let Some(s) = self.done.snapshot.as_mut().filter(|s| s.entry.epoch <= epoch) {
            s.entry.broken = true;
        }
        Ok(())
    }
}

impl Catalog {
    pub(super) fn folded(&mut self, token: FenceToken, prev: Seq, appends: &[Append], limbo: u64, waits: &[SessionNo]) -> Result<()> {
        let mut draft = Draft::new(self, token)?;
        if holds(Tag::F2) {
            must(prev == draft.a.folded, "appends are folded that do not follow the last")?;
        }
        let consecutive = appends.iter().zip(prev.0.saturating_add(1)..u64::MAX).all(|(a, n)| a.seq.0 == n);
        must(consecutive, "appends are folded out of order")?;
        let last = appends.last().map(|a| a.seq).ok_or_else(|| unfit("nothing is folded"))?;
        for entry in appends.iter().flat_map(|a| &a.entries) {
            draft.entry(entry).map_err(|e| e.within(format!("an append of attachment {token}")))?;
        }
        let (volume, session, done) = (draft.a.volume, draft.a.session, draft.done);
        self.waits_fit(volume, waits)?;
        self.limbo_fits(limbo, &done.left)?;
        self.limbo_entered(limbo, volume, &done.left, waits);
        self.late.extend(done.late.into_iter().map(|p| (p, session)));
        done.segments.into_iter().for_each(|s| self.segment_begun(volume, s));
        done.frozen.into_iter().for_each(|((au, name), e)| self.freeze_legs(volume, au, name, &e));
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.out = done.out;
            v.husks.extend(done.husks);
            done.map.into_iter().for_each(|(au, e)| v.map.set(au, e));
            for (epoch, masks) in done.changed {
                change(&mut v.changed, epoch, masks.into_iter().map(|(au, blocks)| AuMask { au, blocks }));
            }
            v.entry.version.0 += 1;
            v.entry.pending.take_if(|_| done.snapshot.is_some());
        }
        for s in self.snapshots.values_mut().filter(|s| done.broken.contains(&s.entry.id)) {
            s.entry.broken = true;
        }
        self.snapshots.extend(done.snapshot.map(|s| (s.entry.id, s)));
        if let Some(a) = self.attachments.get_mut(&token) {
            a.reserve.remove(&done.taken);
            a.flipped = done.flipped;
            a.bound = done.bound;
            a.folded = last;
            done.fresh.into_iter().for_each(|step| a.fresh.take(step));
        }
        self.forget_changes(volume);
        Ok(())
    }

    /// Everything that the regions hold, in the live map or a snapshot's, counts as changed in the writer's epoch; and of the copies in them, and
    /// in those that the writer had bound, one is right.
    pub(super) fn left_dirty(&mut self, token: FenceToken, regions: &[Region]) -> Result<()> {
        let (a, v) = self.writing(token)?;
        let (volume, epoch, aus) = (a.volume, a.epoch(), self.aus_of(v.entry.size)?);
        must(regions.iter().all(|r| r.aus().start < aus), "a region lies beyond its volume")?;
        let snapshots = self.snapshots_of(volume);
        let has = |au: &VolAu| v.map.get(*au).is_some() || snapshots.iter().any(|s| s.map.get(*au).is_some());
        let all: Vec<AuMask> = regions
            .iter()
            .flat_map(|r| r.aus())
            .map(VolAu)
            .filter(|au| au.0 < aus && has(au))
            .map(|au| AuMask { au, blocks: BlockMask::ALL })
            .collect();
        if let Some(v) = self.volumes.get_mut(&volume) {
            change(&mut v.changed, epoch, all);
        }
        self.forget_changes(volume);
        self.legs_left(token, regions);
        Ok(())
    }
}

/// AUs of the volume that these appends touch.
#[must_use]
pub fn touched(appends: &[Append]) -> BTreeSet<VolAu> {
    let mut aus = BTreeSet::new();
    for entry in appends.iter().flat_map(|a| &a.entries) {
        match entry {
            Entry::Bound { runs } | Entry::Moved { runs } => {
                aus.extend(runs.iter().flat_map(|r| (r.first.0..).take(r.written.len()).map(VolAu)));
            }
            Entry::Written { masks } => aus.extend(masks.iter().map(|m| m.au)),
            Entry::Discarded { cleared } => aus.extend(cleared.iter().map(|m| m.au)),
            Entry::Placed { runs } => aus.extend(runs.iter().flat_map(|r| (r.first.0..).take(r.places.count as usize).map(VolAu))),
            Entry::Segment(_)
            | Entry::Flipped { .. }
            | Entry::Broken { .. }
            | Entry::Returned { .. }
            | Entry::Marked { .. }
            | Entry::Cleared { .. }
            | Entry::Late { .. } => {}
        }
    }
    aus
}
