//! Reading: pin the slots, plan, read all pieces in parallel, look at the lease again. Takes no lock.

use super::io::{Place, middle, push_piece, read_pieces};
use super::view::Pin;
use super::{Volume, blocks_within};
use crate::control::Control;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::Result;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{AuSize, DiskAu, PAGE_U64};
use std::ops::Range;

/// Appends the pieces of `within` (bytes of one AU that lies `at`; `None`: no space), holes where `written` has no block.
pub(crate) fn plan_au(size: AuSize, at: Option<(DiskAu, BlockMask)>, within: Range<u64>, pieces: &mut Vec<super::io::Piece>) {
    let Some((at, written)) = at else {
        return push_piece(pieces, None, within.end - within.start);
    };
    for b in blocks_within(size, &within) {
        let block = u64::from(b) * size.block_bytes();
        let (start, end) = (within.start.max(block), within.end.min(block + size.block_bytes()));
        let place = written.has(b).then(|| Place { disk: at.disk, at: at.au.start(size).plus(start) });
        push_piece(pieces, place, end - start);
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Bytes `off..off + len`; shorter where the volume ends, empty past its end. Any alignment.
    ///
    /// # Errors
    /// `Io` where a disk of these bytes failed or is missing; `Lapsed` where the lease did not come back.
    pub async fn read(&self, off: u64, len: usize) -> Result<IoBuf> {
        self.check_open()?;
        let end = off.saturating_add(len as u64).min(self.size);
        if off >= end {
            return Ok(IoBuf::zeroed(0));
        }
        self.engine.lease.wait().await?;
        let outer = off / PAGE_U64 * PAGE_U64..end.next_multiple_of(PAGE_U64);
        let mut pins: Vec<Option<Pin>> = Vec::new();
        let mut pieces = Vec::new();
        for (au, within) in self.cut(outer.clone()) {
            let pin = self.view.pin(au);
            plan_au(self.engine.au_size, pin.as_ref().map(|p| (p.source(), p.written())), within, &mut pieces);
            pins.push(pin);
        }
        let buf = read_pieces(&self.engine.disks, &pieces).await?;
        drop(pins);
        self.engine.lease.wait().await?;
        Ok(middle(buf, off - outer.start, end - off))
    }

    /// The same into the front of `buf`.
    pub async fn read_into(&self, off: u64, len: usize, mut buf: IoBuf) -> (Result<usize>, IoBuf) {
        match self.read(off, len).await {
            Ok(b) => {
                buf[..b.len()].copy_from_slice(&b);
                (Ok(b.len()), buf)
            }
            Err(e) => (Err(e), buf),
        }
    }
}
