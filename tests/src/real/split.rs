//! A pool on image files that the manager and a client reach by servers of their own: so one of them loses its path, and the other does not.
//!
//! The client is a host of its own (a network namespace), which cannot reach the manager's servers: those are on this host's loopback.

use super::mount::Mount;
use super::nbd::{NbdServer, pause_filter};
use super::netns::Netns;
use super::pool::{Pool, free_port, scratch};
use super::wait::until;
use std::path::PathBuf;
use std::time::Duration;

/// Disks.
pub const DISKS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);

/// See the head of this file.
pub struct Split {
    /// Before the servers: its manager ends first.
    pub pool: Pool,
    host: Netns,
    /// The manager's servers.
    pub managers: Vec<NbdServer>,
    /// The client's.
    pub clients: Vec<NbdServer>,
    controls: Vec<PathBuf>,
    key: PathBuf,
    _dir: tempfile::TempDir,
}

impl Split {
    /// With a volume `db`; the parameters are of the addresses that the client and the manager have, such as `&stall-ms=500`.
    ///
    /// # Panics
    /// Where it cannot be made.
    #[must_use]
    pub fn new(size: u64, of_client: &str, of_manager: &str) -> Self {
        let (dir, host) = (scratch(), Netns::new());
        let (mut managers, mut clients, mut controls) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..DISKS {
            let file = dir.path().join(format!("d{n}.raw"));
            std::fs::File::create(&file).and_then(|f| f.set_len(size)).expect("an image");
            let (file, control) = (file.to_string_lossy().into_owned(), dir.path().join(format!("c{n}.control")));
            let of_manager = format!("?insecure=1{of_manager}");
            managers.push(NbdServer::nbdkit_at("127.0.0.1", dir.path(), &format!("m{n}"), &["file", &file], &of_manager));
            let at = format!("pause-control={}", control.display());
            let args = ["--filter=pause", "file", &file, &at];
            clients.push(NbdServer::nbdkit_at(host.here(), dir.path(), &format!("c{n}"), &args, &format!("?insecure=1{of_client}")));
            controls.push(control);
        }
        let listen = [format!("{}:{}", host.here(), free_port())];
        let pool = Pool::listening(managers.iter().map(|m| m.uri().into()).collect(), &listen);
        pool.volume("db", "256M");
        let key = pool.client("host1", &[("db", "read,write")]);
        Self { pool, host, managers, clients, controls, key, _dir: dir }
    }

    /// The client, mounted.
    #[must_use]
    pub fn mount(&self, name: &str) -> Mount {
        let disks: Vec<&str> = self.clients.iter().flat_map(|c| ["--disk", c.uri()]).collect();
        Mount::with(&self.key, &self.pool.path().join(name), Some(&self.host), &disks)
    }

    /// Starts the client's server of this disk again.
    pub fn start(&mut self, disk: usize) {
        // That of a server that was killed stays in its way.
        std::fs::remove_file(&self.controls[disk]).unwrap_or_default();
        self.clients[disk].start();
    }

    /// Starts it again where it has ended by itself.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn revive(&mut self, disk: usize) {
        if self.clients[disk].has_ended() {
            std::fs::remove_file(&self.controls[disk]).unwrap_or_default();
            self.clients[disk].revive();
        }
    }

    /// The client's server of this disk stands still: what it has got it carries out later.
    ///
    /// # Panics
    /// Where its pause filter does not answer.
    pub fn pause(&mut self, disk: usize) {
        self.say(disk, b'p');
    }

    /// It goes on.
    ///
    /// # Panics
    /// Where its pause filter does not answer.
    pub fn resume(&mut self, disk: usize) {
        self.say(disk, b'r');
    }

    /// A server that has ended by itself is started again, and told.
    fn say(&mut self, disk: usize, letter: u8) {
        let control = self.controls[disk].clone();
        if pause_filter(&control, letter).is_err() {
            until("the server to have ended", PATIENCE, || self.clients[disk].has_ended().then_some(()));
            self.revive(disk);
            pause_filter(&control, letter).expect("it answers");
        }
    }
}
