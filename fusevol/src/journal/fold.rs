//! Folding: what counts in the journal becomes part of the catalog, and is trimmed here.

use super::{Counted, JournalLog};
use crate::control::Control;
use fusevol_shared::change::Append;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::Seq;
use fusevol_shared::wire::messages::{FOLD_WEIGHT, Fold};

/// Folds that one call of [`JournalLog::fold_all`] makes at most: a journal holds far less.
const ROUNDS: usize = 1 << 16;

impl<D: Disk, C: Control> JournalLog<D, C> {
    /// Returns when something is to be folded.
    pub async fn wait_for_appends(&self) {
        while self.unfolded() == 0 {
            self.appended.notified().await;
        }
    }

    /// Folds what one message takes; whether there was anything.
    ///
    /// # Errors
    /// What the manager answers, `Unreachable`, `Lapsed`. What was sent may be folded; it is sent again.
    pub async fn fold_some(&self) -> Result<bool> {
        let _one = self.folding.lock().await;
        let (prev, appends) = self.next_fold();
        let Some(last) = appends.last().map(|a| a.seq) else { return Ok(false) };
        let call = Fold { volume: self.volume, token: self.token, prev, appends };
        let folded = self.engine.control.call(call).await?.seq;
        if folded < last {
            return Err(Error::new(Kind::Damaged, format!("the manager folded up to {folded} of {last}")));
        }
        self.counted().trim(folded);
        self.trimmed.notify_waiters();
        Ok(true)
    }

    /// Folds everything that counts.
    ///
    /// # Errors
    /// As [`Self::fold_some`].
    pub async fn fold_all(&self) -> Result<()> {
        for _ in 0..ROUNDS {
            if !self.fold_some().await? {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Internal, "folding comes to no end"))
    }

    fn next_fold(&self) -> (Seq, Vec<Append>) {
        let c = self.counted();
        let mut weight = 0;
        let taken = c.unfolded.iter().take_while(|a| {
            let first = weight == 0;
            weight += a.weight();
            first || weight <= FOLD_WEIGHT
        });
        (c.folded, taken.cloned().collect())
    }
}

impl Counted {
    /// Everything up to and with `seq` is folded.
    fn trim(&mut self, seq: Seq) {
        while self.unfolded.front().is_some_and(|a| a.seq <= seq) {
            self.unfolded.pop_front();
        }
        self.folded = self.folded.max(seq.min(self.last));
    }
}
