//! Reads preserve logs from disk, beside their writers: a reader locks nothing and asks nobody.
//!
//! Each segment has a cursor: *open* (records may follow), then *closed* (its successor is known and all records that
//! count are read). [`LogReader::refresh`] goes on from each open cursor and follows successors. A segment that is seen
//! for the first time is read as a whole; after that only the page at the cursor is read.
//!
//! A record *counts* once a later one or the successor's page shows that it was durable before that one was written.
//! The last record of an open segment may be one that is being written now: its owner has not overwritten anything
//! then, so where its bytes do not match their checksum the live block is right. A record that counts and does not match
//! is damage, and an error.

use super::usable;
use crate::disks::{Disks, io_error};
use crate::out::OutSet;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::preserve::{
    At, Kept, LogId, Successor, checksum, is_break, open_record, open_successor, record_len, room, successor_at,
};
use fusevol_shared::ids::{PoolId, Seq, VolumeEpoch, VolumeId};
use fusevol_shared::units::{AuSize, DiskAu, PAGE};
use fusevol_shared::wire::data::Claim;
use fusevol_shared::wire::messages::Segment;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Most segments in one chain of successors that one refresh follows: more than any pool has AUs is a circle.
const CHAIN: usize = 1 << 20;

/// One preserved copy of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Copy {
    /// Its epoch, segment and record: the smallest wins.
    pub epoch: VolumeEpoch,
    /// See above.
    pub segment: u32,
    /// See above.
    pub seq: Seq,
    /// Byte of the segment at which it begins.
    pub pos: u64,
    /// Of its bytes.
    pub crc: u32,
}

#[derive(Clone)]
struct Cursor {
    log: LogId,
    legs: Vec<DiskAu>,
    pos: u64,
    /// Records read.
    records: u32,
    /// Number of the last one.
    last: Seq,
    /// Records with a number up to and with this one count.
    counted: Seq,
    fresh: bool,
    closed: bool,
    /// The log ends here for want of space: blocks were lost from then on.
    broken: bool,
}

/// The logs that hold blocks of one snapshot.
pub struct LogReader {
    pool: PoolId,
    volume: VolumeId,
    /// Of the snapshot: copies of earlier epochs are of no use to it.
    epoch: VolumeEpoch,
    size: AuSize,
    segments: BTreeMap<u32, Cursor>,
    copies: HashMap<(DiskAu, u32), Vec<Copy>>,
    /// Legs there are not read: they may miss records.
    out: Arc<OutSet>,
}

impl LogReader {
    /// A reader without any log.
    #[must_use]
    pub fn new(pool: PoolId, volume: VolumeId, epoch: VolumeEpoch, size: AuSize, out: Arc<OutSet>) -> Self {
        Self { pool, volume, epoch, size, segments: BTreeMap::new(), copies: HashMap::new(), out }
    }

    /// Looks into this segment, too, from the next refresh on.
    pub fn add(&mut self, s: &Segment) {
        let log = LogId { pool: self.pool, volume: self.volume, session: s.session, token: s.token, segment: s.no, epoch: s.epoch };
        self.add_cursor(log, s.legs.clone());
    }

    fn add_cursor(&mut self, log: LogId, legs: Vec<DiskAu>) {
        let cursor = Cursor { log, legs, pos: 0, records: 0, last: Seq(0), counted: Seq(0), fresh: true, closed: false, broken: false };
        self.segments.entry(log.segment).or_insert(cursor);
    }

    /// A segment may have other legs by now. Of one that is closed they all have the same content; of others the legs that are known are the ones.
    pub fn has_moved(&mut self, s: &Segment) {
        if let Some(c) = self.segments.get_mut(&s.no).filter(|c| c.closed && !s.legs.is_empty()) {
            c.legs.clone_from(&s.legs);
        }
    }

    /// The copies of a block, best first.
    #[must_use]
    pub fn copies(&self, at: DiskAu, block: u32) -> &[Copy] {
        self.copies.get(&(at, block)).map_or(&[], Vec::as_slice)
    }

    /// Every block that has a copy.
    pub fn blocks(&self) -> impl Iterator<Item = (DiskAu, u32)> + '_ {
        self.copies.keys().copied()
    }

    /// Whether blocks were lost that this snapshot needs.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.segments.values().any(|c| c.broken && c.log.epoch >= self.epoch)
    }

    /// Whether the bytes of this copy must match its checksum.
    #[must_use]
    pub fn counts(&self, c: &Copy) -> bool {
        self.segments.get(&c.segment).is_some_and(|s| c.seq <= s.counted)
    }

    /// Where its segment lies.
    #[must_use]
    pub fn legs(&self, c: &Copy) -> Vec<DiskAu> {
        self.segments.get(&c.segment).map_or(Vec::new(), |s| usable(&self.out, &s.legs))
    }

    /// Reads everything that was durable when this was called.
    ///
    /// # Errors
    /// `Io` where no leg of a segment could be read, `Damaged` where a record that counts is not there.
    pub async fn refresh<D: Disk>(&mut self, disks: &Disks<D>) -> Result<()> {
        // What was read of a leg that is out by now may miss records: from the others, from the start. (Those that are known stay known.)
        loop {
            let version = self.out.version();
            // For ever: what a leg has missed it misses, also when its disk is not out any more.
            self.segments.values_mut().for_each(|c| c.legs = usable(&self.out, &c.legs));
            self.refresh_once(disks).await?;
            if self.out.version() == version {
                return Ok(());
            }
            self.segments.values_mut().filter(|c| !c.closed).for_each(|c| (c.pos, c.records, c.last, c.fresh) = (0, 0, Seq(0), true));
        }
    }

    async fn refresh_once<D: Disk>(&mut self, disks: &Disks<D>) -> Result<()> {
        let mut todo: Vec<u32> = self.segments.iter().filter(|(_, c)| !c.closed).map(|(no, _)| *no).collect();
        for _ in 0..CHAIN {
            let Some(no) = todo.pop() else { return Ok(()) };
            if let Some(next) = self.advance(disks, no).await?
                && self.segments.get(&next).is_none_or(|c| !c.closed)
                && !todo.contains(&next)
            {
                todo.push(next);
            }
        }
        Err(Error::new(Kind::Damaged, "the preserve log goes round in a circle"))
    }

    /// Reads on in one segment; gives its successor once it is known.
    async fn advance<D: Disk>(&mut self, disks: &Disks<D>, no: u32) -> Result<Option<u32>> {
        // A copy, put back at the end: a refresh that is given up half-way forgets nothing.
        let Some(mut cursor) = self.segments.get(&no).cloned() else { return Ok(None) };
        let result = self.advance_cursor(disks, &mut cursor).await;
        self.segments.insert(no, cursor);
        let Some((log, legs)) = result? else { return Ok(None) };
        self.add_cursor(log, legs);
        Ok(Some(log.segment))
    }

    async fn advance_cursor<D: Disk>(&mut self, disks: &Disks<D>, c: &mut Cursor) -> Result<Option<(LogId, Vec<DiskAu>)>> {
        // The successor first: once it is there no record follows, so what the records' turn then finds is all.
        let legs = usable(&self.out, &c.legs);
        let successor = find(disks, c.log.volume, &legs, self.size, successor_at(self.size), |b, at| end_page(b, &c.log, at)).await?;
        let successor = match successor {
            Some(End::Break) => {
                (c.broken, c.closed) = (true, true);
                return Ok(None);
            }
            Some(End::Successor(seq, s)) => Some((seq, s)),
            None => None,
        };
        if std::mem::take(&mut c.fresh) {
            self.read_whole(disks, c).await?;
        }
        while room(self.size, c.pos) > 0 {
            let found = find(disks, c.log.volume, &legs, self.size, c.pos, |b, at| open_record(b, &c.log, at).ok()).await?;
            let Some((seq, kept)) = found.filter(|(seq, _)| follows(c, *seq)) else { break };
            self.take(c, seq, &kept);
        }
        let Some((seq, s)) = successor else { return Ok(None) };
        if c.records < s.records {
            let text = format!("segment {} of the preserve log has {} records, and {} were written", c.log.segment, c.records, s.records);
            return Err(Error::new(Kind::Damaged, text));
        }
        c.counted = Seq(seq.0.saturating_sub(1));
        c.closed = true;
        Ok(Some((s.next, s.legs)))
    }

    /// The first look at a segment: one read of all of it. Errors are left to the page-by-page way, which tries every leg.
    async fn read_whole<D: Disk>(&mut self, disks: &Disks<D>, c: &mut Cursor) -> Result<()> {
        let Some(leg) = usable(&self.out, &c.legs).first().copied() else {
            return Err(Error::new(Kind::Damaged, "a preserve segment without a leg"));
        };
        let Ok(disk) = disks.get(leg.disk) else { return Ok(()) };
        let start = leg.au.start(self.size);
        let buf = IoBuf::zeroed(usize::try_from(self.size.bytes()).expect("an AU is at most 64 MiB"));
        let (done, buf) = disk.read(start, buf, Claim::Segment { volume: c.log.volume }).await;
        if done.is_err() {
            return Ok(());
        }
        while room(self.size, c.pos) > 0 {
            let at = At { disk: disk.id(), off: start.plus(c.pos) };
            let from = usize::try_from(c.pos).expect("within an AU");
            match open_record(&buf[from..], &c.log, at) {
                Ok((seq, kept)) if follows(c, seq) => self.take(c, seq, &kept),
                _ => break,
            }
        }
        Ok(())
    }

    fn take(&mut self, c: &mut Cursor, seq: Seq, kept: &[Kept]) {
        let blocks = u32::try_from(kept.len()).unwrap_or(u32::MAX);
        if c.log.epoch >= self.epoch {
            for (i, k) in (0..).zip(kept) {
                let pos = c.pos + record_len(self.size, i);
                let copy = Copy { epoch: c.log.epoch, segment: c.log.segment, seq, pos, crc: k.crc };
                let list = self.copies.entry((k.at, k.block)).or_default();
                let place = list.partition_point(|o| *o < copy);
                if list.get(place) != Some(&copy) {
                    list.insert(place, copy);
                }
            }
        }
        c.counted = c.last; // all before this one
        c.last = seq;
        c.records += 1;
        c.pos += record_len(self.size, blocks);
    }
}

/// The first record of a segment has any number, each other the next one.
fn follows(c: &Cursor, seq: Seq) -> bool {
    c.records == 0 || seq == c.last.next()
}

/// What stands in the last page of a segment.
enum End {
    Successor(Seq, Successor),
    Break,
}

fn end_page(bytes: &[u8], log: &LogId, at: At) -> Option<End> {
    match open_successor(bytes, log, at) {
        Ok((seq, s)) => Some(End::Successor(seq, s)),
        Err(_) => is_break(bytes, log, at).then_some(End::Break),
    }
}

/// What `open` makes of the page at byte `pos` of the segment, on the first leg where it makes anything of it.
async fn find<D: Disk, T>(
    disks: &Disks<D>,
    volume: VolumeId,
    legs: &[DiskAu],
    size: AuSize,
    pos: u64,
    open: impl Fn(&[u8], At) -> Option<T>,
) -> Result<Option<T>> {
    let mut error = None;
    let mut answered = false;
    for leg in legs {
        let disk = match disks.get(leg.disk) {
            Ok(d) => d,
            Err(e) => {
                error = Some(e);
                continue;
            }
        };
        let off = leg.au.start(size).plus(pos);
        let (done, buf) = disk.read(off, IoBuf::zeroed(PAGE), Claim::Segment { volume }).await;
        match done {
            Ok(()) => answered = true,
            Err(e) => {
                error = Some(io_error(leg.disk, e));
                continue;
            }
        }
        if let Some(found) = open(&buf, At { disk: disk.id(), off }) {
            return Ok(Some(found));
        }
    }
    match error {
        Some(e) if !answered => Err(e.within("preserve log")),
        _ => Ok(None),
    }
}

/// The bytes of a copy, from the first leg whose bytes match; `None` where none does.
///
/// # Errors
/// `Io` where no leg could be read.
pub async fn read_copy<D: Disk>(disks: &Disks<D>, volume: VolumeId, size: AuSize, legs: &[DiskAu], c: &Copy) -> Result<Option<IoBuf>> {
    let mut error = None;
    for leg in legs {
        let disk = match disks.get(leg.disk) {
            Ok(d) => d,
            Err(e) => {
                error = Some(e);
                continue;
            }
        };
        let buf = IoBuf::zeroed(usize::try_from(size.block_bytes()).expect("a block is at most 1 MiB"));
        let (done, buf) = disk.read(leg.au.start(size).plus(c.pos), buf, Claim::Segment { volume }).await;
        match done {
            Ok(()) if checksum(&buf) == c.crc => return Ok(Some(buf)),
            Ok(()) => {}
            Err(e) => error = Some(io_error(leg.disk, e)),
        }
    }
    error.map_or(Ok(None), Err)
}
