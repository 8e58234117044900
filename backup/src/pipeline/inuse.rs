//! Whether something uses a file or block device that is about to be overwritten: a mount, a loop or mapped device on
//! top of it, swap. The kernel's own refusal of an exclusive open comes after these, which can say who it is.

use crate::io_error;
use fusevol_shared::error::{Error, Kind, Result};
use std::fs::{Metadata, read_dir, read_to_string};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Most bytes of a table of the kernel that are looked at.
const TABLE_MAX: usize = 16 << 20;

/// Refuses a file or device that is in use; `meta` is that of `path`.
///
/// # Errors
/// `Busy`, naming the user.
pub fn refuse_in_use(path: &Path, meta: &Metadata) -> Result<()> {
    let busy = |by: String| Error::new(Kind::Busy, format!("{} is in use: {by}", path.display()));
    if meta.file_type().is_block_device() {
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        if let Some(place) = mounted_at(&table("/proc/self/mountinfo")?, &format!("{major}:{minor}")) {
            return Err(busy(format!("it is mounted on {place}")).hint(format!("umount {place}")));
        }
        for part in device_and_parts(&format!("{major}:{minor}")) {
            if let Some(holder) = first_in(&part.join("holders")) {
                return Err(busy(format!("{holder} lies on it")));
            }
        }
    }
    if let Some(device) = loop_on(path, meta) {
        return Err(busy(format!("the loop device {device} lies on it")).hint(format!("losetup -d {device}")));
    }
    if swaps(&table("/proc/swaps").unwrap_or_default()).iter().any(|s| same(s, path, meta)) {
        return Err(busy("it is swap space".into()).hint(format!("swapoff {}", path.display())));
    }
    Ok(())
}

fn table(path: &str) -> Result<String> {
    let text = read_to_string(path).map_err(|e| io_error(path, e))?;
    if text.len() <= TABLE_MAX { Ok(text) } else { Err(Error::new(Kind::Io, format!("{path} is too long"))) }
}

/// The first mount point of the device `MAJ:MIN` in `mountinfo` (proc(5): the third field is the device, the fifth the
/// place).
fn mounted_at(mountinfo: &str, device: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next() == Some(device)).then(|| unescape(fields.nth(1).unwrap_or("?")))
    })
}

/// `\040` and its like, as the kernel writes blanks in its tables.
fn unescape(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"].iter().fold(text.to_owned(), |t, pair| t.replace(&pair[..4], &pair[4..]))
}

/// The folder of a device in `/sys`, and those of its partitions.
fn device_and_parts(device: &str) -> Vec<PathBuf> {
    let own = Path::new("/sys/dev/block").join(device);
    let parts = read_dir(&own).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.join("partition").exists());
    let parts = parts.collect::<Vec<_>>();
    std::iter::once(own).chain(parts).collect()
}

fn first_in(dir: &Path) -> Option<String> {
    read_dir(dir).ok()?.flatten().next().map(|e| e.file_name().to_string_lossy().into_owned())
}

/// The loop device that has this file or device below it.
fn loop_on(path: &Path, meta: &Metadata) -> Option<String> {
    read_dir("/sys/block").ok()?.flatten().find_map(|e| {
        let backing = read_to_string(e.path().join("loop/backing_file")).ok()?;
        same(Path::new(backing.trim_end_matches('\n')), path, meta).then(|| format!("/dev/{}", e.file_name().to_string_lossy()))
    })
}

fn swaps(text: &str) -> Vec<PathBuf> {
    text.lines().skip(1).filter_map(|l| l.split_whitespace().next()).map(|p| PathBuf::from(unescape(p))).collect()
}

/// Whether `other` is the same file or device as `path`.
fn same(other: &Path, path: &Path, meta: &Metadata) -> bool {
    let Ok(there) = other.metadata() else { return path.canonicalize().is_ok_and(|p| p == other) };
    if meta.file_type().is_block_device() {
        there.file_type().is_block_device() && there.rdev() == meta.rdev()
    } else {
        (there.dev(), there.ino()) == (meta.dev(), meta.ino())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let info = "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 7:3 / /mnt/a\\040b rw,relatime - ext4 /dev/loop3 rw\n";
        assert_eq!(mounted_at(info, "7:3").as_deref(), Some("/mnt/a b"));
        assert_eq!(mounted_at(info, "7:30"), None);
        assert_eq!(swaps("Filename Type\n/dev/zram0 partition 1 0 1\n"), [PathBuf::from("/dev/zram0")]);
    }

    #[test]
    fn a_free_file_may_be_overwritten() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        refuse_in_use(file.path(), &file.path().metadata().expect("its metadata")).expect("nobody uses it");
    }
}
