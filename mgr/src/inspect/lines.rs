//! What stands on the disks, one line for each block, record or page, for people: where, its number, what it says; or why it says nothing.
//!
//! What was never written has no line.

use super::preserve::walk;
use crate::catalog::Catalog;
use crate::catalog::record::Record;
use crate::session_io::SessionIo;
use crate::store::unpack;
use fusevol_shared::change::{Append, Entry};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::catalog::{self, BlockHead, BlockPlace, Role};
use fusevol_shared::format::envelope::{self, BlockKind, Flaw, Place};
use fusevol_shared::format::journal::{JournalId, NotJournal, read_half};
use fusevol_shared::format::label::{DiskLabel, LabelFlaw};
use fusevol_shared::format::layout::{LABEL_1, Layout, OWNER_SLOTS, SESSION_SLOTS, SLOT_BYTES, last_label_candidates, owner_at, seal_at};
use fusevol_shared::format::owner::{OwnerRecord, Seal};
use fusevol_shared::format::preserve::{At, LogId, NotPreserve};
use fusevol_shared::format::slot::{Heartbeat, SlotAt, SlotSeal};
use fusevol_shared::ids::{Generation, PoolId, Seq, SessionNo, VolumeId};
use fusevol_shared::units::{DiskOff, PAGE, PAGE_U64};
use serde::Serialize;

#[cfg(test)]
mod tests;

/// Pages of a catalog area, or slots, read at once.
const BATCH: u64 = 128;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Line {
    /// The disk: its number, or where that is not known its path.
    pub disk: String,
    /// Byte on the disk.
    pub at: u64,
    /// Its number, where it is whole.
    pub seq: Option<u64>,
    /// What it says, or why it says nothing.
    pub says: String,
    /// It should be whole and is not.
    pub damaged: bool,
}

impl Line {
    fn whole(disk: impl ToString, at: DiskOff, seq: Seq, says: impl Into<String>) -> Self {
        Self { disk: disk.to_string(), at: at.0, seq: Some(seq.0), says: says.into(), damaged: false }
    }

    fn damaged(disk: impl ToString, at: DiskOff, why: impl ToString) -> Self {
        Self { disk: disk.to_string(), at: at.0, seq: None, says: why.to_string(), damaged: true }
    }

    fn note(disk: impl ToString, at: DiskOff, says: impl Into<String>) -> Self {
        Self { disk: disk.to_string(), at: at.0, seq: None, says: says.into(), damaged: false }
    }
}

/// A pool's disks, to be printed.
pub struct Dumper<'a, D> {
    /// The pool.
    pub pool: PoolId,
    /// Its disks.
    pub io: SessionIo<'a, D>,
    /// Of this volume only.
    pub only: Option<VolumeId>,
}

/// The copies of the label on a disk, whosoever it is; `name` is what the lines call it.
///
/// # Errors
/// `Io`.
pub async fn labels<D: Disk>(name: &str, disk: &D) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for at in [DiskOff(0), LABEL_1].into_iter().chain(last_label_candidates(disk.size())) {
        if at.0 + PAGE_U64 > disk.size() {
            continue;
        }
        let (result, page) = disk.read(at, IoBuf::zeroed(PAGE)).await;
        result.map_err(|e| Error::new(Kind::Io, name).because(e))?;
        match DiskLabel::decode(&page, at) {
            Ok(l) => lines.push(Line::whole(name, at, l.seq, label_says(&l))),
            // The third may lie at several places, where data lies otherwise.
            Err(LabelFlaw::Block(Flaw::NotOurs | Flaw::Kind(_))) if at > LABEL_1 => {}
            Err(LabelFlaw::Block(Flaw::NotOurs)) => lines.push(Line::damaged(name, at, "no label")),
            Err(e) => lines.push(Line::damaged(name, at, e)),
        }
    }
    Ok(lines)
}

fn label_says(l: &DiskLabel) -> String {
    let set: Vec<String> = l.set.iter().map(|c| c.no.to_string()).collect();
    let quarantine = l
        .pointer
        .quarantine
        .iter()
        .enumerate()
        .filter_map(|(area, q)| Some(format!(", area {area} not drained by generation {}", q.as_ref()?.generation)));
    format!(
        "disk {} ({}) of pool {} ({}), {:?}, generation {}, writer {:?}, AUs {} of {}, catalog on {} in area {} from {}{}",
        l.no,
        l.disk,
        l.pool_name,
        l.pool,
        l.state,
        l.generation,
        l.writer,
        l.aus,
        l.au_size.bytes(),
        set.join(" "),
        l.pointer.area,
        l.pointer.first_seq,
        quarantine.collect::<String>()
    )
}

impl<D: Disk> Dumper<'_, D> {
    /// The owner tables.
    ///
    /// # Errors
    /// `Io`.
    pub async fn owners(&self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for (no, id, _) in self.io.disks() {
            for entry in 0..OWNER_SLOTS {
                let at = owner_at(Generation(entry));
                let page = self.io.read(*no, at, PAGE).await?;
                match OwnerRecord::decode(&page, self.pool, *id, entry) {
                    Ok(o) => lines.push(Line::whole(no, at, o.beat, owner_says(&o))),
                    Err(Flaw::NotOurs) => {}
                    Err(e) => lines.push(Line::damaged(no, at, e)),
                }
                let at = seal_at(Generation(entry));
                let page = self.io.read(*no, at, PAGE).await?;
                match Seal::decode(&page, self.pool, *id, entry) {
                    Ok(s) => {
                        let by = s.by.map_or_else(|| "clear".to_owned(), |by| format!("sealed by generation {by}"));
                        let says = format!("SEAL of generation {}, instance {:?}: {by}", s.generation, s.instance);
                        lines.push(Line::whole(no, at, Seq(1 + u64::from(s.by.is_some())), says));
                    }
                    Err(Flaw::NotOurs) => {}
                    Err(e) => lines.push(Line::damaged(no, at, e)),
                }
            }
        }
        Ok(lines)
    }

    /// The catalog's log on each of its copies that are here, as this label points to it.
    ///
    /// # Errors
    /// `Io`.
    pub async fn catalog(&self, label: &DiskLabel) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for copy in &label.set {
            let Some((no, id, disk)) = self.io.disks().iter().find(|(_, id, _)| *id == copy.disk) else {
                lines.push(Line::damaged(copy.no, DiskOff(0), "this copy is not here"));
                continue;
            };
            let layout = Layout::for_disk(self.io.au_size(), disk.size())?;
            let Some(area) = layout.area(label.pointer.area) else { continue };
            let mut walk = CatalogWalk { no: no.to_string(), unit: None, gap: None, lines: Vec::new() };
            let mut at = 0;
            while at < layout.area_pages() && !walk.ended() {
                let count = BATCH.min(layout.area_pages() - at);
                let bytes =
                    self.io.read(*no, area.plus(at * PAGE_U64), usize::try_from(count * PAGE_U64).expect("a batch is small")).await?;
                for (i, page) in (at..).zip(bytes.chunks_exact(PAGE)) {
                    let place = BlockPlace {
                        pool: self.pool,
                        disk: *id,
                        at: area.plus(i * PAGE_U64),
                        generation: label.generation,
                        seq: Seq(label.pointer.first_seq.0 + i),
                    };
                    walk.page(page, &place);
                }
                at += count;
            }
            lines.append(&mut walk.lines);
        }
        Ok(lines)
    }

    /// The slots of sessions.
    ///
    /// # Errors
    /// `Io`.
    pub async fn slots(&self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for (no, id, disk) in self.io.disks() {
            let layout = Layout::for_disk(self.io.au_size(), disk.size())?;
            for first in (0..u64::from(SESSION_SLOTS)).step_by(usize::try_from(BATCH).expect("small")) {
                let number = |i: u64| SessionNo(u32::try_from(i).expect("a slot's number"));
                let start = layout.slot(number(first));
                let bytes = self.io.read(*no, start, usize::try_from(BATCH * SLOT_BYTES).expect("small")).await?;
                for (i, pair) in (first..).zip(bytes.chunks_exact(2 * PAGE)) {
                    let at = SlotAt::new(self.pool, *id, &layout, number(i));
                    match Heartbeat::decode(&pair[..PAGE], at) {
                        Ok(b) => lines.push(Line::whole(no, at.off, b.beat, format!("heartbeat of session {} ({})", b.session, b.id))),
                        Err(Flaw::NotOurs) => {}
                        Err(e) => lines.push(Line::damaged(no, at.off, e)),
                    }
                    match SlotSeal::decode(&pair[PAGE..], at) {
                        Ok(s) => {
                            let word = if s.sealed { "sealed" } else { "clear" };
                            let says = format!("SEAL of session {} ({}): {word}, by generation {}", s.session, s.id, s.generation);
                            lines.push(Line::whole(no, at.seal(), Seq(1 + u64::from(s.sealed)), says));
                        }
                        Err(Flaw::NotOurs) => {}
                        Err(e) => lines.push(Line::damaged(no, at.seal(), e)),
                    }
                }
            }
        }
        Ok(lines)
    }

    /// The journals of those who write, by the catalog.
    ///
    /// # Errors
    /// `Io`.
    pub async fn journals(&self, catalog: &Catalog) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        let wanted = |v: VolumeId| self.only.is_none_or(|only| only == v);
        for a in catalog.attachments().filter(|a| wanted(a.volume)) {
            let Some(journal) = &a.journal else { continue };
            let id = JournalId { pool: self.pool, volume: a.volume, session: a.session, token: a.token, journal: journal.no };
            let name = catalog.volume(a.volume).map_or_else(|| a.volume.to_string(), |v| v.entry.name.to_string());
            for copy in &journal.copies {
                for (n, place) in copy.halves().into_iter().enumerate() {
                    let (bytes, at) = self.io.read_au(place).await?;
                    let what = format!("journal {} of '{name}', session {}, half {n}", journal.no, a.session);
                    half(&bytes, &id, at, n, &place.disk.to_string(), &what, &mut lines);
                }
            }
        }
        Ok(lines)
    }

    /// The preserve segments that the catalog knows.
    ///
    /// # Errors
    /// `Io`.
    pub async fn segments(&self, catalog: &Catalog) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for v in catalog.volumes().filter(|v| self.only.is_none_or(|only| only == v.entry.id)) {
            for s in v.segments.values() {
                let log = LogId { pool: self.pool, volume: v.entry.id, session: s.session, token: s.token, segment: s.no, epoch: s.epoch };
                for leg in &s.legs {
                    let (bytes, at) = self.io.read_au(*leg).await?;
                    let what = format!("segment {} of '{}', epoch {}, session {}", s.no, v.entry.name, s.epoch, s.session);
                    self.segment(&bytes, &log, at, &leg.disk.to_string(), &what, &mut lines);
                }
            }
        }
        Ok(lines)
    }

    fn segment(&self, bytes: &[u8], log: &LogId, at: At, disk: &str, what: &str, lines: &mut Vec<Line>) {
        let seen = walk(bytes, self.io.au_size(), log, at);
        let counted = seen.counted();
        for (i, r) in seen.records.iter().enumerate() {
            let blocks: Vec<String> = r.kept.iter().map(|k| format!("{}/{}/{}", k.at.disk, k.at.au, k.block)).collect();
            let counts = if i < counted { "counts" } else { "in doubt" };
            let mut line = Line::whole(disk, at.off.plus(r.pos), r.seq, format!("{what}: record, {counts}, keeps {}", blocks.join(" ")));
            if !r.bad.is_empty() {
                line.damaged = i < counted;
                line.says += &format!("; {} blocks do not match their checksums", r.bad.len());
            }
            lines.push(line);
        }
        match seen.end {
            None | Some(NotPreserve::Envelope(Flaw::NotOurs) | NotPreserve::OtherLog) if !seen.records.is_empty() => {}
            None => {}
            Some(why) => lines.push(Line::note(disk, at.off, format!("{what}: {} records, then {why}", seen.records.len()))),
        }
        let successor = at.off.plus(fusevol_shared::format::preserve::successor_at(self.io.au_size()));
        match seen.successor {
            Ok((seq, s)) => {
                let legs: Vec<String> = s.legs.iter().map(|l| format!("{}/{}", l.disk, l.au)).collect();
                let says = format!("{what}: {} records count, goes on in segment {} at {}", s.records, s.next.segment, legs.join(" "));
                lines.push(Line::whole(disk, successor, seq, says));
            }
            Err(NotPreserve::Envelope(Flaw::Checksum)) => {
                lines.push(Line::damaged(disk, successor, format!("{what}: successor: wrong checksum")))
            }
            Err(_) => {}
        }
    }
}

fn owner_says(o: &OwnerRecord) -> String {
    format!(
        "generation {}, instance {:?}, {:?}, on {} (process {}, boot {}), area {}, lease {} ms",
        o.generation,
        o.instance,
        o.state,
        o.host,
        o.pid,
        o.boot,
        o.area,
        o.lease.as_millis()
    )
}

/// The walk over one copy of the catalog's area.
struct CatalogWalk {
    no: String,
    /// The unit that is not whole yet, where it began, and its bytes so far.
    unit: Option<(BlockHead, DiskOff, Seq, Vec<u8>)>,
    /// Pages that are none of this log, since the last that was.
    gap: Option<(DiskOff, Flaw, u64)>,
    lines: Vec<Line>,
}

impl CatalogWalk {
    /// More than a unit of pages without a block: nothing follows.
    fn ended(&self) -> bool {
        self.gap.is_some_and(|(.., pages)| pages > 2048)
    }

    fn page(&mut self, page: &[u8], place: &BlockPlace) {
        match catalog::decode(page, place) {
            Ok((head, bytes)) => {
                if let Some((at, flaw, pages)) = self.gap.take() {
                    self.lines.push(Line::damaged(&self.no, at, format!("{pages} pages, of which the first is: {flaw}")));
                }
                self.block(head, place, bytes);
            }
            Err(flaw) => {
                self.unit = None;
                let gap = self.gap.get_or_insert((place.at, flaw, 0));
                gap.2 += 1;
            }
        }
    }

    fn block(&mut self, head: BlockHead, place: &BlockPlace, bytes: &[u8]) {
        if head.part == 0 {
            self.unit = Some((head, place.at, place.seq, Vec::new()));
        }
        let Some((first, at, seq, mut sofar)) = self.unit.take().filter(|(h, ..)| h.unit == head.unit && h.parts == head.parts) else {
            return self.lines.push(Line::damaged(
                &self.no,
                place.at,
                format!("block {} of unit {}, whose beginning is not there", head.part, head.unit),
            ));
        };
        sofar.extend_from_slice(bytes);
        if head.part + 1 < head.parts {
            self.unit = Some((first, at, seq, sofar));
            return;
        }
        let role = match head.role {
            Role::Piece => "checkpoint",
            Role::LastPiece => "last of the checkpoint",
            Role::Transaction => "transaction",
        };
        let mut records: Vec<Record> = Vec::new();
        match unpack(&sofar, &mut records) {
            Ok(()) => {
                self.lines.push(Line::whole(
                    &self.no,
                    at,
                    seq,
                    format!("unit {}, {role}: {} blocks, {} records", head.unit, head.parts, records.len()),
                ));
                self.lines.extend(records.iter().map(|r| Line::whole(&self.no, at, seq, format!("  {r:?}"))));
            }
            Err(e) => self.lines.push(Line::damaged(&self.no, at, format!("unit {}, {role}: {e}", head.unit))),
        }
    }
}

/// One half of a journal.
fn half(bytes: &[u8], id: &JournalId, at: At, n: usize, disk: &str, what: &str, lines: &mut Vec<Line>) {
    let half = match read_half(bytes, id, at, n) {
        Ok(half) => half,
        Err(NotJournal::Envelope(Flaw::NotOurs) | NotJournal::OtherJournal) => {
            return lines.push(Line::note(disk, at.off, format!("{what}: not begun")));
        }
        Err(why) => return lines.push(Line::damaged(disk, at.off, format!("{what}: {why}"))),
    };
    let frame = |pos: usize| {
        let place = Place { kind: BlockKind::Journal, pool: Some(id.pool), disk: Some(at.disk), at: at.off.plus(pos as u64) };
        bytes.get(pos..).and_then(|b| envelope::open(b, &place).ok()).map_or(PAGE, |b| envelope::frame_len(b.payload.len()))
    };
    let s = &half.state;
    let last = Seq(s.folded.0 + s.appends.len() as u64);
    let says = format!(
        "{what}, turn {}: state in epoch {}, folded to {}, {} appends, {} dirty regions",
        half.turn,
        s.epoch,
        s.folded,
        s.appends.len(),
        s.dirty.len()
    );
    lines.push(Line::whole(disk, at.off, last, says));
    lines.extend(s.appends.iter().map(|a| Line::whole(disk, at.off, a.seq, format!("{what}: in the state: {}", append_says(a)))));
    let mut pos = frame(0);
    for a in &half.appended {
        lines.push(Line::whole(disk, at.off.plus(pos as u64), a.seq, format!("{what}: {}", append_says(a))));
        pos += frame(pos);
    }
    if half.damaged {
        lines.push(Line::damaged(disk, at.off.plus(half.end), format!("{what}: an append that counted is damaged")));
    }
}

fn append_says(a: &Append) -> String {
    let entry = |e: &Entry| match e {
        Entry::Bound { runs } => format!("bound {} AUs", runs.iter().map(|r| r.written.len()).sum::<usize>()),
        Entry::Written { masks } => format!("written in {} AUs", masks.len()),
        Entry::Discarded { cleared } => format!("discarded in {} AUs", cleared.len()),
        Entry::Segment(s) => format!("segment {}", s.no),
        Entry::Flipped { epoch, segment, dirty } => format!("flipped to epoch {epoch}, segment {}, {} dirty", segment.no, dirty.len()),
        Entry::Moved { runs } => format!("moved {} AUs", runs.iter().map(|r| r.written.len()).sum::<usize>()),
        Entry::Placed { runs } => format!("copies of {} AUs", runs.iter().map(|r| u64::from(r.places.count)).sum::<u64>()),
        Entry::Returned { disk } => format!("disk {disk} is written again"),
        Entry::Late { places } => format!("{} places may be written late", places.len()),
        Entry::Broken { epoch } => format!("snapshots to epoch {epoch} are broken"),
        Entry::Marked { epoch, regions } => format!("marked {} regions in epoch {epoch}", regions.len()),
        Entry::Cleared { epoch, regions, changed } => {
            format!("cleared {} regions in epoch {epoch}, changes in {} AUs", regions.len(), changed.len())
        }
    };
    a.entries.iter().map(entry).collect::<Vec<_>>().join("; ")
}
