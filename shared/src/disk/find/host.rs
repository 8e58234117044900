//! What this host says about its block devices (sysfs), and paths with wildcards. Reads only; what cannot be read is
//! as if it were not there: then two paths count as two disks, which is the safe side.

use crate::disk::file::{FileDisk, Identity, OpenMode};
use rustix::fs::{major, minor};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Paths that one pattern may stand for, and devices that a scan looks at.
const PATHS_MAX: usize = 4096;
/// How deep devices may stand on each other.
const DEPTH_MAX: usize = 8;

/// What tells that two devices are one disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Medium {
    /// Nothing more is known than which node or file it is.
    Node(Identity),
    /// The world-wide name that the disk itself gives, and the sector at which a partition of it begins.
    Named(String, u64),
}

/// The first line of a file of sysfs, `None` if empty.
fn line(path: PathBuf) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn sys(device: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)))
}

/// The medium of a device or file.
pub(super) fn medium(identity: Identity) -> Medium {
    let Identity::Block(device) = identity else { return Medium::Node(identity) };
    let dir = sys(device);
    if let Some(file) = behind_loop(&dir) {
        return Medium::Node(file);
    }
    let start = line(dir.join("start")).and_then(|s| s.parse().ok());
    let whole = match line(dir.join("partition")) {
        Some(_) => fs::canonicalize(&dir).ok().and_then(|d| d.parent().map(Path::to_owned)).unwrap_or(dir),
        None => dir,
    };
    let name = line(whole.join("device/wwid")).or_else(|| line(whole.join("wwid")));
    name.map_or(Medium::Node(identity), |name| Medium::Named(name, start.unwrap_or(0)))
}

/// The file of a loop device that shows it from its first byte.
fn behind_loop(dir: &Path) -> Option<Identity> {
    let file = line(dir.join("loop/backing_file"))?;
    let from_start = line(dir.join("loop/offset"))? == "0";
    from_start.then(|| FileDisk::open(file, OpenMode::Read).ok().map(|d| d.identity())).flatten()
}

/// Devices that a device stands on, at any depth.
pub(super) fn lower(identity: Identity) -> Vec<Identity> {
    let mut all = Vec::new();
    let Identity::Block(device) = identity else { return all };
    let mut level = vec![device];
    for _ in 0..DEPTH_MAX {
        let beneath = |d: &u64| fs::read_dir(sys(*d).join("slaves")).into_iter().flatten().flatten();
        let numbers = level.iter().flat_map(beneath).filter_map(|e| device_number(&line(e.path().join("dev"))?));
        level = numbers.collect();
        all.extend(level.iter().map(|d| Identity::Block(*d)));
    }
    all
}

/// `8:16` as a device number.
fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The paths of this host's block devices that have a size, in order.
pub(super) fn block_devices() -> Vec<PathBuf> {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let sized = entries.filter(|e| line(e.path().join("size")).is_some_and(|s| s != "0"));
    // A slash in a device's name is an exclamation mark in sysfs.
    let nodes = sized.filter_map(|e| Some(Path::new("/dev").join(e.file_name().into_string().ok()?.replace('!', "/"))));
    let mut all: Vec<PathBuf> = nodes.filter(|p| p.exists()).take(PATHS_MAX).collect();
    all.sort();
    all
}

/// The paths that a pattern stands for, in order; a path without wildcards stands for itself, there or not.
pub(super) fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::new()];
    for part in Path::new(pattern).components() {
        match part {
            Component::Normal(name) if name.to_str().is_some_and(|n| n.contains(['*', '?'])) => {
                let name = name.to_str().expect("just seen");
                paths = paths.iter().flat_map(|dir| matching(dir, name)).take(PATHS_MAX).collect();
            }
            other => paths.iter_mut().for_each(|p| p.push(other)),
        }
    }
    paths
}

fn matching(dir: &Path, pattern: &str) -> Vec<PathBuf> {
    let read = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let names = fs::read_dir(read).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    // As in a shell, a name with a leading dot is meant only where the dot is written.
    let mut names: Vec<_> = names.filter(|n| fits(pattern, n) && (pattern.starts_with('.') || !n.starts_with('.'))).collect();
    names.sort();
    names.into_iter().map(|n| dir.join(n)).collect()
}

/// `*` for any characters, `?` for one.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                // The last star takes one more.
                Some((at, from)) => {
                    (p, n) = (at + 1, from + 1);
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}
