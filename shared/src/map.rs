//! A volume's map: for each of its AUs the replicas that hold it, and which blocks were ever written.
//!
//! [`VolumeMap`] is copied on write by chunks, so that a snapshot's frozen map costs one pointer a chunk.
//! [`MapRun`] is how maps lie in catalog and journal: runs of AUs that are neighbours on disk too. [`packed`]: how whole maps cross the wire.

pub mod packed;

use crate::ids::LegGeneration;
use crate::mask::BlockMask;
use crate::units::{AuNo, DiskAu, DiskNo, VolAu};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most legs of an AU: as many copies as can be, and one that only names it ([`LegState::Gone`]).
pub const LEGS_MAX: usize = COPIES_MAX + 1;
/// Most copies of a volume.
pub const COPIES_MAX: usize = 3;
/// AUs in a chunk of a map.
const CHUNK: u32 = 512;

/// Whether a replica may be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
#[serde(rename_all = "kebab-case")]
pub enum LegState {
    /// Equal to the other in-sync legs, outside the journal's dirty regions.
    InSync,
    /// Misses writes; never read. The copier brings it up to date.
    Stale,
    /// Given up. Its place still names the AU in preserve records, so it is nobody else's; never read or written.
    Gone,
}

/// One replica of one AU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
pub struct Leg {
    /// Where it lies.
    pub at: DiskAu,
    /// Which life of this leg.
    pub generation: LegGeneration,
    /// Whether it may be read.
    pub state: LegState,
}

impl Leg {
    /// The only replica of an AU of an unmirrored volume.
    #[must_use]
    pub fn single(at: DiskAu) -> Self {
        Self { at, generation: LegGeneration(0), state: LegState::InSync }
    }
}

/// One AU of a volume that has space: 1 to [`LEGS_MAX`] replicas, all of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapEntry {
    legs: [Leg; LEGS_MAX],
    count: u8,
    /// Blocks that were written and not discarded; all others read as zeros without touching a disk.
    pub written: BlockMask,
}

impl MapEntry {
    /// An entry with these replicas; `None` unless there are 1 to `LEGS_MAX`.
    #[must_use]
    pub fn new(legs: &[Leg], written: BlockMask) -> Option<Self> {
        let first = *legs.first()?;
        let mut all = [first; LEGS_MAX];
        all.get_mut(..legs.len())?.copy_from_slice(legs);
        Some(Self { legs: all, count: u8::try_from(legs.len()).ok()?, written })
    }

    /// The replicas.
    #[must_use]
    pub fn legs(&self) -> &[Leg] {
        &self.legs[..usize::from(self.count)]
    }

    /// The first replica in sync: what everyone but the writer reads, and the source of every resync (PROTOCOL.md, R3).
    #[must_use]
    pub fn first_in_sync(&self) -> Option<DiskAu> {
        self.legs().iter().find(|l| l.state == LegState::InSync).map(|l| l.at)
    }

    /// The same among the legs that are on none of these disks.
    #[must_use]
    pub fn source_without(&self, out: &[DiskNo]) -> Option<DiskAu> {
        self.legs().iter().find(|l| l.state == LegState::InSync && !out.contains(&l.at.disk)).map(|l| l.at)
    }

    /// What names the AU in preserve records, and tells whether a snapshot shares it: where its first leg lies.
    #[must_use]
    pub fn name(&self) -> DiskAu {
        self.legs[0].at
    }

    /// How many copies are to be written: those that are not given up.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.legs().iter().filter(|l| l.state != LegState::Gone).count()
    }

    /// The entry once something was written that the legs on these disks miss: they are stale. Where no other leg is in sync nothing can
    /// be written without them, so nothing is missed.
    #[must_use]
    pub fn missed_by(&self, out: &[DiskNo]) -> Self {
        let mut e = *self;
        if e.source_without(out).is_some() {
            e.legs.iter_mut().filter(|l| l.state == LegState::InSync && out.contains(&l.at.disk)).for_each(|l| l.state = LegState::Stale);
        }
        e
    }

    /// The entry once its writer is gone in the midst of writes: only the source of a resync is known to be right.
    #[must_use]
    pub fn left_by_its_writer(&self, out: &[DiskNo]) -> Self {
        let mut e = *self;
        if let Some(source) = e.source_without(out).or_else(|| e.first_in_sync()) {
            e.legs.iter_mut().filter(|l| l.state == LegState::InSync && l.at != source).for_each(|l| l.state = LegState::Stale);
        }
        e
    }

    /// The entry with these legs, all in sync, in place of those that it has: what [`Placed`](crate::change::Placed) says. A first leg that
    /// is not among them stays as the name where `named`: a snapshot shares the AU. `None` where it does not fit together.
    #[must_use]
    pub fn placed(&self, legs: &[DiskAu], named: bool) -> Option<Self> {
        let mut all: Vec<Leg> = legs.iter().map(|at| Leg::single(*at)).collect();
        let name = self.name();
        match legs.iter().position(|l| *l == name) {
            Some(i) => all[..=i].rotate_right(1),
            None if named => all.insert(0, Leg { state: LegState::Gone, ..Leg::single(name) }),
            None => {}
        }
        Self::new(&all, self.written)
    }
}

/// Neighbouring AUs of a volume: AU `first + i` has its legs at `legs[..].at.au + i`, and mask `written[i]`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
pub struct MapRun {
    /// First AU of the run.
    pub first: VolAu,
    /// Replicas of the first AU.
    pub legs: Vec<Leg>,
    /// One written mask an AU; as long as the run.
    pub written: Vec<u64>,
}

impl MapRun {
    /// The entries of the run; `None` where it does not fit together (no leg, too many, past the end of `u32`).
    #[must_use]
    pub fn entries(&self) -> Option<Vec<(VolAu, MapEntry)>> {
        let mut out = Vec::with_capacity(self.written.len());
        for (i, w) in self.written.iter().enumerate() {
            let i = u32::try_from(i).ok()?;
            let mut legs = self.legs.clone();
            for l in &mut legs {
                l.at.au = AuNo(l.at.au.0.checked_add(i)?);
            }
            out.push((VolAu(self.first.0.checked_add(i)?), MapEntry::new(&legs, BlockMask(*w))?));
        }
        Some(out)
    }
}

/// Blocks of one AU: an element of reports, discards and lists of changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
pub struct AuMask {
    /// Which AU of the volume.
    pub au: VolAu,
    /// Which blocks of it.
    pub blocks: BlockMask,
}

#[derive(Clone, Debug)]
struct Chunk {
    /// First leg and mask of each AU; `NONE` where there is no space.
    place: [u64; CHUNK as usize],
    written: [u64; CHUNK as usize],
    /// Entries that are not one in-sync leg of generation 0.
    more: BTreeMap<u32, MapEntry>,
    used: u32,
}

const NONE: u64 = u64::MAX;
const IN_MORE: u64 = u64::MAX - 1;

fn pack(at: DiskAu) -> u64 {
    u64::from(at.disk.0) << 32 | u64::from(at.au.0)
}

#[allow(clippy::cast_possible_truncation)] // the two halves of `pack`
fn unpack(p: u64) -> DiskAu {
    DiskAu { disk: DiskNo((p >> 32) as u16), au: AuNo(p as u32) }
}

impl Chunk {
    fn empty() -> Self {
        Self { place: [NONE; CHUNK as usize], written: [0; CHUNK as usize], more: BTreeMap::new(), used: 0 }
    }

    fn get(&self, i: u32) -> Option<MapEntry> {
        match self.place[i as usize] {
            NONE => None,
            IN_MORE => self.more.get(&i).copied(),
            p => MapEntry::new(&[Leg::single(unpack(p))], BlockMask(self.written[i as usize])),
        }
    }

    fn set(&mut self, i: u32, entry: Option<MapEntry>) {
        let at = i as usize;
        self.used -= u32::from(self.place[at] != NONE);
        self.more.remove(&i);
        self.written[at] = 0;
        self.place[at] = NONE;
        if let Some(e) = entry {
            self.used += 1;
            self.written[at] = e.written.0;
            match e.legs() {
                [one] if *one == Leg::single(one.at) => self.place[at] = pack(one.at),
                _ => {
                    self.place[at] = IN_MORE;
                    self.more.insert(i, e);
                }
            }
        }
    }
}

/// The map of one volume or snapshot. A clone shares its chunks until one side changes them.
#[derive(Clone, Debug, Default)]
pub struct VolumeMap {
    chunks: BTreeMap<u32, Arc<Chunk>>,
}

impl PartialEq for VolumeMap {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl VolumeMap {
    /// The entry of `au`; `None` where the volume has no space there.
    #[must_use]
    pub fn get(&self, au: VolAu) -> Option<MapEntry> {
        self.chunks.get(&(au.0 / CHUNK))?.get(au.0 % CHUNK)
    }

    /// Replaces the entry of `au`; `None` takes its space away.
    pub fn set(&mut self, au: VolAu, entry: Option<MapEntry>) {
        let no = au.0 / CHUNK;
        let chunk = Arc::make_mut(self.chunks.entry(no).or_insert_with(|| Arc::new(Chunk::empty())));
        chunk.set(au.0 % CHUNK, entry);
        if chunk.used == 0 {
            self.chunks.remove(&no);
        }
    }

    /// All entries from `from` on, ascending.
    pub fn iter_from(&self, from: VolAu) -> impl Iterator<Item = (VolAu, MapEntry)> + '_ {
        self.chunks.range(from.0 / CHUNK..).flat_map(move |(no, c)| {
            (0..CHUNK).filter_map(move |i| c.get(i).map(|e| (VolAu(no * CHUNK + i), e))).filter(move |(au, _)| *au >= from)
        })
    }

    /// All entries, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (VolAu, MapEntry)> + '_ {
        self.iter_from(VolAu(0))
    }

    /// AUs that have space.
    #[must_use]
    pub fn aus(&self) -> u64 {
        self.chunks.values().map(|c| u64::from(c.used)).sum()
    }

    /// Blocks that were written.
    #[must_use]
    pub fn written_blocks(&self) -> u64 {
        self.iter().map(|(_, e)| u64::from(e.written.count())).sum()
    }

    /// The entries from `from` on in runs of neighbours, up to about `limit` AUs; and where to go on.
    #[must_use]
    pub fn runs(&self, from: VolAu, limit: usize) -> (Vec<MapRun>, Option<VolAu>) {
        let mut runs: Vec<MapRun> = Vec::new();
        for (n, (au, e)) in self.iter_from(from).enumerate() {
            if n >= limit {
                return (runs, Some(au));
            }
            match runs.last_mut().filter(|r| follows(r, au, &e)) {
                Some(run) => run.written.push(e.written.0),
                None => runs.push(MapRun { first: au, legs: e.legs().to_vec(), written: vec![e.written.0] }),
            }
        }
        (runs, None)
    }
}

fn follows(run: &MapRun, au: VolAu, e: &MapEntry) -> bool {
    let Ok(n) = u32::try_from(run.written.len()) else { return false };
    run.first.0.checked_add(n) == Some(au.0)
        && run.legs.len() == e.legs().len()
        && run.legs.iter().zip(e.legs()).all(|(a, b)| {
            a.at.disk == b.at.disk && a.at.au.0.checked_add(n) == Some(b.at.au.0) && a.generation == b.generation && a.state == b.state
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(disk: u16, au: u32) -> MapEntry {
        MapEntry::new(&[Leg::single(DiskAu { disk: DiskNo(disk), au: AuNo(au) })], BlockMask(5)).expect("one leg")
    }

    #[test]
    fn a_clone_is_frozen() {
        let mut live = VolumeMap::default();
        live.set(VolAu(7), Some(at(0, 9)));
        let frozen = live.clone();
        live.set(VolAu(7), None);
        live.set(VolAu(8), Some(at(1, 1)));
        assert_eq!(frozen.iter().map(|(a, _)| a.0).collect::<Vec<_>>(), [7]);
        assert_eq!(live.iter().map(|(a, _)| a.0).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn runs_and_entries_are_inverse() {
        let mut m = VolumeMap::default();
        for (v, d, a) in [(0, 0, 5), (1, 0, 6), (2, 1, 7), (511, 1, 8), (512, 1, 9), (5000, 0, 1)] {
            m.set(VolAu(v), Some(at(d, a)));
        }
        let two = [Leg::single(DiskAu { disk: DiskNo(0), au: AuNo(90) }), Leg::single(DiskAu { disk: DiskNo(1), au: AuNo(90) })];
        m.set(VolAu(5001), MapEntry::new(&two, BlockMask::ALL));
        let (runs, next) = m.runs(VolAu(0), 100);
        assert_eq!((runs.len(), next), (5, None));
        let back: Vec<_> = runs.iter().flat_map(|r| r.entries().expect("made from entries")).collect();
        assert_eq!(back, m.iter().collect::<Vec<_>>());
        assert_eq!(m.runs(VolAu(1), 2).1, Some(VolAu(511)));
    }
}
