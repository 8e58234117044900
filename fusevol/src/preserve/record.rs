//! Lays records and successor pages out and writes them, durable on every leg.

use super::Old;
use crate::disks::{Disks, io_error};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::Error;
use fusevol_shared::format::preserve::{At, Kept, LogId, Successor, record_len, seal_break, seal_record, seal_successor, successor_at};
use fusevol_shared::ids::Seq;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::units::{AuSize, DiskAu, DiskNo, PAGE};
use fusevol_shared::wire::data::Claim;
use futures_util::future::join_all;

/// Durable on every leg, or the first disk that failed, and how.
pub(super) type Written = std::result::Result<(), (DiskNo, Error)>;

/// Writes the record `seq` at byte `pos` of the segment: one sequential write a leg.
pub(super) async fn append<D: Disk>(
    disks: &Disks<D>,
    size: AuSize,
    log: &LogId,
    legs: &[DiskAu],
    pos: u64,
    seq: Seq,
    batch: &[Old],
) -> Written {
    let kept: Vec<Kept> =
        batch.iter().map(|o| Kept { at: o.at, block: o.block, crc: fusevol_shared::format::preserve::checksum(&o.data) }).collect();
    let len = usize::try_from(record_len(size, u32::try_from(batch.len()).expect("at most 64"))).expect("within an AU");
    on_every_leg(disks, log.volume, size, legs, pos, |at| {
        let mut buf = IoBuf::zeroed(len);
        seal_record(log, at, seq, &kept, &mut buf);
        let mut to = PAGE;
        for o in batch {
            buf[to..to + o.data.len()].copy_from_slice(&o.data);
            to += o.data.len();
        }
        buf
    })
    .await
}

/// Writes the successor's page of the segment; `seq` is the number that the next record will have.
pub(super) async fn close<D: Disk>(disks: &Disks<D>, size: AuSize, log: &LogId, legs: &[DiskAu], seq: Seq, s: &Successor) -> Written {
    on_every_leg(disks, log.volume, size, legs, successor_at(size), |at| {
        let mut buf = IoBuf::zeroed(PAGE);
        seal_successor(log, at, seq, s, &mut buf);
        buf
    })
    .await
}

/// Writes the page that breaks the log, at the successor's place.
pub(super) async fn break_off<D: Disk>(disks: &Disks<D>, size: AuSize, log: &LogId, legs: &[DiskAu], seq: Seq) -> Written {
    on_every_leg(disks, log.volume, size, legs, successor_at(size), |at| {
        let mut buf = IoBuf::zeroed(PAGE);
        seal_break(log, at, seq, &mut buf);
        buf
    })
    .await
}

async fn on_every_leg<D: Disk>(
    disks: &Disks<D>,
    volume: VolumeId,
    size: AuSize,
    legs: &[DiskAu],
    pos: u64,
    lay: impl Fn(At) -> IoBuf,
) -> Written {
    let writes = legs.iter().map(|leg| {
        let lay = &lay;
        async move {
            let disk = disks.get(leg.disk).map_err(|e| (leg.disk, e))?;
            let off = leg.au.start(size).plus(pos);
            let data = lay(At { disk: disk.id(), off }).freeze();
            disk.write_durable(off, data, Claim::Segment { volume }).await.map_err(|e| (leg.disk, io_error(leg.disk, e)))
        }
    });
    join_all(writes).await.into_iter().collect()
}
