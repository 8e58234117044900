//! Pieces of one request on disks: neighbours are one I/O, all go in parallel, the lease is looked at first.

use super::Volume;
use super::view::Slot;
use crate::control::Control;
use crate::disks::{Disks, io_error};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::error::Result;
use fusevol_shared::units::{DiskNo, DiskOff};
use futures_util::future::join_all;
use std::ops::Range;
use std::sync::Arc;

/// Where a piece of a request lies; `None`: it is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Which disk.
    pub disk: DiskNo,
    /// Where on it.
    pub at: DiskOff,
}

/// A piece of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Where.
    pub place: Option<Place>,
    /// Bytes.
    pub len: u64,
}

/// Appends a piece, as part of the last one where both lie side by side.
pub(crate) fn push_piece(pieces: &mut Vec<Piece>, place: Option<Place>, len: u64) {
    if let Some(last) = pieces.last_mut() {
        let follows = match (last.place, place) {
            (None, None) => true,
            (Some(a), Some(b)) => a.disk == b.disk && a.at.plus(last.len) == b.at,
            _ => false,
        };
        if follows {
            last.len += len;
            return;
        }
    }
    pieces.push(Piece { place, len });
}

/// Reads the pieces, side by side, into one buffer. Holes are zeros.
pub(crate) async fn read_pieces<D: Disk>(disks: &Disks<D>, pieces: &[Piece]) -> Result<IoBuf> {
    let total: u64 = pieces.iter().map(|p| p.len).sum();
    let mut rest = IoBuf::zeroed(usize::try_from(total).expect("a request is far smaller than memory"));
    let parts = pieces.iter().map(|p| (p, rest.split_to(usize::try_from(p.len).expect("part of the above")))).collect::<Vec<_>>();
    let results = join_all(parts.into_iter().map(|(piece, buf)| async move {
        let Some(place) = piece.place else { return Ok(buf) };
        let (done, buf) = disks.get(place.disk)?.disk().read(place.at, buf).await;
        done.map_err(|e| io_error(place.disk, e)).map(|()| buf)
    }))
    .await;
    let mut out: Option<IoBuf> = None;
    for part in results {
        let part = part?;
        match &mut out {
            None => out = Some(part),
            Some(head) => head.rejoin(part).expect("the parts were split off one buffer in this order"),
        }
    }
    Ok(out.unwrap_or(rest))
}

/// The first `skip` bytes off, then `len` bytes.
pub(crate) fn middle(mut buf: IoBuf, skip: u64, len: u64) -> IoBuf {
    let n = |x: u64| usize::try_from(x).expect("within a buffer");
    drop(buf.split_to(n(skip)));
    buf.split_to(n(len))
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Writes `data` at byte `start` of the volume, to every leg of the slots of its AUs. When it returns without an
    /// error all disks have it, and are marked dirty.
    pub(super) async fn put(&self, slots: &[Arc<Slot>], start: u64, data: &IoBytes) -> Result<()> {
        self.engine.lease.wait().await?;
        let writes = self.plan_writes(slots, start..start + data.len() as u64);
        let results = join_all(writes.into_iter().map(|(place, from, len)| async move {
            let disk = self.engine.disks.get(place.disk)?;
            let done = disk.disk().write(place.at, data.slice(from, len)).await;
            self.dirty.mark(place.disk);
            done.map_err(|e| io_error(place.disk, e))
        }))
        .await;
        results.into_iter().collect()
    }

    /// Place, offset in the data, length: one for each run of neighbours on each leg.
    fn plan_writes(&self, slots: &[Arc<Slot>], bytes: Range<u64>) -> Vec<(Place, usize, usize)> {
        let n = |x: u64| usize::try_from(x).expect("within a buffer");
        let mut out: Vec<(Place, usize, usize)> = Vec::new();
        let legs = slots.iter().map(|s| s.legs().count()).max().unwrap_or(0);
        for leg in 0..legs {
            let mut from = 0;
            let first = out.len();
            for ((_, within), slot) in self.cut(bytes.clone()).zip(slots) {
                let len = within.end - within.start;
                if let Some(l) = slot.legs().nth(leg) {
                    let place = Place { disk: l.at.disk, at: l.at.au.start(self.engine.au_size).plus(within.start) };
                    let joined = out[first..]
                        .last_mut()
                        .filter(|(p, f, n)| p.disk == place.disk && p.at.plus(*n as u64) == place.at && *f + *n == from);
                    match joined {
                        Some(last) => last.2 += n(len),
                        None => out.push((place, from, n(len))),
                    }
                }
                from += n(len);
            }
        }
        out
    }
}
