//! Processes on several hosts that lock and unlock at random, through the clients' own account of locks and the manager's real core, while
//! connections are cut, managers and hosts die, answers are lost, and requests are sent again.
//!
//! What counts is what processes were told: no two of them ever hold what conflicts.

use fusevol::locks::{Door, Locks, Reach, Refusal, Wanted};
use fusevol::stale::Whose;
use fusevol_mgr::catalog::Catalog;
use fusevol_mgr::catalog::record::{PoolEntry, Record};
use fusevol_mgr::core::{AdminId, AdminReply, AdminRequest, Config, ConnId, Core, Effect, Event, Now, Output};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Result, WireError};
use fusevol_shared::ids::{BootId, DiskId, Generation, PoolId, SessionId, SessionNo, VolumeId};
use fusevol_shared::lock::{LockKind, LockTable, Span};
use fusevol_shared::name::Name;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{AuNo, AuSize};
use fusevol_shared::wire::messages::{Ack, AttachRead, Call, Hello, PROTOCOL, Push, Reply, Request};
use fusevol_shared::wire::rights::Right;
use futures_util::FutureExt;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const HOSTS: usize = 3;
const OWNERS: u64 = 3;
const BYTES: u64 = 12;
const STEP: Duration = Duration::from_millis(50);
/// Longer than any run: no lease ends here.
const LEASE: Duration = Duration::from_secs(100_000);

type Heard = std::result::Result<Reply, WireError>;

/// One life of a host's link.
#[derive(Default)]
struct Line {
    conn: Option<ConnId>,
    session: Option<SessionNo>,
    /// Not sent, and sent but not answered, oldest first.
    queued: VecDeque<(u64, Request)>,
    sent: VecDeque<(u64, Request)>,
    replies: VecDeque<(u64, Heard)>,
    waiting: BTreeMap<u64, oneshot::Sender<Heard>>,
    generation: u64,
}

/// The manager and the lines to it.
struct Net {
    core: Core,
    generation: u64,
    now: u64,
    next: u64,
    lines: BTreeMap<u64, Line>,
    timers: Vec<(u64, oneshot::Sender<()>)>,
    pushes: Vec<(ConnId, u64, Push)>,
    volume: VolumeId,
}

/// One life of a host.
#[derive(Clone)]
struct Way {
    net: Arc<Mutex<Net>>,
    life: u64,
}

fn net(n: &Mutex<Net>) -> MutexGuard<'_, Net> {
    n.lock().expect("nobody panics within")
}

impl Door for Way {
    fn ask<C: Call>(&self, call: C) -> impl Future<Output = Result<C::Reply>> + use<C> {
        let (tx, rx) = oneshot::channel();
        let mut n = net(&self.net);
        n.next += 1;
        let id = n.next;
        if let Some(line) = n.lines.get_mut(&self.life) {
            line.queued.push_back((id, call.into()));
            line.waiting.insert(id, tx);
        }
        async move {
            match rx.await {
                Ok(reply) => reply.map_err(Error::from).map(|r| C::Reply::try_from(r).unwrap_or_else(|r| panic!("{r:?}"))),
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn reach(&self) -> Reach {
        let there = net(&self.net).lines.get(&self.life).is_some_and(|l| l.conn.is_some());
        if there { Reach::Yes } else { Reach::NotNow }
    }

    fn stands(&self) -> bool {
        true
    }

    fn now(&self) -> BootTime {
        BootTime(net(&self.net).now)
    }

    async fn sleep(&self, d: Duration) {
        let (tx, rx) = oneshot::channel();
        {
            let mut n = net(&self.net);
            let at = n.now + u64::try_from(d.as_nanos()).expect("short");
            n.timers.push((at, tx));
        }
        let _ = rx.await;
    }
}

impl Net {
    fn new(seed: u64) -> Self {
        let pool = PoolEntry {
            id: PoolId([1; 16]),
            name: Name::new("model").expect("a name"),
            au_size: AuSize::DEFAULT,
            lease_ms: 10_000,
            created: 1,
        };
        let catalog = Catalog::fold([&Record::PoolCreated(pool)]).expect("a pool");
        let mut n = Self {
            core: core(catalog, 1, 1, seed),
            generation: 1,
            now: 1,
            next: 0,
            lines: BTreeMap::new(),
            timers: Vec::new(),
            pushes: Vec::new(),
            volume: VolumeId([0; 16]),
        };
        n.admin(AdminRequest::DiskAdd { id: DiskId([7; 16]), aus: 200, first_data: AuNo(20), end_data: AuNo(199), paths: vec![] });
        let AdminReply::Volume(v) = n.admin(AdminRequest::VolumeCreate { name: "vol".into(), size: 1 << 24 }) else { panic!("no volume") };
        n.volume = v.id;
        n.admin(AdminRequest::ClientAdd { name: "host".into(), print: super::run::print(1) });
        let rights = fusevol_shared::wire::rights::Rights::NONE.with(Right::Read);
        n.admin(AdminRequest::AccessGrant { volume: "vol".into(), client: "host".into(), rights });
        n
    }

    fn admin(&mut self, request: AdminRequest) -> AdminReply {
        self.next += 1;
        let from = AdminId(self.next);
        let effects = self.step(Event::Admin { from, request });
        let answer = effects.into_iter().find_map(|e| if let Effect::AdminReply { result, .. } = e { Some(result) } else { None });
        answer.expect("at once").expect("done")
    }

    /// One event, and those that answer what it asked; gives what it said.
    fn step(&mut self, event: Event) -> Vec<Effect> {
        let (mut all, mut events) = (Vec::new(), VecDeque::from([event]));
        while let Some(event) = events.pop_front() {
            let mut out = Output::default();
            let now = Now { boot: BootTime(self.now), wall: self.now };
            self.core.step(now, event, &mut out);
            for effect in out.effects {
                match effect {
                    Effect::ProbeLock { session } => {
                        let held = self.lines.values().any(|l| l.session == Some(session));
                        events.push_back(Event::LockProbed { session, held });
                    }
                    Effect::Push { conn, push, body } => self.pushes.push((conn, push, body)),
                    other => all.push(other),
                }
            }
        }
        all
    }

    fn request(&mut self, conn: ConnId, id: u64, request: Request) -> Heard {
        let effects = self.step(Event::Request { conn, id, request });
        let answer = effects.into_iter().find_map(|e| match e {
            Effect::Reply { conn: c, id: i, result } if (c, i) == (conn, id) => Some(result),
            _ => None,
        });
        answer.expect("everything here is answered at once")
    }

    /// A life of a host connects. Whether another manager serves than before.
    fn connect(&mut self, life: u64) -> bool {
        self.next += 1;
        let conn = ConnId(self.next);
        self.step(Event::Connected { conn, print: super::run::print(1) });
        let resume = self.lines[&life].session.is_some();
        let hello = Hello {
            protocol: PROTOCOL,
            session: SessionId(u128::from(life).to_be_bytes()),
            boot: BootId([2; 16]),
            host: "h".into(),
            program: "p".into(),
            resume,
        };
        let Ok(Reply::Welcome(w)) = self.request(conn, 0, hello.into()) else { panic!("no welcome") };
        if !resume {
            let volume = self.volume;
            self.next += 1;
            let id = self.next;
            self.request(conn, id, AttachRead { volume }.into()).expect("attached");
        }
        let line = self.lines.get_mut(&life).expect("it lives");
        (line.conn, line.session) = (Some(conn), Some(w.session));
        while let Some(r) = line.sent.pop_back() {
            line.queued.push_front(r);
        }
        std::mem::replace(&mut line.generation, w.generation.0) != w.generation.0 && resume
    }

    fn cut(&mut self, life: u64) {
        let Some(line) = self.lines.get_mut(&life) else { return };
        line.replies.clear();
        if let Some(conn) = line.conn.take() {
            self.pushes.retain(|(c, ..)| *c != conn);
            self.step(Event::Disconnected { conn });
        }
    }

    /// The oldest request that is not sent reaches the manager.
    fn deliver(&mut self, life: u64) {
        let Some(line) = self.lines.get_mut(&life) else { return };
        let (Some(conn), Some((id, request))) = (line.conn, line.queued.pop_front()) else { return };
        line.sent.push_back((id, request.clone()));
        let reply = self.request(conn, id, request);
        self.lines.get_mut(&life).expect("it lives").replies.push_back((id, reply));
    }

    /// The oldest answer reaches the client.
    fn hear(&mut self, life: u64) {
        let Some(line) = self.lines.get_mut(&life) else { return };
        let Some((id, reply)) = line.replies.pop_front() else { return };
        line.sent.retain(|(i, _)| *i != id);
        if let Some(tx) = line.waiting.remove(&id) {
            let _ = tx.send(reply);
        }
    }

    fn restart(&mut self, seed: u64) {
        self.generation += 1;
        self.lines.values_mut().for_each(|l| {
            l.conn = None;
            l.replies.clear();
        });
        self.pushes.clear();
        self.core = core(self.core.catalog().clone(), self.generation, self.now, seed);
    }

    fn pass_time(&mut self) {
        self.now += u64::try_from(STEP.as_nanos()).expect("short");
        let now = self.now;
        for (_, tx) in self.timers.extract_if(.., |(at, _)| *at <= now) {
            let _ = tx.send(());
        }
        if self.core.deadline().is_some_and(|d| d.0 <= now) {
            self.step(Event::Tick);
        }
    }
}

fn core(catalog: Catalog, generation: u64, now: u64, seed: u64) -> Core {
    let now = Now { boot: BootTime(now), wall: now };
    Core::new(catalog, Config::new(LEASE, BootId([2; 16])), Generation(generation), now, Box::new(SeededRandom(seed + generation)))
}

/// What processes were told to hold, by host's life and owner.
type Truth = Rc<RefCell<LockTable<(u64, u64)>>>;

/// What a run has seen.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    /// Locks that were had.
    pub had: u64,
    /// Refused since another has it.
    pub refused: u64,
    /// Managers that began anew.
    pub restarts: u64,
    /// Hosts that died.
    pub deaths: u64,
}

async fn process(locks: Rc<Locks<Way>>, truth: Truth, seen: Rc<RefCell<Seen>>, whose: Whose, life: u64, owner: u64, seed: u64) {
    let mut r = SeededRandom(seed);
    loop {
        let (x, y) = (r.below(BYTES), r.below(BYTES));
        let span = Span::new(x.min(y), x.max(y)).expect("a span");
        let me = (life, owner);
        match r.below(5) {
            0 | 1 => {
                truth.borrow_mut().set(me, span, None, 0);
                locks.unlock(whose, owner, span).await.expect("few locks");
            }
            2 if r.below(4) == 0 => {
                truth.borrow_mut().set(me, Span::ALL, None, 0);
                locks.handle_closes(owner).await;
            }
            n => {
                let kind = if n == 3 { LockKind::Read } else { LockKind::Write };
                let wait = r.below(3) == 0;
                // What it weakens is weaker before it is told.
                if kind == LockKind::Read {
                    let parts = truth.borrow().pieces(me).to_vec();
                    for part in parts.iter().filter_map(|p| p.span.and(span)) {
                        truth.borrow_mut().set(me, part, Some(kind), 0);
                    }
                }
                let mut patience = 1 + r.below(20);
                let interrupted = || {
                    patience = patience.saturating_sub(1);
                    patience == 0
                };
                let wanted = Wanted { whose, handle: owner, owner, span, kind, pid: 1, wait };
                let mut t = None;
                match locks.lock(&wanted, interrupted).await {
                    Ok(()) => t = Some(truth.borrow_mut()),
                    Err(Refusal::InTheWay) => seen.borrow_mut().refused += 1,
                    Err(Refusal::Interrupted) => {}
                    Err(Refusal::Failed(why)) => panic!("{why}"),
                }
                if let Some(mut t) = t {
                    let other = t.conflict(me, span, kind);
                    assert!(other.is_none(), "{me:?} was given {span:?} {kind:?}, which {other:?} has");
                    t.set(me, span, Some(kind), 0);
                    seen.borrow_mut().had += 1;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

struct Host {
    life: u64,
    locks: Rc<Locks<Way>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A host's link comes back; a new manager is told at once what the host holds.
fn connect(all: &Mutex<Net>, host: &Host) {
    if net(all).connect(host.life) {
        let locks = host.locks.clone();
        let mut told = Box::pin(async move { locks.retake().await });
        if (&mut told).now_or_never().is_none() {
            tokio::task::spawn_local(told);
        }
    }
}

/// Another manager. With `last`, the last answers are on their way in the clients while it is told what they hold.
fn restart(all: &Mutex<Net>, hosts: &[Host], seed: u64, last: bool) {
    let told = if last { hosts } else { &[] };
    for host in told {
        while !net(all).lines[&host.life].replies.is_empty() {
            net(all).hear(host.life);
        }
    }
    net(all).restart(seed);
    told.iter().for_each(|host| connect(all, host));
}

/// A push reaches its client.
fn hear_push(all: &Mutex<Net>, hosts: &[Host]) {
    let mut n = net(all);
    let Some((conn, push, body)) = n.pushes.pop() else { return };
    let to = n.lines.iter().find(|(_, l)| l.conn == Some(conn)).map(|(life, _)| *life);
    n.step(Event::Ack { conn, push, ack: Ack::Done });
    drop(n);
    if let (Push::LocksFreed(_), Some(h)) = (body, hosts.iter().find(|h| Some(h.life) == to)) {
        h.locks.freed();
    }
}

/// A second thread of an owner, which unlocks beside the first.
async fn unlocker(locks: Rc<Locks<Way>>, truth: Truth, whose: Whose, life: u64, owner: u64, seed: u64) {
    let mut r = SeededRandom(seed);
    loop {
        locks.door().sleep(STEP * u32::try_from(1 + r.below(20)).expect("small")).await;
        let (x, y) = (r.below(BYTES), r.below(BYTES));
        let span = Span::new(x.min(y), x.max(y)).expect("a span");
        truth.borrow_mut().set((life, owner), span, None, 0);
        locks.unlock(whose, owner, span).await.expect("few locks");
    }
}

/// Runs one seed for so many turns.
///
/// # Panics
/// Where two processes hold what conflicts.
pub async fn run(seed: u64, turns: u64) -> Seen {
    let all = Arc::new(Mutex::new(Net::new(seed)));
    let (truth, seen) = (Truth::default(), Rc::new(RefCell::new(Seen::default())));
    let mut r = SeededRandom(seed ^ 0x10c4);
    let mut lives = 0;
    let mut begin = |r: &mut SeededRandom| {
        lives += 1;
        let life = lives;
        net(&all).lines.insert(life, Line::default());
        net(&all).connect(life);
        let locks = Rc::new(Locks::new(Way { net: all.clone(), life }, Duration::from_secs(1)));
        let whose = Whose::Volume(net(&all).volume);
        let start =
            |owner| tokio::task::spawn_local(process(locks.clone(), truth.clone(), seen.clone(), whose, life, owner, r.below(u64::MAX)));
        let mut tasks: Vec<_> = (0..OWNERS).map(start).collect();
        tasks.push(tokio::task::spawn_local(unlocker(locks.clone(), truth.clone(), whose, life, 0, r.below(u64::MAX))));
        Host { life, locks, tasks }
    };
    let mut hosts: Vec<Host> = (0..HOSTS).map(|_| begin(&mut r)).collect();
    for turn in 0..turns {
        let at = usize::try_from(r.below(HOSTS as u64)).expect("small");
        let life = hosts[at].life;
        match r.below(1000) {
            0..2 => {
                restart(&all, &hosts, seed + turn, r.below(2) == 0);
                seen.borrow_mut().restarts += 1;
            }
            2..8 => net(&all).cut(life),
            8 => {
                // With a death its locks are free, once that is known.
                truth.borrow_mut().drop_owners(|(l, _)| l == life);
                net(&all).cut(life);
                net(&all).lines.remove(&life);
                hosts[at] = begin(&mut r);
                seen.borrow_mut().deaths += 1;
            }
            9..400 => net(&all).deliver(life),
            400..800 => net(&all).hear(life),
            800..860 => hear_push(&all, &hosts),
            860..900 => {
                if net(&all).lines.get(&life).is_some_and(|l| l.conn.is_none()) {
                    connect(&all, &hosts[at]);
                }
            }
            _ => net(&all).pass_time(),
        }
        for _ in 0..r.below(4) {
            tokio::task::yield_now().await;
        }
        for t in hosts.iter_mut().flat_map(|h| &mut h.tasks).filter(|t| t.is_finished()) {
            t.await.expect("a process that was told what is not so");
        }
    }
    let seen = *seen.borrow();
    drop(hosts);
    seen
}
