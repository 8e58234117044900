//! A disk whose path was lost is open anew (`shared::disk::nbd`: a life of a connection does not come back): it is used from then on.
//!
//! ```text
//!  in the set: a copy that has failed nothing -----------------------------------> its disk is the new one, and it goes on
//!  out of it: it missed a commit, or would not answer --> a disk without a copy --> takes one in the next area, with the labels (`log::switch`)
//! ```

use super::door::Door;
use super::log::Store;
use super::record::{LogRecord, pack_pieces};
use fusevol_shared::disk::{Disk, label};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::label::Finding;
use fusevol_shared::ids::DiskId;

impl<D: Disk, W: Door<D>> Store<D, W> {
    /// Disk `id` is this open one from now on. Where it holds no copy of the catalog and is to, it gets one: `checkpoint` gives records that rebuild the
    /// state as it is durable.
    ///
    /// # Errors
    /// As [`Store::commit`]. A disk that does not say that it is the pool's is left out, and a warning.
    pub async fn rejoin<R: LogRecord>(&mut self, id: DiskId, disk: D, checkpoint: impl FnOnce() -> Vec<R>) -> Result<()> {
        let Some(i) = self.group.members.iter().position(|m| m.label.disk == id) else {
            return Err(Error::new(Kind::Internal, format!("disk {id} is opened again, and is none of the pool's")));
        };
        self.group.members[i].disk = disk;
        self.check().await?;
        if self.set.contains(&i) {
            return Ok(());
        }
        let found = self.group.each(&[i], |m| label::probe(&m.disk)).await.pop().map(|(_, found)| found);
        let m = &mut self.group.members[i];
        match found {
            Some(Ok(Finding::Label(l, _))) if (l.pool, l.disk) == (self.group.pool, id) => (m.label, m.well) = (*l, true),
            Some(Err(e)) => self.warnings.push(format!("{} is open again, and its label cannot be read: {e}", m.name())),
            _ => self.warnings.push(format!("{} is open again, and does not carry its label", m.name())),
        }
        self.grow = self.further().is_some();
        if self.grow && self.next_area().is_err() {
            self.warnings.push("no area of the catalog is free: it has fewer copies than it could".to_owned());
            self.grow = false;
        }
        match self.grow {
            true => self.widen(&checkpoint()).await,
            false => Ok(()),
        }
    }

    async fn widen<R: LogRecord>(&mut self, state: &[R]) -> Result<()> {
        let done = match self.switch(&pack_pieces(state)?).await {
            // The next commit says so, and goes on in the reserve.
            Err(e) if e.kind() == Kind::NoSpace => Ok(()),
            done => done,
        };
        self.over |= done.is_err();
        done
    }
}
