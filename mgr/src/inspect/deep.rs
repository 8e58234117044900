//! What the catalog says of the parts that sessions write themselves, against what stands on the disks:
//!
//! - every journal of a write attachment is read to its end, and folded into a copy of the catalog, which is proven again;
//! - every preserve segment is walked on each of its legs; what counts must be there, and the segment that goes on must be the catalog's;
//! - the slots and SEALs of the sessions.
//!
//! A session that goes on while it is looked at changes its journal and log under the eyes: what is wrong is looked at twice.

use super::preserve::{Walk, walk};
use crate::catalog::record::{Record, SessionEntry};
use crate::catalog::{Attachment, Catalog, Volume, prove};
use crate::core::JournalRef;
use crate::session_io::{JournalRead, SessionIo, SlotOf};
use fusevol_shared::change::{Append, Segment};
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::preserve::LogId;
use fusevol_shared::format::slot::majority;
use fusevol_shared::ids::PoolId;
use fusevol_shared::wire::messages::SlotDisk;
use serde::Serialize;
use std::collections::BTreeSet;

#[cfg(test)]
mod tests;

/// Looks before something counts as wrong.
const LOOKS: u32 = 2;

/// What was found.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Findings {
    /// Sessions.
    pub sessions: usize,
    /// Journals, of write attachments.
    pub journals: usize,
    /// Appends in them that are not folded.
    pub unfolded: usize,
    /// AUs that are granted and not bound, the unfolded appends considered.
    pub reserve_aus: usize,
    /// AUs that wait until a session is proven drained.
    pub quarantine_aus: usize,
    /// Preserve segments.
    pub segments: usize,
    /// Records in them that count.
    pub preserved_records: usize,
    /// Copies that are damaged or cannot be read, though others serve.
    pub flaws: Vec<String>,
    /// What must not be.
    pub violations: Vec<String>,
    /// What is worth knowing, and is as it should be.
    pub notes: Vec<String>,
}

/// Looks at everything that the sessions of this catalog write.
pub async fn look<D: Disk>(catalog: &Catalog, pool: PoolId, io: &SessionIo<'_, D>) -> Findings {
    let mut found = Findings { sessions: catalog.sessions().count(), ..Findings::default() };
    for s in catalog.sessions() {
        slot(s, io, &mut found).await;
    }
    let mut replayed = catalog.clone();
    for a in catalog.attachments().filter(|a| a.writes()) {
        journal(a, io, &mut replayed, &mut found).await;
    }
    if found.unfolded > 0 {
        found.notes.push(format!("{} appends of {} journals are not folded yet", found.unfolded, found.journals));
        found.violations.extend(prove(&replayed).into_iter().map(|v| format!("once the journals are folded: {}", v.0)));
    }
    found.reserve_aus = replayed.attachments().map(|a| a.reserve.len()).sum();
    found.quarantine_aus = replayed.quarantine().map(|q| q.places.len()).sum();
    if found.quarantine_aus > 0 {
        found.notes.push(format!("{} AUs wait in quarantine until their sessions are proven drained", found.quarantine_aus));
    }
    for volume in replayed.volumes() {
        for s in volume.segments.values() {
            let attached = replayed.attachment(s.token).is_some();
            segment((volume, attached), s, pool, io, &mut found).await;
        }
    }
    found
}

/// Reads the SEAL and the heartbeat of a session.
async fn slot<D: Disk>(s: &SessionEntry, io: &SessionIo<'_, D>, found: &mut Findings) {
    let mut clear = BTreeSet::new();
    for no in &s.slots.disks() {
        let opened = s.slots.each().find(|p| p.disk == *no).map_or(s.generation, |p| p.opened);
        match io.read_seal(*no, s.no).await {
            Err(e) => found.flaws.push(e.within(format_args!("the slot of session {}", s.no)).to_string()),
            Ok(Ok(seal)) if seal.is_clear_for(s.no, s.id, opened) => _ = clear.insert(*no),
            // The manager seals first and writes it down then; and opens a slot after it has written that down.
            Ok(said) if !s.sealed => {
                let said = said.map_or_else(
                    |flaw| flaw,
                    |seal| {
                        if seal.sealed {
                            "sealed".into()
                        } else {
                            format!("clear for session {} of generation {}", seal.session, seal.generation)
                        }
                    },
                );
                found.notes.push(format!("session {} cannot go on: its SEAL on disk {no} says: {said}", s.no));
            }
            Ok(_) => {}
        }
    }
    let goes_on = |set: &[SlotDisk]| !set.is_empty() && set.iter().filter(|p| clear.contains(&p.disk)).count() >= majority(set.len());
    if s.sealed && (goes_on(&s.slots.now) || goes_on(&s.slots.next)) {
        found.violations.push(format!("session {} is sealed by the catalog, and could go on by the SEAL on its slot disks", s.no));
    }
    let slots = s.slots.disks();
    if io.read_slot(SlotOf { session: s.no, id: s.id, slots: &slots }).await.is_none() && !slots.is_empty() {
        found.notes.push(format!("session {} has no heartbeat on its slot disks", s.no));
    }
}

fn reference(a: &Attachment) -> Option<JournalRef> {
    Some(JournalRef { volume: a.volume, session: a.session, token: a.token, journal: a.journal.clone()?, without: Vec::new() })
}

/// Reads a journal and folds it.
async fn journal<D: Disk>(a: &Attachment, io: &SessionIo<'_, D>, replayed: &mut Catalog, found: &mut Findings) {
    let name = replayed.volume(a.volume).map_or_else(|| a.volume.to_string(), |v| v.entry.name.to_string());
    let what = format!("the journal of session {} on volume '{name}'", a.session);
    let Some(journal) = reference(a) else {
        return found.violations.push(format!("{what}: it has none"));
    };
    found.journals += 1;
    let mut ended = Err(Error::new(Kind::Internal, "not read"));
    for _ in 0..LOOKS {
        ended = io.read_journal(&journal).await.and_then(|read| new_appends(a, &read).map(|new| (read.flaws, new)));
        if ended.is_ok() {
            break;
        }
    }
    match ended {
        Err(e) => found.violations.push(format!("{what}: {e}")),
        Ok((flaws, new)) => {
            found.flaws.extend(flaws.into_iter().map(|f| format!("{what}: {f}")));
            found.unfolded += new.len();
            if let Err(e) = fold(replayed, a, new) {
                found.violations.push(format!("{what}: it does not fit the catalog: {e}"));
            }
        }
    }
}

/// What a journal says above what is folded.
fn new_appends(a: &Attachment, read: &JournalRead) -> Result<Vec<Append>> {
    let damaged = |what: String| Err(Error::new(Kind::Damaged, what));
    let tail = &read.tail;
    if !read.begun {
        return if a.folded == a.began {
            Ok(Vec::new())
        } else {
            damaged(format!("{} appends are folded, and nothing of it is there", a.folded))
        };
    }
    if tail.last < a.folded {
        return damaged(format!("it ends with append {}, {} is folded", tail.last, a.folded));
    }
    let new: Vec<Append> = tail.appends.iter().filter(|x| x.seq > a.folded).cloned().collect();
    if new.iter().map(|x| x.seq.0).ne(a.folded.0 + 1..=tail.last.0) {
        return damaged(format!("appends are missing between {}, which is folded, and {}", a.folded, tail.last));
    }
    Ok(new)
}

fn fold(catalog: &mut Catalog, a: &Attachment, appends: Vec<Append>) -> Result<()> {
    if appends.is_empty() {
        return Ok(());
    }
    let limbo = catalog.counters().limbo;
    catalog.apply(&Record::Folded { token: a.token, prev: a.folded, appends, limbo, waits: Vec::new() })
}

/// Walks a preserve segment on each of its legs; `attached`: its writer has the volume still.
async fn segment<D: Disk>((volume, attached): (&Volume, bool), s: &Segment, pool: PoolId, io: &SessionIo<'_, D>, found: &mut Findings) {
    found.segments += 1;
    let what = format!("preserve segment {} of volume '{}'", s.no, volume.entry.name);
    let log = LogId { pool, volume: volume.entry.id, session: s.session, token: s.token, segment: s.no, epoch: s.epoch };
    let (mut counted, mut good, mut wrong) = (0, 0, Vec::new());
    for leg in &s.legs {
        let mut said = Vec::new();
        for _ in 0..LOOKS {
            match io.read_au(*leg).await {
                Err(e) => said = vec![e.to_string()],
                Ok((bytes, at)) => {
                    let seen = walk(&bytes, io.au_size(), &log, at);
                    counted = counted.max(seen.counted().min(seen.records.len()));
                    said = seen.wrong();
                    said.extend(goes_on(volume, attached, &seen));
                }
            }
            if said.is_empty() {
                break;
            }
        }
        good += usize::from(said.is_empty());
        wrong.extend(said.into_iter().map(|w| format!("{what}, disk {}: {w}", leg.disk)));
    }
    found.preserved_records += counted;
    // A reader takes the leg that is right.
    if good > 0 { found.flaws.extend(wrong) } else { found.violations.extend(wrong) }
}

/// What is wrong with the segment that goes on. A takeover lays it down elsewhere, and cannot say so where another names it: the catalog's place counts.
fn goes_on(volume: &Volume, attached: bool, seen: &Walk) -> Option<String> {
    let Ok((_, next)) = &seen.successor else { return None };
    match volume.segments.get(&next.next.segment) {
        None => Some(format!("segment {} goes on, of which neither catalog nor journal know", next.next.segment)),
        Some(s) if attached && s.legs != next.legs || s.epoch != next.next.epoch => {
            Some(format!("segment {} goes on, of which the catalog says another place or epoch", s.no))
        }
        Some(_) => None,
    }
}
