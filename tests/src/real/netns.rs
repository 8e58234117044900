//! A host of its own: a network namespace joined to this one by a pair of virtual interfaces.

use super::run::{run, tool};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with one address, and an address of this side that it reaches. Removed when dropped.
pub struct Netns {
    name: String,
    here: String,
}

impl Netns {
    /// Makes one with a network of its own, 10.213.x.y/30.
    #[must_use]
    pub fn new() -> Self {
        let pid = std::process::id();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fv{pid}x{n}");
        // Four addresses a namespace, from the process id so that two test processes do not meet.
        let net = (pid.wrapping_mul(16).wrapping_add(n)) % 16384;
        let address = |host: u32| format!("10.213.{}.{}", net / 64, net % 64 * 4 + host);
        let (here, there) = (address(1), address(2));
        let (a, b) = (format!("{name}a"), format!("{name}b"));
        let made = Self { name: name.clone(), here: here.clone() };
        let _said = tool("ip", &["netns", "add", &name]);
        let _said = tool("ip", &["link", "add", &a, "type", "veth", "peer", "name", &b, "netns", &name]);
        let _said = tool("ip", &["addr", "add", &format!("{here}/30"), "dev", &a]);
        let _said = tool("ip", &["link", "set", &a, "up"]);
        let _said = tool("ip", &["-n", &name, "addr", "add", &format!("{there}/30"), "dev", &b]);
        let _said = tool("ip", &["-n", &name, "link", "set", &b, "up"]);
        let _said = tool("ip", &["-n", &name, "link", "set", "lo", "up"]);
        made
    }

    /// The address of this side, as the namespace sees it.
    #[must_use]
    pub fn here(&self) -> &str {
        &self.here
    }

    /// A command that runs in the namespace (its network only: mounts are those of this host).
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        c
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The pair goes with the namespace.
        let _said = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}
