//! Images go in and come out: whole repositories in memory, damaged, cut and failing.

mod crash;
mod damage;
mod roundtrip;

use super::backup::{Job, Stored, backup};
use super::restore::{Restored, restore};
use super::sink::Sink;
use super::source::Source;
use super::{Cancel, PAGE, Silent, is_zero};
use crate::check::{Report, check};
use crate::format::manifest::{Manifest, SnapshotRef, VolumeRef};
use crate::repo::Repository;
use crate::store::LockMode;
use crate::store::crash::CrashStore;
use fusevol_shared::clock::{BootTime, Clock};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::random::{Random, SeededRandom};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The smallest chunk.
pub(super) const CHUNK: usize = CHUNK_SIZE as usize;
pub(super) const CHUNK_SIZE: u32 = 64 << 10;

/// An image in memory; pages of zeros are holes.
pub(super) struct Mem(pub Vec<u8>);

impl Source for Mem {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        let from = usize::try_from(from).unwrap();
        let pages = || self.0.chunks(PAGE).enumerate().map(|(i, p)| (i * PAGE, is_zero(p)));
        let Some((start, _)) = pages().find(|(at, zero)| *at + PAGE > from && !zero) else { return Ok(None) };
        let end = pages().find(|(at, zero)| *at > start && *zero).map_or(self.0.len(), |(at, _)| at);
        Ok((start.max(from) < end).then(|| start.max(from) as u64..end as u64))
    }
    fn read(&self, at: u64, buf: &mut [u8], len: usize) -> Result<()> {
        let at = usize::try_from(at).unwrap();
        buf[..len].copy_from_slice(&self.0[at..at + len]);
        Ok(())
    }
}

/// A target in memory that knows what was written.
pub(super) struct MemSink(pub Mutex<Vec<u8>>);

impl Sink for MemSink {
    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let at = usize::try_from(at).unwrap();
        self.0.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// A clock that goes on by a second whenever it is asked.
#[derive(Default)]
pub(super) struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> BootTime {
        BootTime(self.0.fetch_add(1_000_000_000, Ordering::Relaxed))
    }
    fn wall(&self) -> u64 {
        static WALL: AtomicU64 = AtomicU64::new(1_700_000_000_000_000_000);
        WALL.fetch_add(1, Ordering::Relaxed)
    }
}

/// A new repository.
pub(super) fn made() -> CrashStore {
    let store = CrashStore::default();
    Repository::init(Box::new(store.clone()), CHUNK_SIZE, 0, Box::new(SeededRandom(7))).expect("made");
    store
}

pub(super) fn open(store: &CrashStore) -> Repository {
    Repository::open(Box::new(store.clone()), LockMode::Shared).expect("opens")
}

/// Stores an image with small packs.
pub(super) fn save(store: &CrashStore, image: &[u8]) -> Result<Stored> {
    save_source(store, &Mem(image.to_vec()), &Cancel::default())
}

pub(super) fn save_source(store: &CrashStore, source: &dyn Source, cancel: &Cancel) -> Result<Stored> {
    let repo = Repository::open(Box::new(store.clone()), LockMode::Shared)?;
    backup(&Job {
        repo: &repo,
        source,
        volume: VolumeRef { name: "db".into(), id: VolumeId([1; 16]) },
        snapshot: SnapshotRef { name: "s".into(), id: SnapshotId([2; 16]), epoch: 3, taken: 4 },
        block_size: 4096,
        workers: 2,
        pack_target: 3 * CHUNK as u64,
        progress: &Silent,
        cancel,
        clock: &Ticking::default(),
    })
}

pub(super) fn bring(store: &CrashStore, manifest: &Manifest) -> Result<(Restored, Vec<u8>)> {
    let repo = open(store);
    let sink = MemSink(Mutex::new(vec![0; usize::try_from(manifest.size).unwrap()]));
    let job = super::restore::Job { repo: &repo, manifest, workers: 2, progress: &Silent, cancel: &Cancel::default() };
    let restored = restore(&job, &sink)?;
    Ok((restored, sink.0.into_inner().unwrap()))
}

/// The image of a snapshot, which must be whole.
pub(super) fn whole(store: &CrashStore, manifest: &Manifest) -> Vec<u8> {
    let (restored, image) = bring(store, manifest).expect("restores");
    restored.whole().expect("nothing is missing");
    image
}

pub(super) fn prove(store: &CrashStore) -> Report {
    let repo = open(store);
    check(&crate::check::Job { repo: &repo, read_data: true, workers: 2, progress: &Silent, cancel: &Cancel::default() }).expect("checks")
}

/// An image of some chunks: holes, text that compresses, noise, and a chunk that is there twice.
pub(super) fn image(seed: u64, chunks: usize, tail: usize) -> Vec<u8> {
    let mut dice = SeededRandom(seed);
    let mut out = vec![0; chunks * CHUNK + tail];
    for piece in out.chunks_mut(CHUNK) {
        match dice.below(5) {
            0 => {}
            1 => piece.fill(u8::try_from(dice.below(3) + 1).unwrap()),
            2 => {
                let end = piece.len().min(5000);
                dice.fill(&mut piece[..end]);
            }
            _ => dice.fill(piece),
        }
    }
    out
}
