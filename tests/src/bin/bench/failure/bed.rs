//! A pool on exports of memory, each behind nbdkit's rate filter, with one volume that is written and held open.
//!
//! The limit is set once all is filled. Each export has a bucket of two seconds of it for reads and one for writes: what is measured comes after a while.

use super::super::fio;
use super::super::signal::Interrupt;
use anyhow::{Context, Result, bail, ensure};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::nbd::NbdServer;
use fusevol_tests::real::pool::{Pool, scratch};
use fusevol_tests::real::wait::pause;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The volume.
pub const VOLUME: &str = "db";
/// The client.
pub const CLIENT: &str = "bench";
/// As `init` has it where nothing is said.
const LEASE: u32 = 10;
/// A mount is aborted after this in any case.
const LIFE: Duration = Duration::from_secs(1800);
const LOOK: Duration = Duration::from_millis(20);
/// Looks for something to come: 120 s.
const LOOKS: u32 = 6000;
/// Catalog, journals, and what sessions have reserved.
const OVERHEAD: u64 = 1 << 30;

/// A server, and the file that has its limit.
pub struct Export {
    server: NbdServer,
    rate: PathBuf,
}

impl Export {
    fn new(dir: &Path, no: usize, size: u64, tcp: bool) -> Self {
        let (name, rate) = (format!("e{no}"), dir.join(format!("e{no}.rate")));
        let (bytes, file) = (size.to_string(), format!("rate-file={}", rate.display()));
        let start = if tcp { NbdServer::nbdkit_tcp } else { NbdServer::nbdkit };
        let args = ["--filter=rate", "memory", &bytes, "rate=64G", &file];
        // Without the filter where nothing shall limit it.
        Self { server: start(dir, &name, if tcp { &args[1..3] } else { &args }), rate }
    }

    /// From the next request on, bytes a second.
    fn limit(&self, rate: u64) -> Result<()> {
        let new = self.rate.with_extension("new");
        fs::write(&new, format!("{}\n", rate * 8)).and_then(|()| fs::rename(&new, &self.rate)).context("a rate file")
    }
}

/// How one is made.
pub struct Plan {
    /// Exports of the pool for data.
    pub disks: usize,
    /// Further ones, for copies only.
    pub spares: usize,
    /// Copies of the volume.
    pub copies: u8,
    /// Its size, bytes; all of it is written.
    pub size: u64,
    /// Over the loopback, without a limit.
    pub tcp: bool,
}

/// See the head of this file. What is dropped first stands first.
pub struct Bed {
    held: Option<File>,
    mount: Option<Mount>,
    /// The pool.
    pub pool: Pool,
    exports: Vec<Export>,
    key: PathBuf,
    dir: tempfile::TempDir,
    interrupt: Interrupt,
}

impl Bed {
    /// Made, mounted, filled, held open.
    ///
    /// # Errors
    /// Where that fails.
    pub fn new(plan: &Plan, interrupt: &Interrupt) -> Result<Self> {
        let dir = scratch();
        let exports = (0..plan.disks + plan.spares).map(|n| Export::new(dir.path(), n, plan.size + OVERHEAD, plan.tcp));
        let exports: Vec<Export> = exports.collect();
        let (data, spares) = exports.split_at(plan.disks);
        let pool = Pool::leased(data.iter().map(|e| e.server.uri().into()).collect(), LEASE);
        for spare in spares {
            let _said = pool.mgr(&["disk", "add", spare.server.uri(), "--spare"]).ok();
        }
        let (size, copies) = (plan.size.to_string(), plan.copies.to_string());
        let _said = pool.mgr(&["volume", "create", VOLUME, "--size", &size, "--mirror", &copies]).ok();
        let key = pool.client(CLIENT, &[(VOLUME, "read,write")]);
        let mut bed = Self { held: None, mount: None, pool, exports, key, dir, interrupt: interrupt.clone() };
        bed.mount("mount")?;
        fio::fill(&bed.image(), plan.size, Some(bed.mounted().path()), interrupt)?;
        Ok(bed)
    }

    /// The client is mounted there, and holds the volume open.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn mount(&mut self, name: &str) -> Result<()> {
        let mount = Mount::tried(&self.key, &self.dir.path().join(name), None, &[], LIFE);
        self.mount = Some(mount.map_err(anyhow::Error::msg)?);
        let image = self.image();
        let open = || OpenOptions::new().read(true).write(true).open(&image).ok();
        self.held = Some(self.until("the volume to open", open)?);
        Ok(())
    }

    /// Unmounts in order: nothing of what was written is in doubt any more.
    pub fn umount(&mut self) {
        self.held = None;
        if let Some(mount) = self.mount.take() {
            mount.umount();
        }
    }

    /// `kill -9` of the client.
    pub fn kill(&mut self) {
        self.held = None;
        if let Some(mount) = self.mount.take() {
            mount.kill();
        }
    }

    /// The mount.
    ///
    /// # Panics
    /// After `kill`.
    #[must_use]
    pub fn mounted(&self) -> &Mount {
        self.mount.as_ref().expect("it is mounted")
    }

    /// The volume's file.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.mounted().image(VOLUME)
    }

    /// Everything is written through, and each export has its limit from now on, bytes a second.
    ///
    /// # Errors
    /// Where that fails.
    pub fn limit(&self, rate: u64) -> Result<()> {
        self.held.as_ref().context("it is open")?.sync_all().context("fsync")?;
        self.exports.iter().try_for_each(|e| e.limit(rate))
    }

    /// A verb of the manager.
    ///
    /// # Errors
    /// Where it fails.
    pub fn mgr(&self, args: &[&str]) -> Result<()> {
        let ran = self.pool.mgr(args);
        ensure!(ran.code == 0, "{args:?}: {}{}", ran.out, ran.err);
        Ok(())
    }

    /// AUs that lack copies.
    ///
    /// # Errors
    /// Where the manager does not say.
    pub fn todo(&self) -> Result<u64> {
        let said = self.pool.mgr(&["--json", "job", "show", VOLUME]);
        ensure!(said.code == 0, "job show: {}", said.err);
        Ok(said.json()["job"]["todo"].as_u64().unwrap_or(0))
    }

    /// Waits until there is something.
    ///
    /// # Errors
    /// Where it does not come, or the run is interrupted.
    pub fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
        for _ in 0..LOOKS {
            if let Some(t) = condition() {
                return Ok(t);
            }
            self.interrupt.check()?;
            pause(LOOK);
        }
        bail!("waited too long for {what}; the client's log:\n{}", self.mount.as_ref().map_or_else(String::new, Mount::log))
    }
}
