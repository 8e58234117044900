//! AUs to which a write was sent that was not answered: they are moved (PROTOCOL.md, P1).
//!
//! ```text
//!  sound --a write did not return--> late --all its blocks copied, flushed, Moved appended--> sound, at another place
//! ```
//! A write that did not return (a lost connection, a timeout, an error of the transport) may still land, on top of a newer one. So nothing
//! is sent again to where it was sent: its AU gets another place out of the reserve, what is written in it is copied there, and then the
//! write is made anew. Meanwhile nobody writes to the AU; who reads it may see the one or the other, as beside any write. The manager gives the
//! former place to nobody before the session is proven drained.
//!
//! Invariant: an AU that is late is not written, nor discarded, nor given back.

use super::Volume;
use super::view::Slot;
use crate::control::Control;
use crate::path::lives::Stamp;
use fusevol_shared::change::Entry;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::map::{Leg, MapEntry, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{BLOCKS_PER_AU, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::data::Claim;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often one write moves its AUs: each path that it is sent by may fail once more.
pub(super) const MOVES: u32 = 8;
/// Bytes that are copied at once.
const COPY: u64 = 1 << 20;

/// The AUs of one attachment that are late.
#[derive(Default)]
pub(super) struct Late {
    /// There is one: most writes look no further.
    any: AtomicBool,
    aus: Mutex<BTreeSet<VolAu>>,
}

impl Late {
    /// A write to these AUs did not return.
    pub(super) fn add(&self, aus: impl IntoIterator<Item = VolAu>) {
        let mut late = self.aus();
        late.extend(aus);
        self.any.store(!late.is_empty(), Ordering::SeqCst);
    }

    fn moved(&self, au: VolAu) {
        let mut late = self.aus();
        late.remove(&au);
        self.any.store(!late.is_empty(), Ordering::SeqCst);
    }

    /// Which of these AUs are.
    pub(super) fn among(&self, aus: Range<u32>) -> Vec<VolAu> {
        if !self.any.load(Ordering::SeqCst) {
            return Vec::new();
        }
        self.aus().range(VolAu(aus.start)..VolAu(aus.end)).copied().collect()
    }

    /// Whether one of these AUs is.
    pub(super) fn touches(&self, aus: Range<u32>) -> bool {
        self.any.load(Ordering::SeqCst) && !self.among(aus).is_empty()
    }

    fn aus(&self) -> MutexGuard<'_, BTreeSet<VolAu>> {
        self.aus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The write is to be made again once the AUs are moved.
pub(super) fn late() -> Error {
    Error::new(Kind::Io, "a write to this allocation unit did not return, and may still land")
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Moves those of these AUs that are late. The caller holds no guard.
    ///
    /// # Errors
    /// `NoSpace` without a place for them, those of the disks and of the journal: they stay late.
    pub(super) async fn move_late(&self, aus: Range<u32>) -> Result<()> {
        for au in self.late.among(aus) {
            let blocks = u64::from(BLOCKS_PER_AU);
            let _held = self.guard.lock(u64::from(au.0) * blocks..(u64::from(au.0) + 1) * blocks).await?;
            self.check_writable()?;
            // Somebody else may have moved it meanwhile.
            if self.late.touches(au.0..au.0 + 1) {
                self.move_one(au).await?;
            }
        }
        Ok(())
    }

    /// The caller holds every block of `au`.
    async fn move_one(&self, au: VolAu) -> Result<()> {
        let Some(slot) = self.view.get(au) else {
            self.late.moved(au);
            return Ok(());
        };
        self.engine.lease.wait().await?;
        let former: Vec<DiskNo> = slot.legs().map(|l| l.at.disk).chain(self.legs.out.disks().iter().copied()).collect();
        let mut failed = late();
        for _ in 0..MOVES {
            let places = self.place_apart(&former).await?;
            match self.copy_to(au, &slot, &places).await {
                Ok(()) => return self.say_moved(au, &slot, &places).await,
                Err(e) => failed = e.within(format_args!("AU {au} is moved")),
            }
            // It was written to, perhaps without an answer: it is not used.
            self.log()?.append(vec![Entry::Late { places }]).await?.clear()?;
        }
        Err(failed)
    }

    /// A place, by preference on other disks than these.
    pub(super) async fn place_apart(&self, from: &[DiskNo]) -> Result<Vec<DiskAu>> {
        match self.reserve.take_apart(from) {
            Some(places) => Ok(places),
            None => self.place().await,
        }
    }

    async fn copy_to(&self, au: VolAu, slot: &Slot<'_>, places: &[DiskAu]) -> Result<()> {
        let (size, block) = (self.engine.au_size, self.block_size());
        let claim = Claim::Live { volume: self.id, au };
        // By disk, the oldest of what is to be flushed.
        let mut unflushed: BTreeMap<DiskNo, Stamp> = BTreeMap::new();
        let per = u32::try_from((COPY / block).max(1)).expect("few");
        let places = self.usable(places);
        for run in slot.written().runs() {
            for first in run.clone().step_by(per as usize) {
                let (off, len) = (u64::from(first) * block, u64::from(per.min(run.end - first)) * block);
                let data = self.read_copies(au, slot, BlockMask::ALL, off..off + len).await?.freeze();
                for to in &places {
                    let disk = self.engine.disks.get(to.disk)?;
                    let done = disk.write(to.au.start(size).plus(off), data.clone(), claim).await;
                    if let Some(at) = done.map_err(|e| crate::disks::io_error(to.disk, e))? {
                        unflushed.entry(to.disk).or_insert(at);
                    }
                }
            }
        }
        for (no, since) in unflushed {
            self.engine.disks.get(no)?.flush(since, self.id).await.map_err(|e| crate::disks::io_error(no, e))?;
        }
        self.engine.lease.wait().await
    }

    /// Those of the places of an AU that are written: all but those on disks that are out, where there are others.
    fn usable(&self, places: &[DiskAu]) -> Vec<DiskAu> {
        let usable: Vec<DiskAu> = places.iter().copied().filter(|p| !self.legs.out.has(p.disk)).collect();
        if usable.is_empty() { places.to_vec() } else { usable }
    }

    async fn say_moved(&self, au: VolAu, slot: &Slot<'_>, places: &[DiskAu]) -> Result<()> {
        let _gate = self.legs.gate().await;
        let _turn = self.turn.lock().await;
        let legs: Vec<Leg> = places.iter().map(|p| Leg::single(*p)).collect();
        let written = slot.written();
        let mut entries = self.ledger.moved(au);
        entries.push(Entry::Moved { runs: vec![MapRun { first: au, legs: legs.clone(), written: vec![written.0] }] });
        // What the journal is told of is not in doubt: where the append fails, it may count all the same.
        self.log()?.append(entries).await.inspect_err(|_| self.poison())?.clear()?;
        let changed = slot.take_changed();
        let entry = MapEntry::new(&legs, written).ok_or_else(super::view::malformed)?;
        self.view.set(au, &entry.missed_by(&self.legs.out.disks()));
        if let Some(slot) = self.view.get(au) {
            slot.add_changed(changed);
        }
        self.late.moved(au);
        tracing::warn!("volume {}: AU {au} lies at {} from now on: a write to where it was did not return", self.id, places[0]);
        Ok(())
    }
}
