//! What a volume does by itself while it is attached for writing: folds its journal, refills its reserve, clears regions at rest, sees to its copies.
//!
//! One future for each attachment, run on the session's keeper; nothing of the data path waits for it. It ends with the attachment.

use super::{Mode, Volume};
use crate::control::Control;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::Kind;
use futures_util::future::{Either, join4, select};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Between two folds: what comes meanwhile shares a commit of the catalog.
const FOLD_PACE: Duration = Duration::from_millis(25);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the reserve is looked at where nobody takes from it.
const IDLE: Duration = Duration::from_secs(2);
/// How often regions at rest are looked for: one is at rest when it was not written for so long.
const REST: Duration = Duration::from_secs(5);

impl<D: Disk, C: Control> Volume<D, C> {
    /// Runs until the volume is detached.
    pub async fn tend(self: Arc<Self>) {
        if self.mode == Mode::Write {
            join4(self.keep_folding(), self.keep_reserve(), self.keep_clearing(), self.keep_copies()).await;
        }
    }

    /// Waits for `what`, but not longer than the attachment stands; whether it stands.
    pub(super) async fn stands_until<F: Future>(&self, what: F) -> bool {
        let ended = self.ended.notified();
        let mut ended = pin!(ended);
        ended.as_mut().enable();
        if self.is_closed() || self.engine.lease.is_over() {
            return false;
        }
        match select(pin!(what), ended).await {
            Either::Left(_) => !self.is_closed() && !self.engine.lease.is_over(),
            Either::Right(_) => false,
        }
    }

    async fn keep_folding(&self) {
        let Ok(log) = self.log() else { return };
        while self.stands_until(log.wait_for_appends()).await {
            let pause = match log.fold_some().await {
                Ok(_) => FOLD_PACE,
                Err(e) if matches!(e.kind(), Kind::Unreachable | Kind::Lapsed) => AGAIN,
                Err(e) => {
                    tracing::error!("the journal of volume {} cannot be folded: {e}", self.id);
                    AGAIN
                }
            };
            if !self.stands_until(self.engine.control.sleep(pause)).await {
                return;
            }
        }
    }

    async fn keep_reserve(&self) {
        loop {
            let low = async {
                select(pin!(self.reserve.wait_until_low()), pin!(self.engine.control.sleep(IDLE))).await;
            };
            if !self.stands_until(low).await {
                return;
            }
            if let Err(e) = self.refill().await {
                tracing::debug!("the reserve of volume {} was not refilled: {e}", self.id);
                if !self.stands_until(self.engine.control.sleep(AGAIN)).await {
                    return;
                }
            }
        }
    }

    async fn keep_clearing(&self) {
        while self.stands_until(self.engine.control.sleep(REST)).await {
            if let Err(e) = self.clear_at_rest().await {
                tracing::debug!("regions of volume {} stay dirty: {e}", self.id);
            }
        }
    }
}
