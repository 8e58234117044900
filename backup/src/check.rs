//! Proving a repository: every manifest, every chunk that one names, the index against the packs, and with `read_data`
//! every stored byte. What is damaged is named with the snapshots that it hurts.
//!
//! Not damage: what an interrupted backup left (files under `tmp/`, packs or entries that no snapshot names). With
//! backups running beside it those may also be theirs.

use crate::format::damaged;
use crate::format::id::{ChunkId, ChunkKind, FileId};
use crate::format::index::IndexedPack;
use crate::format::manifest::Manifest;
use crate::format::node::Shape;
use crate::format::pack::{HEAD_BYTES, Row, check_head};
use crate::pipeline::{Cancel, Failure, Progress, next};
use crate::repo::index::ChunkIndex;
use crate::repo::read::{ChunkReader, Scratch, decode};
use crate::repo::table::{Met, walk};
use crate::repo::{INDEX, Repository, TMP};
use fusevol_shared::error::{Error, Kind, Result};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

/// Most problems that are told one by one; the rest is counted.
const PROBLEMS_MAX: usize = 1000;

/// What is checked, and how.
pub struct Job<'a> {
    /// Which repository.
    pub repo: &'a Repository,
    /// Read and hash every stored byte.
    pub read_data: bool,
    /// Threads that decode and hash.
    pub workers: usize,
    /// Is told how far the reading is.
    pub progress: &'a dyn Progress,
    /// Ends it early.
    pub cancel: &'a Cancel,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// The file, or the chunk.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// Snapshots that cannot be restored whole.
    pub hurts: Vec<String>,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Manifests that can be read.
    pub snapshots: u64,
    /// Pack files.
    pub packs: u64,
    /// Different chunks that snapshots name, tables too.
    pub chunks: u64,
    /// Bytes of packs that were read and hashed.
    pub read: u64,
    /// Packs of which no snapshot names anything: left over, or being written.
    pub unused_packs: u64,
    /// Bytes of them.
    pub unused_bytes: u64,
    /// Files under `tmp/`.
    pub unused_files: u64,
    /// How many problems; the list may be shorter.
    pub problems_found: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl Report {
    fn problem(&mut self, what: impl Into<String>, why: impl Into<String>, hurts: Vec<String>) {
        self.problems_found += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { what: what.into(), why: why.into(), hurts });
        }
    }

    /// An error that counts what was found, if anything was.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn whole(&self) -> Result<()> {
        let hurt: HashSet<_> = self.problems.iter().flat_map(|p| &p.hurts).collect();
        match (self.problems_found, hurt.len()) {
            (0, _) => Ok(()),
            (n, 0) => Err(damaged(format!("the repository has {n} damaged parts, none of which a snapshot needs"))),
            (n, h) => Err(damaged(format!("the repository has {n} damaged parts, which hurt {h} snapshots"))),
        }
    }
}

/// Checks.
///
/// # Errors
/// Of the medium; `Interrupted`. Damage is no error here: see [`Report::whole`].
pub fn check(job: &Job<'_>) -> Result<Report> {
    let mut report = Report::default();
    // Manifests first: what they name was durable before them, so packs that are listed later hold all of it.
    let (manifests, bad) = job.repo.manifests()?;
    report.snapshots = manifests.len() as u64;
    for (name, why) in bad {
        report.problem(format!("manifests/{name}"), why.to_string(), vec![name.chars().take(8).collect()]);
    }
    let indexed = read_indexes(job, &mut report)?;
    let packs = read_packs(job, &indexed, &mut report)?;
    let refs = references(job, &manifests, &packs, &mut report)?;
    count_unused(job, &packs, &refs, &mut report)?;
    if job.read_data {
        read_all(job, &manifests, &packs, &refs, &mut report)?;
    }
    Ok(report)
}

/// What the index files say, by pack.
fn read_indexes(job: &Job<'_>, report: &mut Report) -> Result<HashMap<FileId, IndexedPack>> {
    let mut all = HashMap::new();
    for (name, _) in job.repo.store().list(INDEX)? {
        job.cancel.check()?;
        match job.repo.read_index(&name) {
            Ok(packs) => all.extend(packs.into_iter().map(|p| (p.name, p))),
            Err(e) => report.problem(format!("{INDEX}/{name}"), format!("{e}; the lists in the packs are used instead"), Vec::new()),
        }
    }
    Ok(all)
}

/// The packs that are there, each as its own list says (or the index, where the list is damaged).
fn read_packs(job: &Job<'_>, indexed: &HashMap<FileId, IndexedPack>, report: &mut Report) -> Result<Vec<IndexedPack>> {
    let (there, strange) = job.repo.packs()?;
    report.packs = there.len() as u64;
    for path in strange {
        report.problem(path, "no pack has such a name", Vec::new());
    }
    let mut packs = Vec::with_capacity(there.len());
    for (name, size) in there {
        job.cancel.check()?;
        let path = Repository::pack_path(name);
        match (job.repo.read_pack_list(name), indexed.get(&name)) {
            (Ok(own), Some(known)) if own != *known => {
                report.problem(path, "the index and the pack's own list do not agree", Vec::new());
                packs.push(own);
            }
            (Ok(own), _) => packs.push(own),
            (Err(e), Some(known)) => {
                report.problem(path, format!("{e}; the index is used instead"), Vec::new());
                // A pack that was cut off holds what lies before the cut.
                packs.push(IndexedPack { name, size, rows: known.rows.iter().filter(|r| r.end() <= size).copied().collect() });
            }
            (Err(e), None) => report.problem(path, e.to_string(), Vec::new()),
        }
    }
    let there: HashSet<_> = packs.iter().map(|p| p.name).collect();
    for name in indexed.keys().filter(|n| !there.contains(n)) {
        report.problem(Repository::pack_path(*name), "the index names this pack, but it is missing", Vec::new());
    }
    Ok(packs)
}

/// Which chunks the snapshots name.
struct References {
    named: HashSet<ChunkId>,
    /// Chunks that are missing are known to be so already.
    missing: HashSet<ChunkId>,
}

fn references(job: &Job<'_>, manifests: &[Manifest], packs: &[IndexedPack], report: &mut Report) -> Result<References> {
    let plain: HashMap<ChunkId, (ChunkKind, u32)> = packs.iter().flat_map(|p| &p.rows).map(|r| (r.id, (r.kind, r.plain))).collect();
    let mut index = ChunkIndex::default();
    packs.iter().for_each(|p| index.add(p));
    let reader = ChunkReader::new(job.repo, index);
    let mut refs = References { named: HashSet::new(), missing: HashSet::new() };
    let mut bad: HashMap<(ChunkId, String), HashSet<FileId>> = HashMap::new();
    // A node below which nothing is wrong need not be walked again for another snapshot.
    let mut clean: HashSet<(ChunkId, u8, usize)> = HashSet::new();
    for m in manifests {
        let mut seen = Vec::new();
        let mut hurt = false;
        let shape = Shape::of(m.size, m.chunk_size);
        let named = std::cell::RefCell::new(&mut refs.named);
        let mut enter = |id, level, places| {
            named.borrow_mut().insert(id);
            let node = (id, level, places);
            // The last chunk may be shorter: the nodes above it are walked for every snapshot.
            let fresh = !clean.contains(&node) || places < crate::format::node::FANOUT;
            if fresh {
                seen.push(node);
            }
            fresh
        };
        walk(&reader, m, &mut enter, &mut |met| {
            job.cancel.check()?;
            let fault = match met {
                Met::Chunk { number, id } => {
                    named.borrow_mut().insert(id);
                    let want = chunk_length(m, shape, number);
                    match plain.get(&id) {
                        None => Some((id, "it is in no pack".to_owned())),
                        Some((ChunkKind::Data, length)) if u64::from(*length) == want => None,
                        Some((kind, length)) => Some((id, format!("it is {length} bytes of {kind:?} where {want} of Data belong"))),
                    }
                }
                Met::Lost { id, why, .. } => Some((id, format!("a node of a chunk table: {why}"))),
            };
            if let Some(fault) = fault {
                hurt = true;
                bad.entry(fault).or_default().insert(m.id);
            }
            Ok(())
        })?;
        if !hurt {
            clean.extend(seen);
        }
    }
    for ((id, why), hurts) in sorted(bad) {
        refs.missing.insert(id);
        report.problem(format!("chunk {}", &id.to_string()[..12]), why, shorts(manifests, &hurts));
    }
    report.chunks = refs.named.len() as u64;
    Ok(refs)
}

fn chunk_length(m: &Manifest, shape: Shape, number: u64) -> u64 {
    let size = u64::from(m.chunk_size);
    if number + 1 == shape.chunks { m.size - number * size } else { size }
}

fn sorted<K: Ord, V>(map: HashMap<K, V>) -> Vec<(K, V)> {
    let mut all: Vec<_> = map.into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Short names of snapshots, the oldest first.
fn shorts(manifests: &[Manifest], ids: &HashSet<FileId>) -> Vec<String> {
    manifests.iter().filter(|m| ids.contains(&m.id)).map(|m| m.id.short()).collect()
}

fn count_unused(job: &Job<'_>, packs: &[IndexedPack], refs: &References, report: &mut Report) -> Result<()> {
    for pack in packs.iter().filter(|p| !p.rows.iter().any(|r| refs.named.contains(&r.id))) {
        report.unused_packs += 1;
        report.unused_bytes += pack.size;
    }
    report.unused_files = job.repo.store().list(TMP)?.len() as u64;
    Ok(())
}

/// Reads every pack to its end; then looks up whom the damaged entries hurt.
fn read_all(job: &Job<'_>, manifests: &[Manifest], packs: &[IndexedPack], refs: &References, report: &mut Report) -> Result<()> {
    job.progress.begin(packs.iter().map(|p| p.size).sum());
    let failure = Failure::default();
    let found: Mutex<Vec<(FileId, Option<ChunkId>, String)>> = Mutex::default();
    let good: Mutex<HashSet<ChunkId>> = Mutex::default();
    let read = AtomicU64::new(0);
    let workers = job.workers.max(1);
    let (to, from) = sync_channel::<&IndexedPack>(workers);
    let from = &Mutex::new(from);
    std::thread::scope(|s| {
        for _ in 0..workers {
            s.spawn(|| {
                let mut scratch = failure.guard(Scratch::new);
                while let Some(pack) = next(from) {
                    let Some(scratch) = scratch.as_mut() else { continue };
                    failure.guard(|| {
                        let mut bad = Vec::new();
                        let whole = read_pack(job, pack, scratch, &mut bad)?;
                        found.lock().unwrap_or_else(PoisonError::into_inner).extend(bad);
                        good.lock().unwrap_or_else(PoisonError::into_inner).extend(whole);
                        let so_far = read.fetch_add(pack.size, Ordering::Relaxed) + pack.size;
                        job.progress.at(so_far, so_far, 0);
                        Ok(())
                    });
                }
            });
        }
        packs.iter().try_for_each(|p| to.send(p)).map_or_else(|_| failure.note(Error::new(Kind::Internal, "the check has ended")), |()| ());
        drop(to);
    });
    job.progress.end();
    failure.into_result()?;
    report.read = read.into_inner();
    let (mut found, good) = (found.into_inner().unwrap_or_default(), good.into_inner().unwrap_or_default());
    found.sort();
    // Of a chunk that is there twice, one whole copy serves.
    let lost: HashSet<ChunkId> =
        found.iter().filter_map(|f| f.1).filter(|id| refs.named.contains(id) && !good.contains(id) && !refs.missing.contains(id)).collect();
    let hurts = whom_it_hurts(job, manifests, packs, &lost)?;
    for (pack, id, why) in found {
        let hurt = id.and_then(|id| hurts.get(&id)).map(|h| shorts(manifests, h)).unwrap_or_default();
        let what = id.map_or(String::new(), |id| format!(", chunk {}", &id.to_string()[..12]));
        report.problem(format!("{}{what}", Repository::pack_path(pack)), why, hurt);
    }
    Ok(())
}

/// Reads one pack; gives the chunks that are whole.
fn read_pack(
    job: &Job<'_>,
    pack: &IndexedPack,
    scratch: &mut Scratch,
    bad: &mut Vec<(FileId, Option<ChunkId>, String)>,
) -> Result<Vec<ChunkId>> {
    let file = match job.repo.store().open(&Repository::pack_path(pack.name)) {
        Ok(file) => file,
        Err(e) => {
            bad.push((pack.name, None, e.to_string()));
            return Ok(Vec::new());
        }
    };
    let mut head = [0; HEAD_BYTES];
    if let Err(e) = file.read_at(0, &mut head).and_then(|()| check_head(job.repo.config().id, pack.name, &head)) {
        bad.push((pack.name, None, e.to_string()));
    }
    let mut whole = Vec::with_capacity(pack.rows.len());
    for row in &pack.rows {
        job.cancel.check()?;
        let read = file.read_at(u64::from(row.offset), scratch.stored(row.stored)).and_then(|()| verify(row, scratch));
        match read {
            Ok(()) => whole.push(row.id),
            Err(e) => bad.push((pack.name, Some(row.id), e.to_string())),
        }
    }
    Ok(whole)
}

fn verify(row: &Row, scratch: &mut Scratch) -> Result<()> {
    decode(row.plain, scratch)?;
    if ChunkId::of(row.kind, scratch.plain()) == row.id { Ok(()) } else { Err(damaged("its hash is not its name")) }
}

/// The snapshots whose tables name one of `lost`.
fn whom_it_hurts(
    job: &Job<'_>,
    manifests: &[Manifest],
    packs: &[IndexedPack],
    lost: &HashSet<ChunkId>,
) -> Result<HashMap<ChunkId, HashSet<FileId>>> {
    let mut hurts: HashMap<ChunkId, HashSet<FileId>> = HashMap::new();
    if lost.is_empty() {
        return Ok(hurts);
    }
    let mut index = ChunkIndex::default();
    packs.iter().for_each(|p| index.add(p));
    let reader = ChunkReader::new(job.repo, index);
    for m in manifests {
        walk(&reader, m, &mut |_, _, _| true, &mut |met| {
            job.cancel.check()?;
            let (Met::Chunk { id, .. } | Met::Lost { id, .. }) = met;
            if lost.contains(&id) {
                hurts.entry(id).or_default().insert(m.id);
            }
            Ok(())
        })?;
    }
    Ok(hurts)
}
