//! A snapshot as its reader sees it: the bytes of the volume at one instant, while the writer goes on.
//!
//! The rule of reading: zeros where the snapshot's own mask has no block (S1); else **the live place first, then the
//! tail of all lists of preserved blocks, then the preserved copy where the block is listed**. A writer overwrites only
//! after its record is durable, so bytes that were read before the list was, and are not listed, are the old ones.
//! The other order reads new bytes as old ones.
//!
//! A reader takes no lock and makes no writer wait. It holds a lease, looked at again after the reads. A preserved copy
//! that counts and is damaged is an error, never wrong bytes.

mod modified;

use crate::control::Control;
use crate::out::OutSet;
use crate::preserve::log_reader::{Copy, LogReader, read_copy};
use crate::stale::Whose;
use crate::volume::{Copies, Engine, Pieces, cut, fetch_map, middle, plan_au, read_any, read_pieces_into, seek, whole_pages};
use arc_swap::ArcSwap;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::map::{LegState, MapEntry, MapRun, VolumeMap};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::data::Claim;
use fusevol_shared::wire::messages::{CloseSnapshot, GetSnapshotMap, MapChanged, OpenSnapshot, Segment, SnapshotInfo};
pub use modified::Modified;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An open snapshot. Shared by all threads; each awaits in its own executor.
pub struct SnapshotReader<D, C> {
    engine: Engine<D, C>,
    volume: VolumeId,
    info: SnapshotInfo,
    /// Its frozen map. Which blocks it has never changes, nor by which name it calls an AU; where the copies lie does.
    map: ArcSwap<VolumeMap>,
    /// Refreshes that have begun; see [`SnapshotReader::refresh`].
    begun: AtomicU64,
    logs: tokio::sync::Mutex<Logs>,
    closed: AtomicBool,
    out: Arc<OutSet>,
}

struct Logs {
    /// The refresh that came to its end last.
    done: u64,
    reader: LogReader,
}

/// The frozen map of an open snapshot.
async fn fetch<D: Disk, C: Control>(engine: &Engine<D, C>, info: &SnapshotInfo) -> Result<VolumeMap> {
    let mut map = VolumeMap::default();
    let part = async |from| engine.control.call(GetSnapshotMap { snapshot: info.id, from }).await;
    let aus = engine.au_size.aus_for(info.size).ok_or_else(|| Error::new(Kind::Damaged, "the snapshot has more than 2^32 AUs"))?;
    fetch_map(aus, part, |au, e| map.set(au, Some(e))).await?;
    Ok(map)
}

/// A block of the request that is read from disk.
struct Wanted {
    /// The AU by its name: what preserve records call it.
    at: DiskAu,
    block: u32,
    /// Its bytes in the request's buffer, and where they begin in the block.
    buf: Range<usize>,
    skip: usize,
}

impl<D: Disk, C: Control> SnapshotReader<D, C> {
    /// Opens a snapshot. Pushes about it that arrive meanwhile are to be kept and handed over once this has returned.
    ///
    /// # Errors
    /// What the manager answers; `Damaged` for a broken snapshot or log.
    pub async fn open(engine: &Engine<D, C>, snapshot: SnapshotId) -> Result<Arc<Self>> {
        let asked = engine.outs.now();
        let opened = engine.control.call(OpenSnapshot { snapshot }).await?;
        let out = engine.outs.begin(opened.volume, asked);
        opened.out.iter().for_each(|d| out.add(*d));
        let loaded = async {
            if opened.info.broken {
                return Err(Error::new(Kind::Damaged, format!("snapshot {} is broken: it has lost blocks", opened.info.name)));
            }
            let map = fetch(engine, &opened.info).await?;
            let mut reader = LogReader::new(engine.pool, opened.volume, opened.info.epoch, engine.au_size, out.clone());
            opened.segments.iter().for_each(|s| reader.add(s));
            engine.lease.wait().await?;
            reader.refresh(&engine.disks).await?;
            Ok((map, reader))
        };
        match loaded.await {
            Ok((map, reader)) => Ok(Arc::new(Self {
                engine: engine.clone(),
                volume: opened.volume,
                info: opened.info,
                map: ArcSwap::from_pointee(map),
                begun: AtomicU64::new(0),
                logs: tokio::sync::Mutex::new(Logs { done: 0, reader }),
                closed: AtomicBool::new(false),
                out: out.clone(),
            })),
            Err(e) => {
                // The end of the session closes it where this does not.
                let _ = engine.control.call(CloseSnapshot { snapshot }).await;
                Err(e)
            }
        }
    }

    /// The snapshot.
    #[must_use]
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// Its volume.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Bytes of the volume then.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.info.size
    }

    /// Bytes in a block.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.engine.au_size.block_bytes()
    }

    /// Bytes in blocks that were written then.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.map.load().written_blocks() * self.block_size()
    }

    /// The first byte from `off` on that was written.
    #[must_use]
    pub fn seek_data(&self, off: u64) -> Option<u64> {
        seek(off, self.size(), self.engine.au_size, true, |au| self.next_written(au))
    }

    /// The first byte from `off` on that was not; the size where all were. `None` past the end.
    #[must_use]
    pub fn seek_hole(&self, off: u64) -> Option<u64> {
        if off >= self.size() {
            return None;
        }
        Some(seek(off, self.size(), self.engine.au_size, false, |au| self.next_written(au)).unwrap_or(self.size()))
    }

    fn next_written(&self, from: VolAu) -> Option<(VolAu, BlockMask)> {
        self.map.load().iter_from(from).map(|(au, e)| (au, e.written)).find(|(_, m)| !m.is_empty())
    }

    /// A writer begins a log: the push is answered after this.
    pub async fn add_segment(&self, segment: &Segment) {
        self.logs.lock().await.reader.add(segment);
    }

    /// Bytes `off..off + len` as they were; shorter where the snapshot ends. Any alignment.
    ///
    /// # Errors
    /// `Io` where a disk failed, `Damaged` where a preserved block is damaged, `Lapsed` without a lease.
    pub async fn read(&self, off: u64, len: usize) -> Result<IoBuf> {
        let bytes = self.present(off, len);
        if bytes.is_empty() {
            return Ok(IoBuf::zeroed(0));
        }
        let outer = whole_pages(&bytes);
        let buf = IoBuf::zeroed(usize::try_from(outer.end - outer.start).expect("a request is far smaller than memory"));
        let (read, buf) = self.read_pages(outer.clone(), buf).await;
        read.map(|()| middle(buf, bytes.start - outer.start, bytes.end - bytes.start))
    }

    /// The same into the front of `buf`, which is given back whole; how many bytes. Whole pages go from the disk to `buf` without a copy.
    ///
    /// # Errors
    /// As [`SnapshotReader::read`].
    pub async fn read_into(&self, off: u64, len: usize, mut buf: IoBuf) -> (Result<usize>, IoBuf) {
        let bytes = self.present(off, len.min(buf.len()));
        let n = usize::try_from(bytes.end - bytes.start).expect("within a buffer");
        if n > 0 && whole_pages(&bytes) == bytes {
            let (read, buf) = self.read_pages(bytes, buf).await;
            return (read.map(|()| n), buf);
        }
        match Box::pin(self.read(off, n)).await {
            Ok(part) => {
                buf[..part.len()].copy_from_slice(&part);
                (Ok(part.len()), buf)
            }
            Err(e) => (Err(e), buf),
        }
    }

    /// What there is of `off..off + len`.
    fn present(&self, off: u64, len: usize) -> Range<u64> {
        let end = off.saturating_add(len as u64).min(self.size());
        off.min(end)..end
    }

    /// Reads whole pages into the front of `buf`, which is given back whole.
    async fn read_pages(&self, outer: Range<u64>, buf: IoBuf) -> (Result<()>, IoBuf) {
        let plan = async {
            if self.closed.load(Ordering::SeqCst) {
                return Err(Error::new(Kind::Lapsed, "the snapshot is closed"));
            }
            self.engine.lease.wait().await?;
            if !sentence::holds(Tag::S1) {
                self.refresh().await?;
            }
            match self.plan(outer.clone()) {
                // All copies that this map knows of are out: some may be well by now.
                Err(e) if e.kind() == Kind::Io => self.renew().await.and_then(|()| self.plan(outer.clone())),
                plan => plan,
            }
        };
        let version = self.out.version();
        let (pieces, wanted) = match plan.await {
            Ok(plan) => plan,
            Err(e) => return (Err(e), buf),
        };
        let (read, mut buf) = read_pieces_into(&self.engine.disks, &pieces, buf).await;
        let checked = async {
            if read.is_err() || self.out.version() != version {
                Box::pin(self.read_elsewhere(outer, &mut buf)).await.map_err(|e| read.err().unwrap_or(e))?;
            }
            if !wanted.is_empty() {
                if sentence::holds(Tag::S1) {
                    self.refresh().await?;
                }
                let patched = self.patch(&wanted, &mut buf).await;
                match patched {
                    // A segment may lie elsewhere by now.
                    Err(e) if e.kind() == Kind::Io => {
                        self.renew().await?;
                        self.patch(&wanted, &mut buf).await?;
                    }
                    patched => patched?,
                }
            }
            self.engine.lease.wait().await
        };
        let checked = checked.await;
        (checked, buf)
    }

    fn plan(&self, outer: Range<u64>) -> Result<(Pieces, Vec<Wanted>)> {
        let size = self.engine.au_size;
        let n = |x: u64| usize::try_from(x).expect("within a request");
        let (mut pieces, mut wanted) = (Pieces::new(), Vec::new());
        let mut to = 0;
        for (au, within) in cut(size, outer) {
            let entry = self.map.load().get(au).filter(|e| !e.written.is_empty());
            let source = entry.map(|e| self.copies(&e).first().map(|at| (*at, e.written, e.name())));
            let source = match source {
                Some(None) => return Err(Error::new(Kind::Io, format!("AU {au} of the snapshot has no replica in sync"))),
                other => other.flatten(),
            };
            if let Some((_, written, at)) = source {
                for b in crate::volume::blocks_within(size, &within).filter(|b| written.has(*b)) {
                    let block = u64::from(b) * size.block_bytes();
                    let (start, end) = (within.start.max(block), within.end.min(block + size.block_bytes()));
                    let from = to + n(start - within.start);
                    wanted.push(Wanted { at, block: b, buf: from..from + n(end - start), skip: n(start - block) });
                }
            }
            to += n(within.end - within.start);
            let claim = Claim::Frozen { snapshot: self.info.id, au };
            plan_au(size, source.map(|(at, written, _)| (at, written)), claim, within, &mut pieces);
        }
        Ok((pieces, wanted))
    }

    /// The copies of an AU that may be read. At the hold all were equal, and what is overwritten since is preserved: any of them will do.
    fn copies(&self, entry: &MapEntry) -> Copies {
        let out = self.out.disks();
        entry.legs().iter().filter(|l| l.state == LegState::InSync && !out.contains(&l.at.disk)).map(|l| l.at).collect()
    }

    /// Reads whole pages from whichever copies answer.
    async fn read_elsewhere(&self, outer: Range<u64>, buf: &mut IoBuf) -> Result<()> {
        let mut from = 0;
        for (au, within) in cut(self.engine.au_size, outer) {
            let n = usize::try_from(within.end - within.start).expect("within a request");
            let to = from..from + n;
            from = to.end;
            let Some(entry) = self.map.load().get(au).filter(|e| !e.written.is_empty()) else {
                buf[to].fill(0);
                continue;
            };
            let claim = Claim::Frozen { snapshot: self.info.id, au };
            // Each turn is one more disk that is out, or the first that finds no copy.
            let (mut entry, mut renewed) = (entry, false);
            loop {
                let version = self.out.version();
                let copies = self.copies(&entry);
                let (part, _) = read_any(&self.engine.disks, self.engine.au_size, &copies, entry.written, claim, within.clone()).await;
                if part.is_err() && !std::mem::replace(&mut renewed, true) {
                    // What was out, or missed something, when this map was got may be well by now.
                    self.renew().await?;
                    entry = self.map.load().get(au).unwrap_or(entry);
                    continue;
                }
                if self.out.version() == version {
                    buf[to].copy_from_slice(&part?);
                    break;
                }
            }
        }
        Ok(())
    }

    /// AUs of the volume have their copies elsewhere: of those that the snapshot shares it has, too.
    pub fn places_changed(&self, change: &MapChanged) {
        let entries = || change.runs.iter().filter_map(MapRun::entries).flatten();
        let known = self.map.load();
        let shares = |(au, e): &(VolAu, MapEntry)| known.get(*au).is_some_and(|old| old.name() == e.name() && old.legs() != e.legs());
        if !entries().any(|e| shares(&e)) {
            return;
        }
        self.map.rcu(|map| {
            let mut map = VolumeMap::clone(map);
            for (au, e) in entries() {
                if let Some(old) = map.get(au).filter(|old| old.name() == e.name()) {
                    map.set(au, MapEntry::new(e.legs(), old.written));
                }
            }
            map
        });
    }

    /// Gets the map again, and what is out.
    async fn renew(&self) -> Result<()> {
        let (asked, snapshot) = (self.engine.outs.now(), self.info.id);
        let opened = self.engine.control.call(OpenSnapshot { snapshot }).await?;
        let map = fetch(&self.engine, &self.info).await?;
        self.map.store(Arc::new(map));
        self.engine.outs.renew(&self.out, self.volume, asked, &opened.out);
        let mut logs = self.logs.lock().await;
        opened.segments.iter().for_each(|s| logs.reader.has_moved(s));
        Ok(())
    }

    /// Returns when a refresh that began after this call has come to its end. Callers share one.
    async fn refresh(&self) -> Result<()> {
        let want = self.begun.load(Ordering::SeqCst) + 1;
        let mut logs = self.logs.lock().await;
        if logs.done >= want {
            return Ok(());
        }
        let round = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        logs.reader.refresh(&self.engine.disks).await?;
        logs.done = round;
        Ok(())
    }

    /// Puts preserved copies over the live bytes where a block is listed.
    async fn patch(&self, wanted: &[Wanted], buf: &mut IoBuf) -> Result<()> {
        type Found<'a> = (&'a Wanted, Vec<(Copy, Vec<DiskAu>, bool)>);
        let logs = self.logs.lock().await;
        if logs.reader.is_broken() {
            self.engine.stale.one(Whose::Snapshot(self.info.id));
            return Err(self.lost());
        }
        let listed: Vec<Found<'_>> = wanted
            .iter()
            .map(|w| {
                let copies = logs.reader.copies(w.at, w.block).iter();
                (w, copies.map(|c| (*c, logs.reader.legs(c), logs.reader.counts(c))).collect::<Vec<_>>())
            })
            .filter(|(_, copies)| !copies.is_empty())
            .collect();
        drop(logs);
        let reads = listed.into_iter().map(|(w, copies)| async move { self.preserved(w, &copies).await.map(|b| (w, b)) });
        for found in futures_util::future::try_join_all(reads).await? {
            if let (w, Some(block)) = found {
                buf[w.buf.clone()].copy_from_slice(&block[w.skip..w.skip + w.buf.len()]);
            }
        }
        Ok(())
    }

    fn lost(&self) -> Error {
        Error::new(Kind::Damaged, format!("snapshot {} is broken: there was no space to preserve its blocks", self.info.name))
            .hint("remove it; a volume with --when-full stop-writer stops its writer instead")
    }

    /// The best copy of a block; `None` where the only ones are records that never came to their end.
    async fn preserved(&self, w: &Wanted, copies: &[(Copy, Vec<DiskAu>, bool)]) -> Result<Option<IoBuf>> {
        for (copy, legs, counts) in copies {
            if let Some(block) = read_copy(&self.engine.disks, self.volume, self.engine.au_size, legs, copy).await? {
                return Ok(Some(block));
            }
            if *counts {
                return Err(Error::new(Kind::Damaged, format!("the preserved copy of block {} of AU {} is damaged", w.block, w.at)));
            }
        }
        Ok(None)
    }

    /// Closes it; the manager may remove it then. Reads in flight are the caller's to wait for.
    ///
    /// # Errors
    /// `Unreachable` or `Lapsed` where the manager could not be told.
    pub async fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.engine.control.call(CloseSnapshot { snapshot: self.info.id }).await.map(|_| ())
    }
}
