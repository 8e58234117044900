//! What sessions that have a volume attached are told of its map, and what waits in limbo until they have answered.
//!
//! One `MapChanged` a session and volume is under way; what changes meanwhile is gathered and told next. A push that leaves
//! nothing untold covers every limbo entry that was there when it was made: its answer says that no read under an older map is in
//! flight. After a restart it is not known what a session was told: it is told everything that it might have (a *sweep*).

use super::Core;
use super::mail::AUS_PER_LETTER;
use crate::catalog::Attachment;
use crate::catalog::record::{Mode, Record};
use fusevol_shared::ids::{SessionNo, VolumeId};
use fusevol_shared::map::{MapEntry, MapRun, VolumeMap};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{MapChanged, Push};
use std::collections::BTreeSet;

/// Most AUs in one push.
const AUS_PER_PUSH: usize = 4096;
/// More than so many changed AUs are told by a sweep.
const DIRTY_MAX: usize = 65_536;

/// What a session must be told of a volume.
#[derive(Default, Debug)]
pub(super) struct Reader {
    /// Changed since it was told.
    dirty: BTreeSet<VolAu>,
    /// Everything from here on is to be told.
    sweep: Option<VolAu>,
    /// Something in limbo waits for it.
    asked: bool,
    /// Under way: the push, and the number below which its answer covers limbo.
    sent: Option<(u64, u64)>,
}

impl Reader {
    /// One of which it is not known what it was told: everything is told again, before anything that it answers counts.
    pub fn unknown(mode: Mode, asked: bool) -> Self {
        Self { sweep: (mode == Mode::Read).then_some(VolAu(0)), asked, ..Self::default() }
    }

    fn dirtied(&mut self, aus: impl IntoIterator<Item = VolAu>) {
        self.dirty.extend(aus);
        if self.dirty.len() > DIRTY_MAX {
            self.dirty.clear();
            self.sweep = Some(VolAu(0));
        }
    }

    /// What is under way does not count as told; gives the push.
    pub fn untell(&mut self) -> Option<u64> {
        self.asked = true;
        self.sent.take().map(|(push, _)| push)
    }

    /// These are told again.
    pub fn again(&mut self, aus: impl IntoIterator<Item = VolAu>) {
        self.dirty.extend(aus);
    }
}

/// Entries as runs.
pub(super) fn runs_of(entries: impl IntoIterator<Item = (VolAu, MapEntry)>) -> Vec<MapRun> {
    let mut map = VolumeMap::default();
    entries.into_iter().for_each(|(au, e)| map.set(au, Some(e)));
    map.runs(VolAu(0), usize::MAX).0
}

impl Core {
    /// A session reads snapshots of a volume, and the volume itself no more.
    pub(super) fn reads_frozen_only(&mut self, no: SessionNo, volume: VolumeId) {
        if let Some(l) = self.lives.get_mut(&no) {
            l.recalled.remove(&volume);
        }
        self.unpush(no, |p| matches!(p, Push::Recall(m) if m.volume == volume) || matches!(p, Push::Hold(m) if m.volume == volume));
    }

    /// AUs of a volume have other places, in the snapshots that share them too: those who read only snapshots are told as well.
    pub(super) fn places_changed(&mut self, volume: VolumeId, aus: &BTreeSet<VolAu>) {
        for s in self.catalog.frozen_readers(volume) {
            if let Some(life) = self.lives.get_mut(&s) {
                life.readers.entry(volume).or_default().dirtied(aus.iter().copied());
            }
        }
    }

    /// AUs of a volume changed; `but` made the change and knows.
    pub(super) fn map_changed(&mut self, volume: VolumeId, but: Option<SessionNo>, aus: impl IntoIterator<Item = VolAu> + Clone) {
        let readers: Vec<_> =
            self.catalog.attached(volume).filter(|a| a.mode == Mode::Read && Some(a.session) != but).map(|a| a.session).collect();
        for s in readers {
            let Some(life) = self.lives.get_mut(&s) else { continue };
            life.readers.entry(volume).or_default().dirtied(aus.clone());
        }
    }

    /// Sessions that may still use AUs of a volume that leave its maps now: its readers. The session that asks has drained.
    pub(super) fn users(&self, volume: VolumeId, but: Option<SessionNo>) -> Vec<SessionNo> {
        if !holds(Tag::R1) {
            return Vec::new();
        }
        let uses = |a: &&Attachment| Some(a.session) != but && a.mode == Mode::Read;
        let users: BTreeSet<_> = self.catalog.attached(volume).filter(uses).map(|a| a.session).collect();
        users.into_iter().collect()
    }

    /// The same where AUs of its snapshots get other places, too: all who read.
    pub(super) fn all_users(&self, volume: VolumeId, but: Option<SessionNo>) -> Vec<SessionNo> {
        if !holds(Tag::R1) {
            return Vec::new();
        }
        let all: BTreeSet<_> = self.users(volume, but).into_iter().chain(self.catalog.frozen_readers(volume)).collect();
        all.into_iter().collect()
    }

    /// Something went to limbo: those who are waited for are asked.
    pub(super) fn limbo_entered(&mut self, volume: VolumeId, waits: &[SessionNo]) {
        self.limbo_moved = true;
        for s in waits {
            if let Some(l) = self.lives.get_mut(s) {
                l.readers.entry(volume).or_default().asked = true;
            }
        }
    }

    /// Sends what is to be told.
    pub(super) fn tell_readers(&mut self) {
        let due: Vec<(SessionNo, VolumeId)> = self
            .lives
            .iter()
            .filter(|(_, l)| !l.readers.is_empty() && !l.is_sealed() && !l.is_ending())
            .map(|(no, l)| (no, l, l.conn.is_some() && !l.lapsed))
            // Who is silent is told through the disks, where something waits for it.
            .filter(|(no, _, heard)| *heard || self.is_silent(**no))
            .flat_map(|(no, l, heard)| l.readers.iter().map(move |(v, r)| (*no, *v, r, heard)))
            .filter(|(_, _, r, heard)| r.sent.is_none() && (r.asked || *heard && (r.sweep.is_some() || !r.dirty.is_empty())))
            .map(|(no, v, ..)| (no, v))
            .collect();
        for (no, volume) in due {
            self.tell_reader(no, volume);
        }
    }

    fn tell_reader(&mut self, no: SessionNo, id: VolumeId) {
        let most = if self.is_silent(no) { AUS_PER_LETTER } else { AUS_PER_PUSH };
        let Some(volume) = self.catalog.volume(id) else { return };
        let Some(r) = self.lives.get_mut(&no).and_then(|l| l.readers.get_mut(&id)) else { return };
        let aus: Vec<VolAu> = match r.sweep {
            Some(from) => {
                let part = sweep(&self.catalog, id, from);
                r.sweep = part.get(most).copied();
                part.into_iter().take(most).collect()
            }
            None => {
                let part: Vec<VolAu> = r.dirty.iter().take(most).copied().collect();
                part.iter().for_each(|au| _ = r.dirty.remove(au));
                part
            }
        };
        let all = r.sweep.is_none() && r.dirty.is_empty();
        let covers = if all { self.catalog.counters().limbo } else { 0 };
        r.asked &= !all;
        // A writer knows its map better, and is asked only to drain what it reads of snapshots.
        let writes = self.catalog.attachment_of(id, no).is_some_and(Attachment::writes);
        let aus = if writes { Vec::new() } else { aus };
        // What its snapshots have at another place than the live map comes first: the last word on an AU is the live map's.
        let open = self.catalog.snapshots_of(id).into_iter().filter(|s| self.catalog.is_open(s.entry.id, no));
        let mut runs: Vec<MapRun> = open
            .flat_map(|s| {
                let alone = |au: VolAu| s.map.get(au).filter(|e| volume.map.get(au).is_none_or(|l| l.name() != e.name()));
                runs_of(aus.iter().filter_map(|au| Some((*au, alone(*au)?))))
            })
            .collect();
        runs.extend(runs_of(aus.iter().filter_map(|au| Some((*au, volume.map.get(*au)?)))));
        let unmapped = aus.iter().copied().filter(|au| volume.map.get(*au).is_none()).collect();
        let body = MapChanged { volume: id, version: volume.entry.version, runs, unmapped };
        let push = self.push(no, Push::MapChanged(body));
        if let (Some(push), Some(r)) = (push, self.lives.get_mut(&no).and_then(|l| l.readers.get_mut(&id))) {
            r.sent = Some((push, covers));
        }
    }

    /// A session has no read under an older map in flight.
    pub(super) fn reader_answered(&mut self, no: SessionNo, volume: VolumeId, push: u64) {
        let Some(r) = self.lives.get_mut(&no).and_then(|l| l.readers.get_mut(&volume)) else { return };
        let Some((_, covers)) = r.sent.take_if(|(p, _)| *p == push) else { return };
        let answered: Vec<u64> = self
            .catalog
            .limbo()
            .filter(|l| l.no < covers && l.volume == volume && l.waits.binary_search(&no).is_ok())
            .map(|l| l.no)
            .collect();
        self.limbo_moved |= !answered.is_empty();
        for limbo in answered {
            self.commit_or_tell(Record::LimboAnswered { no: limbo, session: no });
        }
    }

    /// A session has given a volume back: it is told nothing more of it.
    pub(super) fn reader_gone(&mut self, no: SessionNo, volume: VolumeId) {
        if let Some(l) = self.lives.get_mut(&no) {
            l.readers.remove(&volume);
            l.recalled.remove(&volume);
        }
        self.unpush(no, |p| matches!(p, Push::MapChanged(m) if m.volume == volume));
        self.unpush(no, |p| matches!(p, Push::Recall(m) if m.volume == volume));
        self.unpush(no, |p| matches!(p, Push::Hold(m) if m.volume == volume));
    }
}

/// AUs from `from` on that a session may know of: those of the live map, of the snapshots' maps, and what waits in limbo; one more than a push takes.
fn sweep(catalog: &crate::catalog::Catalog, id: VolumeId, from: VolAu) -> Vec<VolAu> {
    let most = AUS_PER_PUSH + 1;
    let mut aus: BTreeSet<VolAu> = BTreeSet::new();
    if let Some(v) = catalog.volume(id) {
        aus.extend(v.map.iter_from(from).take(most).map(|(au, _)| au));
    }
    for s in catalog.snapshots_of(id) {
        aus.extend(s.map.iter_from(from).take(most).map(|(au, _)| au));
    }
    aus.extend(catalog.limbo().filter(|l| l.volume == id).flat_map(|l| l.aus.iter().copied()).filter(|au| *au >= from));
    aus.into_iter().take(most).collect()
}
