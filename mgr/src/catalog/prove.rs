//! Everything that must hold of a catalog, proven from the state alone. Used by the offline check and after each step in tests.

use super::fits::{entry_fits, journal_fits, legs_fit};
use super::record::Mode;
use super::{Catalog, RESERVE_MAX};
use fusevol_shared::format::layout::SESSION_SLOTS;
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeId};
use fusevol_shared::map::{MapEntry, VolumeMap};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuNo, DiskAu, VolAu};
use std::collections::{BTreeMap, BTreeSet};

/// Something that must not be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// At one place of one volume only, under one name: its live map and its snapshots may share it.
    Volume(VolumeId, VolAu, DiskAu),
    Segment(VolumeId, u32),
    Husk(VolumeId, u32),
    Limbo(u64),
    Reserve(FenceToken),
    Journal(FenceToken),
    Quarantine(SessionNo),
    Copier,
    Taking(FenceToken),
    Kept(u64),
}

struct Proof<'a> {
    catalog: &'a Catalog,
    owners: BTreeMap<DiskAu, Owner>,
    /// The entry of each AU by its name.
    named: BTreeMap<(VolumeId, VolAu, DiskAu), MapEntry>,
    found: Vec<Violation>,
}

/// Everything that is wrong with a catalog; nothing where all is well.
#[must_use]
pub fn prove(catalog: &Catalog) -> Vec<Violation> {
    let mut p = Proof { catalog, owners: BTreeMap::new(), named: BTreeMap::new(), found: Vec::new() };
    p.maps();
    p.segments_and_limbo();
    p.writers();
    p.takeovers();
    p.epochs();
    p.space();
    p.names();
    p.references();
    p.counters();
    p.found
}

impl Proof<'_> {
    fn say(&mut self, text: impl Into<String>) {
        self.found.push(Violation(text.into()));
    }

    fn check(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.say(text());
        }
    }

    fn own(&mut self, at: DiskAu, owner: Owner) {
        let Some(disk) = self.catalog.disk(at.disk) else {
            return self.say(format!("{owner:?} names disk {}, which is not there", at.disk));
        };
        if !disk.space.holds(at.au) {
            self.say(format!("{owner:?} names AU {at}, outside the disk's data"));
        }
        match self.owners.insert(at, owner) {
            Some(other) if other != owner || !matches!(owner, Owner::Volume(..)) => {
                self.say(format!("AU {at} has two owners: {other:?} and {owner:?}"));
            }
            _ => {}
        }
    }

    fn map(&mut self, volume: VolumeId, legs: u8, size: u64, map: &VolumeMap) {
        let aus = self.catalog.au_size().aus_for(size).unwrap_or(0);
        let entries: Vec<_> = map.iter().collect();
        for (au, e) in entries {
            self.check(au.0 < aus, || format!("a map of volume {volume} goes beyond its end: AU {au}"));
            self.check(entry_fits(&e, legs), || format!("the replicas of AU {au} of volume {volume} do not fit it"));
            let alike = self.named.entry((volume, au, e.name())).or_insert(e).legs() == e.legs();
            self.check(alike, || format!("AU {au} of volume {volume} has other replicas in one map than in another"));
            for l in e.legs() {
                self.own(l.at, Owner::Volume(volume, au, e.name()));
            }
        }
    }

    fn maps(&mut self) {
        let catalog = self.catalog;
        for v in catalog.volumes.values() {
            self.map(v.entry.id, v.entry.legs, v.entry.size, &v.map);
            // Within one map an AU is named once: two AUs of the volume would be two owners.
        }
        for s in catalog.snapshots.values() {
            let Some(v) = catalog.volume(s.entry.volume) else {
                self.say(format!("snapshot {} is of no volume", s.entry.id));
                continue;
            };
            self.map(v.entry.id, v.entry.legs, s.entry.size, &s.map);
            self.check(s.entry.epoch < v.entry.epoch, || format!("snapshot {} is of an epoch that has not ended", s.entry.id));
        }
    }

    fn segments_and_limbo(&mut self) {
        let catalog = self.catalog;
        for v in catalog.volumes.values() {
            for (no, s) in &v.segments {
                let fits = s.no == *no && *no < v.entry.next_segment && legs_fit(&s.legs, v.entry.legs);
                self.check(fits, || format!("preserve segment {no} of volume {} does not fit it", v.entry.id));
                for at in &s.legs {
                    self.own(*at, Owner::Segment(v.entry.id, *no));
                }
            }
        }
        for v in catalog.volumes.values() {
            for (no, husks) in &v.husks {
                self.check(v.segments.contains_key(no), || format!("preserve segment {no} of volume {} is gone, its legs not", v.entry.id));
                husks.iter().for_each(|at| self.own(*at, Owner::Husk(v.entry.id, *no)));
            }
            let once = v.out.iter().collect::<BTreeSet<_>>().len() == v.out.len();
            let fits = once && v.out.iter().all(|d| catalog.disk(*d).is_some());
            self.check(fits, || format!("the disks that volume {} misses do not fit together", v.entry.id));
        }
        for (no, l) in &catalog.limbo {
            self.check(l.no == *no && !l.places.is_empty(), || format!("limbo {no} does not fit together"));
            for at in &l.places {
                self.own(*at, Owner::Limbo(*no));
            }
            self.check(l.waits.is_sorted_by(|a, b| a < b), || format!("limbo {no} waits in no order"));
            for s in &l.waits {
                self.check(catalog.holds(l.volume, *s), || format!("limbo {no} waits for session {s}, which holds nothing"));
            }
        }
    }

    /// What writers may still write.
    fn writers(&mut self) {
        let catalog = self.catalog;
        for a in catalog.attachments.values() {
            let journal = a.journal.as_ref();
            let fits = journal.is_some() == a.writes() && journal.is_none_or(journal_fits) && a.began <= a.folded;
            self.check(fits, || format!("the journal of attachment {} does not fit it", a.token));
            journal.iter().flat_map(|j| j.places()).for_each(|at| self.own(at, Owner::Journal(a.token)));
            let legs = catalog.volume(a.volume).map_or(0, |v| v.entry.legs);
            let fits =
                (a.writes() || a.reserve.is_empty()) && a.reserve.len() <= RESERVE_MAX && a.reserve.each().all(|l| legs_fit(l, legs));
            self.check(fits, || format!("the reserve of attachment {} does not fit it", a.token));
            a.reserve.places().for_each(|at| self.own(at, Owner::Reserve(a.token)));
        }
        for (at, session) in &catalog.late {
            let taken = catalog.disk(at.disk).is_some_and(|d| d.space.holds(at.au) && !d.space.is_free(at.au));
            self.check(taken && catalog.sessions.contains_key(session), || format!("{at} may be written late, but is free or by nobody"));
        }
        for (at, c) in &catalog.copying {
            let taken = catalog.disk(at.disk).is_some_and(|d| d.space.holds(at.au) && !d.space.is_free(at.au));
            self.check(taken, || format!("{at} may be written by the copier, but is free"));
            if c.target.is_none() {
                self.own(*at, Owner::Copier);
            }
        }
        for (no, q) in &catalog.quarantine {
            let fits = q.no == *no && catalog.sessions.contains_key(&q.session) && !q.places.is_empty();
            self.check(fits, || format!("quarantine {no} does not fit together"));
            q.places.iter().for_each(|at| self.own(*at, Owner::Quarantine(q.session)));
        }
    }

    /// What takeovers have, and what they left to readers.
    fn takeovers(&mut self) {
        let catalog = self.catalog;
        for (token, r) in &catalog.taking {
            let writes = catalog.attachment(*token).is_some_and(|a| a.writes());
            self.check(writes && !r.is_empty(), || format!("a takeover of attachment {token}, which is not there"));
            r.places().for_each(|at| self.own(at, Owner::Taking(*token)));
        }
        for a in catalog.attachments.values() {
            let aus = catalog.volume(a.volume).and_then(|v| catalog.au_size().aus_for(v.entry.size)).unwrap_or(0);
            let fits = a.fresh.aus().iter().all(|au| au.0 < aus);
            self.check(fits, || format!("attachment {} has bound AUs beyond its volume", a.token));
        }
        for (no, k) in &catalog.kept {
            let open = !k.opens.is_empty() && k.opens.iter().all(|o| catalog.opens.contains(o));
            self.check(open && k.freed.is_subset(&k.places), || format!("what open snapshots may read does not fit together: {no}"));
            k.freed.iter().for_each(|at| self.own(*at, Owner::Kept(*no)));
        }
    }

    /// Epochs of writers, of what changed, and of snapshots that are to be.
    fn epochs(&mut self) {
        let catalog = self.catalog;
        for a in catalog.attachments.values() {
            let behind = catalog.volume(a.volume).is_some_and(|v| a.flipped < v.entry.epoch);
            self.check(behind, || format!("attachment {} is ahead of its volume", a.token));
        }
        for v in catalog.volumes.values() {
            let snapshots = catalog.snapshots_of(v.entry.id);
            let aus = catalog.au_size().aus_for(v.entry.size).unwrap_or(0);
            for (epoch, masks) in &v.changed {
                let asked = snapshots.first().is_some_and(|s| s.entry.epoch < *epoch) && *epoch <= v.entry.epoch;
                let fits = asked && masks.keys().all(|au| au.0 < aus);
                self.check(fits, || format!("changes of epoch {epoch} of volume {} that nobody can ask for", v.entry.id));
            }
            if let Some(p) = &v.entry.pending {
                let ones = catalog.volumes.values().filter(|o| o.entry.pending.as_ref().is_some_and(|q| q.id == p.id)).count();
                let fits = ones == 1 && !catalog.snapshots.contains_key(&p.id) && snapshots.iter().all(|s| s.entry.name != p.name);
                self.check(fits, || format!("snapshot {} is to be taken and cannot be", p.id));
            }
        }
    }

    fn space(&mut self) {
        for d in self.catalog.disks.values() {
            let mut free = 0;
            for au in d.space.range() {
                let at = DiskAu { disk: d.entry.no, au: AuNo(au) };
                let is_free = d.space.is_free(AuNo(au));
                free += u32::from(is_free);
                match (self.owners.contains_key(&at), is_free) {
                    (true, true) => self.say(format!("AU {at} is in use and free")),
                    (false, false) => self.say(format!("AU {at} is lost: nobody has it, and it is not free")),
                    _ => {}
                }
            }
            self.check(free == d.space.free(), || format!("disk {} counts its free AUs wrongly", d.entry.no));
            self.check(d.entry.end_data.0 <= d.entry.aus, || format!("the data of disk {} goes beyond its end", d.entry.no));
        }
    }

    fn unique(&mut self, what: &str, names: impl Iterator<Item = String>) {
        let mut seen = BTreeSet::new();
        for n in names {
            self.check(Name::is_valid(n.rsplit('@').next().unwrap_or("")), || format!("{what} '{n}' has no valid name"));
            if !seen.insert(n.clone()) {
                self.say(format!("two {what}s are named '{n}'"));
            }
        }
    }

    fn names(&mut self) {
        let c = self.catalog;
        self.unique("volume", c.volumes.values().map(|v| v.entry.name.to_string()));
        self.unique("client", c.clients.values().map(|v| v.name.to_string()));
        self.unique("snapshot", c.snapshots.values().map(|s| format!("{}@{}", s.entry.volume, s.entry.name)));
        let keys: BTreeSet<_> = c.clients.values().map(|c| c.print).collect();
        self.check(keys.len() == c.clients.len(), || "two clients have one key".into());
        let epochs: BTreeSet<_> = c.snapshots.values().map(|s| (s.entry.volume, s.entry.epoch)).collect();
        self.check(epochs.len() == c.snapshots.len(), || "two snapshots of a volume have one epoch".into());
    }

    fn references(&mut self) {
        let c = self.catalog;
        for ((v, k), r) in &c.access {
            let fits = c.volumes.contains_key(v) && c.clients.contains_key(k) && !r.is_empty();
            self.check(fits, || format!("access of client {k} to volume {v} is of, or to, nothing"));
        }
        for s in c.sessions.values() {
            self.check(c.clients.contains_key(&s.client), || format!("session {} is of no client", s.no));
            self.check(c.slots_fit(&s.slots), || format!("the slot of session {} lies on no disk", s.no));
        }
        let slots: BTreeSet<_> = c.sessions.keys().map(|no| no.0 % SESSION_SLOTS).collect();
        self.check(slots.len() == c.sessions.len(), || "two sessions have one slot".into());
        let mut writers = BTreeSet::new();
        let mut pairs = BTreeSet::new();
        for (t, a) in &c.attachments {
            let fits = a.token == *t && c.volumes.contains_key(&a.volume) && c.sessions.contains_key(&a.session);
            self.check(fits, || format!("attachment {t} is of nothing"));
            self.check(a.mode == Mode::Read || writers.insert(a.volume), || format!("volume {} has two writers", a.volume));
            self.check(pairs.insert((a.volume, a.session)), || format!("session {} has volume {} twice", a.session, a.volume));
        }
        for (id, s) in &c.opens {
            let fits = c.snapshots.contains_key(id) && c.sessions.contains_key(s);
            self.check(fits, || format!("snapshot {id} is open by session {s}, one of which is not there"));
        }
    }

    fn counters(&mut self) {
        let c = self.catalog;
        let fits = c.sessions.keys().all(|n| *n < c.counters.session)
            && c.attachments.keys().all(|t| *t < c.counters.token)
            && c.limbo.keys().all(|n| *n < c.counters.limbo)
            && c.quarantine.keys().all(|n| *n < c.counters.quarantine);
        self.check(fits, || "a number is handed out that is to be handed out next".into());
    }
}
