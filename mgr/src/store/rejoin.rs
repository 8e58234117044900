//! A disk whose path was lost is open anew (`shared::disk::nbd`: a life of a connection does not come back): it is used from then on.
//!
//! ```text
//!  in the set: a copy that has failed nothing -----------------------------------> its disk is the new one, and it goes on
//!  out of it: it missed a commit, or would not answer --> a disk without a copy --> takes one in the next area, with the labels (`log::switch`)
//!  not here when this manager began -----------------------> the same
//! ```

use super::Candidate;
use super::door::Door;
use super::group::Member;
use super::log::Store;
use super::record::{LogRecord, pack_pieces};
use fusevol_shared::disk::{Disk, label};
use fusevol_shared::error::{Kind, Result};
use fusevol_shared::format::label::{DiskLabel, Finding};
use fusevol_shared::ids::{DiskId, Generation, Seq};

impl<D: Disk, W: Door<D>> Store<D, W> {
    /// Disk `id` is this open one from now on. Where it holds no copy of the catalog and is to, it gets one: `checkpoint` gives records that rebuild the
    /// state as it is durable. Whether it may be used: one that does not say that it is the pool's, or has gone its own way, may not, and is left out with a
    /// warning.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn rejoin<R: LogRecord>(&mut self, id: DiskId, new: Candidate<D>, checkpoint: impl FnOnce() -> Vec<R>) -> Result<bool> {
        let known = self.group.members.iter().position(|m| m.label.disk == id);
        if let Some(i) = known.filter(|i| self.set.contains(i)) {
            self.group.members[i].disk = new.disk;
            return self.check().await.map(|()| true);
        }
        self.check().await?;
        let label = match self.group.bounded(|| new.path.clone(), label::probe(&new.disk)).await {
            Ok(Finding::Label(l, _)) if (l.pool, l.disk) == (self.group.pool, id) => l,
            Err(e) => {
                self.warnings.push(format!("{} is open again, and its label cannot be read: {e}", new.path));
                return Ok(false);
            }
            _ => {
                self.warnings.push(format!("{} is open again, and does not carry its label", new.path));
                return Ok(false);
            }
        };
        if label.generation > self.generation || label.generation == self.generation && label.writer != self.who.instance {
            let by = label.generation;
            self.warnings
                .push(format!("{} is not used: a manager that was started by force has served it apart (generation {by})", new.path));
            return Ok(false);
        }
        let kept = known.and_then(|i| self.group.members[i].kept);
        let member = Member { disk: new.disk, path: new.path, label: *label, well: true, kept };
        match known {
            Some(i) => self.group.members[i] = member,
            None => self.group.members.push(member),
        }
        self.grow = self.further().is_some();
        if self.grow && self.next_area().is_err() {
            self.warnings.push("no area of the catalog is free: it has fewer copies than it could".to_owned());
            self.grow = false;
        }
        match self.grow {
            true => self.widen(&checkpoint()).await.map(|()| true),
            false => Ok(true),
        }
    }

    /// Why a disk that shows this label is not what it was: an older copy of itself, say, with which a server was started. What this manager knows to
    /// be durable there is the label that it wrote last.
    #[must_use]
    pub fn is_older(&self, shown: &DiskLabel) -> Option<String> {
        let kept = self.group.members.iter().find(|m| m.label.disk == shown.disk)?.kept?;
        let number = |(generation, seq): (Generation, Seq)| format!("{generation}.{seq}");
        let said =
            || format!("it is an older copy of itself: its label is number {}, where {} was durable", number(shown.age()), number(kept));
        (shown.age() < kept).then(said)
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
