//! What a takeover needs done on the disks (`core::remap`): AUs are copied, preserve logs read, segments laid down.
//!
//! Limits: [`COPIES`] pieces of [`PIECE`] bytes at most are in flight. A copy is durable when it is reported: every disk that was copied to was flushed after
//! the last write to it had returned. Each request is bounded in time as all others are; what fails is reported whole, and asked for again whole; where a write
//! of it has not returned, that is said: it may land on top of what is written there later.

use super::SessionIo;
use crate::core::errand::{CopyAu, Errand, Outcome};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, Disk, DiskResult};
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::units::{DiskAu, DiskNo};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;

/// Pieces that are copied at once.
const COPIES: usize = 8;
/// Bytes of a piece, unless a block is larger.
const PIECE: u64 = 1 << 20;

/// A part of an AU that is copied in one go.
struct Piece<'e> {
    of: &'e CopyAu,
    blocks: Range<u32>,
}

impl<D: Disk> SessionIo<'_, D> {
    /// Does one step of a takeover.
    pub async fn errand(&self, errand: &Errand) -> Outcome {
        let wire = |e: Error| WireError::from(&e);
        let late = Cell::new(false);
        let ended = |done: Result<()>, outcome: fn(std::result::Result<(), WireError>) -> Outcome| match done {
            Err(e) if late.get() => Outcome::Late(wire(e)),
            done => outcome(done.map_err(wire)),
        };
        match errand {
            Errand::Journal(j) => {
                let read = self.read_journals(std::slice::from_ref(j)).await.pop().map(|(_, tail)| tail);
                Outcome::Journal(read.unwrap_or_else(|| Err(wire(Error::new(Kind::Internal, "no journal was read")))))
            }
            Errand::Copy(aus) => ended(self.copy(aus, &late).await, Outcome::Copied),
            Errand::Log { volume, token, segments, places } => {
                Outcome::Log(self.read_log(*volume, *token, segments, places).await.map_err(wire))
            }
            Errand::Lay { volume, laid } => ended(self.lay(*volume, laid, &late).await, Outcome::Laid),
        }
    }

    /// Copies these AUs, and flushes where they were copied to.
    async fn copy(&self, aus: &[CopyAu], late: &Cell<bool>) -> Result<()> {
        let per = u32::try_from(PIECE / self.au_size.block_bytes()).unwrap_or(1).max(1);
        let mut pieces = aus.iter().flat_map(|of| {
            let runs =
                of.blocks.runs().flat_map(move |run| run.clone().step_by(per as usize).map(move |first| first..run.end.min(first + per)));
            runs.map(move |blocks| Piece { of, blocks })
        });
        let mut under_way: FuturesUnordered<_> = pieces.by_ref().take(COPIES).map(|p| self.copy_piece(p, late)).collect();
        let mut result = Ok(());
        while let Some(done) = under_way.next().await {
            result = result.and(done);
            if result.is_ok()
                && let Some(p) = pieces.next()
            {
                under_way.push(self.copy_piece(p, late));
            }
        }
        result?;
        let disks: BTreeSet<DiskNo> = aus.iter().flat_map(|a| a.to.iter().map(|t| t.disk)).collect();
        join_all(disks.into_iter().map(|no| self.bounded(no, async |d| d.flush().await))).await.into_iter().collect()
    }

    async fn copy_piece(&self, p: Piece<'_>, late: &Cell<bool>) -> Result<()> {
        let off = u64::from(p.blocks.start) * self.au_size.block_bytes();
        let len = u64::from(p.blocks.end - p.blocks.start) * self.au_size.block_bytes();
        let len = usize::try_from(len).expect("a part of an AU");
        let data = self.read_any(&p.of.from, off, len).await?.freeze();
        join_all(p.of.to.iter().map(|to| self.write_at(*to, off, data.clone(), late))).await.into_iter().collect()
    }

    /// Reads from the first of these replicas that can be read.
    pub(super) async fn read_any(&self, legs: &[DiskAu], off: u64, len: usize) -> Result<IoBuf> {
        let mut failed = Error::new(Kind::Io, "there is no replica to read");
        for leg in legs {
            match self.read(leg.disk, leg.au.start(self.au_size).plus(off), len).await {
                Ok(buf) => return Ok(buf),
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    async fn write_at(&self, to: DiskAu, off: u64, data: IoBytes, late: &Cell<bool>) -> Result<()> {
        self.put(to.disk, late, async |d| d.write(to.au.start(self.au_size).plus(off), data).await).await
    }

    /// A write; `late` where it failed and may still land.
    pub(super) async fn put(&self, no: DiskNo, late: &Cell<bool>, write: impl AsyncFnOnce(&D) -> DiskResult<()>) -> Result<()> {
        self.asked(no, write).await.map_err(|e| {
            late.set(late.get() || e.answer == Answer::NotReturned);
            Error::new(Kind::Io, format!("disk {no}")).because(e)
        })
    }
}
