//! Flush: take the bits that the journal does not know, flush the disks that were written, append the bits, read the own SEAL,
//! acknowledge. The manager is not asked. Who was sealed before its append counted finds that out by this look, and answers nobody (T1, L1).
//!
//! Callers share rounds: who calls while a round runs is served by the next one, which one of the waiting runs.
//! A failed flush is an error to every caller of its round; the bits on the failed disks are lost (see [`super::ledger`]).

use super::Volume;
use crate::control::Control;
use crate::disks::io_error;
use crate::path::lives::Stamp;
use crate::stale::Whose;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::APPEND_WEIGHT;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicU64, Ordering};

/// Appends of one round; the bits of a volume of 64 TiB at once are far below.
const PAGES: usize = 16 * 1024;
/// AUs in one append: each weighs two at most, its binding and its bits.
pub(super) const AUS_PER_PAGE: usize = APPEND_WEIGHT / 16;

struct Last {
    round: u64,
    result: std::result::Result<(), WireError>,
    /// A flush that nobody had asked for (of a hold, of a region at rest) failed on these disks: who asks next is told, and until then no
    /// flush is good, nor is anything that was written taken for lost.
    owed: Option<(WireError, Vec<DiskNo>)>,
}

/// The rounds of one attachment.
pub(super) struct Rounds {
    begun: AtomicU64,
    last: tokio::sync::Mutex<Last>,
}

impl Rounds {
    /// Of an attachment that begins.
    pub(super) fn new() -> Self {
        let last = Last { round: 0, result: Ok(()), owed: None };
        Self { begun: AtomicU64::new(0), last: tokio::sync::Mutex::new(last) }
    }
}

/// Marks that go back if the round ends early in any way.
struct Taken<'a, D: Disk, C: Control> {
    volume: &'a Volume<D, C>,
    disks: Vec<(DiskNo, Stamp)>,
    flushed: bool,
}

impl<D: Disk, C: Control> Drop for Taken<'_, D, C> {
    fn drop(&mut self) {
        if !self.flushed {
            self.disks.iter().for_each(|(no, since)| self.volume.dirty.mark(*no, *since));
        }
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Makes every write durable that was acknowledged before this was called.
    ///
    /// # Errors
    /// `Io` where a flush failed: writes since the last good flush may be lost; or where the journal failed: then the data is on
    /// disk, and the next flush appends what is to be said. `Lapsed` where the session is over.
    pub async fn flush(&self) -> Result<()> {
        self.flush_for(true).await
    }

    /// The same on the engine's own account. Where it fails, the next [`Volume::flush`] does, too: a later good one brings nothing back.
    pub(super) async fn flush_unasked(&self) -> Result<()> {
        self.flush_for(false).await
    }

    async fn flush_for(&self, asked: bool) -> Result<()> {
        self.check_open()?;
        let want = self.rounds.begun.load(Ordering::SeqCst) + 1;
        let mut last = self.rounds.last.lock().await;
        if last.round < want {
            let round = self.rounds.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let result = self.round(asked, &mut last).await;
            last.round = round;
            last.result = result.as_ref().copied().map_err(WireError::from);
            return result;
        }
        last.result.clone().map_err(Error::from)
    }

    async fn round(&self, asked: bool, last: &mut Last) -> Result<()> {
        self.engine.lease.wait().await?;
        if sentence::holds(Tag::J1) {
            self.ledger.take();
        }
        let mut taken = Taken { volume: self, disks: self.dirty.take(), flushed: false };
        let failed = self.flush_disks(&taken.disks).await;
        let failed = self.without_copies(failed, last.owed.is_some()).await?;
        // What has failed is told once: the next flush covers what is written from now on.
        for (no, since) in &mut taken.disks {
            if let Some(disk) = failed.iter().find(|(f, _)| f == no).and_then(|_| self.engine.disks.get(*no).ok()) {
                *since = disk.path().lives().now();
            }
        }
        if let Some((_, e)) = failed.first() {
            let error = Error::new(e.kind(), "flush failed: writes since the last flush may be lost").because(e.to_string());
            let (told, mut bad) = last.owed.take().unwrap_or_else(|| (WireError::from(&error), Vec::new()));
            bad.extend(failed.iter().map(|(no, _)| *no));
            last.owed = Some((told, bad));
        }
        if let Some((told, bad)) = last.owed.take() {
            match asked {
                true => self.lose(&bad),
                false => last.owed = Some((told.clone(), bad)),
            }
            return Err(told.into());
        }
        taken.flushed = true;
        if !sentence::holds(Tag::J1) {
            self.ledger.take();
        }
        if !self.append_taken().await? && sentence::holds(Tag::T1) {
            // Nothing was appended, so nobody has looked at the SEAL since.
            self.check_seal().await?;
        }
        self.engine.lease.wait().await
    }

    /// The own SEAL is clear, or the session is over.
    pub(super) async fn check_seal(&self) -> Result<()> {
        self.engine.slot.check(&self.engine.disks).await.inspect_err(|_| {
            if self.engine.slot.is_sealed() {
                self.engine.lease.end();
            }
        })
    }

    /// Those of the failed flushes that concern us: none, where all that may be unflushed has another copy. What failed is not written any more.
    async fn without_copies(&self, failed: Vec<(DiskNo, Error)>, owed: bool) -> Result<Vec<(DiskNo, Error)>> {
        let bad: Vec<DiskNo> = failed.iter().map(|(no, _)| *no).collect();
        if bad.is_empty() || owed || !self.legs.is_mirrored() || !self.unflushed_have_others(&bad) {
            return Ok(failed);
        }
        for (no, e) in failed {
            self.lose_leg(no, &format!("a flush failed: {e}")).await?;
        }
        Ok(Vec::new())
    }

    async fn flush_disks(&self, disks: &[(DiskNo, Stamp)]) -> Vec<(DiskNo, Error)> {
        let results = join_all(disks.iter().map(|(no, since)| async move {
            let disk = self.engine.disks.get(*no)?;
            if self.legs.out.has(*no) && self.unflushed_have_others(&[*no]) {
                // What is unflushed there counts for nothing, once nobody reads there any more.
                return self.settled().await;
            }
            disk.flush(*since, self.id).await.map_err(|e| io_error(*no, e))?;
            // Another volume's flush may have failed on what this one wrote, and this one's found nothing left to do.
            match disk.path().lives().has_failed_since(*since) {
                true => Err(Error::new(Kind::Io, format!("disk {no}: a flush by another volume failed meanwhile"))),
                false => Ok(()),
            }
        }))
        .await;
        disks.iter().zip(results).filter_map(|((no, _), done)| Some((*no, done.err()?))).collect()
    }

    /// The taken bits that have a leg on a disk whose flush failed: such a block counts as never written.
    fn lose(&self, bad: &[DiskNo]) {
        self.ledger.lose(|m| {
            let Some(slot) = self.view.get(m.au) else { return true };
            let lost = !Self::have_others(&[slot], bad);
            if lost {
                self.view.clear_written(&slot, m.blocks);
            }
            lost
        });
        self.engine.stale.one(Whose::Volume(self.id));
    }

    /// Appends what is taken; whether there was anything.
    async fn append_taken(&self) -> Result<bool> {
        let _turn = self.turn.lock().await;
        for n in 0..PAGES {
            let page = self.ledger.page(AUS_PER_PAGE);
            if page.is_empty() {
                return Ok(n > 0);
            }
            match self.log()?.append(page.entries()).await {
                Ok(counts) => {
                    self.ledger.appended(&page);
                    if sentence::holds(Tag::T1) {
                        counts.clear()?;
                    }
                }
                Err(e) => {
                    self.ledger.put_back(page);
                    return Err(e);
                }
            }
        }
        Err(Error::new(Kind::Internal, "a flush has more to append than a volume can hold"))
    }
}
