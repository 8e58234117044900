//! A client process of a simulated world: the real session machine, lease, slot, volume engine and snapshot reader, over a simulated
//! link and disks. It keeps the order of `fusevol::session`, whose own runs on threads.

use super::disk::{Boot, SimDisk};
use super::exec::Exec;
use super::link::Link;
use super::manager::{Pool, boot_id};
use super::net::{HostNo, Net};
use super::redirect::{Counts, Redirect, Run, Ways};
use super::sched::ProcId;
use fusevol::disks::Disks;
use fusevol::lease::Lease;
use fusevol::path::keeper;
use fusevol::redirect::queue::Queue;
use fusevol::session::machine::{Effect, Event, Machine};
use fusevol::slot::{Slot, carriers};
use fusevol::snapshot::SnapshotReader;
use fusevol::volume::{Engine, Mode};
use fusevol_shared::clock::Clock;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::format::layout::MANAGER_LOCK;
use fusevol_shared::ids::{Generation, KeyPrint, SessionId, SnapshotId, VolumeId};
use fusevol_shared::wire::messages::{Ack, Goodbye, Hold, Push, Renew, Welcome};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

/// A volume that a simulated client has attached.
pub type Volume = fusevol::volume::Volume<SimDisk, Link>;
/// A snapshot that it reads.
pub type Reader = SnapshotReader<SimDisk, Link>;

/// How long I/O waits for a lease or a manager.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often those who wait for the lease look at their time-out.
const TICK: Duration = Duration::from_secs(1);

/// A push that waits to be answered.
type Pushed = (Generation, u64, Push);

/// Where pushes about an object go.
enum Place<T> {
    Attaching(Vec<Pushed>),
    Open(Arc<T>),
}

/// Who looks on: told before and after a hold, in the same step in which it ends.
pub trait Onlooker {
    /// A hold begins.
    fn holding(&self, proc: ProcId, hold: &Hold);
    /// It has ended; the writer has flipped where `flipped`.
    fn held(&self, proc: ProcId, hold: &Hold, flipped: bool);
    /// The manager takes the volume back: nothing is done yet, or it is given back, in order or not.
    fn recalled(&self, proc: ProcId, volume: VolumeId, done: Option<bool>);
}

/// What a client process is started with.
#[derive(Clone)]
pub struct Start {
    /// The world.
    pub exec: Exec,
    /// Its net.
    pub net: Net,
    /// The pool.
    pub pool: Pool,
    /// Where managers listen.
    pub addresses: Vec<u64>,
    /// The client's key.
    pub print: KeyPrint,
    /// Its process.
    pub proc: ProcId,
    /// Where it runs.
    pub host: HostNo,
    /// On which boot.
    pub boot: Boot,
    /// Who looks on.
    pub onlooker: Rc<dyn Onlooker>,
    /// Its ways to disks may be lost: it has the one through the manager, and hears letters.
    pub ways: bool,
    /// What it does by them.
    pub counts: Arc<Counts>,
}

/// A client process with an open session.
pub struct Client {
    start: Start,
    link: Arc<Link>,
    lease: Arc<Lease>,
    /// What its volumes share.
    pub engine: Engine<SimDisk, Link>,
    volumes: RefCell<BTreeMap<VolumeId, Place<Volume>>>,
    snapshots: RefCell<BTreeMap<SnapshotId, Place<Reader>>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // A journal that is not settled knows its engine, and is known by it.
        self.engine.unsettled.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}

impl Start {
    /// Opens a session.
    ///
    /// # Errors
    /// The manager's refusal; `Lapsed` where the session was sealed at once.
    pub async fn open(self) -> Result<Rc<Client>> {
        let (sched, proc) = (self.exec.sched().clone(), self.proc);
        let clock = sched.clock(proc);
        let mut random = sched.fork_random();
        let session = SessionId(fusevol_shared::random::Random::id(&mut random));
        let lease = Arc::new(Lease::new(Arc::new(clock.clone()), PATIENCE));
        let boot = boot_id(self.boot);
        let link = Link::new(&sched, &self.net, proc, self.host, self.print, session, boot, self.addresses.clone(), lease.clone());
        drop(self.exec.spawn(proc, link.clone().run()));
        let slot: Stands = Rc::default();
        let back: Rc<RefCell<std::rc::Weak<Client>>> = Rc::default();
        let driver = Driver {
            machine: Machine::new(clock.now(), PATIENCE),
            exec: self.exec.clone(),
            proc,
            link: link.clone(),
            lease: lease.clone(),
            slot: slot.clone(),
            client: back.clone(),
            ways: self.ways,
        };
        drop(self.exec.spawn(proc, driver.run()));
        let welcome = link.opened().await?;
        let engine = self.engine(&welcome, session, &link, &lease)?;
        engine.slot.check(&engine.disks).await?;
        *slot.borrow_mut() = Some((engine.slot.clone(), engine.disks.clone()));
        if self.ways {
            self.answer_letters(&link, &engine.slot);
        }
        let client = Rc::new(Client { start: self, link, lease, engine, volumes: RefCell::default(), snapshots: RefCell::default() });
        *back.borrow_mut() = Rc::downgrade(&client);
        let router = client.clone();
        drop(client.start.exec.spawn(proc, async move { router.route().await }));
        Ok(client)
    }

    /// The disks, locked, and the slot.
    fn engine(&self, welcome: &Welcome, session: SessionId, link: &Arc<Link>, lease: &Arc<Lease>) -> Result<Engine<SimDisk, Link>> {
        let disks = Arc::new(Disks::with_clock(Arc::new(self.exec.sched().clock(self.proc))));
        let byte = MANAGER_LOCK + 1 + u64::from(welcome.session.0);
        for (no, id, disk) in self.pool.open(self.proc, self.boot) {
            assert!(welcome.disks.iter().any(|d| (d.no, d.id) == (no, id)), "the manager knows its disks");
            if !disk.try_lock(byte) {
                return Err(Error::new(Kind::Busy, format!("session {} is locked by another process", welcome.session)));
            }
            disks.set_present(no, id, Arc::new(disk));
        }
        let places = carriers(welcome.pool, welcome.au_size, welcome.session, &welcome.slots, &welcome.disks)?;
        if self.ways {
            self.redirect(welcome, session, link, &disks);
        }
        let slot = Slot::new(welcome.pool, welcome.session, session, welcome.moves, places);
        Ok(Engine {
            disks,
            control: link.clone(),
            lease: lease.clone(),
            slot: Arc::new(slot),
            pool: welcome.pool,
            session: welcome.session,
            au_size: welcome.au_size,
            unsettled: Arc::default(),
            stale: Arc::default(),
            outs: Arc::default(),
        })
    }
}

impl Start {
    /// What fails on its own way goes through the manager, until that way is good again.
    fn redirect(&self, welcome: &Welcome, id: SessionId, link: &Arc<Link>, disks: &Arc<Disks<SimDisk>>) {
        let (sched, proc) = (self.exec.sched().clone(), self.proc);
        let queue = Arc::new(Queue::new(Arc::new(sched.clock(proc))));
        disks.redirect_by(Arc::new(Redirect::new(queue.clone(), welcome.au_size, self.counts.clone())));
        let (net, addresses) = (self.net.clone(), self.addresses.clone());
        let run = Run { sched: sched.clone(), net, proc, host: self.host, print: self.print, session: id, addresses, queue };
        drop(self.exec.spawn(proc, run.run()));
        let random = RefCell::new(sched.fork_random());
        let (pool, boot, link, welcome, counts) = (self.pool.clone(), self.boot, link.clone(), welcome.clone(), self.counts.clone());
        let ways = Ways { pool, proc, boot, sched, link, welcome, id, random, counts };
        drop(self.exec.spawn(proc, keeper::keep(disks.clone(), ways, std::future::pending())));
    }

    /// What is answered to letters stands in the heartbeats.
    fn answer_letters(&self, link: &Arc<Link>, slot: &Arc<Slot>) {
        let (link, slot, counts) = (link.clone(), slot.clone(), self.counts.clone());
        drop(self.exec.spawn(self.proc, async move {
            loop {
                slot.answer(link.mailed.next().await);
                counts.letters.fetch_add(1, Ordering::Relaxed);
                link.events.put(Event::Answered);
            }
        }));
    }
}

/// The slot and its disks, once the session stands.
type Stands = Rc<RefCell<Option<(Arc<Slot>, Arc<Disks<SimDisk>>)>>>;

/// The task that carries the session's decisions out.
struct Driver {
    machine: Machine,
    exec: Exec,
    proc: ProcId,
    link: Arc<Link>,
    lease: Arc<Lease>,
    slot: Stands,
    client: Rc<RefCell<std::rc::Weak<Client>>>,
    ways: bool,
}

impl Driver {
    async fn run(mut self) {
        let clock = self.exec.sched().clock(self.proc);
        loop {
            let now = clock.now();
            let wait = self.machine.deadline().map_or(TICK, |t| t.since(now));
            let wait = if self.lease.valid(now) { wait } else { wait.min(TICK) };
            let timer = self.exec.sched().sleep(self.proc, wait);
            let event = match select(pin!(self.link.events.next()), timer).await {
                Either::Left((event, _)) => event,
                Either::Right(_) => Event::Tick,
            };
            let closed = event == Event::Close;
            let mut effects = Vec::new();
            self.machine.step(clock.now(), event, &mut effects);
            effects.into_iter().for_each(|e| self.carry_out(e));
            if !self.lease.valid(clock.now()) {
                self.lease.tick();
            }
            if closed {
                return;
            }
        }
    }

    fn carry_out(&self, effect: Effect) {
        let sched = self.exec.sched().clone();
        let (link, proc) = (self.link.clone(), self.proc);
        match effect {
            Effect::Renew => drop(self.exec.spawn(proc, async move {
                let event = match link.call_timed(Renew {}).await {
                    Ok((_, sent)) => Event::Renewed { sent },
                    Err(e) => Event::NotRenewed { kind: e.kind(), sentence: e.to_string() },
                };
                link.events.put(event);
            })),
            Effect::Beat => {
                let (slot, clock) = (self.slot.borrow().clone(), sched.clock(proc));
                drop(self.exec.spawn(proc, async move {
                    let sent = clock.now();
                    let event = match slot {
                        None => Event::NotBeaten,
                        Some((slot, disks)) => match slot.beat(&disks).await {
                            Ok(()) => Event::Beaten { sent },
                            Err(e) if e.kind() == Kind::Lapsed => Event::Sealed { sentence: e.to_string() },
                            Err(_) => Event::NotBeaten,
                        },
                    };
                    link.events.put(event);
                }));
            }
            Effect::Mail if self.ways => {
                let slot = self.slot.borrow().clone();
                drop(self.exec.spawn(proc, async move {
                    let Some((slot, disks)) = slot else { return };
                    let mut letters = slot.letters(&disks).await;
                    letters.sort_by_key(|l| (l.generation, l.push));
                    letters.iter().for_each(|l| link.by_letter(l));
                }));
            }
            Effect::Mail => {}
            Effect::Reconnect => self.link.reconnect(),
            Effect::Lease(until) => self.lease.extend(until),
            Effect::Fence => sched.say(proc, "the lease has run out"),
            Effect::Fail => self.link.set_failing(true),
            Effect::Answers => self.link.set_failing(false),
            Effect::Refresh => {
                if let Some(client) = self.client.borrow().upgrade() {
                    drop(self.exec.spawn(proc, async move { client.refresh().await }));
                }
            }
            Effect::End(why) => {
                sched.say(proc, format_args!("the session is over: {why:?}"));
                self.lease.end();
                self.link.set_failing(true);
            }
        }
    }
}

impl Client {
    /// Its process.
    #[must_use]
    pub fn proc(&self) -> ProcId {
        self.start.proc
    }

    /// Whether its session is over.
    #[must_use]
    pub fn over(&self) -> bool {
        self.lease.is_over()
    }

    async fn refresh(self: Rc<Self>) {
        let open = |p: &Place<Volume>| if let Place::Open(v) = p { Some(v.clone()) } else { None };
        let volumes: Vec<_> = self.volumes.borrow().values().filter_map(open).collect();
        for v in volumes.iter().filter(|v| v.mode() == Mode::Read) {
            if let Err(e) = v.refresh_map().await {
                self.start.exec.sched().say(self.proc(), format_args!("the map could not be renewed: {e}"));
            }
        }
    }

    /// Hands pushes on: those about one object begin in their order.
    async fn route(self: Rc<Self>) {
        type Work = Pin<Box<dyn Future<Output = ()>>>;
        let mut under_way: FuturesUnordered<Work> = FuturesUnordered::new();
        loop {
            let next = async {
                let filled = self.link.pushes.filled();
                if under_way.is_empty() {
                    filled.await;
                } else {
                    select(pin!(filled), under_way.next()).await;
                }
            };
            next.await;
            while let Some(push) = self.link.pushes.take() {
                let client = self.clone();
                let mut work: Work = Box::pin(async move { client.pushed(push).await });
                if std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await {
                    under_way.push(work);
                }
            }
        }
    }

    async fn pushed(&self, push: Pushed) {
        let volume = match &push.2 {
            Push::Hold(m) => m.volume,
            Push::Release(m) => m.volume,
            Push::MapChanged(m) => {
                let open = |p: &Place<Reader>| if let Place::Open(r) = p { Some(r.clone()) } else { None };
                let readers: Vec<_> = self.snapshots.borrow().values().filter_map(open).collect();
                readers.iter().filter(|r| r.volume() == m.volume).for_each(|r| r.places_changed(m));
                m.volume
            }
            Push::Recall(m) => m.volume,
            Push::VolumesChanged(_) | Push::LocksFreed(_) | Push::NewDisk(_) => return self.link.ack(push.0, push.1, Ack::Done),
            Push::MoveSlot(m) => {
                let (pool, au_size) = (self.engine.pool, self.engine.au_size);
                let places = carriers(pool, au_size, self.engine.session, &m.slots, &m.disks).expect("a manager's places fit");
                self.engine.slot.move_to(m.no, &places);
                return self.link.ack(push.0, push.1, Ack::Done);
            }
            Push::LegFailed(m) => {
                self.engine.outs.failed(m.volume, m.disk);
                return self.link.ack(push.0, push.1, Ack::Done);
            }
            Push::SegmentAdded(m) => {
                let reader = match self.snapshots.borrow_mut().get_mut(&m.snapshot) {
                    Some(Place::Attaching(backlog)) => return backlog.push(push),
                    Some(Place::Open(r)) => Some(r.clone()),
                    None => None,
                };
                return self.to_snapshot(reader, push).await;
            }
        };
        let to = match self.volumes.borrow_mut().get_mut(&volume) {
            Some(Place::Attaching(backlog)) => return backlog.push(push),
            Some(Place::Open(v)) => Some(v.clone()),
            None => None,
        };
        self.to_volume(to, push).await;
    }

    async fn to_snapshot(&self, reader: Option<Arc<Reader>>, (life, no, push): Pushed) {
        if let (Some(r), Push::SegmentAdded(m)) = (reader, &push) {
            r.add_segment(&m.segment).await;
        }
        self.link.ack(life, no, Ack::Done);
    }

    async fn to_volume(&self, volume: Option<Arc<Volume>>, (life, no, push): Pushed) {
        let failed = |e: &Error| Ack::Failed(WireError::from(e));
        let ack = match (&push, volume) {
            (Push::Hold(hold), Some(v)) => {
                self.start.onlooker.holding(self.proc(), hold);
                let held = v.hold(hold).await;
                self.start.onlooker.held(self.proc(), hold, held.is_ok());
                match held {
                    Ok(held) => Ack::Held { seq: held.seq(), held_us: held.held_us() },
                    Err(e) => failed(&e),
                }
            }
            (Push::Hold(_), None) => failed(&Error::new(Kind::Refused, "not attached for writing here")),
            (Push::MapChanged(m), Some(v)) => v.map_changed(m).await.map_or_else(|e| failed(&e), |()| Ack::Done),
            (Push::Recall(m), Some(v)) => {
                self.start.onlooker.recalled(self.proc(), m.volume, None);
                let done = v.give_back().await;
                self.start.onlooker.recalled(self.proc(), m.volume, Some(done.is_ok()));
                done.map_or_else(|e| failed(&e), |()| Ack::Done)
            }
            _ => Ack::Done,
        };
        self.link.ack(life, no, ack);
    }

    /// Attaches a volume, and tends it while it is attached.
    ///
    /// # Errors
    /// Those of `Volume::attach`.
    pub async fn attach(self: &Rc<Self>, id: VolumeId, mode: Mode) -> Result<Arc<Volume>> {
        self.volumes.borrow_mut().insert(id, Place::Attaching(Vec::new()));
        let attached = Volume::attach(&self.engine, id, mode).await;
        loop {
            let backlog = match self.volumes.borrow_mut().get_mut(&id) {
                Some(Place::Attaching(backlog)) => std::mem::take(backlog),
                _ => Vec::new(),
            };
            if backlog.is_empty() {
                break;
            }
            for push in backlog {
                self.to_volume(attached.as_ref().ok().cloned(), push).await;
            }
        }
        match &attached {
            Ok(v) => {
                self.volumes.borrow_mut().insert(id, Place::Open(v.clone()));
                let tended = v.clone();
                drop(self.start.exec.spawn(self.proc(), async move { tended.tend().await }));
            }
            Err(_) => drop(self.volumes.borrow_mut().remove(&id)),
        }
        attached
    }

    /// Gives a volume back.
    ///
    /// # Errors
    /// Those of `Volume::detach`.
    pub async fn detach(&self, id: VolumeId) -> Result<()> {
        let volume = match self.volumes.borrow().get(&id) {
            Some(Place::Open(v)) => v.clone(),
            _ => return Ok(()),
        };
        let done = volume.detach().await;
        self.volumes.borrow_mut().remove(&id);
        done
    }

    /// Opens a snapshot.
    ///
    /// # Errors
    /// Those of `SnapshotReader::open`.
    pub async fn open_snapshot(&self, id: SnapshotId) -> Result<Arc<Reader>> {
        self.snapshots.borrow_mut().insert(id, Place::Attaching(Vec::new()));
        let opened = Reader::open(&self.engine, id).await;
        let backlog = match self.snapshots.borrow_mut().remove(&id) {
            Some(Place::Attaching(backlog)) => backlog,
            _ => Vec::new(),
        };
        if let Ok(r) = &opened {
            self.snapshots.borrow_mut().insert(id, Place::Open(r.clone()));
        }
        for push in backlog {
            self.to_snapshot(opened.as_ref().ok().cloned(), push).await;
        }
        opened
    }

    /// Closes a snapshot.
    ///
    /// # Errors
    /// Those of `SnapshotReader::close`.
    pub async fn close_snapshot(&self, id: SnapshotId) -> Result<()> {
        let reader = match self.snapshots.borrow_mut().remove(&id) {
            Some(Place::Open(r)) => r,
            _ => return Ok(()),
        };
        reader.close().await
    }

    /// Gives everything back and ends the session.
    ///
    /// # Errors
    /// The first that came up.
    pub async fn goodbye(&self) -> Result<()> {
        let snapshots: Vec<SnapshotId> = self.snapshots.borrow().keys().copied().collect();
        for s in snapshots {
            self.close_snapshot(s).await?;
        }
        let volumes: Vec<VolumeId> = self.volumes.borrow().keys().copied().collect();
        for v in volumes {
            self.detach(v).await?;
        }
        if self.engine.disks.has_unreturned() {
            return Err(Error::new(Kind::Io, "a write was not answered and may still land"));
        }
        // Where the answer was lost, the next connection says that the session is over: so it is.
        match self.link.call_timed(Goodbye {}).await {
            Err(e) if e.kind() != Kind::Lapsed => return Err(e),
            Ok(_) | Err(_) => {}
        }
        self.link.events.put(Event::Close);
        self.link.close();
        Ok(())
    }
}
