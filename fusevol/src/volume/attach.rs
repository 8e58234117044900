//! Attach and detach, and the changes that reach a reader.

use super::change::Changes;
use super::flush::Rounds;
use super::guard::RangeGuard;
use super::marks::Marks;
use super::view::{MapView, Slot};
use super::{Engine, Mode, Volume, entries};
use crate::control::Control;
use crate::disks::Dirty;
use crate::preserve::PreserveLog;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::VolumeId;
use fusevol_shared::map::MapEntry;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{AttachRead, AttachWrite, Attached, Detach, GetMap, GetNeed, MapChanged, MapPart};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Gets a whole map, part by part. `part` asks for one; `each` takes its entries.
pub(crate) async fn fetch_map(part: impl AsyncFn(VolAu) -> Result<MapPart>, mut each: impl FnMut(VolAu, MapEntry)) -> Result<()> {
    let mut from = VolAu(0);
    // The next part begins further on each time, so this ends.
    loop {
        let got = part(from).await?;
        for (au, entry) in entries(&got.runs)? {
            each(au, entry);
        }
        match got.next {
            None => return Ok(()),
            Some(next) if next > from => from = next,
            Some(_) => return Err(Error::new(Kind::Damaged, "the manager's map goes round in a circle")),
        }
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Attaches a volume and gets its map. Pushes about the volume that arrive meanwhile are to be kept and handed
    /// over, in order, once this has returned.
    ///
    /// # Errors
    /// What the manager answers: `NotFound`, `Denied`, `Busy` (naming the holder).
    pub async fn attach(engine: &Engine<D, C>, id: VolumeId, mode: Mode) -> Result<Arc<Self>> {
        let attached = match mode {
            Mode::Write => engine.control.call(AttachWrite { volume: id }).await?,
            Mode::Read => engine.control.call(AttachRead { volume: id }).await?,
        };
        match Self::load(engine, id, mode, &attached).await {
            Ok(volume) => Ok(Arc::new(volume)),
            Err(e) => {
                // Nothing was written under it; if this fails too, the end of the session ends the attachment.
                let _ = engine.control.call(Detach { volume: id }).await;
                Err(e)
            }
        }
    }

    async fn load(engine: &Engine<D, C>, id: VolumeId, mode: Mode, attached: &Attached) -> Result<Self> {
        let aus = engine.au_size.aus_for(attached.size).ok_or_else(|| Error::new(Kind::Damaged, "the volume has more than 2^32 AUs"))?;
        let view = MapView::new(aus);
        let part = async |from| engine.control.call(GetMap { volume: id, from }).await;
        fetch_map(part, |au, e| drop(view.set(au, Some(Arc::new(Slot::new(&e, BlockMask::NONE)))))).await?;
        let first = attached.segment.first().cloned();
        let volume = Self {
            engine: engine.clone(),
            id,
            mode,
            token: attached.token,
            version: attached.version,
            size: attached.size,
            view,
            guard: RangeGuard::default(),
            marks: Marks::default(),
            dirty: Dirty::default(),
            rounds: Rounds::default(),
            changes: Changes::default(),
            log: PreserveLog::new(engine.pool, id, engine.session, attached.token, engine.au_size, first),
            closed: AtomicBool::new(false),
        };
        if mode == Mode::Write && !attached.snapshots.is_empty() {
            volume.changes.snapshots.store(true, Ordering::SeqCst);
            volume.find_needs().await?;
        }
        Ok(volume)
    }

    /// What the snapshots still share with the live volume must be preserved before it is overwritten.
    async fn find_needs(&self) -> Result<()> {
        let part = async |from| self.engine.control.call(GetNeed { volume: self.id, from }).await;
        fetch_map(part, |au, e| {
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
        let mut retired: Vec<Arc<Slot>> = change.unmapped.iter().filter_map(|au| self.view.set(*au, None)).collect();
        for (au, e) in entries(&change.runs)? {
            retired.extend(self.view.set(au, Some(Arc::new(Slot::new(&e, BlockMask::NONE)))));
        }
        self.view.drain(&retired).await;
        Ok(())
    }

    /// Gets a reader's map again: after another manager has begun to serve, whose pushes name only what it knows of.
    /// Returns when no read under the old map is in flight.
    ///
    /// # Errors
    /// What the manager answers; the old map stays then.
    pub async fn refresh_map(&self) -> Result<()> {
        let mut new = std::collections::BTreeMap::new();
        let part = async |from| self.engine.control.call(GetMap { volume: self.id, from }).await;
        fetch_map(part, |au, e| {
            new.insert(au, e);
        })
        .await?;
        let gone: Vec<VolAu> = self.view.iter_from(VolAu(0)).map(|(au, _)| au).filter(|au| !new.contains_key(au)).collect();
        let mut retired: Vec<Arc<Slot>> = gone.into_iter().filter_map(|au| self.view.set(au, None)).collect();
        for (au, e) in new {
            retired.extend(self.view.set(au, Some(Arc::new(Slot::new(&e, BlockMask::NONE)))));
        }
        self.view.drain(&retired).await;
        Ok(())
    }

    /// Gives the volume back: waits for the writes in flight, flushes, reports, tells the manager. Every later I/O is
    /// refused, also after an error. Also the answer to a recall.
    ///
    /// # Errors
    /// Those of [`Volume::flush`]; the attachment is over all the same.
    pub async fn detach(&self) -> Result<()> {
        if self.is_closed() {
            return Ok(());
        }
        let _all = self.guard.lock(0..u64::MAX).await?;
        let flushed = if self.mode == Mode::Write { self.flush().await } else { Ok(()) };
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let slots: Vec<VolAu> = self.view.iter_from(VolAu(0)).map(|(au, _)| au).collect();
        let retired: Vec<Arc<Slot>> = slots.into_iter().filter_map(|au| self.view.set(au, None)).collect();
        self.view.drain(&retired).await;
        let turn = self.changes.turn().await;
        let told = self.engine.control.call(Detach { volume: self.id }).await;
        drop(turn);
        flushed.and(told.map(|_| ()))
    }
}
