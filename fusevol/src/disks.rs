//! The disks that this process has open, by their number in the pool.
//!
//! States of a number: *present* (an open disk whose label was checked), *missing* (known to the pool, not found or
//! lost here), *unknown*. The table is swapped as a whole, so that a look-up never waits; it is dense, so that one is an index.
//!
//! [`Dirty`] belongs to one volume: which disks it has written since its last flush. Invariant: a disk is marked after
//! the write has completed and before it is acknowledged; taken before the flush is submitted. What one volume flushes
//! never clears another one's marks.
//!
//! Why a mark may be left out where the bit is set already: the writer looks at the bit after its write has completed. Where it finds it
//! set, the take that clears that bit comes after the look (both are `SeqCst` on one word), so the flush that follows the take is submitted
//! after the write's completion, and covers it. Where it finds it clear it sets it, as ever.

use arc_swap::ArcSwap;
use fusevol_shared::disk::{Disk, DiskError, DiskResult};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::DiskId;
use fusevol_shared::units::DiskNo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open disk, with its history of failed flushes.
pub struct Member<D> {
    no: DiskNo,
    id: DiskId,
    disk: Arc<D>,
    failed_flushes: AtomicU64,
}

impl<D: Disk> Member<D> {
    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Its number.
    #[must_use]
    pub fn no(&self) -> DiskNo {
        self.no
    }

    /// What its label says.
    #[must_use]
    pub fn id(&self) -> DiskId {
        self.id
    }

    /// Flushes, and counts a failure: every volume that has written to the disk hears of it.
    ///
    /// # Errors
    /// What the disk answered.
    pub async fn flush(&self) -> DiskResult<()> {
        let result = self.disk.flush().await;
        if result.is_err() {
            self.failed_flushes.fetch_add(1, Ordering::SeqCst);
        }
        result
    }

    /// How many flushes have failed, by anyone.
    #[must_use]
    pub fn failed_flushes(&self) -> u64 {
        self.failed_flushes.load(Ordering::SeqCst)
    }
}

enum State<D> {
    Present(Arc<Member<D>>),
    Missing(String),
}

impl<D> Clone for State<D> {
    fn clone(&self) -> Self {
        match self {
            State::Present(m) => State::Present(m.clone()),
            State::Missing(why) => State::Missing(why.clone()),
        }
    }
}

/// By number; `None` is unknown. As long as the greatest number that is known.
type Table<D> = Vec<Option<State<D>>>;

/// The table of disks.
pub struct Disks<D> {
    table: ArcSwap<Table<D>>,
}

impl<D> Default for Disks<D> {
    fn default() -> Self {
        Self { table: ArcSwap::from_pointee(Vec::new()) }
    }
}

impl<D: Disk> Disks<D> {
    /// No disk at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `no` is this open disk from now on; its label says `id`.
    pub fn set_present(&self, no: DiskNo, id: DiskId, disk: Arc<D>) {
        let member = Arc::new(Member { no, id, disk, failed_flushes: AtomicU64::new(0) });
        self.change(no, State::Present(member));
    }

    /// `no` belongs to the pool but cannot be used here; `why` is for people.
    pub fn set_missing(&self, no: DiskNo, why: impl Into<String>) {
        self.change(no, State::Missing(why.into()));
    }

    fn change(&self, no: DiskNo, state: State<D>) {
        self.table.rcu(|t| {
            let mut t = Table::clone(t);
            let at = usize::from(no.0);
            if t.len() <= at {
                t.resize(at + 1, None);
            }
            t[at] = Some(state.clone());
            t
        });
    }

    /// The disk `no`. It stays open until what is given here is dropped, whatever becomes of the table meanwhile.
    ///
    /// # Errors
    /// `Io` where it is missing or unknown.
    pub fn get(&self, no: DiskNo) -> Result<Arc<Member<D>>> {
        match self.table.load().get(usize::from(no.0)).and_then(Option::as_ref) {
            Some(State::Present(m)) => Ok(m.clone()),
            Some(State::Missing(why)) => Err(Error::new(Kind::Io, format!("disk {no} is missing: {why}"))),
            None => Err(Error::new(Kind::Io, format!("disk {no} is not known here"))),
        }
    }

    /// The disks that are missing, with the reason.
    #[must_use]
    pub fn missing(&self) -> Vec<(DiskNo, String)> {
        let table = self.table.load();
        let states = (0u16..=u16::MAX).map(DiskNo).zip(table.iter());
        states.filter_map(|(no, s)| if let Some(State::Missing(why)) = s { Some((no, why.clone())) } else { None }).collect()
    }

    /// The disks that are present.
    #[must_use]
    pub fn present(&self) -> Vec<Arc<Member<D>>> {
        self.table.load().iter().filter_map(|s| if let Some(State::Present(m)) = s { Some(m.clone()) } else { None }).collect()
    }
}

/// The disk's answer as an error of the I/O that it hit.
#[must_use]
pub fn io_error(no: DiskNo, e: DiskError) -> Error {
    Error::new(Kind::Io, format!("disk {no}")).because(e)
}

/// Disks with unflushed writes of one volume: one bit a disk.
pub struct Dirty(Box<[AtomicU64]>);

const WORDS: usize = (u16::MAX as usize + 1) / 64;

impl Default for Dirty {
    fn default() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Dirty {
    /// A write to `no` has completed.
    pub fn mark(&self, no: DiskNo) {
        let (word, bit) = (&self.0[usize::from(no.0 / 64)], 1u64 << (no.0 % 64));
        // All writers of a disk meet on this word: most find the bit set and leave it alone (see the head of this file).
        if word.load(Ordering::SeqCst) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Takes all marks.
    #[must_use]
    pub fn take(&self) -> Vec<DiskNo> {
        let mut out = Vec::new();
        for (i, word) in (0u16..).zip(self.0.iter()) {
            if word.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                out.push(DiskNo(i * 64 + u16::try_from(bits.trailing_zeros()).unwrap_or(0)));
                bits &= bits - 1;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
