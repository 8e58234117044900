//! The way through the manager, as the data path sees it.

use super::lives::ManagerLife;
use super::spare::Spare;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, DiskError};
use fusevol_shared::ids::VolumeId;
use fusevol_shared::units::{AuSize, DiskNo, DiskOff};
use fusevol_shared::wire::data::{Io, MAX_IO, Verb};
use futures_util::future::LocalBoxFuture;
use std::sync::Weak;

/// The `errno` of what was not sent, since the direct path is back.
pub const BACK: i32 = libc::ERESTART;

/// What comes of it.
pub type Got = (IoBuf, ManagerLife);

/// Does I/O through the manager.
pub trait Door: Send + Sync + 'static {
    /// Does it; `data` is what is written. Gives what is read, and of a flush by which life of the manager's path it was done.
    ///
    /// An error is `NotReturned` where a write may still land, `Answered` where it may not. It waits for a manager, but not for ever.
    fn io(&self, io: Io, data: IoBytes) -> LocalBoxFuture<'_, Result<Got, DiskError>>;

    /// The direct path to a disk is back: what waits for it here and was never sent fails with [`BACK`], and so do all reads.
    fn release(&self, disk: DiskNo);

    /// A disk that this volume can do without, as `spare` says: what is asked of it for the volume fails once the manager has had no path to it for a
    /// moment, either, instead of waiting for one.
    fn spare(&self, volume: VolumeId, spare: Weak<Spare>);

    /// The pool's AU size.
    fn au_size(&self) -> AuSize;
}

/// Reads into `buf`, whole pages. `back`: whether the direct path is there (again).
pub(crate) async fn read(door: &dyn Door, io: Io, mut buf: IoBuf, back: impl Fn() -> bool) -> (Result<(), DiskError>, IoBuf) {
    let mut done = 0;
    while done < buf.len() {
        let n = (buf.len() - done).min(MAX_IO);
        match ask(door, part(door, &io, done, n), IoBuf::zeroed(0).freeze(), &back).await {
            Ok((got, _)) if got.len() == n => buf[done..done + n].copy_from_slice(&got),
            Ok((got, _)) => {
                let what = format!("{n} bytes were asked of the manager, and {} came", got.len());
                return (Err(DiskError { answer: Answer::NotReturned, errno: libc::EPROTO, what }), buf);
            }
            Err(e) => return (Err(e), buf),
        }
        done += n;
    }
    (Ok(()), buf)
}

/// Writes `data`; `back` as of [`read`].
pub(crate) async fn write(door: &dyn Door, io: Io, data: &IoBytes, back: impl Fn() -> bool) -> Result<(), DiskError> {
    let mut done = 0;
    while done < data.len() {
        let n = (data.len() - done).min(MAX_IO);
        ask(door, part(door, &io, done, n), data.slice(done, n), &back).await?;
        done += n;
    }
    Ok(())
}

/// Queued first, then looked: a path that came back before that is not said again.
async fn ask(door: &dyn Door, io: Io, data: IoBytes, back: &impl Fn() -> bool) -> Result<Got, DiskError> {
    let answer = door.io(io, data);
    if back() {
        door.release(io.disk);
    }
    answer.await
}

/// `len` bytes from byte `from` of `io` on.
fn part(door: &dyn Door, io: &Io, from: usize, len: usize) -> Io {
    let at = io.at.plus(from as u64);
    let log2 = door.au_size().log2();
    let aus = u32::try_from((at.0 >> log2) - (io.at.0 >> log2)).expect("a request is far smaller than 2^32 AUs");
    Io { at, len: u32::try_from(len).expect("at most MAX_IO"), claim: io.claim.further(aus), ..*io }
}

/// A flush of the disk of `io`; `back` as of [`read`].
pub(crate) async fn flush(door: &dyn Door, io: Io, back: impl Fn() -> bool) -> Result<ManagerLife, DiskError> {
    let io = Io { verb: Verb::Flush, at: DiskOff(0), len: 0, ..io };
    ask(door, io, IoBuf::zeroed(0).freeze(), &back).await.map(|(_, life)| life)
}
