//! Making a target ready: checked, asked for, opened, and full of zeros, so that holes need not be written.
//!
//! A new file is written as `NAME.incomplete` and gets its name when all of it is durable, so a file of that name is
//! always whole. What is there already (file, device, volume) is written in place; until the end it is neither old nor new.

use super::inuse::refuse_in_use;
use super::sink::FileSink;
use crate::io_error;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::size;
use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Zeros written at once where nothing better works.
const ZEROS: usize = 1 << 20;
/// Bytes made zeros by one call, so that an interrupt need not wait for a whole device.
const ZERO_STEP: u64 = 1 << 30;

/// A target that is ready.
#[derive(Debug)]
pub struct Target {
    /// Where the image goes.
    pub sink: FileSink,
    /// The name that the file gets in the end, and the one that it has until then.
    names: Option<(PathBuf, PathBuf)>,
    shown: String,
}

/// Says what would be lost and asks.
pub type Ask<'a> = dyn FnMut(&str) -> Result<()> + 'a;

impl Target {
    /// A file or device for an image of `size` bytes whose holes have a grain of `grain` bytes.
    ///
    /// # Errors
    /// `Busy`, `Refused` (too small, not asked, no file), of the medium.
    pub fn open(path: &Path, size: u64, grain: usize, ask: &mut Ask<'_>) -> Result<Self> {
        match path.metadata() {
            Ok(meta) if meta.file_type().is_block_device() => Self::device(path, &meta, size, grain, ask),
            Ok(meta) if meta.is_file() => {
                refuse_in_use(path, &meta)?;
                ask(&format!("{} ({}) would be overwritten", path.display(), size::show(meta.len())))?;
                Self::in_place(path, size, grain)
            }
            Ok(meta) if meta.is_dir() => {
                Err(Error::new(Kind::Refused, format!("{} is a folder", path.display())).hint("name a file in it"))
            }
            Ok(_) => Err(Error::new(Kind::Refused, format!("{} is neither a file nor a block device", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Self::new_file(path, size, grain),
            Err(e) => Err(io_error(path.display().to_string(), e)),
        }
    }

    fn new_file(path: &Path, size: u64, grain: usize) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::new(Kind::Refused, format!("{} names no file", path.display())))?;
        let mut partial = name.to_owned();
        partial.push(".incomplete");
        let partial = path.with_file_name(partial);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(Kind::Exists, format!("{} is left over from a restore that did not end, or is being written", partial.display()))
                    .hint(format!("remove it, if no restore is running: rm {}", partial.display()))
            }
            _ => io_error(partial.display().to_string(), e),
        })?;
        let shown = partial.display().to_string();
        if let Err(e) = file.set_len(size) {
            // Nothing was written into it yet.
            let _ = std::fs::remove_file(&partial);
            return Err(io_error(format!("{shown}: giving it {size} bytes"), e));
        }
        Ok(Self { sink: FileSink::new(file, shown.clone(), grain), names: Some((path.to_owned(), partial)), shown })
    }

    /// An existing file that is written in place, with exactly `size` bytes in the end.
    fn in_place(path: &Path, size: u64, grain: usize) -> Result<Self> {
        let shown = path.display().to_string();
        let file = OpenOptions::new().write(true).open(path).map_err(|e| io_error(shown.clone(), e))?;
        // From nothing to all: a plain file's old bytes are gone with that, and it is one hole.
        file.set_len(0).and_then(|()| file.set_len(size)).map_err(|e| io_error(format!("{shown}: giving it {size} bytes"), e))?;
        Ok(Self { sink: FileSink::new(file, shown.clone(), grain), names: None, shown })
    }

    /// The image file of a volume: it keeps its size, all of it is discarded first.
    ///
    /// # Errors
    /// `Refused` where the volume is too small; of the medium.
    pub fn volume(path: &Path, size: u64, grain: usize) -> Result<Self> {
        let shown = path.display().to_string();
        let file = OpenOptions::new().write(true).open(path).map_err(|e| io_error(shown.clone(), e))?;
        let there = file.metadata().map_err(|e| io_error(shown.clone(), e))?.len();
        if there < size {
            return Err(too_small(&shown, there, size).hint("resize the volume, or create a larger one"));
        }
        zero(&file, &shown, there)?;
        Ok(Self { sink: FileSink::new(file, shown.clone(), grain), names: None, shown })
    }

    fn device(path: &Path, meta: &Metadata, size: u64, grain: usize, ask: &mut Ask<'_>) -> Result<Self> {
        refuse_in_use(path, meta)?;
        let shown = path.display().to_string();
        let flags = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
        let opened = OpenOptions::new().write(true).custom_flags(flags).open(path);
        let file = opened.map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Error::new(Kind::Busy, format!("{shown} is in use: another program has it open for itself, or mounted")),
            _ => io_error(shown.clone(), e),
        })?;
        let there = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| io_error(format!("{shown}: its size"), e))?;
        if there < size {
            return Err(too_small(&shown, there, size));
        }
        ask(&format!("the first {} of the block device {shown} ({}) would be overwritten", size::show(size), size::show(there)))?;
        zero(&file, &shown, size)?;
        Ok(Self { sink: FileSink::new(file, shown.clone(), grain), names: None, shown })
    }

    /// Durable, and under its name.
    ///
    /// # Errors
    /// Of the medium; `Exists` where another made a file of that name in the meantime.
    pub fn finish(self) -> Result<()> {
        self.sink.sync()?;
        let Some((path, partial)) = &self.names else { return Ok(()) };
        let renamed = match rustix::fs::renameat_with(CWD, partial, CWD, path, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(partial, path),
            other => other.map_err(Into::into),
        };
        renamed.map_err(|e| io_error(format!("{}: giving it its name", path.display()), e))?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error(format!("{}: making the folder durable", dir.display()), e))
    }

    /// After a failure: `keep` what could be had, or remove a new file. Says what is left.
    #[must_use]
    pub fn give_up(self, keep: bool) -> String {
        match &self.names {
            Some((path, partial)) if !keep && std::fs::remove_file(partial).is_ok() => format!("{} was not made", path.display()),
            _ => format!("{} is incomplete", self.shown),
        }
    }
}

fn too_small(shown: &str, there: u64, size: u64) -> Error {
    Error::new(Kind::Refused, format!("{shown} has {there} bytes, the image {size}: it is too small"))
}

/// Makes the first `size` bytes zeros: by a hole, by the device's own means, or by writing them.
fn zero(file: &File, shown: &str, size: u64) -> Result<()> {
    let mut ways = vec![FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE];
    let mut at = 0;
    while at < size {
        let step = (size - at).min(ZERO_STEP);
        match ways.first() {
            Some(way) => match rustix::fs::fallocate(file, *way, at, step) {
                Ok(()) => at += step,
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV) => drop(ways.remove(0)),
                Err(Errno::INTR) => {}
                Err(e) => return Err(io_error(format!("{shown}: clearing at {at}"), e)),
            },
            None => {
                write_zeros(file, at, step).map_err(|e| io_error(format!("{shown}: clearing at {at}"), e))?;
                at += step;
            }
        }
    }
    Ok(())
}

fn write_zeros(file: &File, from: u64, count: u64) -> std::io::Result<()> {
    let page = vec![0; ZEROS];
    let mut done = 0;
    while done < count {
        let n = (count - done).min(ZEROS as u64);
        file.write_all_at(&page[..usize::try_from(n).unwrap_or(ZEROS)], from + done)?;
        done += n;
    }
    Ok(())
}
