//! The manager's own copier: it makes the copies that volumes lack which nobody has attached for writing (PROTOCOL.md, B1).
//!
//! ```text
//!  a volume without a writer lacks copies -> CopyBegun is durable -> Copy (read, compare, write, flush) -> BlocksCopied
//!     -> Copied, CopyEnded; the places that are left wait in limbo            -> the next batch, as the limit allows
//!  AttachWrite meanwhile waits for the batch that is under way; no other is begun
//! ```
//! An AU is left alone while a leg of it is on a disk that is out and may return. One of which no copy can be read is a hole: said, and
//! passed over; others go on. What a former manager had under way is settled first: see [`crate::catalog`].

use super::admin_api::Level;
use super::recovery::lacks;
use super::{Core, Effect};
use crate::catalog::alloc::Wish;
use crate::catalog::record::{Copied, CopyTarget, Record};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::Result;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::map::{LegState, MapEntry};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{DiskAu, DiskNo, VolAu};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// AUs in one batch, and batches of all volumes at once.
const BATCH: usize = 8;
const BATCHES: usize = 4;
/// AUs that one step looks at.
const LOOK: usize = 4096;
/// How long nothing is tried again after nothing could be done, and a disk that failed as a target is left alone.
const REST: Duration = Duration::from_secs(1);
const BAD: Duration = Duration::from_secs(30);
/// Most holes of a volume that are remembered.
const HOLES: usize = 4096;

/// One AU to be copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyJob {
    /// Copies that are equal; the first that can be read is the source.
    pub from: Vec<DiskAu>,
    /// Where it goes.
    pub to: Vec<DiskAu>,
    /// Of which blocks.
    pub blocks: BlockMask,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyEnd {
    /// Which of the targets are equal now, and flushed.
    pub done: Vec<DiskAu>,
    /// Which may still be written: the disk has not answered.
    pub late: Vec<DiskAu>,
    /// Bytes that were written.
    pub written: u64,
    /// No copy could be read.
    pub unreadable: bool,
    /// What failed, for people.
    pub why: String,
}

/// One AU of a batch.
#[derive(Clone, Debug)]
struct Task {
    au: VolAu,
    name: DiskAu,
    kept: Vec<DiskAu>,
    job: CopyJob,
}

#[derive(Debug)]
struct Batch {
    id: u64,
    tasks: Vec<Task>,
}

/// How far the copier is with a volume. `from`: the map (0: live, then the snapshots, oldest first) and the AU to look at next.
#[derive(Debug, Default)]
pub(super) struct Copier {
    batch: Option<Batch>,
    from: (usize, VolAu),
    pub next: BootTime,
    pub says: String,
    pub holes: BTreeSet<(VolAu, DiskAu)>,
}

impl Copier {
    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.batch.is_some()
    }
}

/// AUs that lack copies, and where it goes on: which map, from which AU.
type Lacking = (Vec<(VolAu, MapEntry)>, (usize, VolAu));

impl Core {
    /// What a former manager had under way: over, if it is proven drained; else its fresh places stay, and its targets are legs no more.
    pub(super) fn settle_copies(&mut self) {
        let (drained, now) = (self.config.drained, self.generation);
        let old: Vec<(DiskAu, bool)> =
            self.catalog.copying().filter(|(_, c)| c.generation != now).map(|(p, c)| (p, c.target.is_some())).collect();
        if old.is_empty() {
            return;
        }
        if drained {
            return self.commit_or_tell(Record::CopyEnded { places: old.into_iter().map(|(p, _)| p).collect() });
        }
        let stale = |p: &DiskAu| {
            let target = self.catalog.copying().find(|(at, _)| at == p).and_then(|(_, c)| c.target);
            target.is_some_and(|(v, au)| {
                self.entries(v, au).iter().any(|e| e.legs().iter().any(|l| l.at == *p && l.state == LegState::Stale))
            })
        };
        let places: Vec<DiskAu> = old.into_iter().filter(|(p, target)| *target && stale(p)).map(|(p, _)| p).collect();
        if !places.is_empty() {
            self.commit_or_tell(Record::TargetsLost { places });
        }
    }

    /// What the maps of a volume have at an AU.
    fn entries(&self, volume: VolumeId, au: VolAu) -> Vec<MapEntry> {
        let live = self.catalog.volume(volume).and_then(|v| v.map.get(au));
        live.into_iter().chain(self.catalog.snapshots_of(volume).iter().filter_map(|s| s.map.get(au))).collect()
    }

    /// Whether a batch of this volume is under way: nobody may begin to write it.
    pub(super) fn is_copied(&self, volume: VolumeId) -> bool {
        self.copiers.get(&volume).is_some_and(Copier::is_busy)
    }

    /// Begins what can be begun now.
    pub(super) fn copies_due(&mut self) {
        let now = self.now.boot;
        let due: Vec<VolumeId> = self.copiers.iter().filter(|(_, c)| !c.is_busy() && c.next <= now).map(|(v, _)| *v).collect();
        for volume in due {
            if self.copiers.values().filter(|c| c.is_busy()).count() >= BATCHES {
                return;
            }
            self.copy_some(volume);
        }
    }

    /// When the copier wants to be called next.
    pub(super) fn copies_next(&self) -> Option<BootTime> {
        let full = self.copiers.values().filter(|c| c.is_busy()).count() >= BATCHES;
        if full { None } else { self.copiers.values().filter(|c| !c.is_busy()).map(|c| c.next).min() }
    }

    /// Whether the manager is to copy for this volume now.
    fn copies_for(&self, volume: VolumeId) -> bool {
        let attaching = self.pending.keys().any(|(v, _)| *v == volume);
        self.catalog.volume(volume).is_some_and(|v| !v.paused) && self.catalog.writer(volume).is_none() && !attaching && !self.tight
    }

    /// Volumes that lack copies have a copier, others have none.
    pub(super) fn copier_of(&mut self, volume: VolumeId, todo: u64) {
        if todo > 0 && self.catalog.volume(volume).is_some() {
            self.copiers.entry(volume).or_default();
        } else if !self.is_copied(volume) {
            self.copiers.remove(&volume);
        }
    }

    fn copy_some(&mut self, volume: VolumeId) {
        let rest = self.now.boot.plus(REST);
        if !self.copies_for(volume) {
            if let Some(c) = self.copiers.get_mut(&volume) {
                (c.next, c.says) = (rest, String::new());
            }
            return;
        }
        let mut says = String::new();
        let (tasks, over) = self.find_tasks(volume, &mut says);
        let Some(c) = self.copiers.get_mut(&volume) else { return };
        if over {
            c.from = (0, VolAu(0));
        }
        if !tasks.is_empty() {
            c.says = String::new();
            if let Err(e) = self.begin_batch(volume, tasks) {
                self.tell(Level::Critical, "internal", e.to_string());
            }
            return;
        }
        if over || !says.is_empty() {
            c.next = rest;
            if c.says != says && !says.is_empty() {
                let name = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
                self.tell(Level::Warning, "rebuild-waits", format!("the copies of volume '{name}' wait: {says}"));
            }
            if let Some(c) = self.copiers.get_mut(&volume) {
                c.says = says;
            }
        }
    }

    /// AUs to be copied, from where it was left on; and whether the end of the last map was reached.
    fn find_tasks(&mut self, volume: VolumeId, says: &mut String) -> (Vec<Task>, bool) {
        let (mut at, mut tasks, mut looked) = (self.copiers.get(&volume).map_or((0, VolAu(0)), |c| c.from), Vec::new(), 0);
        let mut fresh: Vec<DiskAu> = Vec::new();
        loop {
            let found = self.lacking(volume, at, LOOK - looked);
            let Some((entries, next)) = found else { return (tasks, true) };
            for (au, e) in entries {
                looked += 1;
                if tasks.len() >= BATCH || looked >= LOOK {
                    if let Some(c) = self.copiers.get_mut(&volume) {
                        c.from = (at.0, au);
                    }
                    return (tasks, false);
                }
                tasks.extend(self.task(volume, au, &e, &mut fresh, says));
            }
            at = next;
        }
    }

    /// Entries that lack copies of the map `at.0`, from `at.1` on, each name once; and where to go on. None past the last map.
    fn lacking(&self, volume: VolumeId, at: (usize, VolAu), most: usize) -> Option<Lacking> {
        let v = self.catalog.volume(volume)?;
        let snapshots = self.catalog.snapshots_of(volume);
        let map = if at.0 == 0 { &v.map } else { &snapshots.get(at.0 - 1)?.map };
        let copier = self.copiers.get(&volume)?;
        let lost = self.lost_disks(volume);
        let newer = |au: VolAu, e: &MapEntry| {
            let rest = snapshots.iter().skip(at.0).map(|s| &s.map).chain([&v.map]);
            at.0 > 0 && rest.into_iter().any(|m| m.get(au).is_some_and(|x| x.name() == e.name()))
        };
        let wanted =
            |(au, e): &(VolAu, MapEntry)| lacks(e, v.entry.legs, &lost) && !newer(*au, e) && !copier.holes.contains(&(*au, e.name()));
        Some((map.iter_from(at.1).filter(wanted).take(most.max(1)).collect(), (at.0 + 1, VolAu(0))))
    }

    /// What is to be done about an AU; nothing where that is to wait, which is said.
    fn task(&mut self, volume: VolumeId, au: VolAu, e: &MapEntry, fresh: &mut Vec<DiskAu>, says: &mut String) -> Option<Task> {
        let v = self.catalog.volume(volume)?;
        let (copies, out, given_up) = (usize::from(v.entry.legs), v.out.clone(), self.given_up(volume));
        let gone = |d: &DiskNo| given_up.contains(d);
        let legs = || e.legs().iter().filter(|l| l.state != LegState::Gone);
        if let Some(l) = legs().find(|l| out.contains(&l.at.disk) && !gone(&l.at.disk)) {
            *says = format!("disk {} may return", l.at.disk);
            return None;
        }
        let kept: Vec<DiskAu> = legs().filter(|l| l.state == LegState::InSync && !gone(&l.at.disk)).map(|l| l.at).collect();
        // What is given up is a source where nothing else is: it may answer yet.
        let from = if kept.is_empty() { legs().filter(|l| l.state == LegState::InSync).map(|l| l.at).collect() } else { kept.clone() };
        let need = copies.saturating_sub(kept.len());
        let is_bad = |d: DiskNo| self.bad_targets.get(&d).is_some_and(|until| *until > self.now.boot);
        let stale = legs().filter(|l| l.state == LegState::Stale && !gone(&l.at.disk) && !is_bad(l.at.disk));
        let busy = |p: &DiskAu| self.catalog.copying().any(|(at, _)| at == *p);
        let mut to: Vec<DiskAu> = stale.map(|l| l.at).filter(|p| !busy(p)).take(need).collect();
        let mut but: Vec<DiskNo> = out.iter().copied().chain(self.bad_targets.keys().copied().filter(|d| is_bad(*d))).collect();
        but.extend(given_up.iter().copied().chain(self.bad_disks()));
        while to.len() < need {
            let apart: Vec<DiskNo> = kept.iter().chain(&to).map(|p| p.disk).chain(from.iter().map(|p| p.disk)).collect();
            let wish = Wish { legs: 1, but: &but, apart: &apart };
            let (allocator, taken) = (&mut self.allocator, fresh.clone());
            let place = self.catalog.as_if_taken(&taken, |c| allocator.choose(c, wish, 1, 0));
            let Some(place) = place.and_then(|mut p| p.pop()).and_then(|mut l| l.pop()) else {
                "no other disk has room".clone_into(says);
                break;
            };
            fresh.push(place);
            to.push(place);
        }
        let blocks = self.entries(volume, au).iter().filter(|x| x.name() == e.name()).fold(BlockMask::NONE, |m, x| m.or(x.written));
        (!to.is_empty() && !from.is_empty()).then(|| Task { au, name: e.name(), kept, job: CopyJob { from, to, blocks } })
    }

    fn begin_batch(&mut self, volume: VolumeId, tasks: Vec<Task>) -> Result<()> {
        let generation = self.generation;
        let is_leg =
            |t: &Task, p: &DiskAu| self.entries(volume, t.au).iter().any(|e| e.name() == t.name && e.legs().iter().any(|l| l.at == *p));
        let places: Vec<(VolAu, DiskAu, bool)> = tasks.iter().flat_map(|t| t.job.to.iter().map(|p| (t.au, *p, is_leg(t, p)))).collect();
        let fresh = places.iter().filter(|(.., leg)| !leg).map(|(_, p, _)| *p).collect();
        let targets = places.iter().filter(|(.., leg)| *leg).map(|(au, at, _)| CopyTarget { volume, au: *au, at: *at }).collect();
        self.commit(Record::CopyBegun { generation, fresh, targets })?;
        self.batches += 1;
        let id = self.batches;
        let jobs = tasks.iter().map(|t| t.job.clone()).collect();
        if let Some(c) = self.copiers.get_mut(&volume) {
            c.batch = Some(Batch { id, tasks });
        }
        self.out.effects.push(Effect::Copy { batch: id, jobs });
        Ok(())
    }

    /// A batch is done, as far as it could be.
    pub(super) fn blocks_copied(&mut self, id: u64, ends: Vec<CopyEnd>) {
        let Some((volume, batch)) = self.copiers.iter_mut().find_map(|(v, c)| Some((*v, c.batch.take_if(|b| b.id == id)?))) else { return };
        let now = self.now.boot;
        let (mut copies, mut written) = (Vec::new(), 0);
        for (t, end) in batch.tasks.iter().zip(&ends) {
            written += end.written;
            for p in t.job.to.iter().filter(|p| !end.done.contains(p) && !end.unreadable) {
                self.bad_targets.insert(p.disk, now.plus(BAD));
            }
            if end.unreadable {
                self.hole(volume, t, &end.why);
            }
            let there = self.catalog.named(volume, t.au, t.name).is_some();
            let legs: Vec<DiskAu> = t.kept.iter().copied().chain(t.job.to.iter().copied().filter(|p| end.done.contains(p))).collect();
            if there && !end.done.is_empty() {
                copies.push(Copied { au: t.au, name: t.name, legs });
            }
        }
        let aus: BTreeSet<VolAu> = copies.iter().map(|c| c.au).collect();
        if !copies.is_empty() {
            let (limbo, waits) = (self.catalog.counters().limbo, self.all_users(volume, None));
            self.commit_or_tell(Record::Copied { volume, copies, limbo, waits: waits.clone() });
            if self.catalog.counters().limbo != limbo {
                self.limbo_entered(volume, &waits);
            }
            self.places_changed(volume, &aus);
            self.map_changed(volume, None, aus);
        }
        let late: BTreeSet<DiskAu> = ends.iter().flat_map(|e| &e.late).copied().collect();
        self.end_copies(&batch, &late);
        let limit = self.catalog.volume(volume).map_or(0, |v| v.limit);
        let pace = (written * 1000).checked_div(limit).map_or(Duration::ZERO, Duration::from_millis);
        if let Some(c) = self.copiers.get_mut(&volume) {
            c.next = now.plus(pace);
        }
        self.copy_is_over(volume);
    }

    /// What was not taken over is free again; but for what may still be written, which is nobody's until this manager is succeeded.
    fn end_copies(&mut self, batch: &Batch, late: &BTreeSet<DiskAu>) {
        let all: BTreeMap<DiskAu, bool> = self.catalog.copying().map(|(p, c)| (p, c.target.is_some())).collect();
        let to = || batch.tasks.iter().flat_map(|t| &t.job.to).copied();
        let ended: Vec<DiskAu> = to().filter(|p| all.contains_key(p) && !late.contains(p)).collect();
        if !ended.is_empty() {
            self.commit_or_tell(Record::CopyEnded { places: ended });
        }
        let lost: Vec<DiskAu> = to().filter(|p| all.get(p) == Some(&true) && late.contains(p)).collect();
        if !lost.is_empty() {
            self.commit_or_tell(Record::TargetsLost { places: lost });
        }
    }

    fn hole(&mut self, volume: VolumeId, t: &Task, why: &str) {
        let Some(c) = self.copiers.get_mut(&volume).filter(|c| c.holes.len() < HOLES) else { return };
        if c.holes.insert((t.au, t.name)) {
            let name = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
            let text = format!("no copy of AU {} of volume '{name}' can be read, it is left as it is: {why}", t.au);
            self.tell(Level::Critical, "rebuild-hole", text);
        }
    }
}
