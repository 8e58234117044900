//! Loop devices over volume files, and the names that lead to them: `/dev/fusevol/VOL` -> `/dev/loopN`.
//!
//! ```text
//!  free --make--> bound to a file (direct I/O) --free--> free, once nobody has it open
//! ```
//!
//! A link is what `attach` has made and `detach` takes away; what it leads to is asked of sysfs, never of the file: the mount below
//! may be dead. Invariant: a device is let go only while this process holds it exclusively and nobody else has it open.

use super::ioctl;
use fusevol_shared::error::{Context, Error, Kind, Result};
use rustix::event::{Timespec, poll};
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// Folder of the links.
pub const LINKS: &str = "/dev/fusevol";
/// How often another one is taken when somebody else was quicker.
const TRIES: u32 = 16;
/// How long the kernel may take to let go of a device that nobody uses: so many looks, so far apart.
const LOOKS: u32 = 500;
/// How often a device that is in use is looked at again before that is said.
const GLANCES: u32 = 25;
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Most users of a device that are named.
const USERS_MAX: usize = 8;

/// A loop device, bound or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loop(u32);

/// All loop devices that stand on a file.
#[must_use]
pub fn all() -> Vec<Loop> {
    let names = fs::read_dir("/sys/block").into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    names.filter_map(|n| Loop::named(&n)).filter(|l| l.file().is_some()).collect()
}

/// The link of a volume or snapshot.
#[must_use]
pub fn link_of(target: &str) -> PathBuf {
    Path::new(LINKS).join(target)
}

/// Where a link leads.
#[must_use]
pub fn linked(link: &Path) -> Option<Loop> {
    let to = fs::read_link(link).ok()?;
    Loop::named(to.strip_prefix("/dev").ok()?.to_str()?)
}

/// Makes `link` lead to the device, whatever it led to before.
///
/// # Errors
/// `Io`.
pub fn point(link: &Path, device: Loop) -> Result<()> {
    let what = || format!("{}", link.display());
    fs::create_dir_all(LINKS).context(Kind::Io, || LINKS)?;
    // No volume has a name that begins so.
    let new = Path::new(LINKS).join(format!(".new-{}", std::process::id()));
    symlink(device.node(), &new).context(Kind::Io, what)?;
    fs::rename(&new, link).context(Kind::Io, what).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

impl Loop {
    fn named(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("loop").filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse().ok().map(Self)
    }

    /// Its node in `/dev`.
    #[must_use]
    pub fn node(self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.0))
    }

    fn sys(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/sys/block/loop{}", self.0)).join(name)
    }

    fn asked(self, name: &str) -> Option<String> {
        fs::read_to_string(self.sys(name)).ok().map(|s| s.trim_end().to_owned())
    }

    /// The file that it stands on, as the kernel names it: of a mount that was taken away by force, from its top only.
    #[must_use]
    pub fn file(self) -> Option<PathBuf> {
        self.asked("loop/backing_file").map(PathBuf::from)
    }

    /// Whether its I/O goes past the page cache.
    #[must_use]
    pub fn is_direct(self) -> bool {
        self.asked("loop/dio").as_deref() == Some("1")
    }

    /// Whether it cannot be written.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        self.asked("ro").as_deref() == Some("1")
    }

    /// Bytes in its sector.
    #[must_use]
    pub fn sector(self) -> Option<u32> {
        self.asked("queue/logical_block_size")?.parse().ok()
    }

    /// The link that leads to it.
    #[must_use]
    pub fn link(self) -> Option<PathBuf> {
        fs::read_dir(LINKS).into_iter().flatten().flatten().map(|e| e.path()).find(|l| linked(l) == Some(self))
    }

    /// Whether it stands on this very file, under this label. Asks the filesystem below, which must live.
    #[must_use]
    pub fn is_of(self, image: &fs::Metadata, label: &str) -> bool {
        let status = File::open(self.node()).and_then(|device| ioctl::status(device.as_fd()));
        status.is_ok_and(|s| s.file == (image.dev(), image.ino()) && s.label == ioctl::cut(label))
    }

    /// Puts a free device on `image`.
    ///
    /// # Errors
    /// `Denied`, `Io`; `Busy` where others take each free device first; `NotFound` where it has no node.
    pub fn make(image: &File, sector: u32, read_only: bool, label: &str) -> Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control");
        let control = control.map_err(|e| Error::new(Kind::Io, "/dev/loop-control").because(e).hint("load the module: modprobe loop"))?;
        for _ in 0..TRIES {
            let device = Self(ioctl::free_number(control.as_fd()).context(Kind::Io, || "no loop device is to be had")?);
            let node = device.node();
            let opened = OpenOptions::new().read(true).write(!read_only).open(&node).map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::new(Kind::NotFound, format!("there is no {}", node.display())).hint(format!(
                    "mknod {} b 7 {}",
                    node.display(),
                    device.0
                )),
                _ => Error::new(Kind::Io, format!("{}", node.display())).because(e),
            })?;
            match ioctl::configure(opened.as_fd(), image.as_fd(), sector, read_only, label) {
                Ok(()) => return Ok(device),
                // Somebody else took it meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => return Err(Error::new(Kind::Io, format!("{} cannot be set up", node.display())).because(e)),
            }
        }
        Err(Error::new(Kind::Busy, "every free loop device was taken by somebody else first").hint("try again"))
    }

    /// Takes it off its file, and waits until that is so.
    ///
    /// # Errors
    /// `Busy`, naming its users; `Denied`, `Io`.
    pub fn free(self) -> Result<()> {
        let mut looks = GLANCES;
        let held = loop {
            match self.hold() {
                // Who looks at every device that changes (udev) has it open for a moment only.
                Err(e) if e.kind() == Kind::Busy && looks > 0 => looks -= 1,
                result => break result?,
            }
            // A pause.
            let _ = poll(&mut [], Some(&LOOK_EVERY));
        };
        let node = self.node();
        match ioctl::clear(held.as_fd()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(()), // it stands on nothing
            Err(e) => return Err(Error::new(Kind::Io, format!("{} cannot be let go", node.display())).because(e)),
        }
        drop(held);
        for _ in 0..LOOKS {
            if self.file().is_none() {
                return Ok(());
            }
            // A pause.
            let _ = poll(&mut [], Some(&LOOK_EVERY));
        }
        Err(Error::new(Kind::Busy, format!("{} is let go once who still has it open closes it", node.display()))
            .hint("its last I/O may wait for the mount: fusevol status"))
    }

    /// Opens it for this process alone.
    fn hold(self) -> Result<File> {
        let node = self.node();
        let held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&node);
        let users = self.users();
        match held {
            Ok(held) if users.is_empty() => Ok(held),
            Ok(_) => Err(self.in_use(&users)),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(self.in_use(&users)),
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                Err(Error::new(Kind::Denied, format!("{}", node.display())).because(e).hint("run it as root (sudo)"))
            }
            Err(e) => Err(Error::new(Kind::Io, format!("{}", node.display())).because(e)),
        }
    }

    fn in_use(self, users: &[String]) -> Error {
        let by = if users.is_empty() { "a mount in another namespace, or a program".to_owned() } else { users.join(", ") };
        Error::new(Kind::Busy, format!("{} is used by {by}", self.node().display()))
            .hint("umount it, or end what has it open, and try again")
    }

    /// Who uses it, as far as this host shows it: mounts, devices on top, swap, programs; at most [`USERS_MAX`].
    #[must_use]
    pub fn users(self) -> Vec<String> {
        let (nodes, numbers) = self.with_partitions();
        let mut out: Vec<String> = mounts(&numbers).into_iter().map(|dir| format!("the mount at {dir}")).collect();
        for node in &nodes {
            let name = node.strip_prefix("/dev").unwrap_or(node);
            let holders = fs::read_dir(Path::new("/sys/class/block").join(name).join("holders")).into_iter().flatten().flatten();
            out.extend(holders.map(|h| format!("/dev/{}", h.file_name().to_string_lossy())));
        }
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let is_ours = |l: &&str| l.split_whitespace().next().is_some_and(|d| nodes.iter().any(|n| n == Path::new(d)));
        out.extend(swaps.lines().filter(is_ours).map(|_| "swap".to_owned()));
        let me = std::process::id();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()).filter(|p| *p != me) else { continue };
            let mut fds = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            if fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| nodes.contains(&to))) {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                out.push(format!("{} (pid {pid})", name.trim_end()));
            }
        }
        out.truncate(USERS_MAX);
        out
    }

    /// Nodes and `major:minor` of it and its partitions.
    fn with_partitions(self) -> (Vec<PathBuf>, Vec<String>) {
        let own = format!("loop{}", self.0);
        let below = fs::read_dir(self.sys("")).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
        let names = std::iter::once(own.clone()).chain(below.filter(|n| n.starts_with(&format!("{own}p"))));
        names
            .filter_map(|n| {
                let number = fs::read_to_string(Path::new("/sys/class/block").join(&n).join("dev")).ok()?;
                Some((Path::new("/dev").join(n), number.trim_end().to_owned()))
            })
            .unzip()
    }
}

/// Where filesystems on devices of these numbers are mounted.
fn mounts(numbers: &[String]) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut out: Vec<String> = Vec::new();
    for line in text.lines() {
        // proc_pid_mountinfo(5): the third field is the device, the fifth where it is.
        let mut fields = line.split(' ').skip(2);
        if let (Some(number), Some(dir)) = (fields.next(), fields.nth(1))
            && numbers.iter().any(|n| n == number)
        {
            out.push(dir.to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_device_is_known_by_its_name() {
        assert_eq!(Loop::named("loop12"), Some(Loop(12)));
        for other in ["loop", "loop-control", "loop1p1", "sda", "loop+1"] {
            assert_eq!(Loop::named(other), None, "{other}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_no_device() {
        assert_eq!(linked(Path::new("/proc/self/cwd")), None);
        assert_eq!(linked(&link_of("no-such-volume")), None);
        assert!(mounts(&["0:0".to_owned()]).is_empty());
    }
}
