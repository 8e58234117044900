//! Preserve segments that lack copies: the manager lays them down at one more place, also while somebody writes the volume.
//!
//! ```text
//!  a segment has fewer legs than its volume, on disks that are not lost, and nobody writes in it
//!     -> CopyBegun is durable -> LayAgain (read, seal for the new place, write, durable) -> LaidAgain -> SegmentPlaced, or CopyEnded
//! ```
//! Nobody writes in a segment whose attachment is over, or that says on the disk which one goes on: that is seen when it is read. So a segment that is
//! still open is asked about again later; its writer goes over to another one once it misses a leg. What a segment lost stays its own until it is
//! dropped, as a reader may still have it. A segment of which all legs are lost is a hole: said, and passed over.

use super::admin_api::Level;
use super::{Core, Effect};
use crate::catalog::Volume;
use crate::catalog::alloc::Wish;
use crate::catalog::record::Record;
use fusevol_shared::change::Segment;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::Result;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::units::{DiskAu, DiskNo};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long nothing is tried again after the last segment was looked at.
const REST: Duration = Duration::from_secs(1);
/// How long a disk that failed as a target is left alone.
const BAD: Duration = Duration::from_secs(30);
/// Most segments of a volume that are remembered to be lost.
const LOST: usize = 4096;

/// One segment to be copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayJob {
    /// Of which volume.
    pub volume: VolumeId,
    /// Which; its legs may be others by now.
    pub segment: Segment,
    /// Its writer is gone: it is closed, whatever stands in it.
    pub over: bool,
    /// Legs that can be read, all with the same content.
    pub from: Vec<DiskAu>,
    /// Where it goes.
    pub to: DiskAu,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LayEnd {
    /// It is there, durable.
    Done,
    /// It may still be written to.
    Open,
    /// No leg can be read.
    Unreadable {
        /// Why, for people.
        why: String,
    },
    /// The new place cannot be written.
    Failed {
        /// Why, for people.
        why: String,
        /// The disk has not answered: something may land there yet.
        late: bool,
    },
}

/// How far it is with one volume.
#[derive(Debug, Default)]
pub(super) struct Laying {
    /// Under way: the question, which segment, and where it goes.
    at_work: Option<(u64, u32, DiskAu)>,
    /// The segment to be looked at next.
    from: u32,
    next: BootTime,
    lost: BTreeSet<u32>,
}

impl Laying {
    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.at_work.is_some()
    }

    /// Segments of which no leg is left.
    pub fn holes(&self) -> u64 {
        self.lost.len() as u64
    }
}

/// What is known to be whole of a segment.
fn whole(s: &Segment, lost: &[DiskNo]) -> Vec<DiskAu> {
    s.legs.iter().copied().filter(|l| !lost.contains(&l.disk)).collect()
}

/// Whether a segment has fewer copies than it should.
fn lacks(v: &Volume, s: &Segment, lost: &[DiskNo]) -> bool {
    whole(s, lost).len() < usize::from(v.entry.legs)
}

/// How many segments of a volume lack copies.
pub(super) fn lacking(v: &Volume, lost: &[DiskNo]) -> u64 {
    v.segments.values().filter(|s| lacks(v, s, lost)).count() as u64
}

impl Core {
    /// Begins what can be begun now, one segment of each volume at a time.
    pub(super) fn layings_due(&mut self) {
        let now = self.now.boot;
        let free = |v: &VolumeId| self.layings.get(v).is_none_or(|l| !l.is_busy() && l.next <= now);
        let due: Vec<VolumeId> = self.counted.iter().filter(|(v, c)| c.segments > 0 && free(v)).map(|(v, _)| *v).collect();
        for volume in due {
            self.lay_one(volume);
        }
    }

    /// When this wants to be called next.
    pub(super) fn layings_next(&self) -> Option<BootTime> {
        let lacking = self.counted.iter().filter(|(_, c)| c.segments > 0).map(|(v, _)| v);
        let next = |v: &VolumeId| self.layings.get(v).map_or(Some(self.now.boot), |l| (!l.is_busy()).then_some(l.next));
        lacking.filter_map(next).min()
    }

    /// Volumes that are gone, or have all their segments' copies, need not be remembered.
    pub(super) fn forget_layings(&mut self) {
        let counted = &self.counted;
        self.layings.retain(|v, l| l.is_busy() || counted.get(v).is_some_and(|c| c.segments > 0));
    }

    fn lay_one(&mut self, volume: VolumeId) {
        let rest = self.now.boot.plus(REST);
        self.layings.entry(volume).or_default().next = rest;
        let lost = self.lost_disks(volume);
        let found = self.lacking_segment(volume, &lost).cloned();
        if let Some(l) = self.layings.get_mut(&volume) {
            l.from = found.as_ref().map_or(0, |s| s.no + 1);
        }
        let Some(s) = found else { return };
        let from = whole(&s, &lost);
        if from.is_empty() {
            return self.segment_is_lost(volume, s.no, "all its copies are on disks that are given up");
        }
        if let Err(e) = self.begin_laying(volume, &s, from) {
            self.tell(Level::Critical, "internal", e.to_string());
        }
    }

    /// The next segment that can be copied.
    fn lacking_segment(&self, volume: VolumeId, lost: &[DiskNo]) -> Option<&Segment> {
        let v = self.catalog.volume(volume).filter(|v| !v.paused && !self.tight)?;
        let (laying, gone) = (self.layings.get(&volume)?, self.gone_disks(volume));
        let returns = |s: &Segment| s.legs.iter().any(|l| lost.contains(&l.disk) && !gone.contains(&l.disk));
        let wanted = |s: &&Segment| lacks(v, s, lost) && !returns(s) && !laying.lost.contains(&s.no) && self.may_be_closed(v, s);
        v.segments.range(laying.from..).map(|(_, s)| s).find(wanted)
    }

    /// Disks that do not come back.
    fn gone_disks(&self, volume: VolumeId) -> Vec<DiskNo> {
        let failed = self.catalog.disks().filter(|d| d.failed).map(|d| d.entry.no);
        self.given_up(volume).into_iter().chain(failed).collect()
    }

    /// Whether its writer may have closed it; what stands in it says more.
    fn may_be_closed(&self, v: &Volume, s: &Segment) -> bool {
        self.catalog.attachment(s.token).is_none() || v.segments.range(s.no + 1..).any(|(_, n)| n.token == s.token)
    }

    fn begin_laying(&mut self, volume: VolumeId, s: &Segment, from: Vec<DiskAu>) -> Result<()> {
        let now = self.now.boot;
        let bad = self.bad_targets.iter().filter(|(_, until)| **until > now).map(|(d, _)| *d);
        let but: Vec<DiskNo> = bad.chain(self.lost_disks(volume)).chain(self.bad_disks()).collect();
        let apart: Vec<DiskNo> = from.iter().map(|p| p.disk).collect();
        let place = self.allocator.choose(&self.catalog, Wish { legs: 1, but: &but, apart: &apart }, 1, 0);
        let Some(to) = place.and_then(|mut p| p.pop()).and_then(|mut legs| legs.pop()) else {
            // The job of the volume's AUs says it where they lack copies too; here it is tried again.
            return Ok(());
        };
        self.commit(Record::CopyBegun { generation: self.generation, fresh: vec![to], targets: Vec::new() })?;
        self.batches += 1;
        let lay = self.batches;
        self.layings.entry(volume).or_default().at_work = Some((lay, s.no, to));
        let over = self.catalog.attachment(s.token).is_none();
        let job = LayJob { volume, segment: s.clone(), over, from, to };
        self.out.effects.push(Effect::LayAgain { lay, job });
        Ok(())
    }

    /// One is done, as far as it could be.
    pub(super) fn laid_again(&mut self, lay: u64, end: LayEnd) {
        let found = self.layings.iter_mut().find_map(|(v, l)| Some((*v, l.at_work.take_if(|w| w.0 == lay)?)));
        let Some((volume, (_, no, to))) = found else { return };
        let mut late = false;
        match end {
            LayEnd::Done => {
                if let Some(l) = self.layings.get_mut(&volume) {
                    l.next = self.now.boot;
                }
                self.segment_has(volume, no, to);
            }
            LayEnd::Open => {}
            LayEnd::Unreadable { why } => self.segment_is_lost(volume, no, &why),
            LayEnd::Failed { why, late: it } => {
                late = it;
                self.bad_targets.insert(to.disk, self.now.boot.plus(BAD));
                self.tell(Level::Warning, "copy-failed", format!("a copy of a preserve segment to disk {} failed: {why}", to.disk));
            }
        }
        // What was not taken over is free again; but for what may still be written, which is nobody's until this manager is succeeded.
        if !late && self.catalog.copying().any(|(at, _)| at == to) {
            self.commit_or_tell(Record::CopyEnded { places: vec![to] });
        }
    }

    /// A segment gets a leg, if it still lacks one.
    fn segment_has(&mut self, volume: VolumeId, no: u32, to: DiskAu) {
        let lost = self.lost_disks(volume);
        let Some(v) = self.catalog.volume(volume) else { return };
        let Some(s) = v.segments.get(&no).filter(|s| lacks(v, s, &lost) && !lost.contains(&to.disk)) else { return };
        let mut legs = whole(s, &lost);
        if legs.is_empty() {
            return; // what it was copied from is lost meanwhile; it is a hole at the next look
        }
        legs.push(to);
        self.commit_or_tell(Record::SegmentPlaced { volume, no, legs });
        if let Some(c) = self.counted.get_mut(&volume) {
            c.segments = c.segments.saturating_sub(1);
        }
    }

    fn segment_is_lost(&mut self, volume: VolumeId, no: u32, why: &str) {
        let Some(l) = self.layings.get_mut(&volume).filter(|l| l.lost.len() < LOST) else { return };
        if l.lost.insert(no) {
            let name = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
            let text = format!("preserve segment {no} of volume '{name}' is lost, snapshots that need it give errors: {why}");
            self.tell(Level::Critical, "rebuild-hole", text);
        }
    }
}
