//! Reading when the copy that was asked first does not answer: from another one, and putting right what was bad (PROTOCOL.md, R3, R4).
//!
//! The slow way: AU by AU, copy by copy. What failed is repaired by the writer alone, under the guard of its blocks and with their region marked, since
//! a repair may be torn as any write. A bad sector that was written is good again; where even that fails, the copy is [given up](super::legs).
//! A reader beside a writer has no other copy to ask: what the first one holds is the volume. Where nobody writes, the manager lets it go over.

use super::io::{Pieces, Place, read_pieces};
use super::legs::AGAIN;
use super::read::plan_au;
use super::view::Slot;
use super::{Mode, Volume, cut};
use crate::control::Control;
use crate::disks::Disks;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{AuSize, BLOCKS_PER_AU, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::data::Claim;
use fusevol_shared::wire::messages::{AttachRead, LegOut};
use smallvec::SmallVec;
use std::ops::Range;

/// Questions, so far apart as [`AGAIN`], until the writer of a volume is to have found a disk failed that a reader does not reach.
const WRITER_FINDS_IT: u32 = 300;

/// The copies of one AU, in the order in which they are asked.
pub(crate) type Copies = SmallVec<[DiskAu; 4]>;

/// Bytes `within` of an AU from the first of its copies that answers; and the copies that did not.
pub(crate) async fn read_any<D: Disk>(
    disks: &Disks<D>,
    size: AuSize,
    copies: &[DiskAu],
    written: BlockMask,
    claim: Claim,
    within: Range<u64>,
) -> (Result<IoBuf>, Vec<DiskAu>) {
    let (mut failed, mut error) = (Vec::new(), Error::new(Kind::Io, "no copy is in sync"));
    for at in copies {
        let mut pieces = Pieces::new();
        plan_au(size, Some((*at, written)), claim, within.clone(), &mut pieces);
        match read_pieces(disks, &pieces).await {
            Ok(buf) => return (Ok(buf), failed),
            Err(e) => {
                tracing::debug!("the copy of AU {claim:?} at {at} did not answer: {e}");
                (failed, error) = ([failed, vec![*at]].concat(), e);
            }
        }
    }
    (Err(error), failed)
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Reads whole pages into the front of `buf` from whichever copies answer. The caller holds no pin and no guard.
    pub(super) async fn read_elsewhere(&self, bytes: Range<u64>, mut buf: IoBuf) -> (Result<()>, IoBuf) {
        let (mut to, mut bad) = (0, Vec::new());
        for (au, within) in cut(self.engine.au_size, bytes) {
            let n = usize::try_from(within.end - within.start).expect("within a request");
            match self.read_au(au, within.clone(), &mut bad).await {
                Ok(part) => buf[to..to + n].copy_from_slice(&part),
                Err(e) => return (Err(e), buf),
            }
            to += n;
        }
        for (au, at, within) in bad {
            self.repair(au, at, &within).await;
        }
        (self.engine.lease.wait().await, buf)
    }

    async fn read_au(&self, au: VolAu, within: Range<u64>, bad: &mut Vec<(VolAu, DiskAu, Range<u64>)>) -> Result<IoBuf> {
        let claim = Claim::Live { volume: self.id, au };
        let mut renewed = false;
        loop {
            let version = self.legs.out.version();
            let Some(pin) = self.view.pin(au) else {
                self.check_open()?;
                return Ok(IoBuf::zeroed(usize::try_from(within.end - within.start).expect("within a request")));
            };
            let copies = self.copies(pin.slot());
            let (read, failed) = read_any(&self.engine.disks, self.engine.au_size, &copies, pin.written(), claim, within.clone()).await;
            drop(pin);
            if self.mode == Mode::Read && read.is_err() && !std::mem::replace(&mut renewed, true) {
                // What was out when this map was got may be well by now.
                self.renew_reader().await?;
                continue;
            }
            if self.mode == Mode::Read
                && sentence::holds(Tag::R3)
                && let Some(first) = failed.first()
            {
                // It is out from now on, or the writer alone may say so.
                self.reader_goes_over(first.disk).await.map_err(|e| read.err().unwrap_or(e))?;
                continue;
            }
            if self.legs.out.version() == version {
                bad.extend(failed.into_iter().map(|at| (au, at, within.clone())));
                return read;
            }
        }
    }

    /// Bytes `within` of an AU from the first of its copies that answers; blocks that `mask` does not have are zeros. The caller holds the guard.
    pub(super) async fn read_copies(&self, au: VolAu, slot: &Slot<'_>, mask: BlockMask, within: Range<u64>) -> Result<IoBuf> {
        let claim = Claim::Live { volume: self.id, au };
        read_any(&self.engine.disks, self.engine.au_size, &self.copies(slot), mask, claim, within).await.0
    }

    /// The copies in the order in which they are asked: a reader has the first one only.
    fn copies(&self, slot: &Slot<'_>) -> Copies {
        let out = self.legs.out.disks();
        let usable: Copies = slot.in_sync().filter(|at| !out.contains(&at.disk)).collect();
        match self.mode {
            Mode::Read if sentence::holds(Tag::R3) => usable.into_iter().take(1).collect(),
            Mode::Read => usable,
            // The writer knows of each leg whether it misses something.
            Mode::Write => usable.into_iter().chain(slot.in_sync().filter(|at| out.contains(&at.disk))).collect(),
        }
    }

    /// A reader's map, and what is out, as they are now.
    async fn renew_reader(&self) -> Result<()> {
        let asked = self.engine.outs.now();
        let attached = self.engine.control.call(AttachRead { volume: self.id }).await?;
        self.refresh_map().await?;
        self.engine.outs.renew(&self.legs.out, self.id, asked, &attached.out);
        self.legs.count_again(&self.view);
        Ok(())
    }

    /// Nobody writes: then the manager says that the copies on this disk are out. Who writes says it himself, once he finds it: that is waited for.
    async fn reader_goes_over(&self, disk: DiskNo) -> Result<()> {
        if self.legs.out.has(disk) {
            return Err(Error::new(Kind::Io, format!("disk {disk} is out, and there is no other copy")));
        }
        let why = "it does not answer a reader".to_owned();
        let call = LegOut { volume: self.id, token: self.token, disk, dirty: Vec::new(), why };
        for _ in 0..WRITER_FINDS_IT {
            match self.engine.control.call(call.clone()).await {
                Err(e) if e.kind() == Kind::Busy => self.engine.control.sleep(AGAIN).await,
                said => {
                    said?;
                    self.legs.out.add(disk);
                    break;
                }
            }
            if self.legs.out.has(disk) {
                break;
            }
        }
        match self.legs.out.has(disk) {
            true => Ok(()),
            false => Err(Error::new(Kind::Io, format!("disk {disk} does not answer, and the volume's writer uses it"))),
        }
    }

    /// Writes to the copy `at` what another one has, after it did not answer a read.
    async fn repair(&self, au: VolAu, at: DiskAu, within: &Range<u64>) {
        if self.mode != Mode::Write && sentence::holds(Tag::R4) {
            return;
        }
        match self.repair_locked(au, at, within).await {
            Ok(true) => tracing::warn!("volume {}: a bad place of AU {au} at {at} was written anew from another copy", self.id),
            Ok(false) => {}
            Err(e) => {
                tracing::warn!("volume {}: a bad place of AU {au} at {at} could not be repaired: {e}", self.id);
                // What it answered concerns this copy; where it is given up, reads go to the others at once.
                if let Err(e) = self.lose_leg(at.disk, &e.to_string()).await {
                    tracing::warn!("volume {}: {e}", self.id);
                }
            }
        }
    }

    async fn repair_locked(&self, au: VolAu, at: DiskAu, within: &Range<u64>) -> Result<bool> {
        let (size, first) = (self.engine.au_size, u64::from(au.0) * u64::from(BLOCKS_PER_AU));
        let blocks = super::blocks_within(size, within);
        let held = self.guard.lock(first + u64::from(blocks.start)..first + u64::from(blocks.end)).await?;
        let Some(slot) = self.view.get(au) else { return Ok(false) };
        if !slot.in_sync().any(|l| l == at) || self.legs.out.has(at.disk) || self.late.touches(au.0..au.0 + 1) {
            return Ok(false);
        }
        let others: Copies = self.copies(&slot).into_iter().filter(|l| *l != at).collect();
        if self.mode == Mode::Write {
            self.mark(au.0..au.0 + 1, &[slot]).await?;
        }
        self.engine.lease.wait().await?;
        let claim = Claim::Live { volume: self.id, au };
        for run in slot.written().and(BlockMask::range(blocks)).runs() {
            let bytes = u64::from(run.start) * self.block_size()..u64::from(run.end) * self.block_size();
            let (good, _) = read_any(&self.engine.disks, size, &others, slot.written(), claim, bytes.clone()).await;
            let place = Place { disk: at.disk, at: at.au.start(size).plus(bytes.start), claim };
            self.engine.lease.wait().await?;
            let disk = self.engine.disks.get(at.disk)?;
            let done = disk.write(place.at, good?.freeze(), claim).await;
            let len = usize::try_from(bytes.end - bytes.start).expect("within a request");
            if let Some(submitted) = done.map_err(|e| self.not_written(&place, len, e).error)? {
                self.dirty.mark(at.disk, submitted);
            }
        }
        drop(held);
        Ok(true)
    }
}
