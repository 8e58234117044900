//! Clients that do anything in any order, and know what they may still be reading.
//!
//! What a reader knows of places is kept here, apart from the core: from what it was answered and told, until it has answered. No
//! place may be handed out that somebody still knows (PROTOCOLS, R1).

use super::harness::*;
use crate::catalog::record::Record;
use crate::core::ConnId;
use fusevol_shared::ids::{FenceToken, MapVersion, Seq, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::map::{AuMask, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::{
    Ack, AttachRead, AttachWrite, Bind, CloseSnapshot, Detach, Discard, GetMap, GetSnapshotMap, Goodbye, MapPart, OpenSnapshot,
    PreserveSpace, Push, RemoveSnapshot, Renew, Reply, Report, Request,
};
use std::collections::{BTreeMap, BTreeSet};

pub const AUS: u32 = 24;

/// One volume as its writer sees it.
#[derive(Default, Debug)]
struct Writing {
    token: FenceToken,
    seq: u64,
    /// Sent, not answered.
    unanswered: Option<Request>,
    map: BTreeSet<VolAu>,
}

/// One client process.
#[derive(Default, Debug)]
pub struct Person {
    pub key: u8,
    pub life: u8,
    pub conn: Option<ConnId>,
    pub session: Option<SessionNo>,
    writing: BTreeMap<VolumeId, Writing>,
    /// With the version at which it was attached: what was told before is passed over.
    reading: BTreeMap<VolumeId, (MapVersion, BTreeMap<VolAu, DiskAu>)>,
    open: BTreeMap<SnapshotId, Vec<DiskAu>>,
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

    /// Places that it may still read.
    pub fn knows(&self) -> BTreeSet<DiskAu> {
        self.reading.values().flat_map(|(_, m)| m.values().copied()).chain(self.open.values().flatten().copied()).collect()
    }

    /// The process is gone, with its last I/O.
    pub fn die(&mut self) {
        *self = Self { key: self.key, life: self.life + 1, ..Self::default() };
    }

    /// Connects, and opens or resumes its session; sends again what was not answered.
    pub fn come(&mut self, w: &mut World) {
        let conn = w.connect(self.key);
        let resume = self.session.is_some();
        match w.hello(conn, self.id(), BOOT, resume) {
            Ok(welcome) => {
                self.session = Some(welcome.session);
                self.conn = Some(conn);
            }
            Err(_) => {
                w.disconnect(conn);
                self.die();
                return;
            }
        }
        let again: Vec<(VolumeId, Request)> = self.writing.iter().filter_map(|(v, x)| Some((*v, x.unanswered.clone()?))).collect();
        for (v, request) in again {
            self.change(w, v, request);
        }
    }

    pub fn leave(&mut self, w: &mut World) {
        if let Some(c) = self.conn.take() {
            w.disconnect(c);
        }
    }

    fn change(&mut self, w: &mut World, v: VolumeId, request: Request) {
        let (Some(conn), Some(x)) = (self.conn, self.writing.get_mut(&v)) else { return };
        let answer = w.send(conn, request.clone()).1;
        x.unanswered = None;
        match answer.expect("changes are answered at once") {
            Ok(Reply::Bound(b)) => x.map.extend(places(&b.runs).iter().map(|(au, _)| *au)),
            Ok(Reply::Discarded(d)) => d.unmapped.iter().for_each(|au| _ = x.map.remove(au)),
            _ => {}
        }
        // The same again changes nothing.
        let log = w.log.len();
        if w.number().is_multiple_of(5) {
            w.send(conn, request);
            let settled = |r: &Record| matches!(r, Record::LimboFreed { .. } | Record::SegmentsDropped { .. });
            let failed = |r: &Record| matches!(r, Record::Bound { .. } | Record::SegmentGranted { .. });
            assert!(w.log[log..].iter().all(|r| settled(r) || failed(r) && w.log[..log].last() != Some(r)), "applied twice");
        }
    }

    fn next_change(&mut self, r: &mut SeededRandom, v: VolumeId) -> Option<Request> {
        let x = self.writing.get_mut(&v)?;
        x.seq += 1 + r.below(2);
        let (token, seq) = (x.token, Seq(x.seq));
        let au = |r: &mut SeededRandom| VolAu(u32::try_from(r.below(u64::from(AUS))).expect("small"));
        let mapped: Vec<VolAu> = x.map.iter().copied().collect();
        let some = |r: &mut SeededRandom| {
            let n = usize::try_from(r.below(mapped.len().max(1) as u64)).expect("small");
            mapped.get(n).copied()
        };
        Some(match r.below(8) {
            0..3 => Bind { volume: v, token, seq, aus: (0..=r.below(3)).map(|_| au(r)).collect() }.into(),
            3..5 => {
                let written = some(r).map(|au| AuMask { au, blocks: BlockMask(r.next_u64()) }).into_iter().collect();
                Report { volume: v, token, seq, written }.into()
            }
            5..7 => {
                let blocks = if r.below(3) == 0 { BlockMask(r.next_u64()) } else { BlockMask::ALL };
                Discard { volume: v, token, seq, cleared: some(r).map(|au| AuMask { au, blocks }).into_iter().collect() }.into()
            }
            _ => PreserveSpace { volume: v, token, seq }.into(),
        })
    }

    /// Does something; `lost` is a step of which the answer does not come, because the manager dies before its commit.
    pub fn act(&mut self, w: &mut World, r: &mut SeededRandom, volumes: &[VolumeId], snapshots: &[SnapshotId]) {
        let Some(conn) = self.conn else { return self.come(w) };
        let pick = |r: &mut SeededRandom, n: usize| usize::try_from(r.below(n.max(1) as u64)).expect("small");
        let v = volumes[pick(r, volumes.len())];
        let s = snapshots.get(pick(r, snapshots.len())).copied();
        match r.below(40) {
            0..3 => _ = w.send(conn, Renew {}),
            3 => self.leave(w),
            4 if r.below(6) == 0 => {
                self.leave(w);
                self.die();
            }
            5 if r.below(6) == 0 => {
                w.send(conn, Goodbye {});
                self.leave(w);
                self.die();
            }
            6 if !self.reading.contains_key(&v) => {
                if let Some(Ok(Reply::Attached(a))) = w.send(conn, AttachWrite { volume: v }).1 {
                    let mut x = Writing { token: a.token, ..Writing::default() };
                    // A session that had it already goes on behind its own numbers.
                    x.seq = w.shadow.attachment(a.token).expect("stands").last.0 + 10;
                    if let Ok(m) = w.ask(conn, GetMap { volume: v, from: VolAu(0) }) {
                        x.map = places(&m.runs).iter().map(|(au, _)| *au).collect();
                    }
                    self.writing.insert(v, x);
                }
            }
            7 if !self.writing.contains_key(&v) && w.shadow.attachment_of(v, self.session.expect("opened")).is_none() => {
                if let Ok(a) = w.ask(conn, AttachRead { volume: v }) {
                    let MapPart { runs, .. } = w.ok(conn, GetMap { volume: v, from: VolAu(0) });
                    self.reading.insert(v, (a.version, places(&runs).into_iter().collect()));
                }
            }
            8 if r.below(3) == 0 => {
                if w.ask(conn, Detach { volume: v }).is_ok() {
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
                    self.open.insert(s, places(&m.runs).into_iter().map(|(_, p)| p).collect());
                }
            }
            12 => {
                if let Some(s) = s.filter(|s| w.ask(conn, CloseSnapshot { snapshot: *s }).is_ok()) {
                    self.open.remove(&s);
                }
            }
            13..17 => self.hear(w, r),
            _ => {
                if let Some(request) = self.next_change(r, v) {
                    self.change(w, v, request);
                }
            }
        }
    }

    /// A change that the manager never made durable: it is sent again later.
    pub fn lose(&mut self, w: &mut World, r: &mut SeededRandom, volumes: &[VolumeId]) {
        let v = volumes[usize::try_from(r.below(volumes.len() as u64)).expect("small")];
        let (Some(conn), Some(request)) = (self.conn, self.next_change(r, v)) else { return };
        let log = w.log.len();
        w.send(conn, request.clone());
        w.log.truncate(log);
        if let Some(x) = self.writing.get_mut(&v) {
            x.unanswered = Some(request);
        }
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
            Push::Hold(h) => Ack::Held { seq: Seq(self.writing.get(&h.volume).map_or(0, |x| x.seq)) },
            Push::Recall(m) => {
                self.reading.remove(&m.volume);
                self.writing.remove(&m.volume);
                Ack::Done
            }
            _ => Ack::Done,
        };
        w.ack(conn, push, ack);
    }
}
