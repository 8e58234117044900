//! What is restored to: a file, a device, a volume's file, by place; or a stream, in order.

use super::is_zero;
use crate::io_error;
use fusevol_shared::error::Result;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Where an image is written, from several threads at once.
pub trait Sink: Sync {
    /// Writes at a place; what is never written reads as zeros in the end.
    ///
    /// # Errors
    /// Of the medium.
    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()>;
}

/// A file or device whose bytes have all been made zeros before.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    name: String,
    /// Runs of zeros of this many bytes are left out: they stay holes.
    grain: usize,
}

impl FileSink {
    /// Writes into `file`, leaving out zeros by whole `grain`s (a power of two).
    #[must_use]
    pub fn new(file: File, name: String, grain: usize) -> Self {
        Self { file, name, grain: grain.max(512) }
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Of the medium.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| io_error(format!("{}: making it durable", self.name), e))
    }
}

impl Sink for FileSink {
    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut from = 0;
        while from < bytes.len() {
            let piece = |at: usize| &bytes[at..(at + self.grain).min(bytes.len())];
            let zero = is_zero(piece(from));
            let mut to = from + piece(from).len();
            while to < bytes.len() && is_zero(piece(to)) == zero {
                to += piece(to).len();
            }
            if !zero {
                let place = at + from as u64;
                self.file.write_all_at(&bytes[from..to], place).map_err(|e| io_error(format!("{}: writing at {place}", self.name), e))?;
            }
            from = to;
        }
        Ok(())
    }
}
