//! The disks of the pool as this process reaches them, by their number: I/O goes by the disk's [`Path`](crate::path).
//!
//! States of a number: *present* (an open disk whose label was checked), *missing* (known to the pool, not found or
//! lost here), *unknown*. The table is swapped as a whole, so that a look-up never waits; it is dense, so that one is an index.
//!
//! [`member`]: one disk, with its I/O. [`dirty`]: which disks a volume has written since its last flush.

mod dirty;
mod member;

pub use dirty::Dirty;
pub use member::Member;

use crate::path::Path;
use crate::path::door::Door;
use crate::path::lives::ManagerLife;
use crate::path::spare::Spare;
use arc_swap::ArcSwap;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::{Disk, DiskError};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{DiskId, VolumeId};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::Lives;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

enum State<D> {
    Present(Arc<Member<D>>),
    Missing(String),
}

impl<D> Clone for State<D> {
    fn clone(&self) -> Self {
        match self {
            State::Present(m) => State::Present(m.clone()),
            State::Missing(why) => State::Missing(why.clone()),
        }
    }
}

/// By number; `None` is unknown. As long as the greatest number that is known.
type Table<D> = Vec<Option<State<D>>>;

/// The table of disks.
pub struct Disks<D> {
    table: ArcSwap<Table<D>>,
    /// The way through the manager; none where there is none.
    door: Arc<OnceLock<Arc<dyn Door>>>,
    moved: Arc<Notify>,
    unreturned: Arc<AtomicBool>,
    clock: Arc<dyn Clock>,
}

impl<D> Default for Disks<D> {
    fn default() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

impl<D> Disks<D> {
    /// No disk at all; the pauses of their paths go by this clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let (table, door) = (ArcSwap::from_pointee(Vec::new()), Arc::default());
        Self { table, door, moved: Arc::default(), unreturned: Arc::default(), clock }
    }
}

impl<D: Disk> Disks<D> {
    /// No disk at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What fails on its own path goes this way from now on. The first one stays.
    pub fn redirect_by(&self, door: Arc<dyn Door>) {
        // A second one is left alone.
        let _ = self.door.set(door);
    }

    /// A disk that this volume can do without, as `spare` says, is not waited for when nobody reaches it.
    pub fn spare(&self, volume: VolumeId, spare: &Arc<Spare>) {
        if let Some(door) = self.door.get() {
            door.spare(volume, Arc::downgrade(spare));
        }
    }

    /// Whether a write of this process was not answered: it may still land, so nobody can say that all of it is drained.
    #[must_use]
    pub fn has_unreturned(&self) -> bool {
        self.unreturned.load(Ordering::SeqCst)
    }

    /// Told whenever a path has failed.
    #[must_use]
    pub fn moved(&self) -> Arc<Notify> {
        self.moved.clone()
    }

    /// The manager has told the lives of its paths.
    pub fn heard(&self, told: &Lives) {
        for member in self.present() {
            if let Some((_, life)) = told.lives.iter().find(|(no, _)| *no == member.no()) {
                member.path().lives().heard(ManagerLife { generation: told.generation, life: *life });
            }
        }
    }

    /// `no` is this open disk from now on; its label says `id`.
    pub fn set_present(&self, no: DiskNo, id: DiskId, disk: Arc<D>) {
        self.set_member(no, id, Path::new(disk, self.moved.clone(), self.clock.clone()));
    }

    /// `no`, whose label says `id`, is not reached from here for now: its I/O goes through the manager; `why` is for people.
    pub fn set_unreached(&self, no: DiskNo, id: DiskId, why: String) {
        self.set_member(no, id, Path::lost(why, self.moved.clone(), self.clock.clone()));
    }

    fn set_member(&self, no: DiskNo, id: DiskId, path: Path<D>) {
        self.change(no, State::Present(Arc::new(Member::new(no, id, path, self.door.clone(), self.unreturned.clone()))));
    }

    /// `no` belongs to the pool but cannot be used here; `why` is for people.
    pub fn set_missing(&self, no: DiskNo, why: impl Into<String>) {
        self.change(no, State::Missing(why.into()));
    }

    fn change(&self, no: DiskNo, state: State<D>) {
        self.table.rcu(|t| {
            let mut t = Table::clone(t);
            let at = usize::from(no.0);
            if t.len() <= at {
                t.resize(at + 1, None);
            }
            t[at] = Some(state.clone());
            t
        });
    }

    /// The disk `no`. It stays open until what is given here is dropped, whatever becomes of the table meanwhile.
    ///
    /// # Errors
    /// `Io` where it is missing or unknown.
    pub fn get(&self, no: DiskNo) -> Result<Arc<Member<D>>> {
        match self.table.load().get(usize::from(no.0)).and_then(Option::as_ref) {
            Some(State::Present(m)) => Ok(m.clone()),
            Some(State::Missing(why)) => Err(Error::new(Kind::Io, format!("disk {no} is missing: {why}"))),
            None => Err(Error::new(Kind::Io, format!("disk {no} is not known here"))),
        }
    }

    /// The disks that are missing, with the reason.
    #[must_use]
    pub fn missing(&self) -> Vec<(DiskNo, String)> {
        let table = self.table.load();
        let states = (0u16..=u16::MAX).map(DiskNo).zip(table.iter());
        states.filter_map(|(no, s)| if let Some(State::Missing(why)) = s { Some((no, why.clone())) } else { None }).collect()
    }

    /// The disks that are present.
    #[must_use]
    pub fn present(&self) -> Vec<Arc<Member<D>>> {
        self.table.load().iter().filter_map(|s| if let Some(State::Present(m)) = s { Some(m.clone()) } else { None }).collect()
    }
}

/// The disk's answer as an error of the I/O that it hit.
#[must_use]
pub fn io_error(no: DiskNo, e: DiskError) -> Error {
    Error::new(Kind::Io, format!("disk {no}")).because(e)
}

#[cfg(test)]
mod tests;
