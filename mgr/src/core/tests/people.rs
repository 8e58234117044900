//! Clients that do anything in any order, and know what they may still be reading.
//!
//! What a reader knows of places is kept here, apart from the core: from what it was answered and told, until it has answered. No
//! place may be handed out that somebody still knows (PROTOCOLS, R1).

use super::harness::*;
use super::slots::Slot;
use super::writer::{Writer, mask};
use crate::core::ConnId;
use fusevol_shared::change::Entry;
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::ids::{BootId, MapVersion, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::map::packed::PackedRun;
use fusevol_shared::map::{MapEntry, MapRun};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::{
    Ack, AttachRead, AttachWrite, CloseSnapshot, Detach, GetMap, GetSnapshotMap, Goodbye, Grant, Hold, MapPart, OpenSnapshot, Push,
    RemoveSnapshot, Renew, Reply,
};
use std::collections::{BTreeMap, BTreeSet};

pub const AUS: u32 = 24;

/// One volume as its writer has it, and what it asked and was not answered.
#[derive(Debug)]
struct Writing {
    own: Writer,
    asking: Option<Grant>,
}

/// One client process.
#[derive(Default, Debug)]
pub struct Person {
    pub key: u8,
    pub life: u8,
    pub conn: Option<ConnId>,
    pub session: Option<SessionNo>,
    pub slot: Option<Slot>,
    writing: BTreeMap<VolumeId, Writing>,
    /// With the version at which it was attached: what was told before is passed over.
    reading: BTreeMap<VolumeId, (MapVersion, BTreeMap<VolAu, DiskAu>)>,
    open: BTreeMap<SnapshotId, Vec<DiskAu>>,
}

/// The entries of a part of a map.
pub fn entries(runs: &[PackedRun]) -> Vec<(VolAu, MapEntry)> {
    let mut out = Vec::new();
    runs.iter().for_each(|r| r.each(u32::MAX, |au, e| out.push((au, e))).expect("fits"));
    out
}

fn places_of(runs: &[PackedRun]) -> Vec<(VolAu, DiskAu)> {
    entries(runs).into_iter().map(|(au, e)| (au, e.legs()[0].at)).collect()
}

fn places(runs: &[MapRun]) -> Vec<(VolAu, DiskAu)> {
    runs.iter().flat_map(|r| r.entries().expect("fits")).map(|(au, e)| (au, e.legs()[0].at)).collect()
}

impl Person {
    pub fn id(&self) -> u8 {
        self.key * 40 + self.life % 40
    }

    pub fn new(key: u8) -> Self {
        Self { key, ..Self::default() }
    }

    /// Half of the hosts are others than the manager's.
    pub fn boot(&self) -> BootId {
        if self.key > 2 { OTHER_BOOT } else { BOOT }
    }

    /// Places that it may still read or write.
    pub fn knows(&self) -> BTreeSet<DiskAu> {
        let read = self.reading.values().flat_map(|(_, m)| m.values().copied()).chain(self.open.values().flatten().copied());
        let written = self.writing.values().map(|x| &x.own).flat_map(|o| o.places.values().chain(o.reserve.iter().flatten()).copied());
        read.chain(written).collect()
    }

    /// The process is gone, with its last I/O.
    pub fn die(&mut self) {
        *self = Self { key: self.key, life: self.life + 1, ..Self::default() };
    }

    /// Connects, and opens or resumes its session; sends again what was not answered.
    pub fn come(&mut self, w: &mut World) {
        let conn = w.connect(self.key);
        let resume = self.session.is_some();
        match w.hello(conn, self.id(), self.boot(), resume) {
            Ok(welcome) => {
                self.session = Some(welcome.session);
                self.slot.get_or_insert_with(|| Slot::of(&welcome));
                self.conn = Some(conn);
            }
            Err(_) => {
                w.disconnect(conn);
                self.die();
                return;
            }
        }
        for x in self.writing.values_mut() {
            x.own.conn = conn;
            if let Some(m) = x.asking.take() {
                Self::grant(w, &mut x.own, m);
            }
        }
    }

    pub fn leave(&mut self, w: &mut World) {
        if let Some(c) = self.conn.take() {
            w.disconnect(c);
        }
    }

    fn grant(w: &mut World, own: &mut Writer, m: Grant) {
        let Ok(granted) = w.ask(own.conn, m.clone()) else { return };
        own.grants += 1;
        own.reserve.extend(granted.places.iter().flat_map(fusevol_shared::change::Places::each));
        // The same again changes nothing.
        if w.number().is_multiple_of(3) {
            let log = w.log.len();
            assert_eq!(w.ok(own.conn, m), granted);
            assert_eq!(w.log.len(), log, "granted twice");
        }
    }

    /// An append of a few entries.
    fn append(w: &mut World, r: &mut SeededRandom, own: &mut Writer) {
        let mut entries = Vec::new();
        let mut plan = own.clone();
        for _ in 0..=r.below(3) {
            let au = u32::try_from(r.below(u64::from(AUS))).expect("small");
            let bound = plan.map.contains_key(&VolAu(au));
            let entry = match r.below(9) {
                0..4 if !bound && !plan.reserve.is_empty() => plan.bound([au]),
                0..4 if bound => Entry::Written { masks: vec![mask(au, r.next_u64())] },
                4 | 5 if bound => Entry::Discarded { cleared: vec![mask(au, u64::MAX)] },
                6 if bound => Entry::Discarded { cleared: vec![mask(au, r.next_u64())] },
                7 => Entry::Marked { epoch: plan.epoch, regions: vec![VolAu(au).region()] },
                8 if r.below(8) == 0 && !plan.reserve.is_empty() => Entry::Segment(plan.next_segment()),
                8 if r.below(30) == 0 => Entry::Broken { epoch: VolumeEpoch(plan.epoch.0 - 1) },
                _ => Entry::Cleared { epoch: plan.epoch, regions: vec![VolAu(au).region()], changed: vec![mask(au, 1)] },
            };
            plan.foresee(&entry);
            entries.push(entry);
        }
        (own.reserve, own.next_segment) = (plan.reserve, plan.next_segment);
        own.append(w, entries);
    }

    /// Does something with a volume that it writes.
    fn write(&mut self, w: &mut World, r: &mut SeededRandom, v: VolumeId) {
        let Some(x) = self.writing.get_mut(&v) else { return };
        match r.below(12) {
            0..5 => Self::append(w, r, &mut x.own),
            5..8 => {
                let again = x.own.fold_request();
                let done = x.own.try_fold(w).is_ok();
                if let Some(m) = again.filter(|_| done && r.below(3) == 0) {
                    let log = w.log.len();
                    w.ok(x.own.conn, m);
                    assert_eq!(w.log.len(), log, "folded twice");
                }
            }
            8 | 9 if x.own.reserve.len() < 8 => {
                let m = x.own.grant_request(u32::try_from(1 + r.below(6)).expect("small"));
                Self::grant(w, &mut x.own, m);
            }
            10 if r.below(4) == 0 => {
                let keep = usize::try_from(r.below(4)).expect("small");
                let back = x.own.reserve.iter().skip(keep).cloned().collect::<Vec<_>>();
                let back = fusevol_shared::change::Places::join(back.iter().map(Vec::as_slice));
                if w.ask(x.own.conn, Grant { back, ..x.own.grant_request(0) }).is_ok() {
                    x.own.grants += 1;
                    x.own.reserve.truncate(keep);
                }
            }
            11 if r.below(10) == 0 => _ = x.own.replace_journal(w),
            _ => {}
        }
    }

    /// Does something.
    pub fn act(&mut self, w: &mut World, r: &mut SeededRandom, volumes: &[VolumeId], snapshots: &[SnapshotId]) {
        let Some(conn) = self.conn else { return self.come(w) };
        let pick = |r: &mut SeededRandom, n: usize| usize::try_from(r.below(n.max(1) as u64)).expect("small");
        let v = volumes[pick(r, volumes.len())];
        let s = snapshots.get(pick(r, snapshots.len())).copied();
        match r.below(40) {
            0..4 => {
                if w.ask(conn, Renew {}).is_err() {
                    self.leave(w);
                }
            }
            4 if r.below(4) == 0 => self.leave(w),
            4 if r.below(8) == 0 => {
                self.leave(w);
                self.die();
            }
            5 if r.below(6) == 0 => {
                w.send(conn, Goodbye {});
                self.leave(w);
                self.die();
            }
            6 if !self.reading.contains_key(&v) && !self.writing.contains_key(&v) => {
                if let Some(Ok(Reply::Attached(a))) = w.send(conn, AttachWrite { volume: v }).1 {
                    let own = Writer::new(w, conn, v, &a);
                    self.writing.insert(v, Writing { own, asking: None });
                }
            }
            7 if !self.writing.contains_key(&v) && w.shadow.attachment_of(v, self.session.expect("opened")).is_none() => {
                // Where the writer may be dead the answer comes later, and this one does not wait for it.
                if let Some(Ok(Reply::Attached(a))) = w.send(conn, AttachRead { volume: v }).1 {
                    let MapPart { runs, .. } = w.ok(conn, GetMap { volume: v, from: VolAu(0) });
                    self.reading.insert(v, (a.version, places_of(&runs).into_iter().collect()));
                }
            }
            8 if r.below(3) == 0 => {
                let folded = self.writing.get_mut(&v).is_none_or(|x| x.own.try_fold(w).is_ok());
                if folded && w.ask(conn, Detach { volume: v }).is_ok() {
                    self.writing.remove(&v);
                    self.reading.remove(&v);
                }
            }
            9 if r.below(2) == 0 => _ = w.snapshot(conn, v, u8::try_from(100 + r.below(40)).expect("small")),
            10 => {
                if let Some(s) = s {
                    _ = w.ask(conn, RemoveSnapshot { snapshot: s });
                }
            }
            11 => {
                if let Some(s) = s.filter(|s| w.ask(conn, OpenSnapshot { snapshot: *s }).is_ok()) {
                    let m = w.ok(conn, GetSnapshotMap { snapshot: s, from: VolAu(0) });
                    self.open.insert(s, places_of(&m.runs).into_iter().map(|(_, p)| p).collect());
                }
            }
            12 => {
                if let Some(s) = s.filter(|s| w.ask(conn, CloseSnapshot { snapshot: *s }).is_ok()) {
                    self.open.remove(&s);
                }
            }
            13..17 => self.hear(w, r),
            _ => {
                let own: Vec<VolumeId> = self.writing.keys().copied().collect();
                if !own.is_empty() {
                    let at = own[pick(r, own.len())];
                    self.write(w, r, at);
                }
            }
        }
    }

    /// Asks something that the manager never made durable: it is asked again later.
    pub fn lose(&mut self, w: &mut World, r: &mut SeededRandom, volumes: &[VolumeId]) {
        let v = volumes[usize::try_from(r.below(volumes.len() as u64)).expect("small")];
        let (Some(conn), Some(x)) = (self.conn, self.writing.get_mut(&v)) else { return };
        let log = w.log.len();
        if let Some(m) = x.own.fold_request().filter(|_| r.below(2) == 0) {
            w.send(conn, m);
        } else {
            let m = x.own.grant_request(3);
            w.send(conn, m.clone());
            x.asking = Some(m);
        }
        w.log.truncate(log);
    }

    /// Answers one push.
    fn hear(&mut self, w: &mut World, r: &mut SeededRandom) {
        let Some(conn) = self.conn else { return };
        let Some(heard) = w.heard.get(&conn).filter(|h| !h.is_empty()) else { return };
        let n = usize::try_from(r.below(heard.len() as u64)).expect("small");
        let (push, body) = heard[n].clone();
        let ack = match &body {
            Push::MapChanged(m) => {
                if let Some((_, map)) = self.reading.get_mut(&m.volume).filter(|(v, _)| m.version >= *v) {
                    m.unmapped.iter().for_each(|au| _ = map.remove(au));
                    map.extend(places(&m.runs));
                }
                Ack::Done
            }
            Push::MoveSlot(m) => {
                self.slot.iter_mut().for_each(|s| s.hear(m));
                Ack::Done
            }
            Push::Hold(h) => self.flip(w, h),
            Push::Recall(m) => {
                let folded = self.writing.get_mut(&m.volume).is_none_or(|x| x.own.try_fold(w).is_ok());
                if folded {
                    self.reading.remove(&m.volume);
                    self.writing.remove(&m.volume);
                }
                if folded { Ack::Done } else { failed() }
            }
            _ => Ack::Done,
        };
        w.ack(conn, push, ack);
    }

    fn flip(&mut self, w: &mut World, h: &Hold) -> Ack {
        let Some(own) = self.writing.get_mut(&h.volume).map(|x| &mut x.own) else { return failed() };
        if own.reserve.is_empty() || h.epoch <= own.epoch || own.token != h.token {
            return failed();
        }
        let e = own.flip(w, h.epoch);
        let seq = own.append(w, vec![e]).seq;
        Ack::Held { seq, held_us: 1 }
    }
}

fn failed() -> Ack {
    Ack::Failed(WireError { kind: Kind::Io, message: "no".into(), hint: String::new() })
}
