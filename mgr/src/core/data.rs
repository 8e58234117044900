//! I/O that a client asks the manager to do for it, because its own path to a disk has failed (PROTOCOL.md, "Redirect").
//!
//! The core only says whether it may: the place must be the session's by the claim that comes with it, against maps and grants as they
//! are now. A write that was let through counts as the session's own until it has returned: a session with one does not end (K1).

use super::rights::lapsed;
use super::{Core, Effect};
use crate::catalog::Attachment;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::ids::{Generation, KeyPrint, SessionId, SessionNo, VolumeId};
use fusevol_shared::map::{LegState, MapEntry};
use fusevol_shared::units::{AuNo, DiskAu, VolAu};
use fusevol_shared::wire::data::{Claim, Io, Verb};

/// Names a question until it is answered; never reused within a life of the manager.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// What is answered to a question about data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The connection is the session's.
    Opened {
        /// Its number.
        session: SessionNo,
        /// The manager's.
        generation: Generation,
        /// Nothing is in flight of earlier managers.
        drained: bool,
    },
    /// The I/O may be done.
    May,
}

fn not_yours() -> Error {
    Error::new(Kind::Denied, "the place is not this session's, or is not any more")
}

impl Core {
    pub(super) fn data_open(&mut self, ticket: Ticket, print: KeyPrint, id: SessionId) {
        let result = self.may_open(print, id);
        self.verdict(ticket, result);
    }

    fn may_open(&self, print: KeyPrint, id: SessionId) -> Result<Verdict> {
        let client = self.catalog.client_of(&print).filter(|c| !c.revoked);
        let client = client.ok_or_else(|| Error::new(Kind::Denied, "the key is not known to this pool, or revoked"))?;
        let session = self.catalog.session_by_id(id).filter(|s| s.client == client.id).ok_or_else(lapsed)?;
        self.is_served(session.no)?;
        Ok(Verdict::Opened { session: session.no, generation: self.generation, drained: self.config.drained })
    }

    fn is_served(&self, session: SessionNo) -> Result<()> {
        let alive = self.lives.get(&session).is_some_and(|l| !l.lapsed && !l.is_ending() && !l.is_sealed());
        if alive { Ok(()) } else { Err(lapsed()) }
    }

    pub(super) fn data_io(&mut self, ticket: Ticket, session: SessionNo, io: &Io) {
        let result = self.is_served(session).and_then(|()| self.may(session, io));
        if result.is_ok()
            && writes(io)
            && let Some(life) = self.lives.get_mut(&session)
        {
            life.proxied += 1;
        }
        self.verdict(ticket, result.map(|()| Verdict::May));
    }

    /// A write that was let through has returned.
    pub(super) fn data_done(&mut self, session: SessionNo) {
        if let Some(life) = self.lives.get_mut(&session) {
            life.proxied = life.proxied.saturating_sub(1);
        }
    }

    fn verdict(&mut self, ticket: Ticket, result: Result<Verdict>) {
        self.out.effects.push(Effect::Verdict { ticket, result: result.map_err(|e| WireError::from(&e)) });
    }

    fn may(&self, session: SessionNo, io: &Io) -> Result<()> {
        let places = self.places_of(io)?;
        let write = writes(io);
        match io.claim {
            _ if io.verb == Verb::Flush => self.holds_any(session),
            Claim::Live { volume, au } => {
                // Only the writer reads what is stale: it brings it up to date.
                let a = self.attached_for(session, volume, write)?;
                places.into_iter().zip(au.0..).try_for_each(|(place, au)| self.is_live(a, VolAu(au), place, write))
            }
            Claim::Frozen { snapshot, au } if !write => {
                let s = self.catalog.snapshot(snapshot).filter(|_| self.catalog.is_open(snapshot, session)).ok_or_else(not_yours)?;
                let lies = |(place, au)| {
                    s.map.get(VolAu(au)).is_some_and(|e| lies_at(&e, place, false)) || self.catalog.is_kept_for(session, place)
                };
                must(places.into_iter().zip(au.0..).all(lies))
            }
            Claim::Segment { volume } => self.is_segment(session, volume, &places, write),
            Claim::Journal { volume } => {
                let a = self.attached_for(session, volume, true)?;
                let own = a.journal.as_ref().map(|j| j.places()).unwrap_or_default();
                must(places.iter().all(|p| own.contains(p)))
            }
            Claim::Slot if !write => self.is_slot(session, io),
            Claim::Frozen { .. } | Claim::Slot => Err(not_yours()),
        }
    }

    /// The AUs that it touches.
    fn places_of(&self, io: &Io) -> Result<Vec<DiskAu>> {
        let (size, end) = (self.catalog.au_size(), io.at.0.checked_add(u64::from(io.len)));
        let known = self.catalog.disk(io.disk).zip(end).filter(|(d, end)| *end <= u64::from(d.entry.aus) << size.log2());
        let (_, end) = known.ok_or_else(|| Error::new(Kind::Refused, "I/O past the end of a disk, or to one that is none"))?;
        let au = |at: u64| u32::try_from(at >> size.log2()).map_err(|_| not_yours());
        let (first, end) = (au(io.at.0)?, au(end.next_multiple_of(size.bytes()))?);
        Ok((first..end).map(|au| DiskAu { disk: io.disk, au: AuNo(au) }).collect())
    }

    fn attached_for(&self, session: SessionNo, volume: VolumeId, write: bool) -> Result<&Attachment> {
        self.catalog.attachment_of(volume, session).filter(|a| !write || a.writes()).ok_or_else(not_yours)
    }

    fn holds_any(&self, session: SessionNo) -> Result<()> {
        must(self.catalog.attachments().any(|a| a.session == session && a.writes()))
    }

    fn is_live(&self, a: &Attachment, au: VolAu, place: DiskAu, write: bool) -> Result<()> {
        let mapped = self.catalog.volume(a.volume).and_then(|v| v.map.get(au)).is_some_and(|e| lies_at(&e, place, a.writes()));
        must(mapped || a.reserve.holds(place) || !write && self.may_still_read(a, place))
    }

    /// It left the map, and the session has not answered yet.
    fn may_still_read(&self, a: &Attachment, place: DiskAu) -> bool {
        self.catalog.limbo().any(|l| l.volume == a.volume && l.waits.contains(&a.session) && l.places.contains(&place))
    }

    fn is_segment(&self, session: SessionNo, volume: VolumeId, places: &[DiskAu], write: bool) -> Result<()> {
        let v = self.catalog.volume(volume).ok_or_else(not_yours)?;
        let a = self.catalog.attachment_of(volume, session);
        let reads = a.is_some() || self.catalog.snapshots_of(volume).iter().any(|s| self.catalog.is_open(s.entry.id, session));
        let own = |s: &fusevol_shared::change::Segment| !write || s.session == session;
        let lies = |p: &DiskAu| {
            v.segments.values().any(|s| own(s) && s.legs.contains(p))
                || a.is_some_and(|a| a.reserve.holds(*p))
                || !write && self.catalog.is_kept_for(session, *p)
        };
        must(reads && (!write || a.is_some_and(Attachment::writes)) && places.iter().all(lies))
    }

    /// The two pages of the own slot.
    fn is_slot(&self, session: SessionNo, io: &Io) -> Result<()> {
        let slots = self.catalog.session(session).is_some_and(|s| s.slots.each().any(|p| p.disk == io.disk));
        let layout =
            self.catalog.disk(io.disk).and_then(|d| fusevol_shared::format::layout::Layout::for_aus(self.catalog.au_size(), d.entry.aus));
        let own = layout.is_some_and(|l| {
            let slot = l.slot(session).0;
            io.at.0 >= slot && io.at.0 + u64::from(io.len) <= slot + fusevol_shared::format::layout::SLOT_BYTES
        });
        must(slots && own)
    }
}

fn must(holds: bool) -> Result<()> {
    if holds { Ok(()) } else { Err(not_yours()) }
}

fn writes(io: &Io) -> bool {
    matches!(io.verb, Verb::Write | Verb::WriteDurable)
}

/// Whether a leg that may be used lies there: one in sync; for the writer, a stale one too.
fn lies_at(e: &MapEntry, place: DiskAu, writer: bool) -> bool {
    e.legs().iter().any(|l| l.at == place && (l.state == LegState::InSync || writer && l.state == LegState::Stale))
}
