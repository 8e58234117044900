//! What a volume file does with a request: limits at the end of the volume, and which of our answers is which number.

use super::adapter::Adapter;
use super::handles::Handle;
use super::nodes::Node;
use crate::session::file::VolumeFile;
use crate::stale::Whose;
use crate::volume::Mode;
use fuser::{Errno, FileHandle, INodeNo, LockOwner};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::ring;
use std::sync::Arc;
use std::time::Duration;

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;

/// How long `O_TRUNC` waits for the pages to be gone. Where a mapping has dirty ones, the kernel writes none of them before this is
/// answered: they are dropped after it.
const EMPTIED: Duration = Duration::from_millis(200);

pub(super) type Answer<T> = Result<T, Errno>;

impl Adapter {
    fn writable(&self, fh: FileHandle) -> Answer<Arc<VolumeFile>> {
        match self.handles.get(fh.0) {
            Some(Handle::Volume(file, Mode::Write)) => Ok(file),
            Some(Handle::Volume(_, Mode::Read) | Handle::Snapshot(_)) | None => Err(Errno::EBADF),
        }
    }

    /// Bytes into the front of `buf`; how many.
    pub(super) async fn read_at(&self, ino: INodeNo, fh: FileHandle, offset: u64, len: usize, buf: IoBuf) -> (Answer<usize>, IoBuf) {
        let (read, buf) = match self.handles.get(fh.0) {
            Some(Handle::Volume(file, _)) => file.read_into(offset, len, buf).await,
            Some(Handle::Snapshot(file)) => file.read_into(offset, len, buf).await,
            None => return (Err(Errno::EBADF), buf),
        };
        (read.map_err(|e| self.failed("read", ino, &e)), buf)
    }

    /// How many bytes were written: those that lie within the volume.
    pub(super) async fn write_at(&self, ino: INodeNo, fh: FileHandle, offset: u64, data: &IoBytes, sync: bool) -> Answer<u32> {
        let file = self.writable(fh)?;
        if data.is_empty() {
            return Ok(0);
        }
        match file.write(offset, data, sync).await.map_err(|e| self.failed("write", ino, &e))? {
            0 => {
                tracing::debug!("{}: a write at {offset}, past the end", self.name(ino));
                Err(Errno::EFBIG)
            }
            n => u32::try_from(n).map_err(|_| Errno::EINVAL),
        }
    }

    pub(super) async fn fallocate_at(&self, ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32) -> Answer<()> {
        let file = self.writable(fh)?;
        let size = file.attached().ok_or(Errno::EIO)?.size();
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        // What keeps the size may reach past the end; what would move the end is refused.
        if end > size && !matches!(mode, PUNCH | ZERO_KEEP | KEEP) {
            return Err(Errno::EFBIG);
        }
        let length = end.min(size).saturating_sub(offset);
        if length == 0 {
            return Ok(());
        }
        let done = match mode {
            PUNCH => file.discard(offset, length).await,
            ZERO | ZERO_KEEP => file.zero(offset, length).await,
            0 | KEEP => file.allocate(offset, length).await,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        done.map_err(|e| self.failed("fallocate", ino, &e))
    }

    pub(super) fn seek(&self, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32) -> Answer<i64> {
        let off = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let found = match (self.handles.get(fh.0).ok_or(Errno::EBADF)?, whence) {
            (Handle::Volume(file, _), libc::SEEK_DATA) => file.attached().ok_or(Errno::EIO)?.seek_data(off),
            (Handle::Volume(file, _), libc::SEEK_HOLE) => file.attached().ok_or(Errno::EIO)?.seek_hole(off),
            (Handle::Snapshot(file), libc::SEEK_DATA) => file.reader().ok_or(Errno::EIO)?.seek_data(off),
            (Handle::Snapshot(file), libc::SEEK_HOLE) => file.reader().ok_or(Errno::EIO)?.seek_hole(off),
            _ => return Err(Errno::EINVAL),
        };
        tracing::trace!("{}: seek {whence} from {off}: {found:?}", self.name(ino));
        found.and_then(|at| i64::try_from(at).ok()).ok_or(Errno::ENXIO)
    }

    /// A change of size. The size of a volume is the pool's matter; `O_TRUNC`, which the kernel turns into this, empties it.
    pub(super) fn truncate(&self, ino: INodeNo, size: u64, fh: Option<FileHandle>) -> Answer<()> {
        let attr = self.attr(ino)?;
        if size == attr.size {
            return Ok(());
        }
        let Node::Volume(id) = self.node(ino)? else { return Err(Errno::EROFS) };
        let file = self.session.volume(id).map_err(|e| self.failed("truncate", ino, &e))?;
        if size == 0 && fh.is_none() && file.users().writers > 0 {
            tracing::info!("{}: opened with O_TRUNC: all its blocks are discarded, its size stays", self.name(ino));
            ring::block_on(file.discard(0, attr.size)).map_err(|e| self.failed("truncate", ino, &e))?;
            // The size stays, so the kernel sees no reason to drop pages of its own accord.
            self.session.stale().one_within(Whose::Volume(id), EMPTIED);
            return Ok(());
        }
        tracing::warn!(
            "{}: a change of its size from {} to {size} is refused: volumes are not resized through the mount",
            self.name(ino),
            attr.size
        );
        Err(Errno::EPERM)
    }

    /// A process closes a descriptor: its writes are flushed, then its locks go.
    pub(super) async fn closed(&self, ino: INodeNo, fh: FileHandle, owner: LockOwner) -> Answer<()> {
        let synced = self.sync(ino, fh).await;
        self.closes(ino, owner).await;
        synced
    }

    pub(super) async fn sync(&self, ino: INodeNo, fh: FileHandle) -> Answer<()> {
        match self.handles.get(fh.0).ok_or(Errno::EBADF)? {
            Handle::Volume(file, Mode::Write) => file.flush().await.map_err(|e| self.failed("flush", ino, &e)),
            Handle::Volume(_, Mode::Read) | Handle::Snapshot(_) => Ok(()),
        }
    }
}
