//! Where the preserve log goes on, and what is done when it cannot.
//!
//! A segment comes out of the reserve and is in the journal before it is named on disk, so the catalog always knows whose it is.
//! Where there is no space for one: by the volume's policy the snapshots break, first in the log (readers look there), then in the
//! journal, and then the writer goes on; or the writer gets `NoSpace`, and the snapshots stay.

use super::Volume;
use super::guard::Locked;
use crate::control::Control;
use fusevol_shared::change::{Entry, Segment, WhenFull};
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::VolumeEpoch;
use fusevol_shared::units::{DiskAu, VolAu};
use std::sync::atomic::Ordering;

impl<D: Disk, C: Control> Volume<D, C> {
    /// The next segment of the preserve log. One caller at a time: who leads the log, and holds blocks, so that there is no flip beside it.
    pub(super) async fn next_segment(&self) -> Result<Segment> {
        let legs = self.place_apart(&self.legs.out.disks()).await?;
        self.segment_in(legs).await
    }

    async fn segment_in(&self, legs: Vec<DiskAu>) -> Result<Segment> {
        let no = self.next_segment.load(Ordering::SeqCst);
        let epoch = self.preserve_epoch();
        let segment = Segment { no, epoch, token: self.token, session: self.engine.session, legs: legs.clone() };
        match self.log()?.append(vec![Entry::Segment(segment.clone())]).await {
            Ok(counts) => {
                self.next_segment.fetch_add(1, Ordering::SeqCst);
                counts.clear().map(|_| segment)
            }
            Err(e) => {
                self.reserve.put_back(legs);
                Err(e)
            }
        }
    }

    /// Where the log has too few legs it goes on in a segment that has them all, if there is room for one: the manager copies those that are closed.
    pub(super) async fn heal_log(&self) -> Result<()> {
        let copies = self.legs.copies;
        if self.preserved.is_owing().await {
            self.settle_log().await?;
        }
        if !self.snapshots.load(Ordering::SeqCst) || !self.preserved.has_fewer_legs(copies).await {
            return Ok(());
        }
        // What the reserve has on disks that are out is changed for other places.
        self.refill().await?;
        let _held = self.beside_no_flip().await?;
        self.check_seal().await?;
        let whole = async || {
            let legs = self.reserve.take_whole(copies, &self.legs.out.disks());
            self.segment_in(legs.ok_or_else(|| Error::new(Kind::NoSpace, "no disks have room for whole segments"))?).await
        };
        let healed = self.preserved.heal(copies, &self.engine.disks, whole).await;
        self.say_late_segments().await?;
        match healed {
            Err(e) if !Self::is_out_of_space(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Writes the page that the log owes: before the next flip it must be there. A leg that fails is given up.
    async fn settle_log(&self) -> Result<()> {
        let _held = self.beside_no_flip().await?;
        self.check_seal().await?;
        let first = self.preserved.settle(&self.engine.disks).await;
        let bad = self.preserved.take_bad();
        let settled = match first {
            Err(e) if !bad.is_empty() => {
                for no in bad {
                    self.lose_leg(no, &e.to_string()).await?;
                }
                self.preserved.settle(&self.engine.disks).await
            }
            done => done,
        };
        self.say_late_segments().await?;
        settled
    }

    /// As who preserves: not beside a flip, which begins a segment too, nor beside the end of the attachment. No block has this number.
    async fn beside_no_flip(&self) -> Result<Locked<'_>> {
        self.guard.lock(u64::MAX - 1..u64::MAX).await
    }

    /// The epoch that preserve records carry: the one before the current.
    fn preserve_epoch(&self) -> VolumeEpoch {
        VolumeEpoch(self.epoch().0.saturating_sub(1))
    }

    /// There is no space to preserve into: `Ok` where the writer may go on without.
    pub(super) async fn preserve_space_is_out(&self, why: Error) -> Result<()> {
        if self.when_full == WhenFull::StopWriter {
            return Err(why.within("a snapshot needs space, and the volume stops its writer for that"));
        }
        let _one = self.breaking.lock().await;
        if !self.snapshots.load(Ordering::SeqCst) {
            return Ok(()); // another writer has just done it
        }
        let epoch = self.preserve_epoch();
        // A session that is over breaks nothing: its segments are another's matter.
        self.check_seal().await?;
        self.preserved.break_off(&self.engine.disks).await?;
        self.log()?.append(vec![Entry::Broken { epoch }]).await?.clear()?;
        self.snapshots.store(false, Ordering::SeqCst);
        self.broken.store(true, Ordering::SeqCst);
        self.view.iter_from(VolAu(0)).for_each(|(_, slot)| slot.forget_need());
        tracing::error!("no space to preserve blocks: the snapshots of volume {} up to epoch {epoch} are broken", self.id);
        Ok(())
    }

    /// Whether an error of the preserve log is that it has no space.
    pub(super) fn is_out_of_space(e: &Error) -> bool {
        e.kind() == Kind::NoSpace
    }
}
