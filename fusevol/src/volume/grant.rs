//! Space for new places: out of the reserve, which is refilled ahead; a writer asks only where it is empty.
//!
//! One `Grant` is out at a time. Its number is used until it is answered: one whose answer was lost is sent again unchanged,
//! and the manager answers it as before.

use super::{Mode, Volume};
use crate::control::Control;
use fusevol_shared::change::Places;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::map::{Leg, MapEntry};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::{AUS_PER_GRANT, Grant};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Single places that are asked for at once.
const APART: u32 = 32;

/// Numbers the grants of one attachment.
#[derive(Default)]
pub(super) struct Grants {
    last: u64,
    /// Sent, and its answer was lost.
    open: Option<Grant>,
    /// Single places that were granted apart from these disks, ascending.
    apart: BTreeMap<Vec<DiskNo>, Vec<DiskAu>>,
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Makes sure that these AUs have space. `plain`: also where no data follows.
    pub(super) async fn bind(&self, aus: Range<u32>, plain: bool) -> Result<()> {
        for au in aus.map(VolAu) {
            if self.view.get(au).is_none() || plain {
                self.bind_one(au, plain).await?;
            }
        }
        Ok(())
    }

    async fn bind_one(&self, au: VolAu, plain: bool) -> Result<()> {
        loop {
            let gate = self.legs.gate().await;
            let empty = self.ledger.bind(au, plain, || {
                if self.view.get(au).is_some() {
                    return Ok(None);
                }
                let legs = self.reserve.take(self.place_before(au)).ok_or(())?;
                self.view.set_fresh(au, &fresh(&legs)?);
                if self.legs.is_mirrored() {
                    self.view.miss(au, &self.legs.out.disks());
                }
                Ok(Some(legs))
            });
            drop(gate);
            match empty {
                Ok(()) => return Ok(()),
                Err(()) => Box::pin(self.wait_for_grant()).await?,
            }
        }
    }

    fn place_before(&self, au: VolAu) -> Option<DiskAu> {
        self.view.get(VolAu(au.0.checked_sub(1)?)).map(|s| s.name())
    }

    /// A place for something else than data of the volume.
    pub(super) async fn place(&self) -> Result<Vec<DiskAu>> {
        loop {
            if let Some(legs) = self.reserve.take(None) {
                return Ok(legs);
            }
            self.wait_for_grant().await?;
        }
    }

    /// The reserve was empty: returns when something was granted since.
    async fn wait_for_grant(&self) -> Result<()> {
        let began = self.engine.lease.now();
        self.reserve.waits.fetch_add(1, Ordering::Relaxed);
        let mut grants = self.grants.lock().await;
        if self.reserve.len() == 0 {
            let want = self.reserve.want(self.engine.lease.now()).max(1);
            if let Err(e) = self.ask(&mut grants, want, Vec::new()).await {
                if e.kind() != Kind::NoSpace || !self.gives_space_back().await? {
                    return Err(e);
                }
                self.ask(&mut grants, want, Vec::new()).await?;
            }
        }
        let waited = u64::try_from(self.engine.lease.now().since(began).as_micros()).unwrap_or(u64::MAX);
        self.reserve.longest_wait.fetch_max(waited, Ordering::Relaxed);
        Ok(())
    }

    /// What was discarded here may be folded yet: then there may be space again.
    async fn gives_space_back(&self) -> Result<bool> {
        let log = self.log()?;
        let waits = log.unfolded() > 0;
        log.fold_all().await.map(|()| waits)
    }

    /// Asks ahead where the reserve is low, and gives back what is far too much.
    ///
    /// # Errors
    /// What the manager answers; `NoSpace` is none for who does not wait for it.
    pub(super) async fn refill(&self) -> Result<()> {
        if self.mode != Mode::Write || self.is_closed() {
            return Ok(());
        }
        let mut grants = self.grants.lock().await;
        let mut back = self.reserve.lying_on(&self.legs.out.disks());
        let want = self.reserve.want(self.engine.lease.now());
        if want == 0 {
            back.extend(self.reserve.surplus());
        }
        if want == 0 && back.is_empty() {
            return Ok(());
        }
        match self.ask(&mut grants, want, back).await {
            Err(e) if e.kind() == Kind::NoSpace => Ok(()),
            other => other,
        }
    }

    /// A single place apart from these disks (ascending), for one more copy of what lies there.
    ///
    /// # Errors
    /// `NoSpace` where there is none.
    pub(super) async fn place_apart_from(&self, from: &[DiskNo]) -> Result<DiskAu> {
        let mut grants = self.grants.lock().await;
        let (volume, token) = (self.id, self.token);
        self.settle_open(&mut grants).await?;
        if grants.apart.get(from).is_none_or(Vec::is_empty) {
            let no = grants.last + 1;
            self.settle(&mut grants, Grant { volume, token, no, want: APART, back: Vec::new(), apart: from.to_vec() }).await?;
        }
        let none = || Error::new(Kind::NoSpace, "no other disk has room for more copies");
        grants.apart.get_mut(from).and_then(Vec::pop).ok_or_else(none)
    }

    /// Places of [`Self::place_apart_from`] that were not written to.
    pub(super) async fn put_back_apart(&self, from: &[DiskNo], place: DiskAu) {
        self.grants.lock().await.apart.entry(from.to_vec()).or_default().push(place);
    }

    async fn settle_open(&self, grants: &mut Grants) -> Result<()> {
        match grants.open.clone() {
            Some(open) => self.settle(grants, open).await,
            None => Ok(()),
        }
    }

    async fn ask(&self, grants: &mut Grants, want: u32, back: Vec<Places>) -> Result<()> {
        let (volume, token) = (self.id, self.token);
        self.settle_open(grants).await?;
        let call = Grant { volume, token, no: grants.last + 1, want: want.min(AUS_PER_GRANT), back, apart: Vec::new() };
        self.settle(grants, call).await
    }

    async fn settle(&self, grants: &mut Grants, call: Grant) -> Result<()> {
        let (asked, apart) = (call.want > 0, call.apart.clone());
        grants.open = Some(call.clone());
        let granted = match self.engine.control.call(call).await {
            Err(e) if matches!(e.kind(), Kind::Unreachable | Kind::Lapsed) => return Err(e),
            other => other,
        };
        // Refused, or nothing there: what was to be given back then is not; it is the session's until its end.
        grants.open = None;
        let granted = granted?;
        grants.last += 1;
        if granted.places.iter().any(|p| !p.fits()) {
            return Err(Error::new(Kind::Damaged, "the manager granted places that do not fit together"));
        }
        if granted.places.is_empty() && asked {
            return Err(Error::new(Kind::NoSpace, "the manager granted nothing"));
        }
        if apart.is_empty() {
            self.reserve.add(granted.places);
            return Ok(());
        }
        let single = granted.places.iter().flat_map(Places::each).filter_map(|legs| legs.first().copied());
        grants.apart.entry(apart).or_default().extend(single);
        Ok(())
    }
}

/// Space at these places, unwritten.
fn fresh(legs: &[DiskAu]) -> std::result::Result<MapEntry, ()> {
    let legs: Vec<Leg> = legs.iter().map(|p| Leg::single(*p)).collect();
    MapEntry::new(&legs, BlockMask::NONE).ok_or(())
}
