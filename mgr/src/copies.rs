//! Copies of AUs on the pool's disks, as the manager's core decides them, and a look whether a disk is back. What the copier's thread does,
//! and the simulator.
//!
//! Invariants: what is said to be done was flushed after its last write; a target that may still be written is said to be late; no source is
//! ever taken as zeros.

use crate::core::{CopyEnd, CopyJob, Effect, Event};
use crate::session_io::{LIMIT, Member, SessionIo};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::find::confirm;
use fusevol_shared::disk::{Answer, Disk, DiskError, DiskResult};
use fusevol_shared::ids::PoolId;
use fusevol_shared::units::{AuSize, DiskAu, DiskNo, DiskOff};
use futures_util::future::join_all;
use std::ops::Range;

/// Most bytes of one request.
const PIECE: u64 = 1 << 20;

/// Does one errand, and gives its answer; none for an effect that is no errand.
pub async fn carry_out<D: Disk>(pool: PoolId, au_size: AuSize, disks: &[Member<D>], effect: &Effect) -> Option<Event> {
    match effect {
        Effect::Copy { batch, jobs } => {
            let copies = Copies { disks, au_size };
            Some(Event::BlocksCopied { batch: *batch, ends: join_all(jobs.iter().map(|j| copies.copy(j))).await })
        }
        Effect::LayAgain { lay, job } => {
            let io = SessionIo::new(pool, au_size, disks, LIMIT);
            Some(Event::LaidAgain { lay: *lay, end: io.lay_again(job).await })
        }
        Effect::LookAtDisk { disk } => Some(Event::DiskLooked { disk: *disk, well: is_well(pool, *disk, disks).await }),
        _ => None,
    }
}

/// Whether a disk answers, and is the pool's.
async fn is_well<D: Disk>(pool: PoolId, no: DiskNo, disks: &[Member<D>]) -> bool {
    match disks.iter().find(|(n, ..)| *n == no) {
        Some((_, id, disk)) => confirm(disk, pool, *id).await.is_ok(),
        None => false,
    }
}

/// Where copies are made.
struct Copies<'a, D> {
    disks: &'a [Member<D>],
    au_size: AuSize,
}

impl<D: Disk> Copies<'_, D> {
    fn disk(&self, no: DiskNo) -> DiskResult<&D> {
        let found = self.disks.iter().find(|(n, ..)| *n == no).map(|(.., d)| d);
        found.ok_or_else(|| DiskError::answered(libc::ENODEV, format!("disk {no} is not open")))
    }

    fn at(&self, place: DiskAu, off: u64) -> DiskOff {
        place.au.start(self.au_size).plus(off)
    }

    async fn read(&self, from: DiskAu, piece: &Range<u64>) -> DiskResult<IoBuf> {
        let len = usize::try_from(piece.end - piece.start).unwrap_or(0);
        let (read, buf) = self.disk(from.disk)?.read(self.at(from, piece.start), IoBuf::zeroed(len)).await;
        read.map(|()| buf)
    }

    /// Copies one AU.
    async fn copy(&self, job: &CopyJob) -> CopyEnd {
        let mut end = CopyEnd { done: Vec::new(), late: Vec::new(), written: 0, unreadable: false, why: String::new() };
        let mut well: Vec<DiskAu> = job.to.clone();
        for piece in pieces(job, self.au_size) {
            let Some(source) = self.source(job, &piece, &mut end).await else {
                end.unreadable = true;
                return end;
            };
            let source = source.freeze();
            let writes = well.iter().map(|to| self.make_equal(*to, &piece, &source));
            for (to, made) in well.clone().into_iter().zip(join_all(writes).await) {
                match made {
                    Ok(bytes) => end.written += bytes,
                    Err(e) => {
                        fail(&mut end, to, &e);
                        well.retain(|w| *w != to);
                    }
                }
            }
        }
        for to in well {
            let flushed = match self.disk(to.disk) {
                Ok(disk) => disk.flush().await,
                Err(e) => Err(e),
            };
            match flushed {
                Ok(()) => end.done.push(to),
                Err(e) => fail(&mut end, to, &e),
            }
        }
        end
    }

    /// The bytes of the first copy that can be read.
    async fn source(&self, job: &CopyJob, piece: &Range<u64>, end: &mut CopyEnd) -> Option<IoBuf> {
        for from in &job.from {
            match self.read(*from, piece).await {
                Ok(buf) => return Some(buf),
                Err(e) => end.why = e.to_string(),
            }
        }
        None
    }

    /// Writes a piece where it differs; how many bytes were written.
    async fn make_equal(&self, to: DiskAu, piece: &Range<u64>, source: &IoBytes) -> DiskResult<u64> {
        // What cannot be read is written: a bad sector may be well after that.
        if self.read(to, piece).await.is_ok_and(|there| there[..] == source[..]) {
            return Ok(0);
        }
        self.disk(to.disk)?.write(self.at(to, piece.start), source.clone()).await?;
        Ok(piece.end - piece.start)
    }
}

fn fail(end: &mut CopyEnd, to: DiskAu, e: &DiskError) {
    end.why = e.to_string();
    if e.answer == Answer::NotReturned {
        end.late.push(to);
    }
}

/// What is copied, in bytes of the AU.
fn pieces(job: &CopyJob, au_size: AuSize) -> Vec<Range<u64>> {
    let block = au_size.block_bytes();
    let runs = job.blocks.runs().map(|r| u64::from(r.start) * block..u64::from(r.end) * block);
    let cut = |r: Range<u64>| {
        let step = usize::try_from(PIECE).unwrap_or(usize::MAX);
        (r.start..r.end).step_by(step).map(move |at| at..r.end.min(at + PIECE)).collect::<Vec<_>>()
    };
    runs.flat_map(cut).collect()
}

#[cfg(test)]
mod tests;
