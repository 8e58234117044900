//! What a takeover copies and where to: drawn up once the journal is folded, filled in step by step, and in the end one record.

use crate::catalog::record::Takeover;
use crate::catalog::{Catalog, TAKEOVER_MAX};
use crate::core::errand::{CopyAu, KeptBlock, Laid};
use fusevol_shared::change::{Region, Segment};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::preserve::room;
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeEpoch};
use fusevol_shared::map::{Leg, LegState, MapEntry, VolumeMap};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::{AuSize, DiskAu, VolAu};
use std::collections::{BTreeMap, BTreeSet};

/// AUs of one errand: others have their turn between two.
const AT_ONCE: usize = 64;

/// One AU that is to lie elsewhere.
#[derive(Debug)]
struct Move {
    au: VolAu,
    was: MapEntry,
    /// What the live map or a snapshot that shares the place has of it.
    blocks: BlockMask,
    to: Vec<DiskAu>,
}

/// What one segment gets.
struct Part<'p> {
    no: Option<u32>,
    epoch: VolumeEpoch,
    blocks: Vec<&'p KeptBlock>,
}

/// What a takeover does.
#[derive(Default, Debug)]
pub struct Plan {
    moves: Vec<Move>,
    copied: usize,
    ended: Vec<u32>,
    /// Ended segments to which others lead, each with its epoch: they are laid down under their own numbers.
    again: Vec<(u32, VolumeEpoch)>,
    blocks: Vec<KeptBlock>,
    laid: Option<Vec<Laid>>,
    laid_down: usize,
}

impl Plan {
    /// All that the writer may be writing to, as far as it has space in the live map: its dirty regions, and what it bound itself.
    ///
    /// # Errors
    /// `NoSpace` where that is more than one transaction can move.
    pub fn new(catalog: &Catalog, token: FenceToken, dirty: &[Region]) -> Result<Self> {
        let missing = || Error::new(Kind::Internal, "a takeover of nothing");
        let a = catalog.attachment(token).ok_or_else(missing)?;
        let v = catalog.volume(a.volume).ok_or_else(missing)?;
        let mut aus: BTreeSet<VolAu> = if holds(Tag::T3) { a.fresh.aus() } else { BTreeSet::new() };
        for r in dirty {
            aus.extend(v.map.iter_from(VolAu(r.aus().start)).map(|(au, _)| au).take_while(|au| au.0 < r.aus().end));
        }
        let snapshots = catalog.snapshots_of(a.volume);
        let entry = |au: VolAu| {
            let was = v.map.get(au)?;
            let shared = snapshots.iter().filter_map(|s| s.map.get(au)).filter(|e| e.legs() == was.legs());
            let blocks = shared.fold(was.written, |m, e| m.or(e.written));
            Some(Move { au, was, blocks, to: Vec::new() })
        };
        let moves: Vec<Move> = aus.into_iter().filter_map(entry).collect();
        if moves.len() > TAKEOVER_MAX {
            let text = format!("{} allocation units are marked, a takeover moves {TAKEOVER_MAX} at most: only a fence helps", moves.len());
            return Err(Error::new(Kind::NoSpace, text));
        }
        Ok(Self { moves, ..Self::default() })
    }

    /// How many AUs are to lie elsewhere.
    pub fn aus(&self) -> usize {
        self.moves.len()
    }

    /// How many of them are copied.
    pub fn copied(&self) -> usize {
        self.copied
    }

    /// Which.
    pub fn moved(&self) -> impl Iterator<Item = VolAu> + '_ {
        self.moves.iter().map(|m| m.au)
    }

    /// One place for each.
    pub fn set_places(&mut self, places: Vec<Vec<DiskAu>>) {
        self.moves.iter_mut().zip(places).for_each(|(m, to)| m.to = to);
    }

    /// What is copied next; nothing where all is.
    pub fn next_copies(&mut self) -> Option<Vec<CopyAu>> {
        loop {
            let some = self.moves.get(self.copied..(self.copied + AT_ONCE).min(self.moves.len())).filter(|s| !s.is_empty())?;
            let copies: Vec<CopyAu> = some.iter().filter(|m| !m.blocks.is_empty()).map(copy).collect();
            if !copies.is_empty() {
                return Some(copies);
            }
            self.copied += some.len();
        }
    }

    /// Those are copied; whether all are.
    pub fn copies_done(&mut self) -> bool {
        self.copied = (self.copied + AT_ONCE).min(self.moves.len());
        self.copied == self.moves.len()
    }

    /// Where the AUs lay.
    pub fn former_places(&self) -> BTreeSet<DiskAu> {
        self.moves.iter().flat_map(|m| m.was.legs().iter().map(|l| l.at).collect::<Vec<_>>()).collect()
    }

    /// How the preserve log ends.
    pub fn set_log(&mut self, ended: Vec<u32>, again: Vec<(u32, VolumeEpoch)>, blocks: Vec<KeptBlock>) {
        (self.ended, self.again, self.blocks) = (ended, again, blocks);
        self.blocks.sort_by_key(|b| (b.epoch, b.segment, b.seq, b.pos));
        // The first of a block counts; of each epoch, as snapshots between two need the later one.
        let mut seen = BTreeSet::new();
        self.blocks.retain(|b| seen.insert((b.epoch, b.at, b.block)));
    }

    /// How many segments are needed for what it has, if that was not asked yet.
    pub fn segments_wanted(&self, size: AuSize) -> Option<usize> {
        self.laid.is_none().then(|| self.parts(size).len())
    }

    /// The blocks, a segment's worth at a time, each part of one epoch; and under which number, where it has one already. What an ended segment
    /// has fits into one, as it did before.
    fn parts(&self, size: AuSize) -> Vec<Part<'_>> {
        let most = usize::try_from(room(size, 0)).unwrap_or(1).max(1);
        let again: BTreeMap<u32, VolumeEpoch> = self.again.iter().copied().collect();
        let new: Vec<&KeptBlock> = self.blocks.iter().filter(|b| !again.contains_key(&b.segment)).collect();
        let new = new.chunk_by(|a, b| a.epoch == b.epoch).flat_map(|e| e.chunks(most));
        let mut parts: Vec<Part<'_>> = new.map(|c| Part { no: None, epoch: c[0].epoch, blocks: c.to_vec() }).collect();
        parts.extend(again.into_iter().map(|(no, epoch)| {
            let blocks = self.blocks.iter().filter(|b| b.segment == no).collect();
            Part { no: Some(no), epoch, blocks }
        }));
        parts
    }

    /// Where they lie; numbered from `first` on.
    pub fn set_segments(&mut self, size: AuSize, (token, session): (FenceToken, SessionNo), first: u32, places: Vec<Vec<DiskAu>>) {
        let moved: BTreeMap<DiskAu, DiskAu> = self
            .moves
            .iter()
            .filter_map(|m| Some((m, *m.to.first()?)))
            .flat_map(|(m, to)| m.was.legs().iter().map(|l| (l.at, to)).collect::<Vec<_>>())
            .collect();
        let parts = self.parts(size);
        // Those without a number come first.
        let segment = |((no, legs), part): ((u32, Vec<DiskAu>), &Part<'_>)| Segment {
            no: part.no.unwrap_or(no),
            epoch: part.epoch,
            token,
            session,
            legs,
        };
        let segments: Vec<Segment> = (first..).zip(places).zip(&parts).map(segment).collect();
        let now = |b: &KeptBlock| moved.get(&b.at).copied().unwrap_or(b.at);
        let one = |(i, (segment, part)): (usize, (&Segment, &Part<'_>))| Laid {
            segment: segment.clone(),
            blocks: part.blocks.iter().map(|b| ((*b).clone(), now(b))).collect(),
            next: segments.get(i + 1).cloned(),
        };
        self.laid = Some(segments.iter().zip(&parts).enumerate().map(one).collect());
    }

    /// What is laid down next; nothing where all is.
    pub fn next_laid(&self) -> Option<Laid> {
        self.laid.as_ref()?.get(self.laid_down).cloned()
    }

    /// That is laid down; whether all is.
    pub fn lay_done(&mut self) -> bool {
        self.laid_down += 1;
        self.next_laid().is_none()
    }

    /// The whole of it.
    ///
    /// # Errors
    /// `Internal` where an AU is not there any more.
    pub fn record(&self, catalog: &Catalog, token: FenceToken, waits: Vec<SessionNo>) -> Result<Takeover> {
        let missing = || Error::new(Kind::Internal, "a takeover of what is not there");
        let a = catalog.attachment(token).ok_or_else(missing)?;
        let v = catalog.volume(a.volume).ok_or_else(missing)?;
        let mut map = VolumeMap::default();
        for m in &self.moves {
            let live = v.map.get(m.au).filter(|e| e.legs() == m.was.legs()).ok_or_else(missing)?;
            let legs: Vec<Leg> = m.to.iter().map(|p| Leg::single(*p)).collect();
            map.set(m.au, Some(MapEntry::new(&legs, live.written).ok_or_else(missing)?));
        }
        Ok(Takeover {
            token,
            closing: a.folded,
            moves: map.runs(VolAu(0), usize::MAX).0,
            segments: self.laid.iter().flatten().map(|l| l.segment.clone()).collect(),
            ended: self.ended.clone(),
            limbo: catalog.counters().limbo,
            waits,
        })
    }
}

fn copy(m: &Move) -> CopyAu {
    let from = m.was.legs().iter().filter(|l| l.state == LegState::InSync).map(|l| l.at).collect();
    CopyAu { from, to: m.to.clone(), blocks: m.blocks }
}
