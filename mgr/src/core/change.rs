//! The writer's changes: each has a number within its attachment, and is applied once.
//!
//! One whose number was passed already is answered from what stands: it was sent again because its answer was lost.

use super::attach::no_space;
use super::reader::runs_of;
use super::rights::no_volume;
use super::{ConnId, Core};
use crate::catalog::record::{AttachmentEntry, Mode, Record};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, VolumeId};
use fusevol_shared::map::{AuMask, Leg, MapEntry};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{
    AUS_PER_BIND, AUS_PER_MESSAGE, Bind, Bound, Discard, Discarded, PreserveSpace, Reply, Report, SegmentGranted,
};
use std::collections::{BTreeMap, BTreeSet};

/// AUs that volumes leave to preserve segments.
const RESERVE_MIN: u64 = 4;
const RESERVE_SHARE: u64 = 100;

fn refused(what: &str) -> Error {
    Error::new(Kind::Refused, what)
}

impl Core {
    /// AUs kept from `Bind`, so that snapshots still work in a full pool: 1 %, at least 4.
    pub(super) fn reserve(&self) -> u64 {
        RESERVE_MIN.max(self.catalog.total_aus() / RESERVE_SHARE)
    }

    /// The attachment of a change; and whether it is to be applied, not only answered again.
    fn change(&mut self, session: SessionNo, volume: VolumeId, token: FenceToken, seq: Seq) -> Result<(AttachmentEntry, bool)> {
        let a = self.attachment(session, volume)?;
        if a.mode != Mode::Write || a.token != token {
            return Err(refused("the session has not attached this volume for writing under this token"));
        }
        if self.pending.contains_key(&(volume, session)) {
            return Err(refused("the attachment was not answered yet"));
        }
        if seq.0 == 0 || seq.0 == u64::MAX {
            return Err(refused("a change has no number"));
        }
        if let Some(h) = self.holds.get_mut(&volume) {
            h.seen = h.seen.max(seq);
        }
        Ok((a, seq > a.last))
    }

    pub(super) fn bind(&mut self, session: SessionNo, m: &Bind) -> Result<Reply> {
        let (_, new) = self.change(session, m.volume, m.token, m.seq)?;
        let v = self.catalog.volume(m.volume).ok_or_else(no_volume)?;
        let end = self.catalog.au_size().aus_for(v.entry.size).unwrap_or(0);
        if m.aus.len() > AUS_PER_BIND || m.aus.iter().any(|au| au.0 >= end) {
            return Err(refused("space for too many AUs, or beyond the end of the volume"));
        }
        let aus: BTreeSet<VolAu> = m.aus.iter().copied().collect();
        let missing: Vec<VolAu> = aus.iter().copied().filter(|au| v.map.get(*au).is_none()).collect();
        if !missing.is_empty() {
            let full = || no_space("the pool is full");
            if !new {
                return Err(full());
            }
            let (legs, reserve) = (v.entry.legs, self.reserve());
            let count = u32::try_from(missing.len()).map_err(|_| full())?;
            let places = self.allocator.choose(&self.catalog, legs, count, reserve).ok_or_else(full)?;
            let entries = missing.iter().zip(places).filter_map(|(au, legs)| {
                let legs: Vec<Leg> = legs.into_iter().map(Leg::single).collect();
                Some((*au, MapEntry::new(&legs, BlockMask::NONE)?))
            });
            let runs = runs_of(entries);
            self.commit(Record::Bound { token: m.token, seq: m.seq, runs })?;
            self.map_changed(m.volume, Some(session), missing);
        }
        let v = self.catalog.volume(m.volume).ok_or_else(no_volume)?;
        let runs = runs_of(aus.iter().filter_map(|au| Some((*au, v.map.get(*au)?))));
        Ok(Reply::Bound(Bound { runs }))
    }

    pub(super) fn report(&mut self, session: SessionNo, m: &Report) -> Result<()> {
        let (_, new) = self.change(session, m.volume, m.token, m.seq)?;
        if !new {
            return Ok(());
        }
        let v = self.catalog.volume(m.volume).ok_or_else(no_volume)?;
        if m.written.len() > AUS_PER_MESSAGE {
            return Err(refused("a report of too many AUs"));
        }
        if m.written.iter().any(|w| v.map.get(w.au).is_none()) {
            return Err(refused("a report of blocks that have no space"));
        }
        if m.written.is_empty() {
            return Ok(());
        }
        self.commit(Record::Reported { token: m.token, seq: m.seq, written: m.written.clone() })?;
        let aus: Vec<VolAu> = m.written.iter().map(|w| w.au).collect();
        self.map_changed(m.volume, Some(session), aus);
        Ok(())
    }

    pub(super) fn discard(&mut self, session: SessionNo, m: &Discard) -> Result<Reply> {
        let (_, new) = self.change(session, m.volume, m.token, m.seq)?;
        if m.cleared.len() > AUS_PER_MESSAGE {
            return Err(refused("a discard of too many AUs"));
        }
        let v = self.catalog.volume(m.volume).ok_or_else(no_volume)?;
        let mut gone: BTreeMap<VolAu, BlockMask> = BTreeMap::new();
        for c in m.cleared.iter().filter(|c| v.map.get(c.au).is_some()) {
            let mask = gone.entry(c.au).or_default();
            *mask = mask.or(c.blocks);
        }
        if new && !gone.is_empty() {
            let cleared: Vec<AuMask> = gone.iter().map(|(au, blocks)| AuMask { au: *au, blocks: *blocks }).collect();
            let unmapped = cleared.iter().filter(|c| c.blocks == BlockMask::ALL).map(|c| c.au).collect();
            let waits = self.users(m.volume, Some(session));
            let limbo = self.catalog.counters().limbo;
            self.commit(Record::Discarded { token: m.token, seq: m.seq, cleared, unmapped, limbo, waits: waits.clone() })?;
            self.map_changed(m.volume, Some(session), gone.into_keys().collect::<Vec<_>>());
            self.limbo_entered(m.volume, &waits);
        }
        let v = self.catalog.volume(m.volume).ok_or_else(no_volume)?;
        let asked: BTreeSet<VolAu> = m.cleared.iter().map(|c| c.au).collect();
        let unmapped = asked.into_iter().filter(|au| v.map.get(*au).is_none()).collect();
        Ok(Reply::Discarded(Discarded { unmapped }))
    }

    pub(super) fn preserve_space(&mut self, session: SessionNo, conn: ConnId, m: &PreserveSpace) -> Result<Reply> {
        let (a, new) = self.change(session, m.volume, m.token, m.seq)?;
        let v = self.catalog.volume(m.volume).ok_or_else(no_volume)?;
        if !new {
            let same = v.segments.values().find(|s| s.segment.token == m.token && s.seq == Some(m.seq));
            let segment = same.map(|s| s.segment.clone()).ok_or_else(|| no_space("no room to preserve blocks of snapshots"))?;
            return Ok(Reply::SegmentGranted(SegmentGranted { segment }));
        }
        let epoch = self.epoch_of_segment(m.volume, conn);
        let segment = self.new_segment(m.volume, epoch, m.token, a.session)?;
        self.commit(Record::SegmentGranted { token: m.token, seq: m.seq, segment: segment.clone() })?;
        Ok(Reply::SegmentGranted(SegmentGranted { segment }))
    }
}
