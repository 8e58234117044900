//! A core with its log, its clock and the ears of its clients.
//!
//! After each step: what was put out, folded into a second catalog, gives the same state; and the state is proven. What the core asks of the
//! disks is answered from [`Disks`], at once unless a test wants to answer itself.

use super::writer::Writer;
use crate::catalog::record::{DiskEntry, PoolEntry, Record};
use crate::catalog::{Catalog, prove};
use crate::core::errand::{Errand, KeptBlock, LogEnd, Outcome};
use crate::core::{AdminId, AdminReply, AdminRequest, Config, ConnId, Core, Effect, Event, Fenced, JournalRef, Now, Opened, Output};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::format::journal::Tail;
use fusevol_shared::format::mail::Letter;
use fusevol_shared::format::slot::Answer;
use fusevol_shared::ids::{
    BootId, DiskId, FenceToken, Generation, KeyPrint, PoolId, Seq, SessionId, SessionNo, SnapshotId, VolumeEpoch, VolumeId,
};
use fusevol_shared::map::VolumeMap;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::name::Name;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{AuNo, AuSize, DiskNo, VolAu};
use fusevol_shared::wire::messages::{
    Ack, AttachRead, AttachWrite, Attached, Call, CreateSnapshot, FromManager, Hello, PROTOCOL, Push, Reply, Request, Welcome,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub const LEASE: Duration = Duration::from_secs(4);
pub const BOOT: BootId = BootId([1; 16]);
pub const OTHER_BOOT: BootId = BootId([2; 16]);

pub fn print(n: u8) -> KeyPrint {
    KeyPrint([n; 32])
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// Records of a pool with `disks` disks of `aus` data AUs each.
pub fn genesis(disks: u8, aus: u32) -> Vec<Record> {
    let pool = PoolEntry { id: PoolId([3; 16]), name: name("pool"), au_size: AuSize::DEFAULT, lease_ms: 4000, created: 1 };
    let mut out = vec![Record::PoolCreated(pool)];
    for d in 0..disks {
        out.push(Record::DiskAdded(DiskEntry {
            no: DiskNo(u16::from(d)),
            id: DiskId([d + 1; 16]),
            aus: aus + 20,
            first_data: AuNo(19),
            end_data: AuNo(19 + aus),
            paths: vec![format!("/dev/d{d}")],
        }));
    }
    out
}

/// One journal as it lies on the disks.
#[derive(Clone, Default, Debug)]
pub struct OnDisk {
    /// Which life of it.
    pub no: u32,
    /// A half of it was ever written.
    pub begun: bool,
    /// Everything that it took, folded or not.
    pub tail: Tail,
    /// It cannot be read.
    pub damaged: bool,
}

/// What lies on the disks beside the catalog.
#[derive(Clone, Default, Debug)]
pub struct Disks {
    pub journals: BTreeMap<FenceToken, OnDisk>,
    pub beats: BTreeMap<SessionNo, Seq>,
    /// Sessions whose heartbeat moves each time that it is looked at.
    pub alive: BTreeSet<SessionNo>,
    /// Whether the slot is sealed.
    pub slots: BTreeMap<SessionNo, bool>,
    /// What the SEAL of each session says on each disk: the generation, and whether it is sealed.
    pub seals: BTreeMap<(SessionNo, DiskNo), (Generation, bool)>,
    /// Disks that take no SEAL; and whether they have answered.
    pub broken: BTreeMap<DiskNo, bool>,
    /// Disks that cannot be flushed: no journal is concluded that is not read without them.
    pub unflushed: BTreeSet<DiskNo>,
    /// Clear SEALs are left to the test.
    pub slow: bool,
    /// The page and the letter that was written last to each session, and what each has answered in its slot.
    pub letters: BTreeMap<SessionNo, (u8, Letter)>,
    pub answers: BTreeMap<SessionNo, Answer>,
    /// What fence agents answer; nothing where they are left to the test.
    pub fence: Option<Fenced>,
    /// Questions are left to the test.
    pub silent: bool,
    /// What was done for takeovers, in order.
    pub errands: Vec<Errand>,
    /// What preserve logs have, for those who take volumes over.
    pub log: Vec<KeptBlock>,
    /// So many copies for takeovers do not return.
    pub late: u32,
}

impl Disks {
    fn tail(&self, j: &JournalRef) -> Result<Tail, WireError> {
        if self.unflushed.iter().any(|d| !j.without.contains(d)) {
            return Err(WireError { kind: Kind::Io, message: "a disk cannot be flushed".into(), hint: String::new() });
        }
        match self.journals.get(&j.token).filter(|d| d.no == j.journal.no && d.begun) {
            Some(d) if d.damaged => Err(WireError { kind: Kind::Damaged, message: "rotten".into(), hint: String::new() }),
            Some(d) => Ok(d.tail.clone()),
            None => Ok(Tail::default()),
        }
    }

    /// The SEALs that a manager of this generation writes.
    pub fn seal(&mut self, effect: &Effect, generation: Generation) -> Option<Event> {
        let (session, disks, sealed) = match effect {
            Effect::OpenSlot { session, slots, .. } => {
                self.slots.insert(*session, false);
                (*session, slots.clone(), false)
            }
            Effect::OpenPlaces { session, slots, .. } => (*session, slots.clone(), false),
            Effect::SealSlot { session, slots, .. } => (*session, slots.disks(), true),
            _ => return None,
        };
        let good: Vec<DiskNo> = disks.iter().copied().filter(|d| !self.broken.contains_key(d)).collect();
        self.seals.extend(good.iter().map(|d| ((session, *d), (generation, sealed))));
        if !matches!(effect, Effect::OpenPlaces { .. }) {
            return None;
        }
        let end = |d: &DiskNo| match self.broken.get(d) {
            None => Opened::Done,
            Some(true) => Opened::Not,
            Some(false) => Opened::Late,
        };
        Some(Event::PlacesOpened { session, ends: disks.iter().map(|d| (*d, end(d))).collect() })
    }

    /// The answer to a question of the core, if it is one.
    pub fn answer(&mut self, effect: &Effect) -> Option<Event> {
        match effect {
            Effect::SealSlot { session, slots, .. } => {
                let done = slots.counts(|d| !self.broken.contains_key(&d));
                if done {
                    self.slots.insert(*session, true);
                }
                Some(Event::Sealed { session: *session, done })
            }
            Effect::ReadSlot { session, .. } => {
                if self.alive.contains(session) {
                    let beat = self.beats.entry(*session).or_default();
                    *beat = beat.next();
                }
                Some(Event::SlotRead { session: *session, beat: self.beats.get(session).copied() })
            }
            Effect::WriteLetter { page, letter, .. } => {
                self.letters.insert(letter.session, (*page, letter.clone()));
                Some(Event::LetterWritten { session: letter.session, done: true })
            }
            Effect::ReadAnswer { session, .. } => Some(Event::AnswerRead { session: *session, answer: self.answers.get(session).copied() }),
            Effect::Fence { asked, .. } => self.fence.clone().map(|fenced| Event::Fenced { asked: *asked, fenced }),
            Effect::Errand { session, errand } => {
                self.errands.push(errand.clone());
                let outcome = match errand {
                    Errand::Journal(j) => Outcome::Journal(self.tail(j)),
                    Errand::Copy(_) if self.late > 0 => {
                        self.late -= 1;
                        Outcome::Late(WireError { kind: Kind::Io, message: "no answer".into(), hint: String::new() })
                    }
                    Errand::Copy(_) => Outcome::Copied(Ok(())),
                    Errand::Log { token, segments, .. } => {
                        let ended = segments.iter().filter(|s| s.token == *token).map(|s| s.no).collect();
                        Outcome::Log(Ok(LogEnd { ended, named: Vec::new(), blocks: self.log.clone() }))
                    }
                    Errand::Lay { .. } => Outcome::Laid(Ok(())),
                };
                Some(Event::Errand { session: *session, outcome })
            }
            Effect::ReadJournals { session, journals } => {
                let tails = journals.iter().map(|j| (j.token, self.tail(j))).collect();
                Some(Event::JournalsRead { session: *session, tails })
            }
            _ => None,
        }
    }
}

/// What must be readable: what writers have made durable in their journals.
#[derive(Clone, Default, Debug)]
pub struct Truth {
    pub live: BTreeMap<VolumeId, Masks>,
    /// As it was when the writer flipped, by the epoch that ended.
    pub flips: BTreeMap<(VolumeId, VolumeEpoch), Masks>,
}

/// Written blocks by AU.
pub type Masks = BTreeMap<VolAu, BlockMask>;

/// The masks of a map.
pub fn masks(map: &VolumeMap) -> Masks {
    map.iter().map(|(au, e)| (au, e.written)).collect()
}

pub struct World {
    pub disks: Disks,
    /// Questions that the test has to answer itself.
    pub questions: Vec<Effect>,
    pub truth: Truth,
    pub core: Core,
    pub log: Vec<Record>,
    pub shadow: Catalog,
    pub now: u64,
    pub generation: u64,
    pub effects: Vec<Effect>,
    next: u64,
    /// Pushes that each connection has heard and not answered.
    pub heard: BTreeMap<ConnId, Vec<(u64, Push)>>,
    /// Whether each state is proven (a long run proves now and then).
    pub prove: bool,
}

impl World {
    pub fn new(disks: u8, aus: u32) -> Self {
        Self::from_log(genesis(disks, aus), 1)
    }

    pub fn from_log(log: Vec<Record>, generation: u64) -> Self {
        let shadow = Catalog::fold(&log).expect("the log folds");
        let now = 1_000_000_000;
        let core = Core::new(
            shadow.clone(),
            Config::new(LEASE, BOOT),
            Generation(generation),
            Now { boot: BootTime(now), wall: now },
            Box::new(SeededRandom(generation)),
        );
        let (disks, effects, heard) = (Disks::default(), Vec::new(), BTreeMap::new());
        let (questions, truth) = (Vec::new(), Truth::default());
        Self { disks, questions, truth, core, log, shadow, now, generation, effects, next: 1, heard, prove: true }
    }

    /// The manager dies and another takes up what is durable.
    pub fn restart(&mut self) {
        self.restart_after(false);
    }

    /// The same, where what the former one had under way is known to have landed, or not.
    pub fn restart_after(&mut self, drained: bool) {
        let log = std::mem::take(&mut self.log);
        let (now, next, prove, disks) = (self.now, self.next, self.prove, std::mem::take(&mut self.disks));
        let (mut questions, truth) = (std::mem::take(&mut self.questions), std::mem::take(&mut self.truth));
        // What it had begun by itself ends with it.
        questions.retain(|q| !matches!(q, Effect::OpenPlaces { .. }));
        *self = Self::from_log(log, self.generation + 1);
        self.now = now;
        self.core = Core::new(
            self.shadow.clone(),
            Config { drained, ..Config::new(LEASE, BOOT) },
            Generation(self.generation),
            self.time(),
            Box::new(SeededRandom(self.generation)),
        );
        self.next = next;
        self.prove = prove;
        (self.disks, self.questions, self.truth) = (disks, questions, truth);
    }

    /// Answers what was asked of the disks and left, also by a manager that is gone.
    pub fn answer_questions(&mut self) {
        for q in std::mem::take(&mut self.questions) {
            let generation = Generation(self.generation);
            if let Some(event) = self.disks.seal(&q, generation).or_else(|| self.disks.answer(&q)) {
                self.step(event);
            }
        }
    }

    pub fn time(&self) -> Now {
        Now { boot: BootTime(self.now), wall: self.now }
    }

    /// One step, and those that answer what it asked of the disks; gives their effects, and keeps them.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut next = VecDeque::from([event]);
        while let Some(event) = next.pop_front() {
            let effects = self.one(event);
            for e in &effects {
                match e {
                    Effect::OpenPlaces { .. } if self.disks.slow => self.questions.push(e.clone()),
                    Effect::OpenSlot { .. } | Effect::OpenPlaces { .. } => next.extend(self.disks.seal(e, Generation(self.generation))),
                    Effect::SealSlot { .. } | Effect::ReadSlot { .. } | Effect::ReadJournals { .. } | Effect::Errand { .. }
                        if self.disks.silent =>
                    {
                        self.questions.push(e.clone());
                    }
                    _ => {
                        let _ = self.disks.seal(e, Generation(self.generation));
                        next.extend(self.disks.answer(e));
                    }
                }
            }
            all.extend(effects);
        }
        all
    }

    fn one(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Output::default();
        self.core.step(self.time(), event.clone(), &mut out);
        for r in &out.records {
            self.shadow.apply(r).unwrap_or_else(|e| panic!("{event:?} gave a record that does not fit: {r:?}: {e}"));
        }
        assert!(self.shadow == *self.core.catalog(), "the records of {event:?} do not tell what it did: {:?}", out.records);
        if self.prove && !out.records.is_empty() {
            assert_eq!(prove(self.core.catalog()), [], "after {event:?}: {:?}", out.records);
        }
        self.log.extend(out.records);
        for e in &out.effects {
            match e {
                Effect::Push { conn, push, body } => {
                    self.heard.entry(*conn).or_default().push((*push, body.clone()));
                    let _ = FromManager::Push { push: *push, body: body.clone() };
                }
                Effect::Close { conn } => drop(self.heard.remove(conn)),
                _ => {}
            }
        }
        self.effects.extend(out.effects.iter().cloned());
        out.effects
    }

    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn wait(&mut self, d: Duration) {
        let end = self.now + u64::try_from(d.as_nanos()).expect("short");
        let mut idle = 0;
        while let Some(due) = self.core.deadline().filter(|d| d.0 <= end) {
            idle = if due.0 > self.now { 0 } else { idle + 1 };
            assert!(idle < 100, "something is due for ever");
            self.now = self.now.max(due.0);
            self.step(Event::Tick);
            // A question that nobody answers is not asked again.
        }
        self.now = end;
        self.step(Event::Tick);
    }

    pub fn connect(&mut self, key: u8) -> ConnId {
        let conn = ConnId(self.number());
        self.step(Event::Connected { conn, print: print(key) });
        conn
    }

    pub fn disconnect(&mut self, conn: ConnId) -> Vec<Effect> {
        self.heard.remove(&conn);
        self.step(Event::Disconnected { conn })
    }

    /// Sends a request; its answer if it comes at once, and its number.
    pub fn send(&mut self, conn: ConnId, request: impl Into<Request>) -> (u64, Option<Result<Reply, WireError>>) {
        let id = self.number();
        let effects = self.step(Event::Request { conn, id, request: request.into() });
        (id, answer_in(&effects, conn, id))
    }

    /// The answer to a request that was sent before.
    pub fn answer(&self, conn: ConnId, id: u64) -> Option<Result<Reply, WireError>> {
        answer_in(&self.effects, conn, id)
    }

    /// Asks, and expects the answer at once.
    pub fn ask<C: Call>(&mut self, conn: ConnId, call: C) -> Result<C::Reply, WireError> {
        let (_, answer) = self.send(conn, call);
        answer.expect("answered at once").map(|r| C::Reply::try_from(r).unwrap_or_else(|r| panic!("{} was answered by {r:?}", C::NAME)))
    }

    pub fn ok<C: Call>(&mut self, conn: ConnId, call: C) -> C::Reply {
        self.ask(conn, call).unwrap_or_else(|e| panic!("{} was refused: {e:?}", C::NAME))
    }

    pub fn refused<C: Call>(&mut self, conn: ConnId, call: C) -> Kind {
        let before = self.shadow.clone();
        let kind = self.ask(conn, call).err().unwrap_or_else(|| panic!("{} was not refused", C::NAME)).kind;
        assert!(before == self.shadow, "{} was refused and changed something", C::NAME);
        kind
    }

    pub fn ack(&mut self, conn: ConnId, push: u64, ack: Ack) -> Vec<Effect> {
        if let Some(h) = self.heard.get_mut(&conn) {
            h.retain(|(p, _)| *p != push);
        }
        self.step(Event::Ack { conn, push, ack })
    }

    /// Answers everything but holds and recalls, until nothing is left.
    pub fn ack_all(&mut self, conn: ConnId) {
        let usual = |p: &Push| !matches!(p, Push::Hold(_) | Push::Recall(_));
        while let Some((push, _)) = self.heard.get(&conn).and_then(|h| h.iter().find(|(_, p)| usual(p)).cloned()) {
            self.ack(conn, push, Ack::Done);
        }
    }

    /// The first push of this kind that was heard and not answered.
    pub fn find<T>(&self, conn: ConnId, kind: impl Fn(&Push) -> Option<T>) -> Option<(u64, T)> {
        self.heard.get(&conn)?.iter().find_map(|(n, p)| Some((*n, kind(p)?)))
    }

    pub fn try_admin(&mut self, request: AdminRequest) -> Option<Result<AdminReply, WireError>> {
        let from = AdminId(self.number());
        let effects = self.step(Event::Admin { from, request });
        effects.iter().find_map(|e| match e {
            Effect::AdminReply { to, result } if *to == from => Some(result.clone()),
            _ => None,
        })
    }

    pub fn admin(&mut self, request: AdminRequest) -> AdminReply {
        self.try_admin(request.clone()).expect("answered at once").unwrap_or_else(|e| panic!("{request:?}: {e:?}"))
    }

    pub fn admin_refused(&mut self, request: AdminRequest) -> WireError {
        let before = self.shadow.clone();
        let e = self.try_admin(request.clone()).expect("answered at once").err().unwrap_or_else(|| panic!("{request:?} was not refused"));
        assert!(before == self.shadow, "{request:?} was refused and changed something");
        e
    }

    pub fn volume(&mut self, n: &str, size: u64) -> VolumeId {
        match self.admin(AdminRequest::VolumeCreate { name: n.into(), size }) {
            AdminReply::Volume(v) => v.id,
            other => panic!("{other:?}"),
        }
    }

    /// A volume with so many copies.
    pub fn mirror(&mut self, n: &str, copies: u8) -> VolumeId {
        match self.admin(AdminRequest::VolumeCreateMirrored { name: n.into(), size: 1 << 30, copies }) {
            AdminReply::Volume(v) => v.id,
            other => panic!("{other:?}"),
        }
    }

    /// A checkpoint of what is known gives the same state.
    pub fn checkpoint(&self) {
        assert!(Catalog::fold(&self.shadow.dump()).expect("folds") == self.shadow, "a checkpoint is another state");
    }

    /// A client with this key and these rights on a volume.
    pub fn client(&mut self, key: u8, volume: &str, rights: &str) {
        let n = format!("host{key}");
        if self.shadow.client_named(&n).is_none() {
            self.admin(AdminRequest::ClientAdd { name: n.clone(), print: print(key) });
        }
        self.admin(AdminRequest::AccessGrant { volume: volume.into(), client: n, rights: rights.parse().expect("rights") });
    }

    pub fn hello(&mut self, conn: ConnId, session: u8, boot: BootId, resume: bool) -> Result<Welcome, WireError> {
        let hello = Hello {
            protocol: PROTOCOL,
            session: SessionId([session; 16]),
            boot,
            host: format!("host{session}"),
            program: "test".into(),
            resume,
        };
        self.ask(conn, hello)
    }

    /// A connection of this key with a session of the same number.
    pub fn open(&mut self, key: u8, session: u8) -> ConnId {
        let conn = self.connect(key);
        self.hello(conn, session, BOOT, false).expect("welcome");
        conn
    }

    /// The same session on a new connection.
    pub fn resume(&mut self, key: u8, session: u8) -> ConnId {
        let conn = self.connect(key);
        self.hello(conn, session, BOOT, true).expect("welcome");
        conn
    }

    pub fn attach(&mut self, conn: ConnId, volume: VolumeId) -> Writer {
        let at = self.ok(conn, AttachWrite { volume });
        Writer::new(self, conn, volume, &at)
    }

    pub fn read(&mut self, conn: ConnId, volume: VolumeId) -> Attached {
        self.ok(conn, AttachRead { volume })
    }

    /// Asks for a snapshot, as somebody who is answered later.
    pub fn snapshot(&mut self, conn: ConnId, volume: VolumeId, id: u8) -> (u64, Option<Result<Reply, WireError>>) {
        self.send(conn, CreateSnapshot { volume, id: SnapshotId([id; 16]), name: format!("s{id}") })
    }

    pub fn probes(&mut self) -> Vec<SessionNo> {
        let all = self.effects.iter().filter_map(|e| if let Effect::ProbeLock { session } = e { Some(*session) } else { None }).collect();
        self.effects.retain(|e| !matches!(e, Effect::ProbeLock { .. }));
        all
    }
}

pub fn answer_in(effects: &[Effect], conn: ConnId, id: u64) -> Option<Result<Reply, WireError>> {
    let mut found = effects.iter().filter_map(|e| match e {
        Effect::Reply { conn: c, id: i, result } if (*c, *i) == (conn, id) => Some(result.clone()),
        _ => None,
    });
    let first = found.next();
    assert!(found.next().is_none(), "a request was answered twice");
    first
}
