//! The paths of this process to the pool's disks: direct, or through the manager.
//!
//! - [`machine`]: what is decided about one path. - [`keeper`]: who tries failed ones again.
//! - [`lives`]: which flush covers which write. - [`door`]: the way through the manager, as the data path sees it.
//!
//! A [`Path`] is one disk's. Its hot side is one load: the open disk, or none. A direct disk that failed is never used again: a path that
//! heals is opened anew, by label, with the manager's word that it leads to the pool's disk.
//!
//! Invariants: what a disk has answered with an error may be sent again, through the manager; what it has not answered is an error
//! `NotReturned` to whoever asked, who keeps its range to himself (PROTOCOL.md, P1); an error that is the disk's own word (a bad sector) is
//! nobody's path.

pub mod door;
pub mod keeper;
pub mod lives;
pub mod machine;
pub mod spare;

use arc_swap::ArcSwapOption;
use fusevol_shared::clock::{BootTime, Clock};
use fusevol_shared::disk::{Disk, DiskError};
use lives::Lives;
use machine::{Effect, Event, Machine, State};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// What is shown of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Where I/O goes.
    pub state: State,
    /// Since when.
    pub since: BootTime,
    /// Why it does not go to the disk.
    pub why: Option<String>,
    /// How often it has failed.
    pub failures: u64,
    /// Bytes that went through the manager.
    pub redirected: u64,
}

/// One path.
pub struct Path<D> {
    direct: ArcSwapOption<D>,
    /// The direct disk that failed last.
    former: Mutex<Weak<D>>,
    machine: Mutex<Machine>,
    redirected: AtomicU64,
    lives: Lives,
    /// The keeper is to look.
    moved: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

impl<D> Path<D> {
    /// A path that leads to this open disk.
    #[must_use]
    pub fn new(disk: Arc<D>, moved: Arc<Notify>, clock: Arc<dyn Clock>) -> Self {
        Self {
            direct: ArcSwapOption::new(Some(disk)),
            former: Mutex::default(),
            machine: Mutex::new(Machine::new(clock.now())),
            redirected: AtomicU64::new(0),
            lives: Lives::default(),
            moved,
            clock,
        }
    }

    /// A path that could not be opened.
    #[must_use]
    pub fn lost(why: String, moved: Arc<Notify>, clock: Arc<dyn Clock>) -> Self {
        let machine = Mutex::new(Machine::lost(clock.now(), why));
        let (former, redirected, lives) = (Mutex::default(), AtomicU64::new(0), Lives::default());
        Self { direct: ArcSwapOption::empty(), former, machine, redirected, moved, lives, clock }
    }

    /// The disk, where I/O goes to it.
    #[must_use]
    pub fn direct(&self) -> Option<Arc<D>> {
        self.direct.load_full()
    }

    /// Its clock.
    #[must_use]
    pub fn lives(&self) -> &Lives {
        &self.lives
    }

    /// I/O failed on `disk`; where it is the current one, no other goes to it.
    pub fn failed(&self, disk: &Arc<D>, why: &DiskError) {
        let mut machine = self.machine();
        if self.direct.load().as_ref().is_some_and(|d| Arc::ptr_eq(d, disk)) {
            self.step(&mut machine, Event::Failed(why.to_string()));
        }
    }

    /// The drill begins, or ends.
    pub fn drill(&self, fails: bool) {
        let mut machine = self.machine();
        self.step(&mut machine, if fails { Event::Fail } else { Event::Restore });
    }

    /// Bytes went through the manager.
    pub fn redirected(&self, bytes: usize) {
        self.redirected.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What is shown of it.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let m = self.machine();
        Shown {
            state: m.state(),
            since: m.since(),
            why: m.why(),
            failures: m.failures(),
            redirected: self.redirected.load(Ordering::Relaxed),
        }
    }

    /// Looks whether there is something to do; whether a path is to be tried.
    fn tend(&self) -> bool {
        let mut machine = self.machine();
        if machine.state() == State::Draining && self.former().strong_count() == 0 {
            self.step(&mut machine, Event::Drained);
        }
        self.step(&mut machine, Event::Tick) == Some(Effect::Probe)
    }

    /// A path was tried; whether I/O goes by it now.
    fn tried(&self, opened: Result<D, String>) -> bool
    where
        D: Disk,
    {
        let mut machine = self.machine();
        match opened {
            Ok(disk) => {
                let good = machine.step(self.clock.now(), Event::Opened) == Some(Effect::Direct);
                if good {
                    self.lives.opened(disk.life());
                    self.direct.store(Some(Arc::new(disk)));
                }
                good
            }
            Err(why) => {
                machine.step(self.clock.now(), Event::NotOpened(why));
                false
            }
        }
    }

    fn step(&self, machine: &mut Machine, event: Event) -> Option<Effect> {
        let effect = machine.step(self.clock.now(), event);
        if effect == Some(Effect::Redirect)
            && let Some(disk) = self.direct.swap(None)
        {
            *self.former() = Arc::downgrade(&disk);
        }
        if effect.is_some() || machine.due().is_some() {
            self.moved.notify_one();
        }
        effect
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn former(&self) -> MutexGuard<'_, Weak<D>> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error may be the path's fault: all but the disk's own words about the request (a bad sector, no space, a reservation that is
/// another's: `block/blk-core.c`, `blk_errors`), and what this host refuses before it asks.
#[must_use]
pub fn may_be_the_path(e: &DiskError) -> bool {
    let by_disk = matches!(e.errno, libc::ENODATA | libc::EREMOTEIO | libc::EBADE | libc::EILSEQ | libc::ENOSPC);
    let by_host = matches!(e.errno, libc::EINVAL | libc::EFAULT | libc::ENOSYS | libc::ENOMEM | libc::EROFS | libc::EPERM | libc::EACCES);
    !by_disk && !by_host
}
