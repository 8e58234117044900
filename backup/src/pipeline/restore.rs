//! Restoring one image: by place with all cores, or as a stream in order.
//!
//! A restore by place goes on after damaged chunks, so that all that can be had is there, and names what is not; a
//! stream ends at the first, for its reader would take what follows for what is missing.

use super::sink::Sink;
use super::{Cancel, Failure, Progress, next};
use crate::format::damaged;
use crate::format::id::{ChunkId, ChunkKind};
use crate::format::manifest::Manifest;
use crate::repo::Repository;
use crate::repo::index::ChunkIndex;
use crate::repo::read::{ChunkReader, Scratch};
use crate::repo::table::{Met, walk};
use fusevol_shared::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Chunks that wait for each worker.
const CHUNKS_PER_WORKER: usize = 4;
/// Most damaged ranges that are named.
const LOST_MAX: usize = 100;
/// Zeros written to a stream at once.
const ZEROS: usize = 1 << 20;

/// What is restored.
pub struct Job<'a> {
    /// Where from.
    pub repo: &'a Repository,
    /// Which snapshot.
    pub manifest: &'a Manifest,
    /// Threads that decode.
    pub workers: usize,
    /// Is told how far it is.
    pub progress: &'a dyn Progress,
    /// Ends it early.
    pub cancel: &'a Cancel,
}

/// A range that could not be restored.
#[derive(Debug)]
pub struct Lost {
    /// From which byte.
    pub at: u64,
    /// How many bytes.
    pub length: u64,
    /// Why.
    pub why: Error,
}

/// How a restore ended.
#[derive(Debug, Default)]
pub struct Restored {
    /// Bytes of data, holes not counted.
    pub data: u64,
    /// Ranges that are missing; not all of them where there are many.
    pub lost: Vec<Lost>,
    /// Bytes that are missing.
    pub lost_bytes: u64,
    /// Index files that could not be read.
    pub warnings: Vec<Error>,
}

impl Restored {
    /// An error that names what is missing, if something is.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn whole(&self) -> Result<()> {
        let Some(first) = self.lost.first() else { return Ok(()) };
        let ranges = self.lost.iter().take(5).map(|l| format!("{}+{}", l.at, l.length)).collect::<Vec<_>>().join(", ");
        let more = if self.lost.len() > 5 { ", ..." } else { "" };
        let what = format!("{} bytes could not be restored ({ranges}{more}): {}", self.lost_bytes, first.why);
        Err(Error::new(Kind::Damaged, what).hint("see `fusevol-backup check --read-data` for all that is damaged"))
    }
}

/// Restores by place.
///
/// # Errors
/// Of the sink and of the medium; `Interrupted`. Damage alone is no error: see [`Restored::whole`].
pub fn restore(job: &Job<'_>, sink: &dyn Sink) -> Result<Restored> {
    let (index, warnings) = ChunkIndex::load(job.repo)?;
    let reader = ChunkReader::new(job.repo, index);
    let run = Placed { job, sink, reader: &reader, failure: Failure::default(), data: AtomicU64::new(0), lost: Mutex::default() };
    let workers = job.workers.max(1);
    let (to, from) = sync_channel::<(u64, ChunkId)>(workers * CHUNKS_PER_WORKER);
    let from = &Mutex::new(from);
    job.progress.begin(job.manifest.size);
    std::thread::scope(|s| {
        for _ in 0..workers {
            s.spawn(|| run.work(from));
        }
        run.walk(&to);
        drop(to);
    });
    job.progress.end();
    run.failure.into_result()?;
    let (lost, lost_bytes) = run.lost.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Restored { data: run.data.into_inner(), lost, lost_bytes, warnings })
}

struct Placed<'a> {
    job: &'a Job<'a>,
    sink: &'a dyn Sink,
    reader: &'a ChunkReader<'a>,
    failure: Failure,
    data: AtomicU64,
    lost: Mutex<(Vec<Lost>, u64)>,
}

impl Placed<'_> {
    fn walk(&self, to: &SyncSender<(u64, ChunkId)>) {
        self.failure.guard(|| {
            walk(self.reader, self.job.manifest, &mut |_, _, _| true, &mut |met| match met {
                Met::Chunk { number, id } => {
                    self.job.cancel.check()?;
                    if self.failure.is_set() || to.send((number, id)).is_err() {
                        return Err(Error::new(Kind::Internal, "the restore has ended"));
                    }
                    Ok(())
                }
                Met::Lost { first, chunks, why, .. } => {
                    let (at, length) = range(self.job.manifest, first, chunks);
                    self.lose(at, length, why);
                    Ok(())
                }
            })
        });
    }

    fn work(&self, from: &Mutex<Receiver<(u64, ChunkId)>>) {
        let mut scratch = self.failure.guard(Scratch::new);
        while let Some((number, id)) = next(from) {
            let Some(scratch) = scratch.as_mut() else { continue };
            self.failure.guard(|| self.chunk(number, id, scratch));
        }
    }

    fn chunk(&self, number: u64, id: ChunkId, scratch: &mut Scratch) -> Result<()> {
        let (at, length) = range(self.job.manifest, number, 1);
        match read(self.reader, id, length, scratch) {
            Ok(bytes) => {
                self.sink.write_at(at, bytes)?;
                let data = self.data.fetch_add(length, Ordering::Relaxed) + length;
                self.job.progress.at(at + length, data, 0);
            }
            Err(e) if e.kind() == Kind::Damaged => self.lose(at, length, e),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn lose(&self, at: u64, length: u64, why: Error) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.1 += length;
        if lost.0.len() < LOST_MAX {
            lost.0.push(Lost { at, length, why });
        }
    }
}

/// Restores as a stream: every byte of the image, in order.
///
/// # Errors
/// Of the stream and of the medium; `Damaged` at the first chunk that is; `Interrupted`.
pub fn stream(job: &Job<'_>, out: &mut dyn Write) -> Result<Restored> {
    let (index, warnings) = ChunkIndex::load(job.repo)?;
    let reader = &ChunkReader::new(job.repo, index);
    let failure = &Failure::default();
    let workers = job.workers.max(1);
    let window = workers * CHUNKS_PER_WORKER;
    let (to, from) = sync_channel::<(u64, u64, ChunkId)>(window);
    let (done_in, done) = channel::<(u64, u64, Option<Vec<u8>>)>();
    let (credit_in, credit) = channel::<()>();
    (0..window).try_for_each(|_| credit_in.send(())).map_err(|_| Error::new(Kind::Internal, "no credits"))?;
    let from = &Mutex::new(from);
    job.progress.begin(job.manifest.size);
    let data = std::thread::scope(|s| {
        for _ in 0..workers {
            let done_in = done_in.clone();
            s.spawn(move || decode_for_stream(job, reader, failure, from, &done_in));
        }
        drop(done_in);
        s.spawn(move || walk_for_stream(job, reader, failure, &credit, &to));
        write_stream(job, failure, &done, &credit_in, out)
    });
    job.progress.end();
    std::mem::take(&mut *failure.first.lock().unwrap_or_else(PoisonError::into_inner)).map_or(Ok(()), Err)?;
    Ok(Restored { data, warnings, ..Restored::default() })
}

fn walk_for_stream(
    job: &Job<'_>,
    reader: &ChunkReader<'_>,
    failure: &Failure,
    credit: &Receiver<()>,
    to: &SyncSender<(u64, u64, ChunkId)>,
) {
    let mut turn = 0;
    failure.guard(|| {
        walk(reader, job.manifest, &mut |_, _, _| true, &mut |met| match met {
            Met::Chunk { number, id } => {
                job.cancel.check()?;
                if credit.recv().is_err() || failure.is_set() || to.send((turn, number, id)).is_err() {
                    return Err(Error::new(Kind::Internal, "the restore has ended"));
                }
                turn += 1;
                Ok(())
            }
            Met::Lost { why, .. } => Err(why),
        })
    });
}

fn decode_for_stream(
    job: &Job<'_>,
    reader: &ChunkReader<'_>,
    failure: &Failure,
    from: &Mutex<Receiver<(u64, u64, ChunkId)>>,
    to: &std::sync::mpsc::Sender<(u64, u64, Option<Vec<u8>>)>,
) {
    let mut scratch = failure.guard(Scratch::new);
    while let Some((turn, number, id)) = next(from) {
        let bytes = scratch
            .as_mut()
            .and_then(|scratch| failure.guard(|| read(reader, id, range(job.manifest, number, 1).1, scratch).map(<[u8]>::to_vec)));
        if to.send((turn, number, bytes)).is_err() {
            return;
        }
    }
}

/// Writes in order what comes in any order; gives the bytes of data.
fn write_stream(
    job: &Job<'_>,
    failure: &Failure,
    from: &Receiver<(u64, u64, Option<Vec<u8>>)>,
    credit: &std::sync::mpsc::Sender<()>,
    out: &mut dyn Write,
) -> u64 {
    let (mut position, mut data, mut turn, mut early) = (0, 0, 0, BTreeMap::new());
    for (its_turn, number, bytes) in from {
        early.insert(its_turn, (number, bytes));
        while let Some((number, bytes)) = early.remove(&turn) {
            turn += 1;
            failure.guard(|| {
                let Some(bytes) = bytes else { return Ok(()) };
                let at = number * u64::from(job.manifest.chunk_size);
                zeros(out, at - position)?;
                out.write_all(&bytes).map_err(fusevol_shared::cli::out::failed)?;
                position = at + bytes.len() as u64;
                data += bytes.len() as u64;
                job.progress.at(position, data, 0);
                Ok(())
            });
            // The walker has ended where it does not take it.
            let _ = credit.send(());
        }
    }
    failure.guard(|| {
        zeros(out, job.manifest.size - position)?;
        out.flush().map_err(fusevol_shared::cli::out::failed)
    });
    data
}

pub(super) fn zeros(out: &mut dyn Write, count: u64) -> Result<()> {
    let page = vec![0; ZEROS];
    let mut left = count;
    while left > 0 {
        let n = left.min(ZEROS as u64);
        out.write_all(&page[..usize::try_from(n).unwrap_or(ZEROS)]).map_err(fusevol_shared::cli::out::failed)?;
        left -= n;
    }
    Ok(())
}

/// Where `chunks` chunks from `first` on lie in the image, and how many bytes they have there.
fn range(m: &Manifest, first: u64, chunks: u64) -> (u64, u64) {
    let size = u64::from(m.chunk_size);
    let at = first * size;
    (at, (chunks.saturating_mul(size)).min(m.size - at))
}

fn read<'s>(reader: &ChunkReader<'_>, id: ChunkId, length: u64, scratch: &'s mut Scratch) -> Result<&'s [u8]> {
    let bytes = reader.read(ChunkKind::Data, id, scratch)?;
    if bytes.len() as u64 == length {
        Ok(bytes)
    } else {
        Err(damaged(format!("chunk {id:?} has {} bytes where {length} belong", bytes.len())))
    }
}
