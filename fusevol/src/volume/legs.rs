//! The copies of a mirrored volume, when one fails (PROTOCOL.md, R2).
//!
//! ```text
//!  in use --a write or a flush failed, by every path--> losing --LegOut answered--> out --Returned appended--> in use
//! ```
//! From *losing* on nothing is written to the volume's legs on that disk; what was not written there is acknowledged only once the disk is
//! *out*: that is durable in the catalog, and whoever else holds the map reads there no more. If the manager does not answer, writes wait.
//!
//! The manager is told which regions may miss something: the dirty ones and those in which AUs were bound in this epoch. What is marked or bound later
//! it learns from the journal. So between the list and the answer nothing is marked, bound or moved: that is the [`Legs::gate`].
//!
//! Order in which things are taken: the gate after the range guard, before the turn and the journal.

use super::view::{MapView, Slot};
use super::{Mode, Volume};
use crate::control::Control;
use crate::out::OutSet;
use crate::path::spare::Spare;
use fusevol_shared::change::{Region, RegionRun};
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{DiskNo, VolAu};
use fusevol_shared::wire::messages::LegOut;
use fusevol_shared::wire::recovery::DIRTY_RUNS;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Between two questions to a manager that is not there.
pub(super) const AGAIN: Duration = Duration::from_millis(100);

/// What an attachment knows of its copies.
pub(super) struct Legs {
    /// How many each AU should have.
    pub copies: u8,
    /// Losing and out.
    pub out: Arc<OutSet>,
    /// Those of which the manager has answered.
    answered: Mutex<BTreeSet<DiskNo>>,
    /// Some are not answered.
    losing: AtomicBool,
    /// The disk that it can do without.
    pub spare: Arc<Spare>,
    gate: RwLock<()>,
}

impl Legs {
    /// Of an attachment in this mode, with this map.
    pub(super) fn new(mode: Mode, copies: u8, out: Arc<OutSet>, view: &MapView) -> Self {
        let answered = out.disks().iter().copied().collect();
        let (version, whole) = (out.version(), copies > 1 && can_do_without(view, &out));
        let spare = match mode {
            Mode::Write => Spare::new(whole),
            Mode::Read => {
                let spare = Spare::of_reader(out.clone());
                spare.counted_by_reader(version, whole);
                spare
            }
        };
        let spare = Arc::new(spare);
        Self { copies, out, answered: Mutex::new(answered), losing: AtomicBool::new(false), spare, gate: RwLock::default() }
    }

    /// Whether there is more than one copy.
    pub(super) fn is_mirrored(&self) -> bool {
        self.copies > 1
    }

    /// A reader has a new map: which disk it can do without.
    pub(super) fn count_again(&self, view: &MapView) {
        let version = self.out.version();
        self.spare.counted_by_reader(version, self.is_mirrored() && can_do_without(view, &self.out));
    }

    /// Held while something is marked, bound or moved, until the map here says so. `None` where there is nothing to keep apart from.
    pub(super) async fn gate(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.is_mirrored() {
            true => Some(self.gate.read().await),
            false => None,
        }
    }

    /// Held alone: nothing is marked, bound or moved meanwhile.
    pub(super) async fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// The disk is written again. The caller holds the gate alone.
    pub(super) fn returned(&self, no: DiskNo) {
        self.answered().remove(&no);
        self.out.remove(no);
    }

    fn answered(&self) -> MutexGuard<'_, BTreeSet<DiskNo>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn losing(&self) -> Vec<DiskNo> {
        let answered = self.answered();
        self.out.disks().iter().copied().filter(|d| !answered.contains(d)).collect()
    }
}

/// Whether every AU has two copies that are not out, at least: any one disk may fail.
fn can_do_without(view: &MapView, out: &OutSet) -> bool {
    view.iter_from(VolAu(0)).all(|(_, s)| s.in_sync().filter(|at| !out.has(at.disk)).count() > 1)
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Returns when nothing that missed a leg need wait any more before it is acknowledged.
    ///
    /// # Errors
    /// What the manager answers; `Lapsed` where the session is over.
    pub(super) async fn settled(&self) -> Result<()> {
        if !self.legs.losing.load(Ordering::SeqCst) {
            return Ok(());
        }
        Box::pin(async {
            for no in self.legs.losing() {
                self.lose_leg(no, "the manager did not answer").await?;
            }
            Ok(())
        })
        .await
    }

    /// I/O to disk `no` failed: returns once the volume goes on without its legs there.
    ///
    /// # Errors
    /// `Io` where there is no other copy; what the manager answers.
    pub(super) async fn lose_leg(&self, no: DiskNo, why: &str) -> Result<()> {
        if !self.legs.is_mirrored() {
            return Err(Error::new(Kind::Io, format!("disk {no}: {why}")));
        }
        let _gate = self.legs.gate.write().await;
        if self.legs.answered().contains(&no) && self.legs.out.has(no) {
            return Ok(());
        }
        // From here on nothing is written there; before it is answered nothing is acknowledged that was not.
        self.legs.losing.store(true, Ordering::SeqCst);
        self.legs.out.add(no);
        self.legs.spare.gives_up(no);
        self.log()?.avoid(no);
        let regions = self.missing_regions();
        let out = self.legs.out.disks();
        for au in regions.iter().flat_map(|r| r.aus()) {
            self.view.miss(VolAu(au), &out);
        }
        if sentence::holds(Tag::R2) {
            self.say_out(no, &regions, why).await?;
        }
        self.legs.answered().insert(no);
        self.copying.wake();
        self.legs.losing.store(!self.legs.losing().is_empty(), Ordering::SeqCst);
        tracing::error!("volume {}: its copies on disk {no} have failed ({why}); it goes on with the others", self.id);
        Ok(())
    }

    /// Regions in which a leg that is lost now may miss something.
    fn missing_regions(&self) -> Vec<RegionRun> {
        let mut regions: BTreeSet<Region> = self.regions.dirty().into_iter().collect();
        regions.extend(self.view.iter_from(VolAu(0)).filter(|(_, s)| s.is_fresh()).map(|(au, _)| au.region()));
        RegionRun::join(regions, DIRTY_RUNS)
    }

    async fn say_out(&self, disk: DiskNo, regions: &[RegionRun], why: &str) -> Result<()> {
        let call = LegOut { volume: self.id, token: self.token, disk, dirty: regions.to_vec(), why: why.to_owned() };
        loop {
            match self.say_out_once(&call).await {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == Kind::Unreachable => {
                    // The manager may be restarting: it is asked as long as the lease, or its coming back, allows.
                    self.engine.lease.wait().await?;
                    self.engine.control.sleep(AGAIN).await;
                }
                Err(e) => return Err(e.within(format!("the copies on disk {disk} failed, and could not be given up"))),
            }
        }
    }

    /// A former return of the disk stands in the journal: it must not be folded after this.
    async fn say_out_once(&self, call: &LegOut) -> Result<()> {
        self.log()?.fold_all().await?;
        self.engine.control.call(call.clone()).await.map(drop)
    }

    /// Whether these AUs have a copy in sync that is on none of these disks.
    pub(super) fn have_others(slots: &[Slot<'_>], bad: &[DiskNo]) -> bool {
        slots.iter().all(|s| s.in_sync().any(|at| !bad.contains(&at.disk)))
    }

    /// Whether every AU that may have unflushed writes has a copy in sync on none of these disks.
    pub(super) fn unflushed_have_others(&self, bad: &[DiskNo]) -> bool {
        let regions = self.missing_regions();
        let aus = regions.iter().flat_map(|r| r.aus()).map(VolAu);
        aus.filter_map(|au| self.view.get(au)).all(|s| !s.in_sync().any(|at| bad.contains(&at.disk)) || Self::have_others(&[s], bad))
    }
}
