//! The hold for a snapshot (PROTOCOL.md, H1): drain the writers, flush, report everything, flip to the new epoch, go on.
//!
//! From the answer on the writer preserves into the new segment, whether the snapshot is taken or not.

use super::change::Turn;
use super::{Mode, Volume};
use crate::control::Control;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::Seq;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::Hold;
use std::sync::atomic::Ordering;

/// The writer has flipped. While this lives no later change is sent: put `Ack::Held` on the link, then drop it.
pub struct Held {
    turn: Turn,
}

impl Held {
    /// Everything up to and with this number is reported and answered.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.turn.last()
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Holds new writes, waits for those in flight, flushes, reports, and begins the epoch of `hold`.
    ///
    /// # Errors
    /// Those of [`Volume::flush`], `Refused` for another attachment, `Io` where the preserve log could not be continued;
    /// the snapshot is not to be taken then.
    pub async fn hold(&self, hold: &Hold) -> Result<Held> {
        self.check_writable()?;
        if self.mode != Mode::Write || hold.token != self.token {
            return Err(Error::new(Kind::Refused, "the hold is for another attachment"));
        }
        let all = self.guard.lock(0..u64::MAX).await?;
        self.check_writable()?;
        self.flush().await?;
        let turn = self.changes.turn().await;
        self.log.flip(&self.engine.disks, hold.segment.clone()).await?;
        self.changes.snapshots.store(true, Ordering::SeqCst);
        self.view.iter_from(VolAu(0)).for_each(|(_, slot)| slot.freeze());
        drop(all);
        Ok(Held { turn })
    }
}
