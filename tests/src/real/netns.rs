//! A host of its own: a network namespace joined to this one by pairs of virtual interfaces, each of which can be cut.

use super::run::{run, tool};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Pairs of interfaces that one test process may have: each has four addresses of its own.
const CABLES: u32 = 64;

/// A network namespace with one cable to this side. Removed when dropped, with all its cables.
pub struct Netns {
    name: String,
    first: Cable,
}

/// A pair of interfaces with an address at each end; gone with its namespace.
pub struct Cable {
    end: String,
    here: String,
}

impl Netns {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        let name = format!("fv{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let _said = tool("ip", &["netns", "add", &name]);
        let _said = tool("ip", &["-n", &name, "link", "set", "lo", "up"]);
        let first = Cable::new(&name);
        Self { name, first }
    }

    /// One more cable.
    #[must_use]
    pub fn cable(&self) -> Cable {
        Cable::new(&self.name)
    }

    /// The address of this side, as the namespace sees it by its first cable.
    #[must_use]
    pub fn here(&self) -> &str {
        &self.first.here
    }

    /// A command that runs in the namespace (its network only: mounts are those of this host).
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        c
    }
}

impl Cable {
    /// With a network of its own, 10.213.x.y/30.
    fn new(namespace: &str) -> Self {
        let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // From the process id, so that two test processes do not meet.
        let net = pid.wrapping_mul(CABLES).wrapping_add(n % CABLES) % 16384;
        let address = |host: u32| format!("10.213.{}.{}", net / 64, net % 64 * 4 + host);
        let (here, there) = (address(1), address(2));
        let (a, b) = (format!("fv{pid}x{n}a"), format!("fv{pid}x{n}b"));
        let _said = tool("ip", &["link", "add", &a, "type", "veth", "peer", "name", &b, "netns", namespace]);
        let _said = tool("ip", &["addr", "add", &format!("{here}/30"), "dev", &a]);
        let _said = tool("ip", &["link", "set", &a, "up"]);
        let _said = tool("ip", &["-n", namespace, "addr", "add", &format!("{there}/30"), "dev", &b]);
        let _said = tool("ip", &["-n", namespace, "link", "set", &b, "up"]);
        Self { end: a, here }
    }

    /// The address of this side, as the namespace sees it.
    #[must_use]
    pub fn here(&self) -> &str {
        &self.here
    }

    /// Nothing passes any more; neither side is told.
    pub fn cut(&self) {
        let _said = tool("ip", &["link", "set", &self.end, "down"]);
    }

    /// It passes again.
    pub fn heal(&self) {
        let _said = tool("ip", &["link", "set", &self.end, "up"]);
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The pairs go with the namespace.
        let _said = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}
