//! Storing one image: see the drawing in [`super`].

use super::source::Source;
use super::{Cancel, Failure, Progress, is_zero, next};
use crate::format::id::{ChunkId, ChunkKind};
use crate::format::manifest::{Manifest, SnapshotRef, Stats, VolumeRef};
use crate::format::node::Shape;
use crate::format::pack::Coding;
use crate::format::{IMAGE_MAX, damaged};
use crate::repo::Repository;
use crate::repo::index::ChunkIndex;
use crate::repo::pack::{Entry, FullPack, PACK_TARGET, PackWriter, Sealer};
use crate::repo::table::TableBuilder;
use fusevol_shared::clock::Clock;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Context, Error, Kind, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Buffers for each worker: one in work, and some between the stages.
const BUFFERS_PER_WORKER: usize = 4;
/// Full packs that wait to be made durable.
const PACKS_WAITING: usize = 2;

/// What is stored, and what is said of it.
pub struct Job<'a> {
    /// Where to.
    pub repo: &'a Repository,
    /// The image.
    pub source: &'a dyn Source,
    /// Of which volume.
    pub volume: VolumeRef,
    /// Of which snapshot.
    pub snapshot: SnapshotRef,
    /// Bytes of the volume's block.
    pub block_size: u32,
    /// Threads that hash and compress.
    pub workers: usize,
    /// Bytes after which a pack is full.
    pub pack_target: u64,
    /// Is told how far it is.
    pub progress: &'a dyn Progress,
    /// Ends it early.
    pub cancel: &'a Cancel,
    /// For the times in the manifest.
    pub clock: &'a dyn Clock,
}

impl Job<'_> {
    /// The usual size of packs.
    pub const PACK_TARGET: u64 = PACK_TARGET;
}

/// A snapshot that was stored.
#[derive(Debug)]
pub struct Stored {
    /// Its manifest.
    pub manifest: Manifest,
    /// Index files that could not be read; their packs' own lists were taken.
    pub warnings: Vec<Error>,
}

struct Work {
    number: u64,
    /// Position in the stream of work.
    turn: u64,
    buf: IoBuf,
    len: usize,
}

struct Done {
    work: Work,
    id: Option<ChunkId>,
}

#[derive(Default)]
struct Counts {
    read: AtomicU64,
    data: AtomicU64,
    chunks: AtomicU64,
    new_chunks: AtomicU64,
    new_bytes: AtomicU64,
    stored: AtomicU64,
}

/// Stores the image; when this returns well, the snapshot is durable in the repository.
///
/// # Errors
/// Of source and repository; `Interrupted`. Nothing but garbage is left then.
pub fn backup(job: &Job<'_>) -> Result<Stored> {
    let (began, size) = (job.clock.now(), job.source.size());
    if size > IMAGE_MAX {
        return Err(Error::new(Kind::Refused, format!("an image of {size} bytes is too large")));
    }
    let (index, mut warnings) = ChunkIndex::load(job.repo)?;
    let (manifests, unreadable) = job.repo.manifests()?;
    warnings.extend(unreadable.into_iter().map(|(_, e)| e));
    let previous = manifests.iter().rfind(|m| m.volume.id == job.volume.id).map(|m| m.id);
    job.progress.begin(size);
    let stored = Run::new(job, index).run();
    job.progress.end();
    let (table, mut stats) = stored?;
    job.cancel.check()?;
    stats.millis = u64::try_from(job.clock.now().since(began).as_millis()).unwrap_or(u64::MAX);
    let manifest = Manifest {
        id: job.repo.new_name(),
        volume: job.volume.clone(),
        snapshot: job.snapshot.clone(),
        time_ns: job.clock.wall(),
        host: rustix::system::uname().nodename().to_string_lossy().chars().take(64).collect(),
        program: concat!("fusevol-backup ", env!("CARGO_PKG_VERSION")).into(),
        size,
        block_size: job.block_size,
        chunk_size: job.repo.config().chunk_size,
        table,
        previous,
        stats,
    };
    job.repo.write_manifest(&manifest)?;
    Ok(Stored { manifest, warnings })
}

/// One run through the stages.
struct Run<'a> {
    job: &'a Job<'a>,
    index: Mutex<ChunkIndex>,
    counts: Counts,
    failure: Failure,
    chunk: usize,
}

impl<'a> Run<'a> {
    fn new(job: &'a Job<'a>, index: ChunkIndex) -> Self {
        let chunk = job.repo.config().chunk_size as usize;
        Self { job, index: Mutex::new(index), counts: Counts::default(), failure: Failure::default(), chunk }
    }

    fn run(self) -> Result<(Option<ChunkId>, Stats)> {
        let workers = self.job.workers.max(1);
        let buffers = workers * BUFFERS_PER_WORKER;
        let (free_in, free_out) = channel::<IoBuf>();
        (0..buffers).try_for_each(|_| free_in.send(IoBuf::zeroed(self.chunk))).map_err(|_| Error::new(Kind::Internal, "no buffers"))?;
        let (work_in, work_out) = sync_channel::<Work>(buffers);
        let (done_in, done_out) = channel::<Done>();
        let (entry_in, entry_out) = sync_channel::<Entry>(workers * 2);
        let (pack_in, pack_out) = sync_channel::<FullPack>(PACKS_WAITING);
        let (run, work_out) = (&self, &Mutex::new(work_out));
        let table = std::thread::scope(|s| {
            s.spawn(move || run.read(&free_out, &work_in));
            for _ in 0..workers {
                let (done_in, entry_in) = (done_in.clone(), entry_in.clone());
                s.spawn(move || run.work(work_out, &done_in, &entry_in));
            }
            drop(done_in);
            s.spawn(move || run.write_packs(&entry_out, &pack_in));
            s.spawn(move || run.seal(&pack_out));
            let table = run.collect(&done_out, &free_in, &entry_in);
            // The last sender: the pack writer ends with it.
            drop(entry_in);
            table
        });
        self.failure.into_result()?;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let c = &self.counts;
        let (data, read, chunks, new_chunks) = (get(&c.data), get(&c.read), get(&c.chunks), get(&c.new_chunks));
        Ok((table, Stats { data, read, chunks, new_chunks, new_bytes: get(&c.new_bytes), stored: get(&c.stored), millis: 0 }))
    }

    /// The reader: every chunk that may hold data, in order.
    fn read(&self, free: &Receiver<IoBuf>, to: &SyncSender<Work>) {
        self.failure.guard(|| {
            let (size, chunk) = (self.job.source.size(), self.chunk as u64);
            let (mut number, mut turn) = (0, 0);
            while let Some(data) = self.job.source.next_data(number * chunk)? {
                number = number.max(data.start / chunk);
                while number * chunk < data.end {
                    self.job.cancel.check()?;
                    let Ok(mut buf) = free.recv() else { return Ok(()) };
                    if self.failure.is_set() {
                        return Ok(());
                    }
                    let at = number * chunk;
                    let len = usize::try_from((size - at).min(chunk)).map_err(|_| damaged("a chunk is too long"))?;
                    self.job.source.read(at, &mut buf, len)?;
                    self.counts.read.fetch_add(len as u64, Ordering::Relaxed);
                    if to.send(Work { number, turn, buf, len }).is_err() {
                        return Ok(());
                    }
                    (number, turn) = (number + 1, turn + 1);
                }
            }
            Ok(())
        });
    }

    fn work(&self, from: &Mutex<Receiver<Work>>, to: &Sender<Done>, entries: &SyncSender<Entry>) {
        let mut zstd = self.failure.guard(|| self.compressor());
        while let Some(work) = next(from) {
            let id = zstd.as_mut().and_then(|z| self.failure.guard(|| self.chunk(&work.buf[..work.len], z, entries))).flatten();
            if to.send(Done { work, id }).is_err() {
                return;
            }
        }
    }

    /// One chunk: nothing for a hole, else its name; its bytes are on their way if they are new.
    fn chunk(&self, plain: &[u8], zstd: &mut zstd::bulk::Compressor<'_>, entries: &SyncSender<Entry>) -> Result<Option<ChunkId>> {
        if is_zero(plain) {
            return Ok(None);
        }
        self.counts.chunks.fetch_add(1, Ordering::Relaxed);
        self.counts.data.fetch_add(plain.len() as u64, Ordering::Relaxed);
        let id = ChunkId::of(ChunkKind::Data, plain);
        if self.claim(id) {
            self.counts.new_chunks.fetch_add(1, Ordering::Relaxed);
            self.counts.new_bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
            send(entries, encode(id, ChunkKind::Data, plain, zstd)?)?;
        }
        Ok(Some(id))
    }

    fn compressor(&self) -> Result<zstd::bulk::Compressor<'static>> {
        zstd::bulk::Compressor::new(self.job.repo.config().compression_level).context(Kind::Internal, || "the zstd encoder")
    }

    fn claim(&self, id: ChunkId) -> bool {
        self.index.lock().unwrap_or_else(PoisonError::into_inner).claim(id)
    }

    /// The collector: puts chunks into the table in their order, and gives their buffers back to the reader.
    fn collect(&self, from: &Receiver<Done>, free: &Sender<IoBuf>, entries: &SyncSender<Entry>) -> Option<ChunkId> {
        let shape = Shape::of(self.job.source.size(), self.job.repo.config().chunk_size);
        let mut table = TableBuilder::new(shape);
        let mut zstd = self.failure.guard(|| self.compressor());
        let mut store = |id: ChunkId, bytes: Vec<u8>| match &mut zstd {
            Some(zstd) if self.claim(id) => send(entries, encode(id, ChunkKind::Node, &bytes, zstd)?),
            _ => Ok(()),
        };
        let (mut turn, mut early) = (0, BTreeMap::new());
        for done in from {
            early.insert(done.work.turn, done);
            while let Some(Done { work, id }) = early.remove(&turn) {
                turn += 1;
                self.failure.guard(|| table.put(work.number, id, &mut store));
                let position = (work.number + 1) * self.chunk as u64;
                let (read, stored) = (self.counts.read.load(Ordering::Relaxed), self.counts.stored.load(Ordering::Relaxed));
                self.job.progress.at(position.min(self.job.source.size()), read, stored);
                // The reader has ended where it does not take it.
                let _ = free.send(work.buf);
            }
        }
        self.failure.guard(|| table.finish(&mut store)).flatten()
    }

    /// The pack writer: data and table nodes go to packs of their own, so that a walk of a table reads few places.
    fn write_packs(&self, from: &Receiver<Entry>, to: &SyncSender<FullPack>) {
        let mut data = PackWriter::new(self.job.repo, self.job.pack_target);
        let mut nodes = PackWriter::new(self.job.repo, self.job.pack_target);
        let pass = |full: Option<FullPack>| full.map_or(Ok(()), |p| send(to, p));
        for entry in from {
            self.failure.guard(|| {
                self.counts.stored.fetch_add(entry.bytes.len() as u64, Ordering::Relaxed);
                pass(if entry.kind == ChunkKind::Data { &mut data } else { &mut nodes }.add(&entry)?)
            });
        }
        self.failure.guard(|| pass(data.finish()?));
        self.failure.guard(|| pass(nodes.finish()?));
    }

    fn seal(&self, from: &Receiver<FullPack>) {
        let mut sealer = Sealer::new(self.job.repo);
        for full in from {
            self.failure.guard(|| sealer.seal(full));
        }
        self.failure.guard(|| sealer.finish());
    }
}

/// Compressed where that makes it smaller.
fn encode(id: ChunkId, kind: ChunkKind, plain: &[u8], zstd: &mut zstd::bulk::Compressor<'_>) -> Result<Entry> {
    let length = u32::try_from(plain.len()).map_err(|_| damaged("a chunk is too long"))?;
    let packed = zstd.compress(plain).context(Kind::Internal, || "compressing a chunk")?;
    let (coding, bytes) = if packed.len() < plain.len() { (Coding::Zstd, packed) } else { (Coding::Raw, plain.to_vec()) };
    Ok(Entry { id, kind, coding, plain: length, bytes })
}

fn send<T>(to: &SyncSender<T>, item: T) -> Result<()> {
    to.send(item).map_err(|_| Error::new(Kind::Internal, "a stage of the backup has ended too early"))
}
