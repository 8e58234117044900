//! One preserve segment on one leg, as it stands.

use fusevol_shared::format::preserve::{
    At, Kept, LogId, NotPreserve, Successor, checksum, open_record, open_successor, record_len, room, successor_at,
};
use fusevol_shared::ids::Seq;
use fusevol_shared::units::AuSize;

/// A record that opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Byte of the segment at which it begins.
    pub pos: u64,
    /// Its number.
    pub seq: Seq,
    /// What it keeps.
    pub kept: Vec<Kept>,
    /// Which of its blocks do not match their checksums.
    pub bad: Vec<usize>,
}

/// A segment, walked to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Its records, consecutive.
    pub records: Vec<Record>,
    /// Why there is none after them; nothing where there is no room for one.
    pub end: Option<NotPreserve>,
    /// The segment that goes on, with the number of its first record.
    pub successor: Result<(Seq, Successor), NotPreserve>,
}

/// Walks the segment that `bytes` are and that begins at `at`.
#[must_use]
pub fn walk(bytes: &[u8], size: AuSize, log: &LogId, at: At) -> Walk {
    let place = |pos: u64| At { disk: at.disk, off: at.off.plus(pos) };
    let from = |pos: u64| usize::try_from(pos).ok().and_then(|p| bytes.get(p..)).unwrap_or_default();
    let successor = open_successor(from(successor_at(size)), log, place(successor_at(size)));
    let mut out = Walk { records: Vec::new(), end: None, successor };
    let mut pos = 0;
    while room(size, pos) > 0 {
        let (seq, kept) = match open_record(from(pos), log, place(pos)) {
            // Whole, but not the next one.
            Ok((seq, _)) if out.records.last().is_some_and(|r| seq != r.seq.next()) => {
                out.end = Some(NotPreserve::OtherLog);
                break;
            }
            Ok(record) => record,
            Err(why) => {
                out.end = Some(why);
                break;
            }
        };
        let count = u32::try_from(kept.len()).unwrap_or(u32::MAX);
        if count > room(size, pos) {
            out.end = Some(NotPreserve::Malformed);
            break;
        }
        let block_bytes = usize::try_from(size.block_bytes()).expect("a block has at most 1 MiB");
        let data = from(pos + record_len(size, 0));
        let wrong = |i: &usize| data.get(i * block_bytes..(i + 1) * block_bytes).is_none_or(|b| checksum(b) != kept[*i].crc);
        let bad = (0..kept.len()).filter(wrong).collect();
        out.records.push(Record { pos, seq, kept, bad });
        pos += record_len(size, count);
    }
    out
}

impl Walk {
    /// How many of its records count: what follows one shows that it was durable; the last of a segment without a successor is in doubt.
    #[must_use]
    pub fn counted(&self) -> usize {
        match &self.successor {
            Ok((_, s)) => usize::try_from(s.records).unwrap_or(usize::MAX),
            Err(_) => self.records.len().saturating_sub(1),
        }
    }

    /// What must not be: records that count and are not there or do not match, and a successor whose numbers do not follow.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let mut out = Vec::new();
        let counted = self.counted();
        if counted > self.records.len() {
            out.push(format!("{counted} records count, {} are there", self.records.len()));
        }
        for r in self.records.iter().take(counted).filter(|r| !r.bad.is_empty()) {
            out.push(format!("record {} counts, and {} of its {} blocks do not match their checksums", r.seq, r.bad.len(), r.kept.len()));
        }
        if let (Ok((next, _)), Some(last)) = (&self.successor, self.records.iter().take(counted).next_back())
            && *next != last.seq.next()
        {
            out.push(format!("the last record that counts is {}, the next segment goes on with {next}", last.seq));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::format::preserve::{seal_record, seal_successor};
    use fusevol_shared::ids::{DiskId, FenceToken, PoolId, SessionNo, VolumeEpoch, VolumeId};
    use fusevol_shared::units::{AuNo, DiskAu, DiskNo, DiskOff, PAGE};

    const SIZE: AuSize = AuSize::DEFAULT;

    fn log() -> LogId {
        let (pool, volume) = (PoolId([1; 16]), VolumeId([2; 16]));
        LogId { pool, volume, session: SessionNo(3), token: FenceToken(4), segment: 5, epoch: VolumeEpoch(6) }
    }

    fn start() -> At {
        At { disk: DiskId([7; 16]), off: DiskOff(40 << 20) }
    }

    /// A segment with records 11, 12, ... of two blocks each, and where each begins.
    fn segment(records: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; 1 << 20];
        let (mut pos, mut starts) = (0, vec![]);
        for n in 0..records {
            let block = vec![u8::try_from(n).expect("few"); 16 << 10];
            let at = DiskAu { disk: DiskNo(0), au: AuNo(50) };
            let kept = [3, 9].map(|b| Kept { at, block: b, crc: checksum(&block) });
            seal_record(&log(), At { off: start().off.plus(pos as u64), ..start() }, Seq(11 + n), &kept, &mut bytes[pos..]);
            bytes[pos + PAGE..][..16 << 10].copy_from_slice(&block);
            bytes[pos + PAGE + (16 << 10)..][..16 << 10].copy_from_slice(&block);
            starts.push(pos);
            pos += PAGE + (32 << 10);
        }
        (bytes, starts)
    }

    fn succeed(bytes: &mut [u8], records: u32, next: u64) {
        let at = usize::try_from(successor_at(SIZE)).expect("small");
        let legs = vec![DiskAu { disk: DiskNo(1), au: AuNo(44) }];
        let s = Successor { next: LogId { segment: 6, ..log() }, legs, records };
        seal_successor(&log(), At { off: start().off.plus(at as u64), ..start() }, Seq(next), &s, &mut bytes[at..]);
    }

    #[test]
    fn a_whole_segment_is_right() {
        let (mut bytes, _) = segment(3);
        let open = walk(&bytes, SIZE, &log(), start());
        assert_eq!((open.records.len(), open.counted(), open.wrong()), (3, 2, vec![]));
        succeed(&mut bytes, 3, 14);
        let closed = walk(&bytes, SIZE, &log(), start());
        assert_eq!((closed.counted(), closed.wrong()), (3, vec![]));
        succeed(&mut bytes, 2, 13);
        assert_eq!(walk(&bytes, SIZE, &log(), start()).wrong(), Vec::<String>::new(), "a failed record does not count");
    }

    #[test]
    fn what_counts_and_is_not_there_is_said() {
        let (mut bytes, starts) = segment(3);
        bytes[starts[2] + PAGE + 5] ^= 1;
        assert_eq!(walk(&bytes, SIZE, &log(), start()).wrong(), Vec::<String>::new(), "the last one may never have come to its end");
        bytes[starts[1] + PAGE + 5] ^= 1;
        assert!(walk(&bytes, SIZE, &log(), start()).wrong()[0].contains("record 12 counts"));
        succeed(&mut bytes, 3, 14);
        assert_eq!(walk(&bytes, SIZE, &log(), start()).wrong().len(), 2);
        bytes[starts[1]] ^= 1;
        assert!(walk(&bytes, SIZE, &log(), start()).wrong()[0].contains("3 records count, 1 are there"));
        let (mut bytes, _) = segment(3);
        succeed(&mut bytes, 3, 15);
        assert!(walk(&bytes, SIZE, &log(), start()).wrong()[0].contains("goes on with 15"));
    }
}
