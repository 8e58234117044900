//! The host's table of mounts: which of them are ours, whether they live, who uses them; and unmounting.

use super::loops::{self, LINKS};
use super::mount::SUBTYPE;
use fusevol_shared::error::{Context, Error, Kind, Result};
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Most users of a mount that are named.
const USERS_MAX: usize = 8;

/// A mount in the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where.
    pub dir: PathBuf,
    /// Type, as `fuse.fusevol`.
    pub kind: String,
    /// Source, as `fusevol:POOL`.
    pub source: String,
    /// Its device, as `0:45`.
    pub device: String,
}

impl Entry {
    /// Whether it is one of ours.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.kind.strip_prefix("fuse.") == Some(SUBTYPE) || (self.kind == "fuse" && self.source.starts_with("fusevol:"))
    }
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// `Io`.
pub fn read() -> Result<Vec<Entry>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context(Kind::Io, || "/proc/self/mountinfo")?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Vec<Entry> {
    // proc_pid_mountinfo(5): `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    let entry = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' ').skip(2), right.split(' '));
        Some(Entry {
            device: left.next()?.to_owned(),
            dir: unescape(left.nth(1)?),
            kind: right.next()?.to_owned(),
            source: right.next()?.to_owned(),
        })
    };
    text.lines().filter_map(entry).collect()
}

/// `\040` and the like, as the kernel writes blanks.
fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// The path without links, without touching what is mounted there (it may be dead, or hang).
#[must_use]
pub fn place(dir: &Path) -> PathBuf {
    let parent = match dir.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => return dir.to_owned(),
    };
    match (parent.canonicalize(), dir.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => dir.canonicalize().unwrap_or_else(|_| dir.to_owned()),
    }
}

/// The topmost mount at `dir`.
///
/// # Errors
/// `Io`.
pub fn at(dir: &Path) -> Result<Option<Entry>> {
    let dir = place(dir);
    Ok(read()?.into_iter().rfind(|e| e.dir == dir))
}

/// The device of the topmost mount at `dir`, as `0:45`.
///
/// # Errors
/// `Io`, `NotFound`.
pub fn device(dir: &Path) -> Result<String> {
    let entry = at(dir)?.ok_or_else(|| Error::new(Kind::NotFound, format!("nothing is mounted at {}", dir.display())))?;
    Ok(entry.device)
}

/// Whether the mount at `dir` has lost its process; one that is being lost has.
#[must_use]
pub fn is_dead(dir: &Path) -> bool {
    matches!(fs::metadata(dir), Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)))
}

/// Unmounts what nobody uses.
///
/// # Errors
/// `Busy`, naming the users; `NotFound` where nothing is mounted there; `Denied`, `Io`.
pub fn unmount(dir: &Path) -> Result<()> {
    let what = || format!("{} cannot be unmounted", dir.display());
    match rustix::mount::unmount(dir, UnmountFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => {
            let users = users(dir);
            let text = if users.is_empty() { "it is in use".to_owned() } else { format!("it is used by {}", users.join(", ")) };
            Err(Error::new(Kind::Busy, format!("{}: {text}", what())).hint(hint(&users)))
        }
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
            Err(Error::new(Kind::NotFound, format!("nothing is mounted at {}", dir.display())))
        }
        Err(e @ (rustix::io::Errno::PERM | rustix::io::Errno::ACCESS)) => {
            Err(Error::new(Kind::Denied, what()).because(e).hint("run it as root (sudo)"))
        }
        Err(e) => Err(Error::new(Kind::Io, what()).because(e)),
    }
}

/// What to do about these users: what we have set up has its own verb.
fn hint(users: &[String]) -> String {
    let ours = users.iter().filter_map(|u| u.strip_prefix(LINKS)?.strip_prefix('/')?.split(' ').next());
    let verbs: Vec<String> = ours.map(|name| format!("fusevol detach {name}")).collect();
    match verbs.is_empty() {
        true => "end what uses it (umount filesystems on it, losetup -d) and try again".to_owned(),
        false => format!("umount what is mounted on it, then: {}", verbs.join("; ")),
    }
}

/// Unmounts whoever uses it; their I/O fails.
///
/// # Errors
/// `Io`.
pub fn unmount_by_force(dir: &Path) -> Result<()> {
    match rustix::mount::unmount(dir, UnmountFlags::FORCE | UnmountFlags::DETACH) {
        // It may be gone already.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::new(Kind::Io, format!("{} cannot be unmounted", dir.display())).because(e)),
    }
}

/// Who uses what lies below `dir`: loop devices, mounts, processes; at most [`USERS_MAX`] of them.
#[must_use]
pub fn users(dir: &Path) -> Vec<String> {
    let dir = place(dir);
    let mut out = Vec::new();
    for device in loops::all() {
        let Some(file) = device.file().filter(|f| f.starts_with(&dir)) else { continue };
        let node = device.link().unwrap_or_else(|| device.node());
        let used = device.users();
        let by = if used.is_empty() { String::new() } else { format!(", used by {}", used.join(" and ")) };
        out.push(format!("{} ({}{by})", node.display(), file.display()));
    }
    let below = |e: &Entry| e.dir.starts_with(&dir) && e.dir != dir;
    out.extend(read().into_iter().flatten().filter(below).map(|e| format!("the mount at {}", e.dir.display())));
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if let Some(file) = used_by(&entry.path(), &dir) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            out.push(format!("{} (pid {pid}, {})", name.trim_end(), file.display()));
        }
    }
    out.truncate(USERS_MAX);
    out
}

/// A file below `dir` that the process has open, or works in.
fn used_by(process: &Path, dir: &Path) -> Option<PathBuf> {
    let links = ["cwd", "root"].map(|l| process.join(l));
    let fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|e| e.path());
    links.into_iter().chain(fds).filter_map(|l| fs::read_link(l).ok()).find(|target| target.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_with_its_escapes() {
        let text = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                    40 22 0:45 / /mnt/a\\040b rw,nosuid shared:5 - fuse.fusevol fusevol:san1 rw,user_id=0\n\
                    41 22 0:46 / /mnt/c rw - fuse.sshfs host: rw\nbroken line\n";
        let all = parse(text);
        assert_eq!(all.len(), 3);
        assert_eq!((all[1].dir.to_str(), all[1].is_ours()), (Some("/mnt/a b"), true));
        assert_eq!(all[1].device, "0:45");
        assert!(!all[0].is_ours() && !all[2].is_ours());
    }

    #[test]
    fn a_place_is_found_without_touching_it() {
        assert_eq!(place(Path::new("/proc/self/../nothing-here")), place(Path::new("/proc/../proc")).join("nothing-here"));
        assert_eq!(place(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn a_device_of_ours_is_given_back_by_its_verb() {
        let users = ["/dev/fusevol/db@s1 (/m/.snapshots/db@s1.img)".to_owned(), "cat (pid 7, /m/x.img)".to_owned()];
        assert!(hint(&users).ends_with("fusevol detach db@s1"), "{}", hint(&users));
        assert!(hint(&users[1..]).contains("losetup -d"));
    }

    #[test]
    fn who_works_in_a_folder_is_named() {
        let me = std::env::current_dir().expect("a folder");
        assert!(used_by(Path::new("/proc/self"), &me).is_some());
        assert!(used_by(Path::new("/proc/self"), Path::new("/nonexistent")).is_none());
    }
}
