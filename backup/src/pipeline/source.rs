//! What is stored: the pseudo-device file of a snapshot, a block device, any file.

use crate::format::damaged;
use crate::io_error;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::units::PAGE_U64;
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// An image to be read once from the beginning to the end.
pub trait Source: Sync {
    /// Bytes in it.
    fn size(&self) -> u64;

    /// The first range at or after `from` that may hold data; what lies before it reads as zeros.
    ///
    /// # Errors
    /// Of the medium.
    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>>;

    /// Fills the first `len` bytes of `buf` from `at`. `at`, the address and the length of `buf` are multiples of the
    /// page; the rest of `buf` may be overwritten.
    ///
    /// # Errors
    /// Of the medium.
    fn read(&self, at: u64, buf: &mut [u8], len: usize) -> Result<()>;
}

/// A file or block device, read past the page cache where that is possible.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    direct: Option<File>,
    use_direct: AtomicBool,
    size: u64,
    seeks: AtomicBool,
    name: String,
}

impl FileSource {
    /// Opens it for reading.
    ///
    /// # Errors
    /// Of the medium; `Refused` for what is neither a file nor a block device.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| io_error(name.clone(), e))?;
        let kind = file.metadata().map_err(|e| io_error(name.clone(), e))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::new(Kind::Refused, format!("{name} is neither a file nor a block device")));
        }
        let size = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| io_error(format!("{name}: its size"), e))?;
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(path).ok();
        let use_direct = AtomicBool::new(direct.is_some());
        Ok(Self { file, direct, use_direct, size, seeks: AtomicBool::new(kind.is_file()), name })
    }

    fn failed(&self, at: u64, e: impl Into<std::io::Error>) -> Error {
        io_error(format!("{}: reading at {at}", self.name), e)
    }

    /// Reads until `len` bytes are there. A direct read may cross the end of the file: it comes back short.
    fn fill(&self, file: &File, at: u64, buf: &mut [u8], len: usize) -> std::io::Result<()> {
        let mut have = 0;
        while have < len {
            match file.read_at(&mut buf[have..], at + have as u64) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        if from >= self.size {
            return Ok(None);
        }
        if !self.seeks.load(Ordering::Relaxed) {
            return Ok(Some(from..self.size));
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // A filesystem that cannot tell holes: all of it may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.seeks.store(false, Ordering::Relaxed);
                return Ok(Some(from..self.size));
            }
            Err(e) => return Err(self.failed(from, e)),
        };
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start)).map_err(|e| self.failed(start, e))?;
        if start < from || end <= start {
            return Err(damaged(format!("{}: the range after {from} cannot be {start} to {end}", self.name)));
        }
        Ok((start < self.size).then(|| start..end.min(self.size)))
    }

    fn read(&self, at: u64, buf: &mut [u8], len: usize) -> Result<()> {
        debug_assert!(at.is_multiple_of(PAGE_U64) && len <= buf.len());
        if let Some(direct) = self.direct.as_ref().filter(|_| self.use_direct.load(Ordering::Relaxed)) {
            match self.fill(direct, at, buf, len) {
                // It opened, but does not like these offsets: the page cache does.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.use_direct.store(false, Ordering::Relaxed),
                other => return other.map_err(|e| self.failed(at, e)),
            }
        }
        self.fill(&self.file, at, buf, len).map_err(|e| self.failed(at, e))?;
        // Read once: nobody else needs these pages. Advice only.
        let _ = rustix::fs::fadvise(&self.file, at, std::num::NonZero::new(len as u64), Advice::DontNeed);
        Ok(())
    }
}
