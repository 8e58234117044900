//! The hold for a snapshot (PROTOCOL.md, H1): drain the writers, flush, append everything and the flip, go on in the new epoch.
//!
//! The flip is an entry of the journal: the snapshot is what the journal says up to it, whenever it is folded. From it on the writer
//! preserves into the new segment, whether the snapshot is taken or not.

use super::mark::cleared;
use super::{Mode, Volume};
use crate::control::Control;
use fusevol_shared::change::{Entry, Segment};
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{Seq, VolumeEpoch};
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::Hold;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The writer has flipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    seq: Seq,
    time: Duration,
}

impl Held {
    /// Number of the append that has the flip.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// How long writes were held, in microseconds.
    #[must_use]
    pub fn held_us(&self) -> u64 {
        u64::try_from(self.time.as_micros()).unwrap_or(u64::MAX)
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Holds new writes, waits for those in flight, flushes, appends, and begins the epoch of `hold`. Asked again for an epoch that
    /// has begun, it says when.
    ///
    /// # Errors
    /// Those of [`Volume::flush`], `Refused` for another attachment, `NoSpace` where the preserve log cannot begin, `Io`;
    /// the snapshot is not to be taken then.
    pub async fn hold(&self, hold: &Hold) -> Result<Held> {
        self.check_writable()?;
        if self.mode != Mode::Write || hold.token != self.token {
            return Err(Error::new(Kind::Refused, "the hold is for another attachment"));
        }
        // The place is had before anything waits: the manager may have to be asked.
        let legs = self.place().await?;
        let all = self.guard.lock(0..u64::MAX).await?;
        let began = self.engine.lease.now();
        let flipped = self.flip(hold.epoch, &legs).await;
        drop(all);
        let (seq, used) = flipped.inspect_err(|_| self.reserve.put_back(legs.clone()))?;
        if !used {
            self.reserve.put_back(legs);
        }
        let seq = seq?;
        Ok(Held { seq, time: self.engine.lease.now().since(began) })
    }

    /// The caller holds every block. Gives the number of the flip, if it may be told, and whether the place was used for it.
    async fn flip(&self, epoch: VolumeEpoch, legs: &[fusevol_shared::units::DiskAu]) -> Result<(Result<Seq>, bool)> {
        self.check_writable()?;
        if let Some((_, seq)) = self.last_flip().filter(|(e, _)| *e == epoch) {
            return Ok((Ok(seq), false));
        }
        let closing = self.epoch();
        if epoch <= closing {
            return Err(Error::new(Kind::Refused, format!("epoch {epoch} is over, {closing} is current")));
        }
        self.flush_unasked().await?;
        let dirty = self.regions.dirty();
        let changed = self.take_all_changed();
        for entry in cleared(closing, &dirty, &changed) {
            // Nothing else is under way: they are durable one after the other, and clean in fact.
            drop(self.log()?.append(vec![entry]).await?);
        }
        self.preserved.settle(&self.engine.disks).await?;
        self.say_late_segments().await?;
        let again = if sentence::holds(Tag::M1) { dirty } else { Vec::new() };
        let segment = Segment {
            no: self.next_segment.load(Ordering::SeqCst),
            epoch: VolumeEpoch(epoch.0 - 1),
            token: self.token,
            session: self.engine.session,
            legs: legs.to_vec(),
        };
        let flip = Entry::Flipped { epoch, segment: segment.clone(), dirty: again };
        let flipped = self.log()?.append(vec![flip]).await?;
        // It counts: from here on there is only the new epoch.
        self.next_segment.fetch_add(1, Ordering::SeqCst);
        self.set_flipped(epoch, flipped.seq);
        self.snapshots.store(true, Ordering::SeqCst);
        self.has_snapshots.store(true, Ordering::SeqCst);
        if sentence::holds(Tag::H1) {
            self.view.iter_from(VolAu(0)).for_each(|(_, slot)| slot.freeze());
        }
        // Who was sealed meanwhile names no segment any more: nobody else would look for it (T4).
        if sentence::holds(Tag::T4)
            && let Err(e) = flipped.clone().clear()
        {
            self.preserved.flip_later(segment).await;
            self.unseen.store(true, Ordering::SeqCst);
            return Ok((Err(e), true));
        }
        // Where this fails, the log writes it before anything is preserved.
        if let Err(e) = self.preserved.flip(&self.engine.disks, segment).await {
            // A leg that failed is given up when it is to preserve something.
            tracing::warn!("the preserve log of volume {} goes on later: {e}", self.id);
        }
        Ok((flipped.clear(), true))
    }

    fn take_all_changed(&self) -> Vec<fusevol_shared::map::AuMask> {
        let all = self.view.iter_from(VolAu(0)).map(|(au, slot)| fusevol_shared::map::AuMask { au, blocks: slot.take_changed() });
        all.filter(|m| !m.blocks.is_empty()).collect()
    }
}
