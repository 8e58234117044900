//! Files that hold a secret: mode 0600, written wholly or not at all, never over another file.
//!
//! Invariant: a secret is at no moment readable by another user, and no half of it is ever seen under its name.

use crate::error::{Context, Error, Kind, Result};
use crate::random::{Random, SystemRandom};
use rustix::fs::{CWD, RenameFlags};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Writes `bytes` to a new file.
///
/// # Errors
/// `Exists` where there is a file of that name; `Io` with the folder or file that failed.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = Temporary(folder.join(format!(".fusevol-{}.tmp", uuid::Uuid::from_bytes(SystemRandom.id()))));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary.0)
        .context(Kind::Io, || format!("cannot write into {}", folder.display()))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).context(Kind::Io, || format!("cannot write {}", path.display()))?;
    match rustix::fs::renameat_with(CWD, &temporary.0, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {
            return Err(Error::new(Kind::Exists, format!("{} exists already", path.display()))
                .hint("a secret is never overwritten: name another file, or move this one away"));
        }
        // Filesystems without RENAME_NOREPLACE: a hard link is as exclusive.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(&temporary.0, path).context(Kind::Io, || format!("cannot write {}", path.display()))?;
        }
        Err(e) => return Err(Error::new(Kind::Io, format!("cannot write {}", path.display())).because(e)),
    }
    File::open(folder).and_then(|f| f.sync_all()).context(Kind::Io, || format!("cannot make {} durable", folder.display()))
}

/// Reads a secret of at most `limit` bytes.
///
/// # Errors
/// `NotFound` where it is missing, `Refused` where others may read it or it is no file of that size, `Io`.
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let shown = path.display();
    // Not blocking: a named pipe is refused below, not waited for.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Io,
        };
        Error::new(kind, format!("cannot open {shown}")).because(e)
    })?;
    let meta = file.metadata().context(Kind::Io, || format!("cannot read {shown}"))?;
    if !meta.is_file() {
        return Err(Error::new(Kind::Refused, format!("{shown} is no plain file")));
    }
    if meta.mode() & 0o077 != 0 {
        let sentence = format!("{shown} holds a secret and others may use it (mode {:04o})", meta.mode() & 0o7777);
        return Err(Error::new(Kind::Refused, sentence).hint(format!("chmod 600 {shown}")));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).context(Kind::Io, || format!("cannot read {shown}"))?;
    if bytes.len() > limit {
        return Err(Error::new(Kind::Refused, format!("{shown} is longer than {limit} bytes: not what it should be")));
    }
    Ok(bytes)
}

/// Removed when it goes out of scope; after a rename there is nothing left to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
