//! What a writer is given: space ahead of its writes, and a fresh journal where its own has failed.
//!
//! A grant has a number within its attachment; the last one is kept, so that it is answered alike when its answer was lost.
//!
//! How much: at most what is asked, [`AUS_PER_GRANT`], and what the reserve may hold ([`RESERVE_MAX`]). What is kept from volumes stays free.
//! Beyond [`SMALL`] AUs, at most a sixteenth of what is free besides: many writers shall find something. Where that gives nothing, and the
//! volume has unbroken snapshots, what is kept is used to fill a reserve up to [`PRESERVE_LOW`] AUs: so that preserving goes on.

use super::Core;
use super::attach::{GRANT_SHARE, no_space};
use super::rights::no_volume;
use crate::catalog::alloc::Wish;
use crate::catalog::record::Record;
use crate::catalog::{Attachment, RESERVE_MAX};
use fusevol_shared::change::{Journal, Places};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeId};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{AUS_PER_GRANT, Grant, Granted, JournalGranted, NewJournal, Reply};

/// AUs that volumes leave to preserve segments.
const KEPT_MIN: u64 = 4;
const KEPT_SHARE: u64 = 100;
/// A grant of so few AUs may be the last there are.
const SMALL: u64 = 16;
/// AUs up to which a reserve is filled from what is kept.
const PRESERVE_LOW: u64 = 4;

/// Most disks that a grant is to lie apart from.
const APART_MAX: usize = 16;

pub(super) fn refused(what: &str) -> Error {
    Error::new(Kind::Refused, what)
}

impl Core {
    /// AUs kept from volumes, so that snapshots still work in a full pool: 1 %, at least 4.
    pub(super) fn reserve(&self) -> u64 {
        KEPT_MIN.max(self.catalog.total_aus() / KEPT_SHARE)
    }

    /// The attachment under which a session says something of its writes.
    ///
    /// # Errors
    /// `Refused`.
    pub(super) fn writing(&self, session: SessionNo, volume: VolumeId, token: FenceToken) -> Result<&Attachment> {
        let a = self.attachment(session, volume)?;
        if !a.writes() || a.token != token {
            return Err(refused("the session has not attached this volume for writing under this token"));
        }
        if self.pending.contains_key(&(volume, session)) {
            return Err(refused("the attachment was not answered yet"));
        }
        Ok(a)
    }

    pub(super) fn grant(&mut self, session: SessionNo, m: &Grant) -> Result<Reply> {
        let a = self.writing(session, m.volume, m.token)?;
        if m.no > 0 && m.no == a.grant {
            return Ok(Reply::Granted(Granted { places: a.granted.clone() }));
        }
        if a.grant.checked_add(1) != Some(m.no) {
            return Err(refused("a grant has a number that is not the next"));
        }
        let back = crate::catalog::reserve::spots(&m.back, RESERVE_MAX);
        let given = back.filter(|b| b.iter().all(|l| a.reserve.has(l)));
        let given = given.ok_or_else(|| refused("places are given back that are not in the reserve"))?.len();
        let held = a.reserve.len() - given;
        self.check_room_in_catalog()?;
        let unknown = m.apart.iter().any(|d| self.catalog.disk(*d).is_none());
        if unknown || m.apart.len() > APART_MAX {
            return Err(refused("copies apart from disks that are not there"));
        }
        let places = self.grantable(m.volume, m.want, held, &m.apart)?;
        self.commit(Record::Granted { token: m.token, no: m.no, places: places.clone(), back: m.back.clone() })?;
        Ok(Reply::Granted(Granted { places }))
    }

    /// Places for a reserve that holds so many.
    fn grantable(&mut self, volume: VolumeId, want: u32, held: usize, apart: &[DiskNo]) -> Result<Vec<Places>> {
        let want = u64::from(want.min(AUS_PER_GRANT));
        if want == 0 {
            return Ok(Vec::new());
        }
        let room = (RESERVE_MAX - held.min(RESERVE_MAX)) as u64;
        if room == 0 {
            return Err(Error::new(Kind::Busy, "the reserve is as large as it can be").hint("fold what was bound out of it first"));
        }
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let (out, keep) = (v.out.clone(), self.reserve());
        let legs = if apart.is_empty() { v.entry.legs } else { 1 };
        let bad: Vec<DiskNo> = out.iter().copied().chain(self.bad_disks()).collect();
        // Disks that the manager does not reach are left alone where there are enough others: clients may reach them all the same.
        let (any, well) = (Wish { legs, but: &out, apart }, Wish { legs, but: &bad, apart });
        let enough = well.room(&self.catalog) >= want * u64::from(legs) + keep;
        let wish = if enough && well.legs_now(&self.catalog) == any.legs_now(&self.catalog) { well } else { any };
        let free = |keep: u64| wish.room(&self.catalog).saturating_sub(keep) / u64::from(wish.legs_now(&self.catalog).max(1));
        let most = free(keep).min((free(keep) / GRANT_SHARE).max(SMALL));
        let count = want.min(most).min(room);
        let places = self.allocator.grant(&self.catalog, wish, u32::try_from(count).unwrap_or(0), keep);
        if !places.is_empty() {
            return Ok(places);
        }
        if !apart.is_empty() {
            return Err(no_space("no other disk has room for copies"));
        }
        let preserves = self.catalog.snapshots_of(volume).iter().any(|s| !s.entry.broken);
        let low = if preserves { PRESERVE_LOW.saturating_sub(held as u64).min(want) } else { 0 };
        let places = self.allocator.grant(&self.catalog, wish, u32::try_from(low).unwrap_or(0), 0);
        if places.is_empty() { Err(no_space("the pool is full")) } else { Ok(places) }
    }

    /// The failed journal is closed at a number that is folded; a fresh one lies elsewhere.
    pub(super) fn new_journal(&mut self, session: SessionNo, m: &NewJournal) -> Result<Reply> {
        let a = self.writing(session, m.volume, m.token)?;
        let journal = a.journal.clone().ok_or_else(|| refused("a reader has no journal"))?;
        if m.failed.checked_add(1) == Some(journal.no) {
            return Ok(Reply::JournalGranted(JournalGranted { journal }));
        }
        if m.failed != journal.no {
            return Err(refused("a journal has failed that is not the last one"));
        }
        if m.closing != a.folded && holds(Tag::F1) {
            return Err(refused("the journal is not folded up to its closing number").hint("fold what counts first"));
        }
        let former: Vec<DiskNo> = journal.copies.iter().map(|c| c.first.disk).collect();
        let out = self.catalog.volume(m.volume).map(|v| v.out.clone()).unwrap_or_default();
        let never: Vec<DiskNo> = m.avoid.iter().copied().chain(out).collect();
        let former = if m.avoid.is_empty() { former } else { Vec::new() };
        let copies = self.allocator.journal(&self.catalog, &former, &never);
        if copies.is_empty() {
            return Err(no_space("no room for the journal of a writer"));
        }
        let no = journal.no.checked_add(1).ok_or_else(|| refused("the journal has failed too often"))?;
        let journal = Journal { no, copies };
        self.commit(Record::JournalReplaced { token: m.token, closing: m.closing, journal: journal.clone() })?;
        let who = self.who(session);
        let what = format!("a copy of the journal of {who} has failed; it goes on elsewhere");
        self.tell(super::admin_api::Level::Warning, "journal-replaced", what);
        Ok(Reply::JournalGranted(JournalGranted { journal }))
    }
}
