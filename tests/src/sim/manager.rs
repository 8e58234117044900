//! A manager process of a simulated world: the real store, the real core and the real session I/O, on simulated disks, behind a
//! simulated door. It keeps the order of `mgr::driver`, whose own runs on threads: all that waits is stepped, committed as one
//! transaction, and only then carried out.
//!
//! It opens the pool again and again until it wins it or is ended; a failed commit, or a SEAL, ends it.

use super::data::DataServer;
use super::disk::{Boot, Medium, SimDisk};
use super::exec::Exec;
use super::net::{Ears, HostNo, Inbox, Net};
use super::sched::{ProcId, Sched};
use fusevol_mgr::catalog::record::Record;
use fusevol_mgr::catalog::{Catalog, prove};
use fusevol_mgr::copies;
use fusevol_mgr::core::{AdminId, AdminReply, AdminRequest, Config, Core, Effect, Event, Fenced, Now, Output};
use fusevol_mgr::data::Verdicts;
use fusevol_mgr::session_io::{Member, SessionIo, SlotOf};
use fusevol_mgr::store::{self, Candidate, Door, Options, Store, Who};
use fusevol_shared::change::Entry;
use fusevol_shared::clock::{BootTime, Clock};
use fusevol_shared::disk::any::Lock;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::format::label::Instance;
use fusevol_shared::format::layout::MANAGER_LOCK;
use fusevol_shared::ids::{BootId, DiskId, Generation, PoolId, SessionNo, VolumeId};
use fusevol_shared::map::VolumeMap;
use fusevol_shared::random::Random;
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::messages::{FromManager, Reply};
use futures_util::future::select;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Most events in one transaction.
const BATCH: usize = 64;
/// The catalog is proven at each of so many commits.
const PROVE_EACH: u64 = 6;

/// The boot of a host as an identity.
#[must_use]
pub fn boot_id(boot: Boot) -> BootId {
    let mut id = [0xb0; 16];
    id[..4].copy_from_slice(&boot.0.to_le_bytes());
    BootId(id)
}

/// The pool, as everybody knows it.
#[derive(Clone)]
pub struct Pool {
    /// Identity.
    pub id: PoolId,
    /// AU size.
    pub au_size: AuSize,
    /// Lease.
    pub lease: Duration,
    /// Its disks, by number.
    pub media: Vec<(DiskId, Medium)>,
}

impl Pool {
    /// The disks as a process has them open.
    #[must_use]
    pub fn open(&self, proc: ProcId, boot: Boot) -> Vec<Member<SimDisk>> {
        (0..).zip(&self.media).map(|(no, (id, m))| (DiskNo(no), *id, m.open(proc, boot))).collect()
    }
}

/// What the world sees of its managers.
#[derive(Default)]
pub struct Watch {
    answers: RefCell<BTreeMap<AdminId, std::result::Result<AdminReply, WireError>>>,
    wakers: RefCell<Vec<Waker>>,
    asked: Cell<u64>,
    /// Commits in all.
    pub commits: Cell<u64>,
    /// AUs that were moved.
    pub moved: Cell<u64>,
    /// The newest generation that has served.
    pub generation: Cell<u64>,
    /// Who serves under it.
    serving: RefCell<Option<(ProcId, Rc<RefCell<Core>>)>>,
    /// Where managers hear that their way to a disk is good again.
    back: RefCell<BTreeMap<ProcId, Inbox<DiskNo>>>,
    /// Slots of sessions that have moved.
    pub slots: Cell<u64>,
    /// Ways that managers have opened again.
    pub reopened: Cell<u64>,
}

impl Watch {
    /// Asks whoever serves at one of these addresses; none where nobody does, or the answer did not come in time.
    pub async fn ask(&self, exec: &Exec, net: &Net, addresses: &[u64], request: AdminRequest) -> Option<Result<AdminReply>> {
        let (_, inbox) = addresses.iter().find_map(|a| net.door(*a))?;
        let from = AdminId(self.asked.get() + 1);
        self.asked.set(from.0);
        inbox.put(Event::Admin { from, request });
        let answer = std::future::poll_fn(|cx| match self.answers.borrow_mut().remove(&from) {
            Some(a) => Poll::Ready(a),
            None => {
                self.wakers.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        });
        let late = exec.sleep(Duration::from_secs(40));
        match select(pin!(answer), pin!(late)).await {
            futures_util::future::Either::Left((a, _)) => Some(a.map_err(Error::from)),
            futures_util::future::Either::Right(_) => None,
        }
    }

    /// A manager's way to a disk is good again: it opens the disk anew, as `mgr::driver::reopen` does.
    pub fn is_back(&self, proc: ProcId, disk: DiskNo) {
        if let Some(inbox) = self.back.borrow().get(&proc) {
            inbox.put(disk);
        }
    }

    /// The process that served last.
    #[must_use]
    pub fn serving(&self) -> Option<ProcId> {
        self.serving.borrow().as_ref().map(|s| s.0)
    }

    /// Whether a session stands of one of these hosts, as the manager that served last knows it.
    #[must_use]
    pub fn has_session(&self, of: impl Fn(&str) -> bool) -> bool {
        let serving = self.serving.borrow();
        let Some((_, core)) = serving.as_ref() else { return true };
        core.borrow().catalog().sessions().any(|s| of(&s.host))
    }

    /// The maps of a volume, its snapshots' too, as the manager that served last knows them.
    #[must_use]
    pub fn maps(&self, id: VolumeId) -> Vec<VolumeMap> {
        let serving = self.serving.borrow();
        let Some((_, core)) = serving.as_ref() else { return Vec::new() };
        let core = core.borrow();
        let live = core.catalog().volume(id).map(|v| v.map.clone());
        live.into_iter().chain(core.catalog().snapshots_of(id).into_iter().map(|s| s.map.clone())).collect()
    }

    /// What sessions hold, as the manager that served last knows it; none where there was none. Empty: nothing.
    #[must_use]
    pub fn held(&self) -> Option<String> {
        let serving = self.serving.borrow();
        let core = serving.as_ref()?.1.borrow();
        let c = core.catalog();
        let mut held = String::new();
        let mut say = |n: usize, what: &str| {
            if n > 0 {
                held.push_str(&format!("{n} {what}; "));
            }
        };
        say(c.sessions().count(), "sessions");
        say(c.attachments().count(), "attachments");
        say(c.limbo().count(), "limbo entries");
        say(c.quarantine().count(), "quarantines");
        let wrong = prove(c);
        assert!(wrong.is_empty(), "the catalog is wrong in the end: {wrong:?}");
        Some(held)
    }

    fn answered(&self, to: AdminId, result: std::result::Result<AdminReply, WireError>) {
        self.answers.borrow_mut().insert(to, result);
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The store's doors in a simulated world.
#[derive(Clone)]
pub struct SimDoor {
    sched: Sched,
    proc: ProcId,
}

impl Door<SimDisk> for SimDoor {
    fn try_lock(&self, disk: &SimDisk) -> Result<Lock> {
        Ok(if disk.try_lock(MANAGER_LOCK) { Lock::Taken } else { Lock::Held })
    }

    async fn sleep(&self, time: Duration) {
        self.sched.sleep(self.proc, time).await;
    }
}

/// What a manager process is started with.
#[derive(Clone)]
pub struct Manager {
    /// The world.
    pub exec: Exec,
    /// Its net.
    pub net: Net,
    /// The pool.
    pub pool: Pool,
    /// Where it listens.
    pub address: u64,
    /// Where it runs.
    pub host: HostNo,
    /// On which boot.
    pub boot: Boot,
    /// Which process it is.
    pub proc: ProcId,
    /// Who looks on.
    pub watch: Rc<Watch>,
    /// Ways to disks may be lost: it serves data.
    pub ways: bool,
}

/// A manager that serves.
struct Serving {
    m: Manager,
    core: Rc<RefCell<Core>>,
    store: Store<SimDisk, SimDoor>,
    disks: Rc<Vec<Member<SimDisk>>>,
    ears: Ears,
    verdicts: Verdicts,
    generation: Generation,
    /// Disks that are reached again.
    back: Inbox<DiskNo>,
}

impl Manager {
    fn sched(&self) -> &Sched {
        self.exec.sched()
    }

    fn now(&self) -> Now {
        Now::of(&self.sched().clock(self.proc))
    }

    /// The process's life; says why it ended.
    pub async fn run(self) -> Error {
        loop {
            match self.start().await {
                Ok(mut serving) => return serving.serve().await,
                Err(e) if e.kind() == Kind::Busy => {
                    let pause = Duration::from_millis(20 + self.sched().below(400));
                    self.sched().sleep(self.proc, pause).await;
                }
                Err(e) => return e,
            }
        }
    }

    async fn start(&self) -> Result<Serving> {
        let disks = self.pool.open(self.proc, self.boot);
        let candidates = disks.iter().map(|(no, _, d)| Candidate { disk: d.clone(), path: format!("d{no}") }).collect();
        let mut random = self.sched().fork_random();
        let (instance, host) = (Instance(random.id()), format!("h{}", self.host.0));
        let who = Who { instance, boot: boot_id(self.boot), host, pid: self.proc.0 };
        let door = SimDoor { sched: self.sched().clone(), proc: self.proc };
        let options = Options { pool: Some(self.pool.id), ..Options::default() };
        let (takeover, records) = store::open(candidates, who, door, &options).await?;
        let catalog = Catalog::fold(&records).unwrap_or_else(|e| panic!("what was committed cannot be folded: {e}"));
        let generation = takeover.generation();
        let drained = takeover.is_drained();
        let store = takeover.start(&catalog.dump()).await?;
        self.watch.generation.set(self.watch.generation.get().max(generation.0));
        self.sched().say(self.proc, format_args!("serves under generation {generation}"));
        let config = Config { drained, ..Config::new(self.pool.lease, boot_id(self.boot)) };
        let core = Core::new(catalog, config, generation, self.now(), Box::new(random));
        let core = Rc::new(RefCell::new(core));
        if self.watch.generation.get() == generation.0 {
            *self.watch.serving.borrow_mut() = Some((self.proc, core.clone()));
        }
        let (ears, verdicts, disks, back) = (Ears::default(), Verdicts::default(), Rc::new(disks), Inbox::default());
        self.watch.back.borrow_mut().insert(self.proc, back.clone());
        if self.ways {
            let server = DataServer::new(self.exec.clone(), self.net.clone(), self.proc, ears.clone(), verdicts.clone(), disks.clone());
            drop(self.exec.spawn(self.proc, server.run()));
        }
        self.net.listen(self.address, self.proc, self.host, ears.clone());
        Ok(Serving { m: self.clone(), core, store, disks, ears, verdicts, generation, back })
    }
}

impl Serving {
    async fn serve(&mut self) -> Error {
        let clock = self.m.sched().clock(self.m.proc);
        let mut beat = clock.now().plus(HEARTBEAT);
        loop {
            self.wait(beat).await;
            if let Err(e) = self.reopen().await {
                return e;
            }
            let effects = match self.batch().await {
                Ok(effects) => effects,
                Err(e) => return e,
            };
            for effect in effects {
                self.carry_out(effect).await;
            }
            if clock.now() >= beat {
                if let Err(e) = self.store.heartbeat().await {
                    return e;
                }
                beat = clock.now().plus(HEARTBEAT);
            }
        }
    }

    async fn wait(&self, beat: BootTime) {
        let until = self.core.borrow().deadline().map_or(beat, |d| d.min(beat));
        let time = until.since(self.m.now().boot);
        let timer = self.m.sched().sleep(self.m.proc, time);
        let told = async { _ = select(pin!(self.ears.events.filled()), pin!(self.back.filled())).await };
        drop(select(pin!(told), timer).await);
    }

    /// Between two transactions: what the core knows is durable.
    async fn reopen(&mut self) -> Result<()> {
        while let Some(no) = self.back.take() {
            let (_, id, disk) = self.disks[usize::from(no.0)].clone();
            let core = self.core.clone();
            let new = Candidate { path: format!("disk {no}"), disk };
            self.store.rejoin(id, new, || core.borrow().catalog().dump()).await?;
            self.m.watch.reopened.set(self.m.watch.reopened.get() + 1);
            self.m.sched().say(self.m.proc, format_args!("has opened disk {no} again"));
        }
        Ok(())
    }

    async fn batch(&mut self) -> Result<Vec<Effect>> {
        let mut out = Output::default();
        let core = self.core.clone();
        core.borrow_mut().set_tight(self.store.room().is_tight());
        core.borrow_mut().set_lost(self.lost());
        for _ in 0..BATCH {
            let Some(event) = self.ears.events.take() else { break };
            self.m.sched().trace(self.m.proc, event_name(&event), out.records.len() as u64, 0);
            core.borrow_mut().step(self.m.now(), event, &mut out);
        }
        let due = core.borrow().deadline().is_some_and(|d| d <= self.m.now().boot);
        if due {
            core.borrow_mut().step(self.m.now(), Event::Tick, &mut out);
        }
        if out.records.is_empty() {
            if out.effects.iter().any(|e| grants_lease(e) || self.m.ways && writes_slot(e)) {
                self.store.check().await?;
            }
            return Ok(out.effects);
        }
        self.m.sched().detail(self.m.proc, || format!("commits {:?}", out.records));
        self.store.commit(&out.records, || core.borrow().catalog().dump()).await?;
        let slots = out.records.iter().filter(|r| matches!(r, Record::SlotMoved { .. })).count() as u64;
        self.m.watch.slots.set(self.m.watch.slots.get() + slots);
        self.m.watch.moved.set(self.m.watch.moved.get() + moved(&out.records));
        self.committed();
        Ok(out.effects)
    }

    /// The disks that it does not reach.
    fn lost(&self) -> Vec<(DiskNo, String)> {
        let media = (0..).map(DiskNo).zip(&self.m.pool.media);
        media.filter(|(_, (_, m))| m.is_lost(self.m.proc)).map(|(no, _)| (no, "lost".to_owned())).collect()
    }

    fn committed(&self) {
        let watch = &self.m.watch;
        watch.commits.set(watch.commits.get() + 1);
        if self.generation.0 == watch.generation.get() && watch.commits.get().is_multiple_of(PROVE_EACH) {
            self.prove();
        }
    }

    /// No AU has two owners, and none has none.
    fn prove(&self) {
        let wrong = prove(self.core.borrow().catalog());
        assert!(wrong.is_empty(), "the catalog of generation {} is wrong: {wrong:?}", self.generation);
    }

    async fn carry_out(&self, effect: Effect) {
        let m = &self.m;
        match effect {
            Effect::Reply { conn, id, result } => {
                m.sched().detail(m.proc, || format!("answers {}: {result:?}", conn.0));
                m.net.reply(conn, FromManager::Reply { id, result });
            }
            Effect::Push { conn, push, body } => m.net.reply(conn, FromManager::Push { push, body }),
            Effect::Close { conn } => m.net.close(conn),
            Effect::AdminReply { to, result } => m.watch.answered(to, result),
            Effect::ProbeLock { session } => {
                let held = self.lock_held(session);
                self.ears.events.put(Event::LockProbed { session, held });
            }
            Effect::OpenSlot { session, id, slots } => {
                let io = SessionIo::new(m.pool.id, m.pool.au_size, &self.disks, Duration::from_secs(5));
                io.open_slot(SlotOf { session, id, slots: &slots }, self.generation).await;
            }
            Effect::SealSlot { .. }
            | Effect::OpenPlaces { .. }
            | Effect::ReadSlot { .. }
            | Effect::ReadNonce { .. }
            | Effect::ReadJournals { .. }
            | Effect::Errand { .. }
            | Effect::WriteLetter { .. }
            | Effect::ReadAnswer { .. } => {
                let (pool, au_size, disks) = (m.pool.id, m.pool.au_size, self.disks.clone());
                let (inbox, generation) = (self.ears.events.clone(), self.generation);
                drop(m.exec.spawn(m.proc, async move {
                    let io = SessionIo::new(pool, au_size, &disks, Duration::from_secs(5));
                    inbox.put(ask_disks(&io, effect, generation).await);
                }));
            }
            Effect::Copy { .. } | Effect::LayAgain { .. } | Effect::LookAtDisk { .. } => {
                let (pool, au_size, disks, inbox) = (m.pool.id, m.pool.au_size, self.disks.clone(), self.ears.events.clone());
                drop(m.exec.spawn(m.proc, async move {
                    if let Some(event) = copies::carry_out(pool, au_size, &disks, &effect).await {
                        inbox.put(event);
                    }
                }));
            }
            Effect::Fence { asked, .. } => self.ears.events.put(Event::Fenced { asked, fenced: Fenced::NoAgent }),
            // Who asked may be gone.
            Effect::Verdict { ticket, result } => drop(self.verdicts.answer(ticket, result)),
            Effect::Notice(notice) => m.sched().say(m.proc, format_args!("{}: {}", notice.what, notice.text)),
        }
    }

    fn lock_held(&self, session: SessionNo) -> bool {
        let byte = MANAGER_LOCK + 1 + u64::from(session.0);
        self.disks.iter().any(|(_, _, d)| d.locked(byte))
    }
}

/// As in `mgr::driver`.
fn grants_lease(effect: &Effect) -> bool {
    matches!(effect, Effect::Reply { result: Ok(Reply::Welcome(_) | Reply::Renewed(_)), .. })
}

/// As in `mgr::driver`.
fn writes_slot(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::OpenSlot { .. }
            | Effect::OpenPlaces { .. }
            | Effect::SealSlot { .. }
            | Effect::WriteLetter { .. }
            | Effect::Copy { .. }
            | Effect::Errand { .. }
    )
}

/// AUs that got another place, since a write to them did not return.
fn moved(records: &[Record]) -> u64 {
    let appends = records.iter().filter_map(|r| if let Record::Folded { appends, .. } = r { Some(appends) } else { None }).flatten();
    let runs = appends.flat_map(|a| &a.entries).filter_map(|e| if let Entry::Moved { runs } = e { Some(runs) } else { None }).flatten();
    runs.map(|r| r.written.len() as u64).sum()
}

async fn ask_disks(io: &SessionIo<'_, SimDisk>, effect: Effect, generation: Generation) -> Event {
    match effect {
        Effect::SealSlot { session, id, slots } => {
            let (done, _) = io.seal_slot(session, id, &slots, generation).await;
            Event::Sealed { session, done }
        }
        Effect::OpenPlaces { session, id, slots } => {
            let ends = io.open_places(SlotOf { session, id, slots: &slots }, generation).await;
            Event::PlacesOpened { session, ends }
        }
        Effect::ReadSlot { session, id, slots } => {
            let beat = io.read_slot(SlotOf { session, id, slots: &slots }).await;
            Event::SlotRead { session, beat }
        }
        Effect::ReadNonce { session, disk } => {
            let found = io.read_nonce(disk, session).await;
            Event::NonceRead { session, disk, found }
        }
        Effect::ReadJournals { session, journals } => {
            let tails = io.read_journals(&journals).await;
            Event::JournalsRead { session, tails }
        }
        Effect::Errand { session, errand } => Event::Errand { session, outcome: io.errand(&errand).await },
        Effect::WriteLetter { slots, page, letter } => {
            let done = io.write_letter(&slots, page, &letter).await;
            Event::LetterWritten { session: letter.session, done }
        }
        Effect::ReadAnswer { session, id, slots } => {
            let answer = io.read_answer(SlotOf { session, id, slots: &slots }).await;
            Event::AnswerRead { session, answer }
        }
        other => panic!("no disk answers {other:?}"),
    }
}

fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Connected { .. } => "connected",
        Event::Disconnected { .. } => "disconnected",
        Event::Request { request, .. } => request.name(),
        Event::Ack { .. } => "ack",
        Event::Admin { .. } => "admin",
        Event::LockProbed { .. } => "lock probed",
        Event::Sealed { .. } => "sealed",
        Event::PlacesOpened { .. } => "places opened",
        Event::SlotRead { .. } => "slot read",
        Event::JournalsRead { .. } => "journals read",
        Event::Fenced { .. } => "fenced",
        Event::DataOpen { .. } => "data open",
        Event::DataIo { .. } => "data io",
        Event::DataDone { .. } => "data done",
        Event::NonceRead { .. } => "nonce read",
        Event::BlocksCopied { .. } => "blocks copied",
        Event::LaidAgain { .. } => "laid again",
        Event::DiskMissing { .. } => "disk missing",
        Event::DiskRefused { .. } => "disk refused",
        Event::DiskBack { .. } => "disk back",
        Event::DiskLooked { .. } => "disk looked",
        Event::Errand { .. } => "errand",
        Event::LetterWritten { .. } => "letter written",
        Event::AnswerRead { .. } => "answer read",
        Event::Tick => "tick",
    }
}
