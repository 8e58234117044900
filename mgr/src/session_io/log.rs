//! The preserve logs of a volume, as a takeover reads them and carries them on (FORMAT.md, "The preserve log").
//!
//! A segment is read whole, from the leg that goes furthest. It is *open* while no page says that it is closed: its writer may still append there. The last
//! record of an open segment counts only where all its bytes match; any other that does not match is damaged, and nothing is concluded from it.

use super::SessionIo;
use crate::core::errand::{KeptBlock, Laid, LogEnd};
use fusevol_shared::change::Segment;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::preserve::{
    At, Kept, LogId, Successor, checksum, is_break, open_record, open_successor, record_len, room, seal_record, seal_successor,
    successor_at,
};
use fusevol_shared::ids::{FenceToken, Seq, VolumeId};
use fusevol_shared::units::{DiskAu, PAGE};
use futures_util::future::join_all;
use std::cell::Cell;
use std::collections::BTreeSet;

/// What one leg of a segment says.
pub(super) struct LegRead {
    /// Its records, each with the byte at which it begins, and whether all its bytes match.
    pub(super) records: Vec<(Seq, u64, Vec<Kept>, bool)>,
    /// A page says how many of them count, or that the log ends here.
    pub(super) closed: bool,
    /// How many count, where that is said.
    counts: Option<u32>,
    /// The segment that goes on, where that is said.
    next: Option<u32>,
}

impl LegRead {
    /// How much of it is whole.
    pub(super) fn worth(&self) -> (usize, usize) {
        (self.records.iter().filter(|r| r.3).count(), self.records.len())
    }
}

pub(super) fn log_id<D: Disk>(io: &SessionIo<'_, D>, volume: VolumeId, s: &Segment) -> LogId {
    LogId { pool: io.pool, volume, session: s.session, token: s.token, segment: s.no, epoch: s.epoch }
}

impl<D: Disk> SessionIo<'_, D> {
    /// Which segments of this attachment are open; and what stands in those, and in any of these places.
    ///
    /// # Errors
    /// `Io` where a segment can be read on no leg, `Damaged` where a record that counts is not whole on any.
    pub async fn read_log(&self, volume: VolumeId, token: FenceToken, segments: &[Segment], places: &BTreeSet<DiskAu>) -> Result<LogEnd> {
        let mut end = LogEnd::default();
        let mut named = BTreeSet::new();
        for s in segments {
            let read = self.read_segment(volume, s).await.map_err(|e| e.within(format_args!("preserve segment {}", s.no)))?;
            let open = !read.closed && s.token == token;
            named.extend(read.next);
            if open {
                end.ended.push(s.no);
            }
            let last = read.records.len();
            for (n, (seq, pos, kept, whole)) in (1..).zip(read.records) {
                let wanted: Vec<(u32, &Kept)> = (0..).zip(&kept).filter(|(_, k)| open || places.contains(&k.at)).collect();
                if !whole && !wanted.is_empty() {
                    if n == last && !read.closed || read.counts.is_some_and(|counts| n > counts as usize) {
                        continue; // it never came to its end: nothing was overwritten
                    }
                    let e = Error::new(Kind::Damaged, format!("record {n} of preserve segment {} is damaged on every leg", s.no));
                    return Err(e.hint("remove the snapshots that need it: `fusevol-mgr snapshot ls`"));
                }
                end.blocks.extend(wanted.into_iter().map(|(i, k)| KeptBlock {
                    epoch: s.epoch,
                    segment: s.no,
                    seq,
                    legs: s.legs.clone(),
                    pos: pos + record_len(self.au_size, i),
                    at: k.at,
                    block: k.block,
                    crc: k.crc,
                }));
            }
        }
        end.ended.sort_unstable();
        end.named = end.ended.iter().copied().filter(|no| named.contains(no)).collect();
        Ok(end)
    }

    /// The best that any leg says.
    pub(super) async fn read_segment(&self, volume: VolumeId, s: &Segment) -> Result<LegRead> {
        let log = log_id(self, volume, s);
        let (mut best, mut failed): (Option<LegRead>, _) = (None, Error::new(Kind::Io, "it has no leg"));
        let (mut closed, mut next) = (false, None);
        for leg in &s.legs {
            match self.read_au(*leg).await {
                Ok((bytes, at)) => {
                    let read = self.leg_of(&bytes, &log, at);
                    (closed, next) = (closed | read.closed, next.or(read.next));
                    if best.as_ref().is_none_or(|b| read.worth() > b.worth()) {
                        best = Some(read);
                    }
                }
                Err(e) => failed = e,
            }
        }
        let mut best = best.ok_or(failed)?;
        (best.closed, best.next) = (closed, next);
        if best.counts.is_some_and(|n| best.records.len() < n as usize) {
            return Err(Error::new(Kind::Damaged, "records that were written are gone"));
        }
        Ok(best)
    }

    pub(super) fn leg_of(&self, bytes: &IoBuf, log: &LogId, at: At) -> LegRead {
        let n = |x: u64| usize::try_from(x).expect("within an AU");
        let place = |pos: u64| At { disk: at.disk, off: at.off.plus(pos) };
        let end = successor_at(self.au_size);
        let successor = open_successor(&bytes[n(end)..], log, place(end)).ok().map(|(_, s)| s);
        let closed = successor.is_some() || is_break(&bytes[n(end)..], log, place(end));
        let (mut records, mut pos, mut last) = (Vec::new(), 0, None::<Seq>);
        while room(self.au_size, pos) > 0 {
            let Ok((seq, kept)) = open_record(&bytes[n(pos)..], log, place(pos)) else { break };
            if last.is_some_and(|l| l.next() != seq) {
                break;
            }
            let block = |i: u32| {
                let from = n(pos + record_len(self.au_size, i));
                bytes.get(from..from + n(self.au_size.block_bytes()))
            };
            let whole = (0..).zip(&kept).all(|(i, k)| block(i).is_some_and(|b| checksum(b) == k.crc));
            let next = pos + record_len(self.au_size, u32::try_from(kept.len()).unwrap_or(u32::MAX));
            records.push((seq, pos, kept, whole));
            (pos, last) = (next, Some(seq));
        }
        let (counts, next) = (successor.as_ref().map(|s| s.records), successor.map(|s| s.next.segment));
        LegRead { records, closed, counts, next }
    }

    /// Lays a segment down, durable on every leg: one record of these blocks, or none, then the page that names the next one.
    ///
    /// # Errors
    /// `Io`; `Damaged` where a block is not any more what it was when the log was read.
    pub(super) async fn lay(&self, volume: VolumeId, laid: &Laid, late: &Cell<bool>) -> Result<()> {
        let block = usize::try_from(self.au_size.block_bytes()).expect("a block is at most 1 MiB");
        let mut data = Vec::with_capacity(laid.blocks.len() * block);
        let mut kept = Vec::with_capacity(laid.blocks.len());
        for (b, at) in &laid.blocks {
            data.extend_from_slice(&self.kept_bytes(b, block).await?);
            kept.push(Kept { at: *at, block: b.block, crc: b.crc });
        }
        let log = log_id(self, volume, &laid.segment);
        let records = u32::from(!kept.is_empty());
        let successor = laid.next.as_ref().map(|s| Successor { next: log_id(self, volume, s), legs: s.legs.clone(), records });
        let legs = laid.segment.legs.iter().map(|leg| self.lay_leg(*leg, &log, (&kept, &data), successor.as_ref(), late));
        join_all(legs).await.into_iter().collect()
    }

    async fn lay_leg(
        &self,
        leg: DiskAu,
        log: &LogId,
        (kept, data): (&[Kept], &[u8]),
        successor: Option<&Successor>,
        late: &Cell<bool>,
    ) -> Result<()> {
        let (_, id, _) = self.member(leg.disk)?;
        let start = leg.au.start(self.au_size);
        let mut record = IoBuf::zeroed(PAGE + data.len());
        if !kept.is_empty() {
            seal_record(log, At { disk: *id, off: start }, Seq(1), kept, &mut record);
        }
        record[PAGE..].copy_from_slice(data);
        let record = record.freeze();
        // What an earlier use left there in the successor's place does not open, and is overwritten all the same.
        let off = start.plus(successor_at(self.au_size));
        let mut page = IoBuf::zeroed(PAGE);
        if let Some(s) = successor {
            seal_successor(log, At { disk: *id, off }, Seq(1 + u64::from(s.records)), s, &mut page);
        }
        let page = page.freeze();
        self.put(leg.disk, late, async |d| d.write_durable(start, record).await).await?;
        self.put(leg.disk, late, async |d| d.write_durable(off, page).await).await
    }

    /// The bytes of a preserved block, from the first leg where they match.
    async fn kept_bytes(&self, b: &KeptBlock, len: usize) -> Result<IoBuf> {
        for leg in &b.legs {
            let read = self.read(leg.disk, leg.au.start(self.au_size).plus(b.pos), len).await;
            if let Ok(bytes) = read
                && checksum(&bytes) == b.crc
            {
                return Ok(bytes);
            }
        }
        Err(Error::new(Kind::Damaged, format!("a preserved block of {} cannot be read any more", b.at)))
    }
}
