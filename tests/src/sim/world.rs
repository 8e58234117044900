//! A whole world from a seed: a pool on two disks, two volumes, two hosts with a manager each, three clients; random operations and
//! faults; and at the end everything healed, read and compared.
//!
//! Who runs what: a *keeper* of managers sees to it that one runs; a *keeper* of each client starts its process anew when it has ended; an
//! *administrator* gives up the sessions of hosts that are gone, once nothing of them can land any more; *chaos* (its own module) does the rest.
//!
//! What is judged: every answer, at once (`program`, `volume`, `truth`); the catalog, at commits (`manager`); at the end all volumes and
//! snapshots, and that everything that sessions held is free again.

use super::chaos;
use super::client::{Client, Onlooker, Start};
use super::disk::{Boot, Faults, Medium};
use super::exec::{Exec, Joined, Stuck};
use super::manager::{Manager, Pool, Watch};
use super::net::{HostNo, Net};
use super::program::{self, End};
use super::redirect::Counts;
use super::sched::{ProcId, Sched, WORLD};
use super::setup::{CLIENTS, Template, print};
use super::truth::SECTOR;
use super::volume::{Attachment, Vol};
use fusevol::volume::Mode;
use fusevol_mgr::core::AdminRequest;
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::map::LegState;
use fusevol_shared::wire::messages::Hold;
use futures_util::future::{Either, join_all, select};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Addresses of the managers: one on each of the two hosts.
pub const ADDRESSES: [u64; 2] = [1, 2];
/// Steps after which a world counts as one that never ends.
const STEPS: u64 = 3_000_000;
/// How long the end may take, virtual.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A manager, at this address.
    Manager(usize),
    /// A client.
    Client(usize),
}

/// A process that lives.
#[derive(Clone, Copy, Debug)]
pub struct Living {
    /// What it is.
    pub role: Role,
    /// Where.
    pub host: HostNo,
    /// On which boot.
    pub boot: Boot,
}

/// What a world did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Done {
    /// Hash of its trace.
    pub hash: u64,
    /// Events in it.
    pub events: u64,
    /// Operations.
    pub ops: u64,
    /// Commits of the catalog.
    pub commits: u64,
    /// Snapshots that were acknowledged.
    pub shots: u64,
    /// Faults.
    pub faults: u64,
    /// Steps.
    pub steps: u64,
    /// What clients did through the manager.
    pub redirected: u64,
    /// Ways that clients have opened again.
    pub reopened: u64,
    /// Ways that managers have.
    pub rejoined: u64,
    /// Writes that landed after they were said not to have returned.
    pub late: u64,
    /// AUs that were moved for them.
    pub moved: u64,
    /// Letters that were answered.
    pub letters: u64,
    /// Slots that have moved.
    pub slots: u64,
}

/// What all parts of a world share.
pub struct Shared {
    /// Tasks.
    pub exec: Exec,
    /// Connections.
    pub net: Net,
    /// The pool.
    pub pool: Pool,
    /// Its volumes.
    pub volumes: Vec<Rc<Vol>>,
    /// What is seen of the managers.
    pub watch: Rc<Watch>,
    /// Boots of the hosts.
    boots: RefCell<BTreeMap<HostNo, Boot>>,
    next_boot: Cell<u32>,
    /// Who lives.
    pub living: RefCell<BTreeMap<ProcId, Living>>,
    /// Clients' processes that are dead: which client. A session of one may still come up: its `Hello` was under way.
    dead: RefCell<BTreeMap<ProcId, usize>>,
    /// The administrator waits for the end of this client's sessions.
    pub confirming: Cell<Option<usize>>,
    /// Processes that have something open for reading alone.
    reading: RefCell<BTreeMap<ProcId, u32>>,
    ending: Cell<bool>,
    over: Cell<bool>,
    attachments: Cell<Attachment>,
    ops: Cell<u64>,
    /// Faults so far.
    pub faults: Cell<u64>,
    /// A disk may die.
    pub mirrored: bool,
    /// Clients' ways to the disks may be lost.
    pub ways: bool,
    /// Nothing else goes wrong in this world: then nobody is answered with an error.
    pub only_ways: Cell<bool>,
    /// What clients do by the way through the manager.
    counts: Arc<Counts>,
}

/// Where a client's process runs.
fn home(client: usize) -> HostNo {
    HostNo(u32::from(client > 0))
}

impl Shared {
    /// Clock, dice and trace.
    #[must_use]
    pub fn sched(&self) -> &Sched {
        self.exec.sched()
    }

    /// Whether programs are to come to their end.
    #[must_use]
    pub fn ending(&self) -> bool {
        self.ending.get()
    }

    /// A new number of an attachment.
    #[must_use]
    pub fn next_attachment(&self) -> Attachment {
        self.attachments.set(self.attachments.get() + 1);
        self.attachments.get()
    }

    /// A process has one more, or one less, open for reading alone.
    pub fn set_reading(&self, proc: ProcId, more: bool) {
        let mut reading = self.reading.borrow_mut();
        let n = reading.entry(proc).or_insert(0);
        *n = if more { *n + 1 } else { n.saturating_sub(1) };
    }

    /// Whether it has any.
    #[must_use]
    pub fn reads(&self, proc: ProcId) -> bool {
        self.reading.borrow().get(&proc).is_some_and(|n| *n > 0)
    }

    /// Ends the managers at this address that do not serve.
    pub fn retire(&self, n: usize) {
        let idle = |(p, l): &(&ProcId, &Living)| l.role == Role::Manager(n) && self.watch.serving() != Some(**p);
        let procs: Vec<ProcId> = self.living.borrow().iter().filter(idle).map(|(p, _)| *p).collect();
        procs.into_iter().for_each(|p| self.kill(p));
    }

    /// One more operation; gives how many there were.
    pub fn count(&self) -> u64 {
        self.ops.set(self.ops.get() + 1);
        self.ops.get()
    }

    /// The boot of a host.
    #[must_use]
    pub fn boot(&self, host: HostNo) -> Boot {
        self.boots.borrow()[&host]
    }

    fn volume(&self, id: VolumeId) -> &Rc<Vol> {
        self.volumes.iter().find(|v| v.id == id).expect("a volume of this world")
    }

    fn begin(&self, role: Role, host: HostNo) -> (ProcId, Boot) {
        let name = match role {
            Role::Manager(n) => format!("manager{n}"),
            Role::Client(n) => format!("client{n}"),
        };
        let (proc, boot) = (self.sched().process(&name), self.boot(host));
        self.living.borrow_mut().insert(proc, Living { role, host, boot });
        (proc, boot)
    }

    /// Ends a process: what it asked of disks and net goes its way.
    pub fn kill(&self, proc: ProcId) {
        let Some(was) = self.living.borrow_mut().remove(&proc) else { return };
        self.exec.kill(proc);
        self.pool.media.iter().for_each(|(_, m)| m.orphan(proc));
        self.net.dead(proc);
        self.buried(proc, was);
    }

    fn buried(&self, proc: ProcId, was: Living) {
        self.volumes.iter().for_each(|v| v.died(proc));
        if let Role::Client(n) = was.role {
            self.dead.borrow_mut().insert(proc, n);
        }
    }

    /// A host loses its power: its processes end, its next boot is another.
    pub fn reboot(&self, host: HostNo) {
        let procs: Vec<ProcId> = self.living.borrow().iter().filter(|(_, l)| l.host == host).map(|(p, _)| *p).collect();
        for p in &procs {
            let was = self.living.borrow_mut().remove(p);
            self.exec.kill(*p);
            self.pool.media.iter().for_each(|(_, m)| m.orphan(*p));
            was.into_iter().for_each(|was| self.buried(*p, was));
        }
        self.net.host_gone(&procs);
        self.next_boot.set(self.next_boot.get() + 1);
        self.boots.borrow_mut().insert(host, Boot(self.next_boot.get()));
    }

    /// Everything loses its power.
    pub fn blackout(&self) {
        self.pool.media.iter().for_each(|(_, m)| m.power_cut());
        let hosts: Vec<HostNo> = self.boots.borrow().keys().copied().collect();
        hosts.into_iter().for_each(|h| self.reboot(h));
    }

    // ---- keepers ----

    fn start_client(self: &Rc<Self>, n: usize, host: HostNo) -> (ProcId, Start) {
        let (proc, boot) = self.begin(Role::Client(n), host);
        let start = Start {
            exec: self.exec.clone(),
            net: self.net.clone(),
            pool: self.pool.clone(),
            addresses: ADDRESSES.to_vec(),
            print: print(n),
            proc,
            host,
            boot,
            onlooker: self.clone(),
            ways: self.ways,
            counts: self.counts.clone(),
        };
        (proc, start)
    }

    /// Waits for a process's task; none where the process was killed.
    async fn outlive<T: 'static>(&self, proc: ProcId, task: Joined<T>) -> Option<T> {
        match select(task, pin!(self.exec.death(proc))).await {
            Either::Left((end, _)) => Some(end),
            Either::Right(_) => None,
        }
    }

    async fn keep_client(self: Rc<Self>, n: usize) {
        while !self.ending() {
            let (proc, start) = self.start_client(n, home(n));
            let task = self.exec.spawn(proc, program::run(self.clone(), start));
            let end = self.outlive(proc, task).await;
            if end != Some(End::Goodbye) {
                self.sched().say(proc, "has ended, and its session may stand");
            }
            // A process that has ended is as one that was killed.
            self.kill(proc);
            let pause = if self.sched().one_in(3) { 2_000 } else { 200 };
            self.exec.sleep(Duration::from_millis(self.sched().below(pause))).await;
        }
    }

    fn start_manager(&self, n: usize) -> (ProcId, Joined<fusevol_shared::error::Error>) {
        let host = HostNo(u32::try_from(n).expect("two hosts"));
        let (proc, boot) = self.begin(Role::Manager(n), host);
        let manager = Manager {
            exec: self.exec.clone(),
            net: self.net.clone(),
            pool: self.pool.clone(),
            address: ADDRESSES[n],
            host,
            boot,
            proc,
            watch: self.watch.clone(),
            ways: self.ways,
        };
        (proc, self.exec.spawn(proc, manager.run()))
    }

    /// A manager process until it ends.
    pub async fn manager(&self, n: usize) {
        let (proc, task) = self.start_manager(n);
        if let Some(why) = self.outlive(proc, task).await {
            self.sched().say(proc, format_args!("ends: {why}"));
        }
        self.kill(proc);
    }

    async fn keep_managers(self: Rc<Self>) {
        let mut n = 0;
        while !self.over.get() {
            self.manager(n).await;
            if self.sched().one_in(3) {
                n = 1 - n;
            }
            self.exec.sleep(Duration::from_millis(20 + self.sched().below(500))).await;
        }
    }

    /// Gives up sessions of hosts that are gone, once nothing of them can land any more.
    async fn administer(self: Rc<Self>) {
        while !self.over.get() {
            self.exec.sleep(Duration::from_millis(1500)).await;
            let landed = |p: &ProcId| self.pool.media.iter().all(|(_, m)| m.in_flight(*p) == 0);
            for n in 0..=CLIENTS {
                let frozen = self.living.borrow().iter().any(|(p, l)| l.role == Role::Client(n) && self.sched().frozen(*p));
                let dead = || self.dead.borrow().iter().filter(|(_, m)| **m == n).map(|(p, _)| *p).collect::<Vec<_>>();
                let standing = self.watch.has_session(|host| dead().iter().any(|p| self.sched().name(*p) == host));
                if frozen || !standing || !dead().iter().all(landed) {
                    continue;
                }
                self.confirming.set(Some(n));
                let name = format!("client{n}");
                let answer = self.watch.ask(&self.exec, &self.net, &ADDRESSES, AdminRequest::ClientConfirmDead { name }).await;
                self.confirming.set(None);
                if let Some(Err(e)) = answer {
                    self.sched().say(WORLD, format_args!("client{n} is not given up: {e}"));
                }
            }
        }
    }

    /// An administrator gives a disk up, or takes that back.
    pub async fn give_up(&self, disk: usize, clear: bool) {
        let disk = fusevol_shared::units::DiskNo(u16::try_from(disk).expect("few"));
        // Where no manager answers it is not given up.
        drop(self.watch.ask(&self.exec, &self.net, &ADDRESSES, AdminRequest::DiskFail { disk: disk.to_string(), failed: !clear }).await);
    }

    // ---- the end ----

    async fn end(self: &Rc<Self>, programs: Vec<Joined<()>>) {
        self.ending.set(true);
        self.sched().say(WORLD, "everything is healed");
        self.net.heal();
        self.pool.media.iter().for_each(|(_, m)| m.set_faults(Faults::default()));
        let living: Vec<ProcId> = self.living.borrow().keys().copied().collect();
        living.iter().for_each(|p| self.pool.media.iter().for_each(|(_, m)| m.regain(*p)));
        let frozen: Vec<ProcId> = self.living.borrow().keys().copied().filter(|p| self.sched().frozen(*p)).collect();
        for p in frozen {
            chaos::thaw(self, p);
        }
        let late = self.exec.sleep(PATIENCE);
        if let Either::Right(_) = select(pin!(join_all(programs)), pin!(late)).await {
            panic!("a client does not come to its end: {:?}", self.living.borrow());
        }
        let (proc, start) = self.start_client(CLIENTS, HostNo(0));
        let shared = self.clone();
        let task = self.exec.spawn(proc, async move { shared.last(start).await });
        self.outlive(proc, task).await.expect("the last client is not killed");
        self.settled().await;
        self.over.set(true);
    }

    /// The last client reads everything.
    async fn last(&self, start: Start) {
        let proc = start.proc;
        let client = start.open().await.unwrap_or_else(|e| panic!("the last client has no session: {e}"));
        for vol in &self.volumes {
            self.read_live(&client, vol, proc).await;
            let shots: Vec<SnapshotId> = vol.shots.borrow().iter().filter(|(_, s)| !s.removed).map(|(id, _)| *id).collect();
            for id in shots {
                self.read_shot(&client, vol, id).await;
            }
        }
        client.goodbye().await.unwrap_or_else(|e| panic!("the last client cannot say goodbye: {e}"));
    }

    async fn read_live(&self, client: &Rc<Client>, vol: &Rc<Vol>, proc: ProcId) {
        let until = self.sched().now() + super::sched::nanos(PATIENCE);
        let volume = loop {
            match client.attach(vol.id, Mode::Write).await {
                Ok(v) => break v,
                Err(e) if matches!(e.kind(), Kind::Busy | Kind::Lapsed) && !client.over() && self.sched().now() < until => {
                    self.sched().sleep(proc, Duration::from_millis(700)).await;
                }
                Err(e) => panic!("{} cannot be attached in the end: {e}", vol.name),
            }
        };
        let attachment = self.next_attachment();
        vol.attached(proc, attachment);
        let len = vol.sectors() * SECTOR;
        let bytes = volume.read(0, len).await.unwrap_or_else(|e| panic!("{} cannot be read in the end: {e}", vol.name));
        vol.read(attachment, 0, &bytes);
        let (begun, bytes) = vol.begin(0..8, false);
        volume.write(0, fusevol_shared::disk::buf::IoBuf::copy_of(&bytes).freeze()).await.expect("it can be written in the end");
        vol.answered(attachment, &begun);
        if self.mirrored {
            self.make_whole(&volume, vol, proc).await;
        }
        vol.leaves(proc);
        client.detach(vol.id).await.unwrap_or_else(|e| panic!("{} cannot be given back in the end: {e}", vol.name));
        vol.left(proc, true);
    }

    /// All disks are well: soon every AU has all its copies, and they are equal.
    async fn make_whole(&self, volume: &super::client::Volume, vol: &Vol, proc: ProcId) {
        for no in 0..self.pool.media.len() {
            self.give_up(no, true).await;
        }
        let until = self.sched().now() + super::sched::nanos(PATIENCE);
        let mut well = BTreeMap::new();
        loop {
            volume.flush().await.unwrap_or_else(|e| panic!("{} cannot be flushed in the end: {e}", vol.name));
            self.sched().sleep(proc, Duration::from_millis(300)).await;
            let looked = volume.look_after_copies(&mut well).await;
            let shown = volume.copying();
            // What only snapshots have is the manager's to copy.
            let whole = self
                .watch
                .maps(vol.id)
                .first()
                .is_some_and(|live| live.iter().all(|(_, e)| e.legs().iter().filter(|l| l.state == LegState::InSync).count() >= 2));
            if looked.is_ok() && whole && shown.out.is_empty() && volume.counters().unfolded == 0 {
                break;
            }
            assert!(self.sched().now() < until, "{} does not become whole: {looked:?}, {shown:?}", vol.name);
        }
        let memory = self.pool.media.iter().map(|(id, m)| (*id, m.image())).collect();
        let disks = crate::model::copies::Disks::new(2, memory, Vec::new());
        disks.check_equal(&self.watch.maps(vol.id)[0], volume.block_size());
    }

    async fn read_shot(&self, client: &Rc<Client>, vol: &Rc<Vol>, id: SnapshotId) {
        let taken = vol.shots.borrow()[&id].taken;
        let reader = match client.open_snapshot(id).await {
            Ok(r) => r,
            Err(e) if e.kind() == Kind::NotFound && !taken => return,
            Err(e) => panic!("snapshot {id} of {} cannot be opened in the end: {e}", vol.name),
        };
        let bytes = reader.read(0, vol.sectors() * SECTOR).await.unwrap_or_else(|e| panic!("snapshot {id} cannot be read in the end: {e}"));
        vol.read_shot(id, reader.info().epoch, 0, &bytes);
        client.close_snapshot(id).await.expect("closed");
    }

    /// Everything that sessions held is free again.
    async fn settled(&self) {
        let until = self.sched().now() + super::sched::nanos(PATIENCE);
        loop {
            self.exec.sleep(Duration::from_secs(2)).await;
            let held = self.watch.held();
            match held {
                Some(held) if held.is_empty() => return,
                Some(held) if self.sched().now() >= until => panic!("still held when all sessions are over: {held}"),
                None if self.sched().now() >= until => panic!("no manager serves in the end"),
                _ => {}
            }
        }
    }
}

impl Onlooker for Shared {
    fn holding(&self, proc: ProcId, hold: &Hold) {
        self.volume(hold.volume).holding(hold.snapshot, hold.epoch, proc);
    }

    fn held(&self, _: ProcId, hold: &Hold, flipped: bool) {
        self.volume(hold.volume).held(hold.snapshot, hold.epoch, flipped);
    }

    fn recalled(&self, proc: ProcId, volume: VolumeId, done: Option<bool>) {
        match done {
            None => self.volume(volume).leaves(proc),
            Some(true) => {}
            Some(false) => self.volume(volume).left(proc, false),
        }
    }
}

/// Runs the world of a seed; `print` writes its trace.
///
/// # Panics
/// Where a promise is broken, or it does not come to its end.
#[must_use]
pub fn run(template: &Template, seed: u64, print: bool) -> Done {
    let sched = Sched::new(seed, print);
    let exec = Exec::new(sched.clone());
    let net = Net::new(sched.clone());
    let media = template.disks.iter().zip(0..).map(|((id, d), n)| (*id, Medium::new(sched.clone(), n, d)));
    let pool = Pool { id: template.pool, au_size: template.au_size, lease: template.lease, media: media.collect() };
    let volumes = template.volumes.iter().zip(1..).map(|((id, name, size), n)| Rc::new(Vol::new(n, *id, name, *size))).collect();
    let boots = BTreeMap::from([(HostNo(0), Boot(1)), (HostNo(1), Boot(2))]);
    let shared = Rc::new(Shared {
        exec: exec.clone(),
        net,
        pool,
        volumes,
        watch: Rc::default(),
        boots: RefCell::new(boots),
        next_boot: Cell::new(2),
        living: RefCell::default(),
        dead: RefCell::default(),
        confirming: Cell::new(None),
        reading: RefCell::default(),
        ending: Cell::new(false),
        over: Cell::new(false),
        attachments: Cell::new(0),
        ops: Cell::new(0),
        faults: Cell::new(0),
        mirrored: template.mirrored,
        ways: template.ways,
        only_ways: Cell::new(false),
        counts: Arc::default(),
    });
    let world = shared.clone();
    let story = Story(sched.clone(), seed);
    let ended = exec.run(STEPS, async move {
        drop(world.exec.spawn(WORLD, world.clone().keep_managers()));
        drop(world.exec.spawn(WORLD, world.clone().administer()));
        let programs = (0..CLIENTS).map(|n| world.exec.spawn(WORLD, world.clone().keep_client(n))).collect();
        chaos::run(&world).await;
        world.end(programs).await;
    });
    match ended {
        Ok(()) => {}
        Err(Stuck::Hang) => panic!("the world hangs"),
        Err(Stuck::Steps) => panic!("the world does not come to its end"),
    }
    drop(story);
    let (hash, events) = sched.digest();
    let shots = shared.volumes.iter().map(|v| v.shots.borrow().values().filter(|s| s.taken).count() as u64).sum();
    let (ops, commits, faults) = (shared.ops.get(), shared.watch.commits.get(), shared.faults.get());
    let count = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
    let done = Done {
        hash,
        events,
        ops,
        commits,
        shots,
        faults,
        steps: exec.steps(),
        redirected: count(&shared.counts.redirected),
        reopened: count(&shared.counts.reopened),
        rejoined: shared.watch.reopened.get(),
        late: shared.pool.media.iter().map(|(_, m)| m.late()).sum(),
        moved: shared.watch.moved.get(),
        letters: count(&shared.counts.letters),
        slots: shared.watch.slots.get(),
    };
    all_given_back(sched, exec, shared);
    done
}

/// A world that is over holds nothing: thousands of them run in one process.
fn all_given_back(sched: Sched, exec: Exec, shared: Rc<Shared>) {
    let held = (sched.watch(), exec.watch(), Rc::downgrade(&shared), shared.pool.media[0].1.watch());
    drop((sched, exec, shared));
    let left = (held.2.strong_count(), held.1(), held.3(), held.0());
    assert_eq!(left, (0, 0, 0, 0), "the world leaks: handles on itself, its tasks, a disk, its clock");
}

/// Tells what happened before a failure.
struct Story(Sched, u64);

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- seed {}: what was said before the failure ---\n{}", self.1, self.0.story());
        }
    }
}
