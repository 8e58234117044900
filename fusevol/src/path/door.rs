//! The way through the manager, as the data path sees it.

use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, DiskError};
use fusevol_shared::units::AuSize;
use fusevol_shared::wire::data::{Io, MAX_IO, Verb};
use futures_util::future::LocalBoxFuture;

/// Does I/O through the manager.
pub trait Door: Send + Sync + 'static {
    /// Does it; `data` is what is written. Gives what is read.
    ///
    /// An error is `NotReturned` where a write may still land, `Answered` where it may not. It waits for a manager, but not for ever.
    fn io(&self, io: Io, data: IoBytes) -> LocalBoxFuture<'_, Result<IoBuf, DiskError>>;

    /// The pool's AU size.
    fn au_size(&self) -> AuSize;
}

/// Reads into `buf`, whole pages.
pub(crate) async fn read(door: &dyn Door, io: Io, mut buf: IoBuf) -> (Result<(), DiskError>, IoBuf) {
    let mut done = 0;
    while done < buf.len() {
        let n = (buf.len() - done).min(MAX_IO);
        match door.io(part(door, &io, done, n), IoBuf::zeroed(0).freeze()).await {
            Ok(got) if got.len() == n => buf[done..done + n].copy_from_slice(&got),
            Ok(got) => {
                let what = format!("{n} bytes were asked of the manager, and {} came", got.len());
                return (Err(DiskError { answer: Answer::NotReturned, errno: libc::EPROTO, what }), buf);
            }
            Err(e) => return (Err(e), buf),
        }
        done += n;
    }
    (Ok(()), buf)
}

/// Writes `data`.
pub(crate) async fn write(door: &dyn Door, io: Io, data: &IoBytes) -> Result<(), DiskError> {
    let mut done = 0;
    while done < data.len() {
        let n = (data.len() - done).min(MAX_IO);
        door.io(part(door, &io, done, n), data.slice(done, n)).await?;
        done += n;
    }
    Ok(())
}

/// `len` bytes from byte `from` of `io` on.
fn part(door: &dyn Door, io: &Io, from: usize, len: usize) -> Io {
    let at = io.at.plus(from as u64);
    let log2 = door.au_size().log2();
    let aus = u32::try_from((at.0 >> log2) - (io.at.0 >> log2)).expect("a request is far smaller than 2^32 AUs");
    Io { at, len: u32::try_from(len).expect("at most MAX_IO"), claim: io.claim.further(aus), ..*io }
}

/// A flush of the disk of `io`.
pub(crate) async fn flush(door: &dyn Door, io: Io) -> Result<(), DiskError> {
    let io = Io { verb: Verb::Flush, at: fusevol_shared::units::DiskOff(0), len: 0, ..io };
    door.io(io, IoBuf::zeroed(0).freeze()).await.map(drop)
}
