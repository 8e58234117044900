//! A pool on network disks, each with a server of its own that can be killed, and a mirrored volume `db`: what its copies lack, as the manager and
//! the mount print it, and whether they are equal on the disks' images.

use super::load::Load;
use super::mount::Mount;
use super::nbd::NbdServer;
use super::pool::{Pool, scratch};
use super::wait::until;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long anything may take that must come.
pub const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// See the head of this file.
pub struct Mirrored {
    /// Before the servers: its manager ends first.
    pub pool: Pool,
    /// By disk.
    pub servers: Vec<NbdServer>,
    key: PathBuf,
    dir: tempfile::TempDir,
}

impl Mirrored {
    /// Disks of these sizes, and a volume of `volume` with two copies.
    ///
    /// # Panics
    /// Where it cannot be made.
    #[must_use]
    pub fn new(sizes: &[u64], volume: &str) -> Self {
        let dir = scratch();
        let servers: Vec<NbdServer> = sizes.iter().enumerate().map(|(n, size)| server(dir.path(), n, *size)).collect();
        let pool = Pool::on(servers.iter().map(|s| s.uri().into()).collect());
        let _said = pool.mgr(&["volume", "create", "db", "--size", volume, "--mirror", "2"]).ok();
        let key = pool.client("host1", &[("db", "read,write")]);
        Self { pool, servers, key, dir }
    }

    /// The client, mounted.
    #[must_use]
    pub fn mount(&self, name: &str) -> Mount {
        Mount::new(&self.key, &self.pool.path().join(name))
    }

    /// Servers that the death of a client has ended are started again, as a supervisor would.
    pub fn revive(&mut self) {
        for (n, server) in self.servers.iter_mut().enumerate() {
            if server.revive() {
                println!("the server of disk {n} had ended by itself");
            }
        }
    }

    /// The image of a disk.
    #[must_use]
    pub fn image(&self, disk: usize) -> PathBuf {
        image(self.dir.path(), disk)
    }

    /// A new disk with its server, which the pool does not know yet; its address.
    pub fn another(&mut self, size: u64) -> String {
        self.servers.push(server(self.dir.path(), self.servers.len(), size));
        self.servers[self.servers.len() - 1].uri().to_owned()
    }

    /// What the manager says of the copies that `db` lacks; nothing where it has all.
    #[must_use]
    pub fn job(&self) -> Option<Value> {
        let said = self.pool.mgr(&["--json", "job", "show", "db"]).ok().json();
        Some(said["job"].clone()).filter(|j| !j.is_null())
    }

    /// AUs that lack copies, as the manager counts them.
    #[must_use]
    pub fn todo(&self) -> u64 {
        self.job().map_or(0, |j| number(&j, "todo"))
    }

    /// Waits until the volume has all its copies.
    pub fn whole(&self) {
        let _said = self.pool.mgr(&["job", "wait", "db", "--timeout", "60"]).ok();
    }

    /// Waits until `events` has said this.
    pub fn says(&self, what: &str) {
        until(&format!("'{what}' to be said"), PATIENCE, || self.pool.mgr(&["events"]).ok().out.contains(what).then_some(()));
    }

    /// A client that was killed is dead: its host is gone. Its lease is waited for.
    pub fn confirm_dead(&self) {
        let dead = || (self.pool.mgr(&["client", "confirm-dead", "host1", "-y"]).code == 0).then_some(());
        until("the client's death to be believed", PATIENCE, dead);
    }

    /// Stops the manager, proves the catalog against the disks, and compares all copies; every AU must have two. How many AUs.
    ///
    /// # Panics
    /// Where something is not as it must be.
    pub fn check_copies(&mut self) -> u64 {
        if self.pool.runs() {
            // What was granted with one copy while a disk was out may have been used since.
            self.whole();
            self.pool.stop();
        }
        let report = self.pool.mgr(&["--json", "check", "--copies"]).ok().json();
        let copies = &report["report"]["copies"];
        assert_eq!((number(copies, "lacking"), copies["notes"].as_array().map(Vec::len)), (0, Some(0)), "{report}");
        number(copies, "aus")
    }
}

fn image(dir: &Path, disk: usize) -> PathBuf {
    dir.join(format!("d{disk}.raw"))
}

fn server(dir: &Path, n: usize, size: u64) -> NbdServer {
    let file = image(dir, n);
    File::create(&file).and_then(|f| f.set_len(size)).expect("an image");
    NbdServer::nbdkit(dir, &format!("d{n}"), &["file", &file.to_string_lossy()])
}

/// A number of a job, of a mount's copies, or the like.
///
/// # Panics
/// Where there is none of that name.
#[must_use]
pub fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("no {name} in {of}"))
}

/// What the mount says of the copies of `db`, while it writes it.
///
/// # Panics
/// Where it does not write it.
#[must_use]
pub fn shown(mount: &Mount) -> Value {
    let said = mount.fusevol(&["status", "db", "--json"]).ok().json();
    let copies = said["volumes"][0]["copies"].clone();
    assert!(!copies.is_null(), "no copies in {said}");
    copies
}

/// The disks that are out for the writer of `db`.
///
/// # Panics
/// Where the mount does not write it.
#[must_use]
pub fn out(mount: &Mount) -> Vec<u64> {
    shown(mount)["out"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
}

/// The load goes on by so many acts, and nothing of it has failed.
///
/// # Panics
/// Otherwise.
pub fn goes_on(load: &Load, acts: u64) {
    let before = load.acked();
    until("the load to go on", PATIENCE, || {
        assert_eq!(load.errors(), Vec::<String>::new(), "nothing of it may fail");
        (load.acked() > before + acts).then_some(())
    });
}

/// Writes this many MiB from a place on, which say where they are, and makes them durable.
///
/// # Panics
/// Where that fails.
pub fn fill(image: &Path, from: u64, mib: u64) {
    let file = OpenOptions::new().write(true).open(image).expect("it opens");
    let mut buf = vec![0; usize::try_from(MIB).expect("small")];
    for at in (from..from + mib * MIB).step_by(buf.len()) {
        buf.chunks_exact_mut(8).zip(0..).for_each(|(c, n)| c.copy_from_slice(&(at + 8 * n + 1).to_le_bytes()));
        file.write_all_at(&buf, at).expect("it writes");
    }
    file.sync_all().expect("it syncs");
}

/// Writes a part of `db` that loads leave alone, so much that each disk has copies of it. Done again it finds a disk that is dead.
///
/// # Panics
/// If an I/O fails.
pub fn spread(mount: &Mount) {
    fill(&mount.image("db"), 64 * MIB, 96);
}

/// Demands that what `fill` has written is there.
///
/// # Panics
/// Where it is not.
pub fn filled(image: &Path, from: u64, mib: u64) {
    let file = File::open(image).expect("it opens");
    let mut buf = vec![0; usize::try_from(MIB).expect("small")];
    for at in (from..from + mib * MIB).step_by(buf.len()) {
        file.read_exact_at(&mut buf, at).expect("it reads");
        for (c, n) in buf.chunks_exact(8).zip(0..) {
            assert_eq!(c, (at + 8 * n + 1).to_le_bytes(), "at {}", at + 8 * n);
        }
    }
}
