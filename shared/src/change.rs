//! Changes of an attachment as they stand in its journal and cross the wire to be folded, and the places they speak of.
//!
//! An [`Append`] is what one journal append makes durable: some [`Entry`]s under one sequence number, consecutive from 1
//! within an attachment. The fold of all appends of an attachment, in order, on the map that it was attached with, is the
//! map that its client has: client, manager, offline check and replay of a dead session's journal all rely on that.

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

use crate::ids::{FenceToken, Seq, SessionNo, VolumeEpoch};
use crate::map::{AuMask, LEGS_MAX, MapRun};
use crate::units::{AuNo, DiskAu, DiskNo, VolAu, place};
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// AUs in a region: the grain of dirty marks.
pub const AUS_PER_REGION: u32 = 64;

place!(/// A run of [`AUS_PER_REGION`] AUs of a volume: what is marked dirty and cleared as one.
    Region(u32));

impl VolAu {
    /// The region that holds it.
    #[must_use]
    pub fn region(self) -> Region {
        Region(self.0 / AUS_PER_REGION)
    }
}

impl Region {
    /// Its AUs; the last ones may lie past the end of the volume.
    #[must_use]
    pub fn aus(self) -> Range<u32> {
        let first = self.0.saturating_mul(AUS_PER_REGION);
        first..first.saturating_add(AUS_PER_REGION)
    }
}

macro_rules! plain {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
        #[rkyv(derive(Debug))]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
    };
}

plain!(/// Some AUs' worth of space, side by side: number `i` has its replicas at `legs[..].au + i`.
    Places {
    /// Replicas of the first.
    legs: Vec<DiskAu>,
    /// How many.
    count: u32,
});

impl Places {
    /// The replicas of number `i`; `None` past the end, or where a number overflows.
    #[must_use]
    pub fn get(&self, i: u32) -> Option<Vec<DiskAu>> {
        if i >= self.count {
            return None;
        }
        self.legs.iter().map(|l| Some(DiskAu { disk: l.disk, au: AuNo(l.au.0.checked_add(i)?) })).collect()
    }

    /// The replicas of each; one that would overflow is left out, so compare the length where bytes are not trusted.
    pub fn each(&self) -> impl Iterator<Item = Vec<DiskAu>> + '_ {
        (0..self.count).filter_map(|i| self.get(i))
    }

    /// Lists of replicas as runs, in the order given.
    #[must_use]
    pub fn join<'a>(each: impl IntoIterator<Item = &'a [DiskAu]>) -> Vec<Places> {
        let mut out: Vec<Places> = Vec::new();
        for legs in each {
            match out.last_mut().filter(|p| p.legs.len() == legs.len() && p.legs.iter().zip(legs).all(|(a, b)| follows(a, p.count, b))) {
                Some(run) => run.count += 1,
                None => out.push(Places { legs: legs.to_vec(), count: 1 }),
            }
        }
        out
    }

    /// Whether it can be what it says: one to [`LEGS_MAX`] replicas, at least one AU, no number that overflows.
    #[must_use]
    pub fn fits(&self) -> bool {
        (1..=LEGS_MAX).contains(&self.legs.len())
            && self.count > 0
            && self.legs.iter().all(|l| l.au.0.checked_add(self.count - 1).is_some())
    }

    /// Whether a replica lies on one of these disks.
    #[must_use]
    pub fn lie_on(&self, disks: &[DiskNo]) -> bool {
        self.legs.iter().any(|l| disks.contains(&l.disk))
    }
}

fn follows(first: &DiskAu, count: u32, next: &DiskAu) -> bool {
    first.disk == next.disk && first.au.0.checked_add(count) == Some(next.au.0)
}

plain!(/// Copies of AUs that are neighbours in the volume and on each disk.
    Placed {
    /// The first of them.
    first: VolAu,
    /// Number `i` of the places has the copies of AU `first + i`.
    places: Places,
    /// There are snapshots: a first leg that is not among the copies stays as the AU's name.
    named: bool,
});

impl Placed {
    /// Each AU with its copies; `None` where it does not fit together.
    #[must_use]
    pub fn each(&self) -> Option<Vec<(VolAu, Vec<DiskAu>)>> {
        self.first.0.checked_add(self.places.count)?;
        (0..self.places.count).filter(|_| self.places.fits()).map(|i| Some((VolAu(self.first.0 + i), self.places.get(i)?))).collect()
    }
}

plain!(/// Regions side by side.
    RegionRun {
    /// The first.
    first: Region,
    /// How many.
    count: u32,
});

impl RegionRun {
    /// Ascending regions as runs, at most `limit` of them: where there are more, neighbours are joined over the gap between them.
    #[must_use]
    pub fn join(regions: impl IntoIterator<Item = Region>, limit: usize) -> Vec<RegionRun> {
        let mut out: Vec<RegionRun> = Vec::new();
        for r in regions {
            let full = out.len() >= limit;
            match out.last_mut().filter(|run| full || run.end() >= r.0) {
                Some(run) => run.count = run.count.max(r.0 + 1 - run.first.0),
                None => out.push(RegionRun { first: r, count: 1 }),
            }
        }
        out
    }

    fn end(&self) -> u32 {
        self.first.0.saturating_add(self.count)
    }

    /// Its AUs.
    #[must_use]
    pub fn aus(&self) -> Range<u32> {
        self.first.aus().start..Region(self.end()).aus().start
    }
}

plain!(/// One preserve segment: an AU on each of its legs, same content.
    Segment {
    /// Number within the volume; ascending in the order in which they were begun.
    no: u32,
    /// Newest snapshot's epoch when it was begun: all its records carry it.
    epoch: VolumeEpoch,
    /// The attachment that writes it.
    token: FenceToken,
    /// Session that writes it.
    session: SessionNo,
    /// Its replicas.
    legs: Vec<DiskAu>,
});

plain!(/// One copy of a journal: two AUs, written in turn.
    JournalCopy {
    /// The half that is written first.
    first: DiskAu,
    /// The other.
    second: DiskAu,
});

impl JournalCopy {
    /// Its halves, by turn.
    #[must_use]
    pub fn halves(&self) -> [DiskAu; 2] {
        [self.first, self.second]
    }
}

plain!(/// Where the journal of an attachment lies.
    Journal {
    /// Which life of it: 1 for the first, one more for each that replaces a failed one.
    no: u32,
    /// One on each of at most two disks.
    copies: Vec<JournalCopy>,
});

impl Journal {
    /// Every AU of it.
    #[must_use]
    pub fn places(&self) -> Vec<DiskAu> {
        self.copies.iter().flat_map(JournalCopy::halves).collect()
    }
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// AUs that had no space have these places out of the reserve; nothing written yet.
    Bound {
        /// Masks empty.
        runs: Vec<MapRun>,
    },
    /// Blocks were written; their data was durable on every leg before this was appended.
    Written {
        /// Of AUs that are bound.
        masks: Vec<AuMask>,
    },
    /// Blocks read as zeros. An AU of which all 64 are named leaves the map; no other does.
    Discarded {
        /// Of AUs that are bound.
        cleared: Vec<AuMask>,
    },
    /// The preserve log goes on in this segment, whose places come out of the reserve.
    Segment(Segment),
    /// The epoch begins: everything before this belongs to the one before, of which all is drained, flushed and said (`Cleared` stands
    /// before this in the same append). The regions that were dirty are dirty anew in it.
    Flipped {
        /// That begins.
        epoch: VolumeEpoch,
        /// Where its preserve log begins; out of the reserve.
        segment: Segment,
        /// Regions that stay dirty.
        dirty: Vec<Region>,
    },
    /// Snapshots up to this epoch have lost blocks: there was no space to preserve them.
    Broken {
        /// Of the last snapshot that is broken.
        epoch: VolumeEpoch,
    },
    /// These regions are about to be written in this epoch.
    Marked {
        /// Current.
        epoch: VolumeEpoch,
        /// Which.
        regions: Vec<Region>,
    },
    /// AUs that have space lie at these places out of the reserve from now on; all that their masks name was durable there before this was
    /// appended. What was written to their former places and not answered may still land there (PROTOCOL.md, P1): they are given to nobody
    /// before the session is proven drained.
    Moved {
        /// With the whole masks.
        runs: Vec<MapRun>,
    },
    /// The same of preserve segments of this session, and of places of the reserve: nothing is written there any more.
    Late {
        /// Which.
        places: Vec<DiskAu>,
    },
    /// AUs that have space have these copies from now on, all of them equal: whoever wrote this has brought the new ones up to date and
    /// flushed them, and writes all of them from now on (PROTOCOL.md, B1). Each place is a leg of the AU already, or a single place out of the
    /// reserve. Those that are not named any more wait in limbo; one that names the AU for a snapshot stays as [`LegState::Gone`].
    Placed {
        /// Which.
        runs: Vec<Placed>,
    },
    /// This disk of the volume is written again; all before this missed it, but for what `Placed` said of it.
    Returned {
        /// Which.
        disk: DiskNo,
    },
    /// These regions are clean: every leg was flushed after their last write had returned.
    Cleared {
        /// Current.
        epoch: VolumeEpoch,
        /// Which.
        regions: Vec<Region>,
        /// What changed in them in this epoch.
        changed: Vec<AuMask>,
    },
}

impl Entry {
    /// How much it weighs, in AUs named: for the limits of messages and states.
    #[must_use]
    pub fn weight(&self) -> usize {
        1 + match self {
            Entry::Bound { runs } | Entry::Moved { runs } => runs.iter().map(|r| r.written.len() + 4).sum(),
            Entry::Written { masks } => masks.len(),
            Entry::Discarded { cleared } => cleared.len(),
            Entry::Segment(_) => 4,
            Entry::Flipped { dirty, .. } => 4 + dirty.len(),
            Entry::Broken { .. } => 1,
            Entry::Late { places } => places.len(),
            Entry::Placed { runs } => runs.iter().map(|r| 4 + usize::try_from(r.places.count).unwrap_or(usize::MAX / 2)).sum(),
            Entry::Returned { .. } => 1,
            Entry::Marked { regions, .. } => regions.len(),
            Entry::Cleared { regions, changed, .. } => regions.len() + changed.len(),
        }
    }
}

plain!(/// What one append made durable.
    Append {
    /// Its number: one above that of the append before it.
    seq: Seq,
    /// In order.
    entries: Vec<Entry>,
});

impl Append {
    /// How much it weighs, see [`Entry::weight`].
    #[must_use]
    pub fn weight(&self) -> usize {
        1 + self.entries.iter().map(Entry::weight).sum::<usize>()
    }
}

/// What happens when there is no space to preserve blocks of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The snapshot breaks, marked first: it reads as an error. The writer goes on.
    #[default]
    BreakSnapshot,
    /// The writer gets `NoSpace` until there is space.
    StopWriter,
}

#[cfg(test)]
mod tests;
