//! The disks that carry a session's slot, as the session uses them; they may become others while it lives (PROTOCOL.md, "A slot that moves").
//!
//! Invariants: the number of a set only grows, so what the manager says late, or twice, puts nothing back; a question that began with one set concludes nothing
//! once there is another (`Slot::settled`).

use super::{PAUSE, UNHEARD, Wait, nanos};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::layout::Layout;
use fusevol_shared::format::slot::{SLOT_DISKS, SlotAt};
use fusevol_shared::ids::{Generation, PoolId, SessionNo};
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::messages::{DiskInfo, SlotDisk};
use std::sync::atomic::{AtomicU64, Ordering};

/// The slot on one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carrier {
    /// The disk.
    pub disk: DiskNo,
    /// Where it lies there.
    pub at: SlotAt,
    /// The manager that has opened it there.
    pub opened: Generation,
}

/// The places of a slot, from what a manager says of it.
///
/// # Errors
/// `Damaged` where it names none, too many, or a disk of which it does not say what it is.
pub fn carriers(pool: PoolId, au_size: AuSize, session: SessionNo, slots: &[SlotDisk], disks: &[DiskInfo]) -> Result<Vec<Carrier>> {
    let damaged = |what: String| Error::new(Kind::Damaged, what).hint("the manager may be of another version");
    if slots.is_empty() || slots.len() > SLOT_DISKS {
        return Err(damaged(format!("the manager names {} slot disks", slots.len())));
    }
    let one = |s: &SlotDisk| {
        let info = disks.iter().find(|d| d.no == s.disk);
        let info = info.ok_or_else(|| damaged(format!("the manager names disk {} for the slot, but does not know it", s.disk)))?;
        let layout = Layout::for_aus(au_size, info.aus);
        let layout = layout.ok_or_else(|| damaged(format!("disk {} is too small to carry a slot", s.disk)))?;
        Ok(Carrier { disk: s.disk, at: SlotAt::new(pool, info.id, &layout, session), opened: s.opened })
    };
    slots.iter().map(one).collect()
}

/// All places of a slot.
#[derive(Debug)]
pub(super) struct Places {
    /// Number of the move that led here.
    pub no: u64,
    pub each: Vec<SlotPlace>,
}

impl Places {
    pub fn new(no: u64, carriers: Vec<Carrier>) -> Self {
        Self { no, each: carriers.into_iter().map(SlotPlace::new).collect() }
    }
}

/// The slot on one disk, and whether that answers.
#[derive(Debug)]
pub(super) struct SlotPlace {
    pub disk: DiskNo,
    pub at: SlotAt,
    pub opened: Generation,
    /// Nanoseconds on the boot clock until which it is left alone; 0 where it answers.
    silent_until: AtomicU64,
    /// Nanoseconds that it is left alone next time.
    pause: AtomicU64,
    /// Questions that were let go since it answered last.
    unheard: AtomicU64,
}

impl SlotPlace {
    fn new(Carrier { disk, at, opened }: Carrier) -> Self {
        let (silent_until, pause, unheard) = (AtomicU64::new(0), AtomicU64::new(nanos(PAUSE.0)), AtomicU64::new(0));
        Self { disk, at, opened, silent_until, pause, unheard }
    }

    pub fn is_silent(&self, now: BootTime, wait: Wait) -> bool {
        now.0 < self.silent_until.load(Ordering::Relaxed) || wait == Wait::Enough && self.unheard.load(Ordering::Relaxed) >= UNHEARD
    }

    pub fn answered(&self) {
        self.unheard.store(0, Ordering::Relaxed);
        self.silent_until.store(0, Ordering::Relaxed);
        self.pause.store(nanos(PAUSE.0), Ordering::Relaxed);
    }

    pub fn was_silent(&self, now: BootTime, wait: Wait) {
        if wait == Wait::Enough {
            self.unheard.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let pause = self.pause.load(Ordering::Relaxed);
        self.pause.store((2 * pause).min(nanos(PAUSE.1)), Ordering::Relaxed);
        self.silent_until.store(now.0.saturating_add(pause), Ordering::Relaxed);
    }
}
