//! Attach and detach, and the changes that reach a reader.

use super::flush::Rounds;
use super::guard::RangeGuard;
use super::ledger::Ledger;
use super::legs::Legs;
use super::mark::cleared;
use super::regions::Regions;
use super::reserve::Reserve;
use super::view::{MapView, malformed};
use super::{Engine, Mode, Volume, entries};
use crate::control::Control;
use crate::disks::Dirty;
use crate::journal::JournalLog;
use crate::out::OutSet;
use crate::preserve::{self, PreserveLog};
use crate::stale::Whose;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::VolumeId;
use fusevol_shared::map::MapEntry;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{AttachRead, AttachWrite, Attached, Detach, GetMap, GetNeed, MapChanged, MapPart};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How often a map is asked for that changes meanwhile.
const REFRESHES: u32 = 16;

/// Gets the whole map of an object with so many AUs, part by part. `part` asks for one; `each` takes its entries.
pub(crate) async fn fetch_map(aus: u32, part: impl AsyncFn(VolAu) -> Result<MapPart>, mut each: impl FnMut(VolAu, MapEntry)) -> Result<()> {
    let mut from = VolAu(0);
    // The next part begins further on each time, so this ends.
    loop {
        let got = part(from).await?;
        for run in &got.runs {
            run.each(aus, &mut each).ok_or_else(malformed)?;
        }
        match got.next {
            None => return Ok(()),
            Some(next) if next > from => from = next,
            Some(_) => return Err(Error::new(Kind::Damaged, "the manager's map goes round in a circle")),
        }
    }
}

fn unsettled<D, C>(engine: &Engine<D, C>) -> std::sync::MutexGuard<'_, BTreeMap<VolumeId, Arc<JournalLog<D, C>>>> {
    engine.unsettled.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Folds what the former write attachment of a volume had journaled, and gives that attachment back.
async fn settle_former<D: Disk, C: Control>(engine: &Engine<D, C>, id: VolumeId) -> Result<()> {
    let Some(log) = unsettled(engine).get(&id).cloned() else { return Ok(()) };
    match settle(engine, id, &log).await {
        // The manager ends an attachment that was recalled by itself, and reads its journal: it may be over already.
        Err(e) if log.is_given_back() && matches!(e.kind(), Kind::Refused | Kind::NotFound | Kind::Denied) => {
            tracing::debug!("volume {id} was given back: {e}");
        }
        done => done?,
    }
    unsettled(engine).remove(&id);
    Ok(())
}

fn log_of<D, C>(engine: &Engine<D, C>, volume: VolumeId, attached: &Attached) -> preserve::Whose {
    preserve::Whose { pool: engine.pool, volume, session: engine.session, token: attached.token }
}

async fn settle<D: Disk, C: Control>(engine: &Engine<D, C>, id: VolumeId, log: &JournalLog<D, C>) -> Result<()> {
    log.settle().await?;
    engine.control.call(Detach { volume: id }).await.map(drop)
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Attaches a volume and gets its map. Pushes about the volume that arrive meanwhile are to be kept and handed
    /// over, in order, once this has returned.
    ///
    /// # Errors
    /// What the manager answers: `NotFound`, `Denied`, `Busy` (naming the holder).
    pub async fn attach(engine: &Engine<D, C>, id: VolumeId, mode: Mode) -> Result<Arc<Self>> {
        settle_former(engine, id).await?;
        // What is said to a reader while it attaches reaches its map. A writer says itself what is out.
        let out = if mode == Mode::Read { engine.outs.begin(id, engine.outs.now()) } else { Arc::default() };
        let attached = match mode {
            Mode::Write => engine.control.call(AttachWrite { volume: id }).await?,
            Mode::Read => engine.control.call(AttachRead { volume: id }).await?,
        };
        match Self::load(engine, id, mode, &attached, out).await {
            Ok(volume) => Ok(Arc::new(volume)),
            Err(e) => {
                // Nothing was written under it; if this fails too, the end of the session ends the attachment.
                let _ = engine.control.call(Detach { volume: id }).await;
                Err(e)
            }
        }
    }

    async fn load(engine: &Engine<D, C>, id: VolumeId, mode: Mode, attached: &Attached, out: Arc<OutSet>) -> Result<Self> {
        attached.out.iter().for_each(|d| out.add(*d));
        let aus = engine.au_size.aus_for(attached.size).ok_or_else(|| Error::new(Kind::Damaged, "the volume has more than 2^32 AUs"))?;
        let view = MapView::new(aus);
        let part = async |from| engine.control.call(GetMap { volume: id, from }).await;
        fetch_map(aus, part, |au, e| view.set(au, &e)).await?;
        let first = attached.segment.first().cloned();
        let journal = match (mode, attached.journal.first()) {
            (Mode::Read, _) => None,
            (Mode::Write, Some(j)) => Some(Arc::new(JournalLog::new(engine.clone(), id, attached.token, j.clone(), attached.epoch))),
            (Mode::Write, None) => return Err(Error::new(Kind::Damaged, "the manager granted no journal")),
        };
        let log = log_of(engine, id, attached);
        let legs = Legs::new(mode, attached.copies, out.clone(), &view);
        let volume = Self {
            engine: engine.clone(),
            id,
            mode,
            token: attached.token,
            version: attached.version,
            size: attached.size,
            view,
            guard: RangeGuard::default(),
            ledger: Ledger::default(),
            late: Default::default(),
            dirty: Dirty::default(),
            rounds: Rounds::new(),
            turn: tokio::sync::Mutex::new(()),
            reserve: Reserve::new(attached.reserve.clone(), engine.lease.now()),
            grants: tokio::sync::Mutex::default(),
            journal,
            regions: Regions::new(aus),
            epoch: AtomicU64::new(attached.epoch.0),
            flipped: Mutex::new(None),
            next_segment: AtomicU32::new(attached.next_segment),
            when_full: attached.when_full,
            snapshots: AtomicBool::new(false),
            has_snapshots: AtomicBool::new(!attached.snapshots.is_empty()),
            breaking: tokio::sync::Mutex::new(()),
            broken: AtomicBool::new(false),
            preserved: PreserveLog::new(log, engine.au_size, first, out),
            legs,
            copying: Default::default(),
            changes: Mutex::default(),
            unseen: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ended: tokio::sync::Notify::new(),
        };
        if volume.legs.is_mirrored() {
            engine.disks.spare(id, &volume.legs.spare);
        }
        if mode == Mode::Write && attached.snapshots.iter().any(|s| !s.broken) {
            volume.snapshots.store(true, Ordering::SeqCst);
            volume.find_needs().await?;
        }
        Ok(volume)
    }

    /// What the snapshots still share with the live volume must be preserved before it is overwritten.
    async fn find_needs(&self) -> Result<()> {
        let part = async |from| self.engine.control.call(GetNeed { volume: self.id, from }).await;
        fetch_map(self.view.aus(), part, |au, e| {
            if let Some(slot) = self.view.get(au) {
                slot.add_need(e.written);
            }
        })
        .await
    }

    /// The map changed (a reader's): returns when no read under the old map is in flight, then the push is answered.
    /// A writer's map is newer than what the manager says of it; it is only asked to drain, and has done so.
    ///
    /// # Errors
    /// `Damaged` where the change does not fit together.
    pub async fn map_changed(&self, change: &MapChanged) -> Result<()> {
        // One that was sent to an earlier attachment of this volume may name places that are another's by now.
        if self.mode == Mode::Write || change.version < self.version {
            return Ok(());
        }
        // What snapshots have of an AU stands before what the live map has.
        let mut new: BTreeMap<VolAu, Option<MapEntry>> = entries(&change.runs)?.into_iter().map(|(au, e)| (au, Some(e))).collect();
        new.extend(change.unmapped.iter().map(|au| (*au, None)));
        {
            let mut changes = self.changes();
            *changes += 1;
            for (au, entry) in &new {
                match entry {
                    Some(e) => self.view.set(*au, e),
                    None => self.view.clear(*au),
                }
            }
        }
        self.view.drain(new.into_keys()).await;
        Ok(())
    }

    /// Gets a reader's map again: after another manager has begun to serve, whose pushes name only what it knows of; or where no copy
    /// answers that this map names. Returns when no read under the old map is in flight.
    ///
    /// # Errors
    /// What the manager answers, `Busy` where the map changes again and again; the old map stays then.
    pub async fn refresh_map(&self) -> Result<()> {
        for _ in 0..REFRESHES {
            let before = *self.changes();
            let mut new = BTreeMap::new();
            let part = async |from| self.engine.control.call(GetMap { volume: self.id, from }).await;
            fetch_map(self.view.aus(), part, |au, e| {
                new.insert(au, e);
            })
            .await?;
            if let Some(gone) = self.take_over(before, &new) {
                self.view.drain(gone.into_iter().chain(new.into_keys())).await;
                return Ok(());
            }
        }
        Err(Error::new(Kind::Busy, "the map changes while it is asked for, again and again"))
    }

    /// Takes a map over that was asked for after so many changes; `None` where one has come since, which may be newer. Gives what is gone.
    fn take_over(&self, changes: u64, new: &BTreeMap<VolAu, MapEntry>) -> Option<Vec<VolAu>> {
        let _same = Some(self.changes()).filter(|now| **now == changes)?;
        let gone: Vec<VolAu> = self.view.iter_from(VolAu(0)).map(|(au, _)| au).filter(|au| !new.contains_key(au)).collect();
        gone.iter().for_each(|au| self.view.clear(*au));
        new.iter().for_each(|(au, e)| self.view.set(*au, e));
        Some(gone)
    }

    /// Changes of a reader's map so far; one is carried out at a time.
    fn changes(&self) -> std::sync::MutexGuard<'_, u64> {
        self.changes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Gives the volume back: waits for the writes in flight, flushes, appends, folds, tells the manager. Every later I/O is
    /// refused, also after an error.
    ///
    /// # Errors
    /// Those of [`Volume::flush`]; the attachment is over all the same.
    pub async fn detach(&self) -> Result<()> {
        let Some(flushed) = self.shut().await? else { return Ok(()) };
        let given = settle_former(&self.engine, self.id).await.map_err(|e| e.within("the volume could not be given back"));
        if self.journal.is_none() {
            self.engine.control.call(Detach { volume: self.id }).await?;
        }
        flushed.and(given)
    }

    /// As [`Volume::detach`], for the answer to a recall: the manager is not asked for anything, so that it can be answered by way of the disks.
    /// It ends the attachment, and reads what is not folded from the journal.
    ///
    /// # Errors
    /// Those of [`Volume::flush`], and where a write may still land: then the answer is that it could not be done.
    pub async fn give_back(&self) -> Result<()> {
        let Some(flushed) = self.shut().await? else { return Ok(()) };
        let Some(log) = &self.journal else { return flushed };
        if log.is_held() {
            return Err(super::moved::late());
        }
        log.give_back();
        flushed
    }

    /// Drains, flushes and appends: every later I/O is refused, and none is in flight. Nothing where that was done before; else what the flush
    /// says. What counts in the journal waits to be settled.
    async fn shut(&self) -> Result<Option<Result<()>>> {
        if self.is_closed() {
            // Whoever is at it holds all of it until nothing is in flight any more.
            drop(self.guard.lock(0..u64::MAX).await?);
            return Ok(None);
        }
        let moved = if self.mode == Mode::Write { self.move_late(0..self.view.aus()).await } else { Ok(()) };
        let _all = self.guard.lock(0..u64::MAX).await?;
        let flushed = if self.mode == Mode::Write { moved.and(self.say_everything().await) } else { Ok(()) };
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(None);
        }
        let aus: Vec<VolAu> = self.view.iter_from(VolAu(0)).map(|(au, _)| au).collect();
        aus.iter().for_each(|au| self.view.clear(*au));
        self.view.drain(aus).await;
        self.ended.notify_waiters();
        self.engine.stale.one(Whose::Volume(self.id));
        // What counts in the journal is folded before the attachment ends; where it cannot be, the attachment ends with the session.
        if let Some(log) = &self.journal {
            if self.late.touches(0..self.view.aus()) {
                log.hold();
            }
            unsettled(&self.engine).insert(self.id, log.clone());
        }
        Ok(Some(flushed))
    }

    /// Flushes, and clears the dirty regions. The caller holds every block.
    async fn say_everything(&self) -> Result<()> {
        self.flush().await?;
        let log = self.log()?;
        let dirty = self.regions.dirty();
        let changed = self.take_changed(&dirty);
        for entry in cleared(self.epoch(), &dirty, &changed) {
            drop(log.append(vec![entry]).await?);
        }
        dirty.into_iter().for_each(|r| self.regions.set_clean(r));
        Ok(())
    }
}
