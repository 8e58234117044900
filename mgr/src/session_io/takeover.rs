//! What a takeover needs done on the disks (`core::remap`): AUs are copied, preserve logs read, segments laid down.
//!
//! Limits: [`COPIES`] pieces of [`PIECE`] bytes at most are in flight. A copy is durable when it is reported: every disk that was copied to was flushed after
//! the last write to it had returned. Each request is bounded in time as all others are; what fails is reported whole, and asked for again whole.

use super::SessionIo;
use crate::core::errand::{CopyAu, Errand, Outcome};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::units::{DiskAu, DiskNo};
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
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
        match errand {
            Errand::Journal(j) => {
                let read = self.read_journals(std::slice::from_ref(j)).await.pop().map(|(_, tail)| tail);
                Outcome::Journal(read.unwrap_or_else(|| Err(wire(Error::new(Kind::Internal, "no journal was read")))))
            }
            Errand::Copy(aus) => Outcome::Copied(self.copy(aus).await.map_err(wire)),
            Errand::Log { volume, token, segments, places } => {
                Outcome::Log(self.read_log(*volume, *token, segments, places).await.map_err(wire))
            }
            Errand::Lay { volume, laid } => Outcome::Laid(self.lay(*volume, laid).await.map_err(wire)),
        }
    }

    /// Copies these AUs, and flushes where they were copied to.
    async fn copy(&self, aus: &[CopyAu]) -> Result<()> {
        let per = u32::try_from(PIECE / self.au_size.block_bytes()).unwrap_or(1).max(1);
        let mut pieces = aus.iter().flat_map(|of| {
            let runs =
                of.blocks.runs().flat_map(move |run| run.clone().step_by(per as usize).map(move |first| first..run.end.min(first + per)));
            runs.map(move |blocks| Piece { of, blocks })
        });
        let mut under_way: FuturesUnordered<_> = pieces.by_ref().take(COPIES).map(|p| self.copy_piece(p)).collect();
        let mut result = Ok(());
        while let Some(done) = under_way.next().await {
            result = result.and(done);
            if result.is_ok()
                && let Some(p) = pieces.next()
            {
                under_way.push(self.copy_piece(p));
            }
        }
        result?;
        let disks: BTreeSet<DiskNo> = aus.iter().flat_map(|a| a.to.iter().map(|t| t.disk)).collect();
        join_all(disks.into_iter().map(|no| self.bounded(no, async |d| d.flush().await))).await.into_iter().collect()
    }

    async fn copy_piece(&self, p: Piece<'_>) -> Result<()> {
        let off = u64::from(p.blocks.start) * self.au_size.block_bytes();
        let len = u64::from(p.blocks.end - p.blocks.start) * self.au_size.block_bytes();
        let len = usize::try_from(len).expect("a part of an AU");
        let data = self.read_any(&p.of.from, off, len).await?.freeze();
        try_join_all(p.of.to.iter().map(|to| self.write_at(*to, off, data.clone()))).await.map(drop)
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

    async fn write_at(&self, to: DiskAu, off: u64, data: IoBytes) -> Result<()> {
        self.bounded(to.disk, async |d| d.write(to.au.start(self.au_size).plus(off), data).await).await
    }
}
