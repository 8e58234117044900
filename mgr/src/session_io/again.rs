//! A preserve segment in which nobody writes any more, copied to one more place (`core::segments`).
//!
//! Its pages name their own place, so they are sealed anew; the numbers of its records, and the blocks, stay what they are. It is copied from the leg that
//! goes furthest. Crash analysis: the place is the manager's copier's until the catalog has it as a leg, which is after all of it is durable.

use super::SessionIo;
use super::log::log_id;
use crate::core::{LayEnd, LayJob};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::{Answer, Disk, DiskError};
use fusevol_shared::format::preserve::{
    At, LogId, is_break, open_record, open_successor, record_len, seal_break, seal_record, seal_successor, successor_at,
};
use fusevol_shared::ids::Seq;
use fusevol_shared::units::{DiskAu, PAGE};

/// A leg that was read, and how far it goes.
struct Source {
    bytes: IoBuf,
    at: At,
    /// Each record: where it begins, and its last block ends.
    records: Vec<(usize, usize)>,
    last: Seq,
    closed: bool,
    worth: (usize, usize),
}

impl<D: Disk> SessionIo<'_, D> {
    /// Copies a segment; durable when it is said to be done.
    pub async fn lay_again(&self, job: &LayJob) -> LayEnd {
        let log = log_id(self, job.volume, &job.segment);
        let source = match self.best(&log, &job.from).await {
            Ok(source) => source,
            Err(why) => return LayEnd::Unreadable { why },
        };
        if !source.closed && !job.over {
            return LayEnd::Open;
        }
        let failed = |e: &DiskError| LayEnd::Failed { why: e.to_string(), late: e.answer == Answer::NotReturned };
        let (id, disk) = match self.member(job.to.disk) {
            Ok((_, id, disk)) => (*id, disk),
            Err(e) => return LayEnd::Failed { why: e.to_string(), late: false },
        };
        let start = job.to.au.start(self.au_size);
        let (records, page) = moved(&log, &source, At { disk: id, off: start }, self.n(successor_at(self.au_size)));
        if let Err(e) = disk.write_durable(start, records.freeze()).await {
            return failed(&e);
        }
        match disk.write_durable(start.plus(successor_at(self.au_size)), page.freeze()).await {
            Ok(()) => LayEnd::Done,
            Err(e) => failed(&e),
        }
    }

    fn n(&self, x: u64) -> usize {
        usize::try_from(x).expect("within an AU")
    }

    /// The leg that goes furthest; any of them may say that the segment is closed, as a page that is there on one is a page that was written.
    async fn best(&self, log: &LogId, legs: &[DiskAu]) -> Result<Source, String> {
        let (mut best, mut why) = (None::<Source>, "it has no leg".to_owned());
        for leg in legs {
            let (bytes, at) = match self.read_au(*leg).await {
                Ok(read) => read,
                Err(e) => {
                    why = e.to_string();
                    continue;
                }
            };
            let read = self.leg_of(&bytes, log, at);
            let end = |pos: u64, blocks: usize| self.n(pos + record_len(self.au_size, u32::try_from(blocks).unwrap_or(u32::MAX)));
            let records = read.records.iter().map(|(_, pos, kept, _)| (self.n(*pos), end(*pos, kept.len()))).collect();
            let last = read.records.last().map_or(Seq(0), |r| r.0);
            let source = Source { bytes, at, records, last, closed: read.closed, worth: (usize::from(read.closed), read.worth().0) };
            if best.as_ref().is_none_or(|b| source.worth > b.worth) {
                best = Some(source);
            }
        }
        best.ok_or(why)
    }
}

/// The records, and the last page, as they are to stand at `to`; without records one empty page, which opens as none.
fn moved(log: &LogId, source: &Source, to: At, end: usize) -> (IoBuf, IoBuf) {
    let at = |base: At, pos: usize| At { disk: base.disk, off: base.off.plus(pos as u64) };
    let len = source.records.last().map_or(PAGE, |(_, end)| *end);
    let mut records = IoBuf::zeroed(len);
    for (pos, to_pos) in &source.records {
        records[*pos..*to_pos].copy_from_slice(&source.bytes[*pos..*to_pos]);
        if let Ok((seq, kept)) = open_record(&source.bytes[*pos..], log, at(source.at, *pos)) {
            seal_record(log, at(to, *pos), seq, &kept, &mut records[*pos..*pos + PAGE]);
        }
    }
    let mut page = IoBuf::zeroed(PAGE);
    let (old, place) = (&source.bytes[end..], at(source.at, end));
    if let Ok((seq, successor)) = open_successor(old, log, place) {
        seal_successor(log, at(to, end), seq, &successor, &mut page);
    } else if is_break(old, log, place) {
        seal_break(log, at(to, end), source.last.next(), &mut page);
    }
    (records, page)
}

#[cfg(test)]
mod tests;
