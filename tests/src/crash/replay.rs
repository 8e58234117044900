//! Walks through a recording and keeps, at each event, what is durable for certain and what is open.
//!
//! Invariant: `digest` is the sum of the hashes of all pages of `durable` that are not zero, so that a state's digest
//! is had from the pages in which it differs.

use super::{Event, Fault, Log};
use fusevol_shared::disk::mem::{MemDisk, Page};
use fusevol_shared::units::{DiskOff, PAGE, PAGE_U64, SECTOR};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Sectors in a page.
const SECTORS: usize = PAGE / SECTOR;

/// A page of a disk of the set.
pub(super) type Place = (usize, u64);

/// Pages in which a state differs from what is durable.
pub(super) type Overlay = BTreeMap<Place, Box<Page>>;

/// A write that has begun and is not durable for certain.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub id: usize,
    begun: usize,
    done: Option<usize>,
    /// Sectors that a later durable write covers: they can no longer land. Empty: none.
    covered: Vec<bool>,
}

pub(super) struct Replay {
    pub log: Arc<Log>,
    pub durable: Vec<MemDisk>,
    pub digest: u128,
    pub open: Vec<Open>,
    pub mark: u64,
    /// Events done.
    pub cut: usize,
    hashes: HashMap<Place, u128>,
    /// What a flush that has begun makes durable.
    flushing: HashMap<usize, Vec<usize>>,
    /// A write that is not done as told.
    lie: Option<(usize, Fault)>,
}

/// A zero page counts as one that was never written.
fn page_hash(place: Place, page: &Page) -> u128 {
    if page.iter().all(|&b| b == 0) {
        return 0;
    }
    let mut h = blake3::Hasher::new();
    h.update(&(place.0 as u64).to_le_bytes()).update(&place.1.to_le_bytes()).update(page);
    u128::from_le_bytes(h.finalize().as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes"))
}

impl Replay {
    pub fn new(log: Arc<Log>, start: &[MemDisk], lie: Option<(usize, Fault)>) -> Self {
        let durable: Vec<_> = start.iter().map(MemDisk::fork).collect();
        let mut hashes = HashMap::new();
        for (i, disk) in durable.iter().enumerate() {
            for page in disk.written_pages() {
                hashes.insert((i, page), page_hash((i, page), &disk.page(page).expect("it is listed as written")));
            }
        }
        let digest = hashes.values().fold(0, |sum: u128, h| sum.wrapping_add(*h));
        Self { log, durable, digest, open: Vec::new(), mark: 0, cut: 0, hashes, flushing: HashMap::new(), lie }
    }

    /// Does the next event; `None` after the last.
    pub fn step(&mut self) -> Option<Event> {
        let event = *self.log.events.get(self.cut)?;
        match event {
            Event::WriteBegun(id) => self.open.push(Open { id, begun: self.cut, done: None, covered: Vec::new() }),
            Event::WriteDone(id) if self.log.writes[id].durable => self.settle(&[id]),
            Event::WriteDone(id) => {
                let cut = self.cut;
                self.open.iter_mut().filter(|o| o.id == id).for_each(|o| o.done = Some(cut));
            }
            Event::FlushBegun { flush, disk } => {
                let done = self.open.iter().filter(|o| o.done.is_some() && self.log.writes[o.id].disk == disk);
                self.flushing.insert(flush, done.map(|o| o.id).collect());
            }
            Event::FlushDone(flush) => {
                let ids = self.flushing.remove(&flush).expect("a flush begins before it is done");
                self.settle(&ids);
            }
            Event::Mark(n) => self.mark = n,
        }
        self.cut += 1;
        Some(event)
    }

    /// These writes are durable from now on, in the order in which they began.
    fn settle(&mut self, ids: &[usize]) {
        for &id in ids {
            // Two flushes may have covered one write: the first settles it.
            let Some(index) = self.open.iter().position(|o| o.id == id) else { continue };
            let mut overlay = Overlay::new();
            self.land(&mut overlay, index, |_| true);
            for ((disk, page), bytes) in overlay {
                let hash = page_hash((disk, page), &bytes);
                let old = self.hashes.insert((disk, page), hash).unwrap_or(0);
                self.digest = self.digest.wrapping_sub(old).wrapping_add(hash);
                self.durable[disk].poke(DiskOff(page * PAGE_U64), &bytes[..]);
            }
            let settled = self.open.remove(index);
            self.cover(&settled);
        }
    }

    /// Open writes that were done before this one began can no longer land where it lies.
    fn cover(&mut self, settled: &Open) {
        let (writes, over) = (&self.log.writes, &self.log.writes[settled.id]);
        for open in self.open.iter_mut().filter(|o| o.done.is_some_and(|d| d < settled.begun)) {
            let under = &writes[open.id];
            if under.disk != over.disk {
                continue;
            }
            for sector in 0..under.data.len() / SECTOR {
                let at = under.at.0 + (sector * SECTOR) as u64;
                if (over.at.0..over.at.0 + over.data.len() as u64).contains(&at) {
                    open.covered.resize(under.data.len() / SECTOR, false);
                    open.covered[sector] = true;
                }
            }
        }
    }

    /// Puts those sectors of an open write into the overlay that `take` chooses and that are not covered.
    pub fn land(&self, overlay: &mut Overlay, index: usize, take: impl Fn(usize) -> bool) {
        let open = &self.open[index];
        let write = &self.log.writes[open.id];
        let at = match self.lie {
            Some((id, fault)) if id == open.id => match fault.landed {
                Some(elsewhere) => elsewhere,
                None => return,
            },
            _ => write.at,
        };
        for page in 0..write.data.len() / PAGE {
            let sectors = (page * SECTORS..(page + 1) * SECTORS).filter(|&s| take(s) && !open.covered.get(s).is_some_and(|&c| c));
            let place = (write.disk, at.0 / PAGE_U64 + page as u64);
            for s in sectors {
                let bytes = overlay.entry(place).or_insert_with(|| self.durable_page(place));
                bytes[s % SECTORS * SECTOR..][..SECTOR].copy_from_slice(&write.data[s * SECTOR..][..SECTOR]);
            }
        }
    }

    fn durable_page(&self, (disk, page): Place) -> Box<Page> {
        self.durable[disk].page(page).map_or_else(|| Box::new([0; PAGE]), |p| Box::new(*p))
    }

    /// The digest of what is durable with these pages in place of its own.
    pub fn digest_with(&self, overlay: &Overlay) -> u128 {
        overlay.iter().fold(self.digest, |sum, (place, bytes)| {
            sum.wrapping_sub(self.hashes.get(place).copied().unwrap_or(0)).wrapping_add(page_hash(*place, bytes))
        })
    }

    /// The disks with these pages in place of what is durable.
    pub fn disks_with(&self, overlay: &Overlay) -> Vec<MemDisk> {
        let disks: Vec<_> = self.durable.iter().map(MemDisk::fork).collect();
        for ((disk, page), bytes) in overlay {
            disks[*disk].poke(DiskOff(page * PAGE_U64), &bytes[..]);
        }
        disks
    }

    /// Sectors of an open write.
    pub fn sectors(&self, index: usize) -> usize {
        self.log.writes[self.open[index].id].data.len() / SECTOR
    }

    /// An open write, for a label.
    pub fn describe(&self, index: usize) -> String {
        let id = self.open[index].id;
        let w = &self.log.writes[id];
        format!("#{id} (disk {} at {}, {} bytes)", w.disk, w.at, w.data.len())
    }
}
