//! A plain file or block device as a disk: `O_DIRECT`, by the thread's io_uring.
//!
//! Invariants:
//! - Nothing is kept in the page cache: what another host wrote is what is read. Where the filesystem refuses `O_DIRECT`
//!   (`is_direct` says so; then it is a file that only this host sees) flush and `write_durable` mean the same.
//! - A file never grows by a write: what lies past the size at opening is refused.
//! - Whether an error is the disk's answer is decided in one place, [`answer_of`], from kind and errno.
//! - Byte locks belong to the open file description: they are held until this disk *and every request in flight on it*
//!   are gone, so a free lock of a dead process proves that its last I/O has landed (PROTOCOL.md, "Nobody writes where
//!   a predecessor may still write"). Only between processes that opened the same file or device node: a node of the
//!   same device in another `/dev` has locks of its own.

#[cfg(test)]
pub(super) mod tests;

use super::buf::{IoBuf, IoBytes};
use super::{Answer, Disk, DiskError, DiskResult, admit, ioctl, ring};
use crate::units::{DiskOff, PAGE};
use rustix::fs::{FileType, Mode, OFlags};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Requests that came back with nothing done (interrupted, short of memory, less than a page) are sent again so often.
const MAX_STALLS: u32 = 16;
/// The pause before each of those.
const STALL: Duration = Duration::from_millis(1);

/// How a disk is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// For reading only.
    Read,
    /// For reading and writing.
    ReadWrite,
}

/// What a disk is to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A file in a filesystem.
    Plain,
    /// A block device.
    Block,
}

/// Which file or device it is, whatever its path: equal for two names of the same one, on one host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Identity {
    /// A file: device of its filesystem, inode.
    Plain(u64, u64),
    /// A block device: its number.
    Block(u64),
    /// An export of an NBD server: a hash of the server's address and the export's name.
    Export(u128),
}

/// An open plain file or block device.
#[derive(Debug)]
pub struct FileDisk {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    size: u64,
    kind: FileKind,
    identity: Identity,
    direct: bool,
}

fn refused(path: &Path, what: &str) -> impl FnOnce(io::Error) -> DiskError {
    let what = format!("{what} {}", path.display());
    move |e| DiskError::answered(e.raw_os_error().unwrap_or(libc::EIO), what)
}

fn kind_of(stat: &rustix::fs::Stat) -> Option<(FileKind, Identity)> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some((FileKind::Plain, Identity::Plain(stat.st_dev, stat.st_ino))),
        FileType::BlockDevice => Some((FileKind::Block, Identity::Block(stat.st_rdev))),
        _ => None,
    }
}

impl FileDisk {
    /// Opens a plain file or block device; symbolic links are followed.
    ///
    /// # Errors
    /// What the kernel says, answered; `ENOTBLK` for anything else than a plain file or block device.
    pub fn open(path: impl AsRef<Path>, mode: OpenMode) -> DiskResult<Self> {
        let path = path.as_ref();
        let not_a_disk =
            || DiskError::answered(libc::ENOTBLK, format!("open {} (neither a plain file nor a block device)", path.display()));
        // Looked at before it is opened: the open of a FIFO waits, that of some character devices acts.
        let before = rustix::fs::stat(path).map_err(io::Error::from).map_err(refused(path, "open"))?;
        kind_of(&before).ok_or_else(not_a_disk)?;
        let access = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::ReadWrite => OFlags::RDWR,
        } | OFlags::CLOEXEC;
        let (fd, direct) = match rustix::fs::open(path, access | OFlags::DIRECT, Mode::empty()) {
            Ok(fd) => (fd, true),
            Err(rustix::io::Errno::INVAL) => {
                (rustix::fs::open(path, access, Mode::empty()).map_err(io::Error::from).map_err(refused(path, "open"))?, false)
            }
            Err(e) => return Err(refused(path, "open")(e.into())),
        };
        let stat = rustix::fs::fstat(&fd).map_err(io::Error::from).map_err(refused(path, "look at"))?;
        let (kind, identity) = kind_of(&stat).ok_or_else(not_a_disk)?;
        let size = match kind {
            FileKind::Plain => u64::try_from(stat.st_size).map_err(|_| not_a_disk())?,
            FileKind::Block => ioctl::block_device_size(fd.as_fd()).map_err(refused(path, "size of"))?,
        };
        Ok(Self { fd: Arc::new(fd), path: path.to_owned(), size, kind, identity, direct })
    }

    /// The path that it was opened by; says nothing about which disk it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File or block device.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Which file or device it is, whatever its path.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether I/O goes past the page cache. `false` only where the filesystem refuses that.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Locks the byte at `byte` (beyond any data) until this disk and all its requests in flight are gone.
    /// `Ok(false)` if another open of the disk holds it; the disk must be open for writing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_lock(&self, byte: u64) -> DiskResult<bool> {
        ioctl::try_lock(self.fd.as_fd(), byte, false).map_err(refused(&self.path, "lock on"))
    }

    /// The same, beside other opens that have it this way: those of one process, on a path that failed and on the next one.
    ///
    /// # Errors
    /// As [`FileDisk::try_lock`].
    pub fn try_lock_shared(&self, byte: u64) -> DiskResult<bool> {
        ioctl::try_lock(self.fd.as_fd(), byte, true).map_err(refused(&self.path, "lock on"))
    }

    /// Whether another open of the disk holds the lock on this byte. One's own does not count.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lock_held_by_other(&self, byte: u64) -> DiskResult<bool> {
        ioctl::held_by_other(self.fd.as_fd(), byte).map_err(refused(&self.path, "question for a lock on"))
    }

    /// For calls that are no I/O.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn error(&self, verb: &str, at: Option<DiskOff>, errno: i32) -> DiskError {
        let path = self.path.display();
        let what = at.map_or_else(|| format!("{verb} {path}"), |at| format!("{verb} {path} at {at}"));
        DiskError { answer: answer_of(self.kind, errno), errno, what }
    }

    /// Bytes that a request got further, in whole pages: zero for "again", of which there are only so many.
    async fn progress(&self, verb: &str, at: DiskOff, result: Result<usize, i32>, stalls: &mut u32) -> DiskResult<usize> {
        match result {
            Ok(n) if n >= PAGE => Ok(n / PAGE * PAGE),
            Ok(0) => Err(DiskError::answered(libc::EIO, format!("{verb} {} at {at}: the disk ends before that", self.path.display()))),
            Ok(_) | Err(libc::EINTR | libc::EAGAIN) if *stalls < MAX_STALLS => {
                *stalls += 1;
                // Where sleeping is refused, the next request is too, and says so.
                let _ = ring::sleep(STALL).await;
                Ok(0)
            }
            Ok(_) => Err(self.error(verb, Some(at), libc::EIO)),
            Err(errno) => Err(self.error(verb, Some(at), errno)),
        }
    }

    async fn write_all(&self, at: DiskOff, data: IoBytes, durable: bool) -> DiskResult<()> {
        admit("write", at, &data, self.size)?;
        let (mut done, mut stalls) = (0, 0);
        while done < data.len() {
            let here = at.plus(done as u64);
            let result = ring::write(&self.fd, here.0, &data, done, durable).await;
            done += self.progress("write", here, result, &mut stalls).await?;
        }
        Ok(())
    }
}

/// Whether this errno is the disk's answer, or leaves open what becomes of the request (PROTOCOL.md, "Redirect").
///
/// On a plain file every error is an answer. On a block device only these are: the disk's own words (medium error,
/// target failure, reservation conflict, no space: `block/blk-core.c`, `blk_errors`), and refusals of this host, which
/// never reached the disk. EIO, ENOLINK, ETIMEDOUT, ENXIO, ENODEV and whatever is not listed are not.
#[must_use]
pub fn answer_of(kind: FileKind, errno: i32) -> Answer {
    let by_disk = matches!(errno, libc::ENODATA | libc::EREMOTEIO | libc::EBADE | libc::ENOSPC);
    let by_host = matches!(
        errno,
        libc::EINVAL | libc::EBADF | libc::EFAULT | libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EROFS | libc::EOPNOTSUPP
    ) || matches!(errno, libc::ENOMEM | libc::EINTR | libc::EAGAIN);
    if kind == FileKind::Plain || by_disk || by_host { Answer::Answered } else { Answer::NotReturned }
}

impl fmt::Display for FileDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.path.display(), f)
    }
}

impl Disk for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, at: DiskOff, mut buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        if let Err(e) = admit("read", at, &buf, self.size) {
            return (Err(e), buf);
        }
        let (mut done, mut stalls) = (0, 0);
        while done < buf.len() {
            let here = at.plus(done as u64);
            let (result, back) = ring::read(&self.fd, here.0, buf, done).await;
            buf = back;
            match self.progress("read", here, result, &mut stalls).await {
                Ok(n) => done += n,
                Err(e) => return (Err(e), buf),
            }
        }
        (Ok(()), buf)
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.write_all(at, data, false).await
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.write_all(at, data, true).await
    }

    async fn flush(&self) -> DiskResult<()> {
        let mut stalls = 0;
        loop {
            match ring::datasync(&self.fd).await {
                Ok(()) => return Ok(()),
                Err(libc::EINTR | libc::EAGAIN) if stalls < MAX_STALLS => stalls += 1,
                // Never sent again: the kernel reports a failed write-back once only.
                Err(errno) => return Err(self.error("flush", None, errno)),
            }
        }
    }
}
