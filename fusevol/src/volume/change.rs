//! Changes of an attachment at the manager: bind, report, discard, preserve space. One at a time, in the order of
//! their numbers: the manager applies a number only above the last one it applied, so none may overtake another.
//!
//! A number is used once, also where the call fails: then it may have been applied or not, and a new request under
//! the old number would be taken for the old one.
//!
//! Binding is shared: who gets the turn asks for all AUs that anyone waits for, and ahead for a sequential writer.

use super::view::Slot;
use super::{Volume, entries};
use crate::control::Control;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::Seq;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{AUS_PER_BIND, Bind, PreserveSpace, Segment};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// AUs asked for ahead of a sequential writer.
const AHEAD: u32 = 8;

/// Numbers the changes and shares the binds of one attachment.
#[derive(Default)]
pub(super) struct Changes {
    last: Arc<tokio::sync::Mutex<Seq>>,
    wanted: Mutex<BTreeSet<VolAu>>,
    /// The pool had no space the last time: ask for nothing ahead.
    tight: AtomicBool,
    /// Where the last write ended.
    write_end: AtomicU64,
    /// There are snapshots, or there were some during this attachment.
    pub(super) snapshots: AtomicBool,
}

/// The right to send the next change. Held, it keeps all others back.
pub(super) struct Turn(OwnedMutexGuard<Seq>);

impl Turn {
    /// A new number.
    pub(super) fn next(&mut self) -> Seq {
        *self.0 = self.0.next();
        *self.0
    }

    /// The last number that was used.
    pub(super) fn last(&self) -> Seq {
        *self.0
    }
}

impl Changes {
    /// Waits for the turn; first come, first served.
    pub(super) async fn turn(&self) -> Turn {
        Turn(self.last.clone().lock_owned().await)
    }

    /// A writer writes these bytes: gives whether it goes on where the last one ended.
    pub(super) fn sequential(&self, bytes: &Range<u64>) -> bool {
        self.write_end.swap(bytes.end, Ordering::Relaxed) == bytes.start
    }

    /// There is space again.
    pub(super) fn relieved(&self) {
        self.tight.store(false, Ordering::Relaxed);
    }

    fn want(&self, aus: &[VolAu]) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).extend(aus);
    }

    fn take_wanted(&self) -> BTreeSet<VolAu> {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Makes sure that these AUs have space. `sequential`: more may be asked for behind them.
    pub(super) async fn bind(&self, aus: Range<u32>, sequential: bool) -> Result<()> {
        let unmapped = || aus.clone().map(VolAu).filter(|au| self.view.get(*au).is_none()).collect::<Vec<_>>();
        let mut missing = unmapped();
        if missing.is_empty() {
            return Ok(());
        }
        self.changes.want(&missing);
        let mut turn = self.changes.turn().await;
        missing = unmapped();
        let Some(last) = missing.last().copied() else { return Ok(()) };
        let tight = self.changes.tight.load(Ordering::Relaxed);
        let mut ask: BTreeSet<VolAu> = missing.iter().copied().collect();
        if !tight {
            ask.extend(self.changes.take_wanted());
            if sequential {
                ask.extend((last.0 + 1..self.view.aus().min(last.0.saturating_add(1 + AHEAD))).map(VolAu));
            }
            ask.retain(|au| self.view.get(*au).is_none());
        }
        if ask.len() > missing.len() && ask.len() <= AUS_PER_BIND {
            match self.bind_exactly(&mut turn, ask.into_iter().collect()).await {
                Err(e) if e.kind() == Kind::NoSpace => self.changes.tight.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        for part in missing.chunks(AUS_PER_BIND) {
            self.bind_exactly(&mut turn, part.to_vec()).await?;
        }
        Ok(())
    }

    async fn bind_exactly(&self, turn: &mut Turn, aus: Vec<VolAu>) -> Result<()> {
        let asked: BTreeSet<VolAu> = aus.iter().copied().collect();
        let call = Bind { volume: self.id, token: self.token, seq: turn.next(), aus };
        let bound = self.engine.control.call(call).await?;
        let mut missing = asked.clone();
        for (au, entry) in entries(&bound.runs)? {
            if !asked.contains(&au) {
                return Err(Error::new(Kind::Damaged, format!("the manager bound AU {au} of the volume unasked")));
            }
            missing.remove(&au);
            // A place that comes back with written blocks (a discard whose answer was lost) may be shared with a snapshot.
            let shared = !entry.written.is_empty() && self.changes.snapshots.load(Ordering::SeqCst);
            let need = if shared { BlockMask::ALL } else { BlockMask::NONE };
            self.view.set(au, Some(Arc::new(Slot::new(&entry, need))));
        }
        match missing.first() {
            Some(au) => Err(Error::new(Kind::Damaged, format!("the manager left AU {au} out of its answer"))),
            None => Ok(()),
        }
    }

    /// The next segment of the preserve log.
    pub(super) async fn next_segment(&self) -> Result<Segment> {
        let mut turn = self.changes.turn().await;
        let call = PreserveSpace { volume: self.id, token: self.token, seq: turn.next() };
        Ok(self.engine.control.call(call).await?.segment)
    }
}
