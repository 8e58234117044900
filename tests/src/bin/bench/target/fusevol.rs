//! Our mount: one pool on one disk, and a mount for each transport. Both write the same volume, by turns: it is attached
//! while a measurement holds it open.
//!
//! Where a work says that a place is new, or first written after a snapshot, what was done is counted afterwards: as many
//! blocks as there were writes, or the measurement fails.

use super::{Setting, Target, TargetKind};
use crate::disk::Disk;
use crate::fio::{self, Figures};
use crate::work::{BLOCK, State, Work};
use anyhow::{Context, Result, anyhow, bail, ensure};
use fusevol_tests::real::mount::{Mount, watchdog};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::run::Ran;
use fusevol_tests::real::wait::pause;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const VOLUME: &str = "data";
const RIGHTS: &str = "read,write,snapshot,backup";
/// As `init` has it where nothing is said.
const LEASE: u32 = 10;
/// A mount is aborted after this in any case.
const LIFE: Duration = Duration::from_secs(4 * 3600);
/// Beside the measurement itself: space that comes back, a volume that the other mount gives back.
const AROUND: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(20);
/// Looks for something to come: 60 s.
const LOOKS: u32 = 3000;
/// Catalog, journals, preserve logs, and what sessions have reserved.
const OVERHEAD: u64 = 1 << 30;
const AU: u64 = 1 << 20;

/// The pool and its disk.
pub struct Served {
    pool: Pool,
    // Under the pool, which ends first.
    _disk: Disk,
}

impl Served {
    /// The space that its disk takes, bytes: the volume, and as much again for new places or for what snapshots preserve.
    #[must_use]
    pub fn space(size: u64) -> u64 {
        2 * size + OVERHEAD
    }

    /// A pool with a volume of the area's size.
    ///
    /// # Errors
    /// Where the disk cannot be made.
    pub fn new(setting: &Setting) -> Result<Self> {
        let disk = Disk::new(&setting.dir, "pool.img", Self::space(setting.size), setting.disk, &setting.interrupt)?;
        let pool = Pool::leased(vec![disk.path()], LEASE);
        pool.volume(VOLUME, &setting.size.to_string());
        Ok(Self { pool, _disk: disk })
    }
}

/// A mount.
pub struct Fusevol {
    kind: TargetKind,
    mount: Mount,
    served: Rc<Served>,
    setting: Rc<Setting>,
}

impl Fusevol {
    /// Mounts over the transport of `kind`; with `fill` the volume is written.
    ///
    /// # Errors
    /// Where the mount refuses the transport, with why.
    pub fn new(kind: TargetKind, served: Rc<Served>, setting: Rc<Setting>, fill: bool) -> Result<Self> {
        let (name, option) = match kind {
            TargetKind::Uring => ("uring", "transport=uring"),
            _ => ("classic", "transport=classic"),
        };
        let key = served.pool.client(name, &[(VOLUME, RIGHTS)]);
        let dir = served.pool.path().join(name);
        let mut tried = Mount::tried(&key, &dir, None, &["-o", option], LIFE);
        if tried.is_err() && kind == TargetKind::Classic {
            // Before there was a choice, it was the only one.
            tried = Mount::tried(&key, &dir, None, &[], LIFE);
        }
        let mount = tried.map_err(|said| anyhow!("fusevol mount -o {option}: {}", said.trim()))?;
        let target = Self { kind, mount, served, setting };
        if fill {
            let _held = target.open(VOLUME)?;
            fio::fill(&target.mount.image(VOLUME), target.setting.size, Some(target.mount.path()), &target.setting.interrupt)?;
        }
        Ok(target)
    }

    /// Holds a volume open, and so attached; the other mount may have to give it back first.
    fn open(&self, volume: &str) -> Result<File> {
        let image = self.mount.image(volume);
        let open = || OpenOptions::new().read(true).write(true).open(&image).ok();
        self.until(&format!("{volume} to open"), open)
    }

    fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
        for _ in 0..LOOKS {
            if let Some(t) = condition() {
                return Ok(t);
            }
            self.setting.interrupt.check()?;
            pause(LOOK);
        }
        bail!("waited too long for {what}; the client's log:\n{}", self.mount.log())
    }

    fn run(&self, work: &Work, volume: &str, round: u32) -> Result<Figures> {
        let (image, servers) = (self.mount.image(volume), [self.mount.pid()]);
        fio::measure(work, &self.setting.job(&image, &servers, Some(self.mount.path()), round), &self.setting.interrupt)
    }

    /// Waits for space: what was freed by the measurement before is free only after a while.
    fn space(&self) -> Result<()> {
        let needed = self.setting.size / AU;
        self.until("space to come back", || (self.served.pool.space("free") >= needed).then_some(()))
    }

    fn on_new(&self, work: &Work, round: u32) -> Result<Figures> {
        self.space()?;
        let volume = format!("new{round}");
        self.served.pool.volume(&volume, &self.setting.size.to_string());
        let client = if self.kind == TargetKind::Uring { "uring" } else { "classic" };
        done(&self.served.pool.mgr(&["access", "grant", &volume, client, RIGHTS]))?;
        let held = self.open(&volume)?;
        let figures = self.run(work, &volume, round)?;
        held.sync_all().context("fsync")?;
        counted("new places", held.metadata()?.blocks() * 512 / BLOCK, figures.ios, work)?;
        drop(held);
        self.until("the volume to be removed", || (self.served.pool.mgr(&["volume", "rm", &volume, "-y"]).code == 0).then_some(()))?;
        Ok(figures)
    }

    fn on_snapshot(&self, work: &Work, round: u32) -> Result<Figures> {
        self.space()?;
        let held = self.open(VOLUME)?;
        let name = format!("{VOLUME}@bench{round}");
        done(&self.served.pool.mgr(&["snapshot", "create", &name]))?;
        let figures = self.run(work, VOLUME, round)?;
        held.sync_all().context("fsync")?;
        self.modified(&name, figures.ios, work)?;
        self.until("the snapshot to be removed", || (self.served.pool.mgr(&["snapshot", "rm", &name, "-y"]).code == 0).then_some(()))?;
        Ok(figures)
    }

    /// Each write has modified, and so preserved, a block of its own.
    fn modified(&self, snapshot: &str, ios: u64, work: &Work) -> Result<()> {
        let list = || Some(self.mount.fusevol(&["map", snapshot, "--modified", "--json"])).filter(|r| r.code == 0);
        let list = self.until("the snapshot to be readable", list)?.json();
        let extents = list["extents"].as_array().context("a list of extents")?;
        let bytes: u64 = extents.iter().filter_map(|e| e["length"].as_u64()).sum();
        counted("modified blocks", bytes / BLOCK, ios, work)
    }
}

fn done(ran: &Ran) -> Result<()> {
    ensure!(ran.code == 0, "{}{}", ran.out, ran.err);
    Ok(())
}

/// fio may leave out of its count what was under way when the time was over.
fn counted(what: &str, blocks: u64, ios: u64, work: &Work) -> Result<()> {
    let slack = u64::from(work.depth);
    ensure!(blocks.abs_diff(ios) <= slack, "{blocks} {what} for {ios} writes: the figure would be of something else");
    Ok(())
}

impl Target for Fusevol {
    fn kind(&self) -> TargetKind {
        self.kind
    }

    fn measure(&mut self, work: &Work, round: u32) -> Result<Figures> {
        let time = Duration::from_secs(self.setting.seconds.into());
        let dir: &Path = self.mount.path();
        let _watchdog = watchdog(dir, time + AROUND);
        match work.state {
            State::Written => {
                let _held = self.open(VOLUME)?;
                self.run(work, VOLUME, round)
            }
            State::New => self.on_new(work, round),
            State::Snapshot => self.on_snapshot(work, round),
        }
    }
}
