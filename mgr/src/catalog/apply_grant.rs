//! Records of what a writer is given: space ahead of its writes, and a place for its journal.

use super::fits::{journal_fits, legs_fit};
use super::record::QuarantineEntry;
use super::reserve::spots;
use super::{Catalog, must, unfit};
use fusevol_shared::change::{Journal, Places};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{FenceToken, Seq};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::DiskAu;
use fusevol_shared::wire::messages::AUS_PER_GRANT;
use std::collections::BTreeSet;

/// Most AUs in the reserve of one attachment.
pub const RESERVE_MAX: usize = 4 * AUS_PER_GRANT as usize;

impl Catalog {
    /// The AUs of a grant, all of them free and fit for a volume of this many legs.
    pub(super) fn grantable(&self, places: &[Places], legs: u8) -> Result<BTreeSet<Vec<DiskAu>>> {
        let new = spots(places, RESERVE_MAX).ok_or_else(|| unfit("a grant does not fit together"))?;
        must(new.iter().all(|l| legs_fit(l, legs)), "a grant does not fit its volume")?;
        let flat: Vec<DiskAu> = new.iter().flatten().copied().collect();
        must(self.all_free(&flat), "a grant has a place that is not free")?;
        Ok(new)
    }

    pub(super) fn granted(&mut self, token: FenceToken, no: u64, places: &[Places], back: &[Places]) -> Result<()> {
        let (a, v) = self.writing(token)?;
        must(a.grant.checked_add(1) == Some(no), "a grant has a number that is not the next")?;
        let new = self.grantable(places, v.entry.legs)?;
        let back = spots(back, RESERVE_MAX).ok_or_else(|| unfit("what a reserve gives back does not fit together"))?;
        must(back.iter().all(|l| a.reserve.has(l)), "a reserve gives back what it does not have")?;
        must(a.reserve.len() + new.len() - back.len() <= RESERVE_MAX, "a reserve is too large")?;
        self.take(new.iter().flatten().copied());
        self.release(back.iter().flatten().copied());
        if let Some(a) = self.attachments.get_mut(&token) {
            a.reserve.remove(&back);
            a.reserve.add(new);
            a.grant = no;
            a.granted = places.to_vec();
        }
        Ok(())
    }

    pub(super) fn journal_replaced(&mut self, token: FenceToken, closing: Seq, journal: &Journal) -> Result<()> {
        let (a, _) = self.writing(token)?;
        let former = a.journal.as_ref().ok_or_else(|| unfit("a writer without a journal"))?;
        if holds(Tag::F1) {
            must(closing == a.folded, "a journal is closed at a number that is not folded")?;
        }
        must(former.no.checked_add(1) == Some(journal.no), "a journal has a number that is not the next")?;
        let places = journal.places();
        must(journal_fits(journal) && self.all_free(&places), "a journal has a place that is not free")?;
        let no = self.counters.quarantine;
        let next = no.checked_add(1).ok_or_else(|| unfit("all numbers of quarantine are used up"))?;
        let entry = QuarantineEntry { no, session: a.session, places: former.places() };
        self.take(places);
        self.quarantine.insert(no, entry);
        self.counters.quarantine = next;
        if let Some(a) = self.attachments.get_mut(&token) {
            a.began = a.folded;
            a.journal = Some(journal.clone());
        }
        Ok(())
    }
}
