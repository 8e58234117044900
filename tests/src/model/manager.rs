//! The manager's core in memory. Time stands still unless a test lets it go by, so that no lease ends by itself.
//!
//! What the core asks of the disks for its sessions is passed over, unless somebody [helps](Manager::helped).

use fusevol::control::Control;
use fusevol_mgr::catalog::Catalog;
use fusevol_mgr::catalog::record::{PoolEntry, Record};
use fusevol_mgr::core::{AdminId, AdminReply, AdminRequest, Config, ConnId, Core, Effect, Event, JournalRef, Now, Output, Ticket, Verdict};
use fusevol_mgr::store::{Door, Store};
use fusevol_shared::clock::BootTime;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Result, WireError};
use fusevol_shared::ids::{BootId, DiskId, Generation, KeyPrint, PoolId, VolumeId};
use fusevol_shared::map::{Leg, LegState, VolumeMap};
use fusevol_shared::name::Name;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{AuNo, AuSize};
use fusevol_shared::wire::messages::{Ack, Call, Push, Reply, Request};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

/// AUs at the start of each disk that hold no data.
pub const FIRST_DATA: u32 = 4;
/// How long a sleep takes, in turns of the other tasks.
const TURNS: u32 = 24;
const NOW: Now = Now { boot: BootTime(1_000_000_000), wall: 1_700_000_000_000_000_000 };

struct Inner {
    core: Core,
    records: Vec<Record>,
    /// Events that wait for the store, where there is one.
    queue: Option<VecDeque<Event>>,
    replies: BTreeMap<(ConnId, u64), std::result::Result<Reply, WireError>>,
    admin: BTreeMap<AdminId, std::result::Result<AdminReply, WireError>>,
    verdicts: BTreeMap<Ticket, std::result::Result<Verdict, WireError>>,
    pushes: BTreeMap<ConnId, VecDeque<(u64, Push)>>,
    wakers: Vec<Waker>,
    next: u64,
    now: Now,
    /// What is to be done on the disks, where somebody does it.
    errands: Option<VecDeque<Effect>>,
}

/// A manager in memory.
pub struct Manager(Mutex<Inner>);

impl Manager {
    /// A pool with disks of so many AUs.
    ///
    /// # Panics
    /// If the core refuses it.
    #[must_use]
    pub fn new(seed: u64, au_size: AuSize, disks: &[(DiskId, u32)]) -> Arc<Self> {
        let name = Name::new("model").expect("a good name");
        let pool = Record::PoolCreated(PoolEntry { id: PoolId([1; 16]), name, au_size, lease_ms: 10_000, created: 1 });
        let catalog = Catalog::fold([&pool]).expect("a pool can begin");
        let manager = Self::over(catalog, seed);
        for (id, aus) in disks {
            let (first_data, end_data) = (AuNo(FIRST_DATA), AuNo(aus - 1));
            manager.admin(AdminRequest::DiskAdd { id: *id, aus: *aus, first_data, end_data, paths: vec![] }).expect("a disk is added");
        }
        manager
    }

    /// A manager that goes on from a catalog.
    #[must_use]
    pub fn over(catalog: Catalog, seed: u64) -> Arc<Self> {
        let records = catalog.dump();
        let config = Config::new(Duration::from_secs(10), BootId([2; 16]));
        let core = Core::new(catalog, config, Generation(1), NOW, Box::new(SeededRandom(seed)));
        let inner = Inner {
            core,
            records,
            queue: None,
            replies: BTreeMap::new(),
            admin: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            pushes: BTreeMap::new(),
            wakers: Vec::new(),
            next: 1,
            now: NOW,
            errands: None,
        };
        Arc::new(Self(Mutex::new(inner)))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics within")
    }

    /// One event: committed at once, or by who [`Manager::serve`]s.
    pub fn step(&self, event: Event) {
        let mut m = self.inner();
        if let Some(queue) = &mut m.queue {
            return queue.push_back(event);
        }
        let (mut out, now) = (Output::default(), m.now);
        m.core.step(now, event, &mut out);
        m.records.append(&mut out.records);
        drop(m);
        self.carry_out(out.effects);
    }

    /// The answer to a question about data; it was asked before.
    ///
    /// # Errors
    /// What the core says.
    ///
    /// # Panics
    /// If it was not answered.
    pub fn verdict(&self, ticket: Ticket) -> std::result::Result<Verdict, WireError> {
        self.inner().verdicts.remove(&ticket).expect("each question is answered at once")
    }

    /// From now on events wait until this has committed what they led to in the store; as the driver does it: one transaction for all that
    /// wait, and the effects after it. Never ends.
    ///
    /// # Panics
    /// If the store fails.
    pub async fn serve<D: Disk, W: Door<D>>(self: Arc<Self>, mut store: Store<D, W>) {
        self.inner().queue = Some(VecDeque::new());
        loop {
            let (records, effects, dump) = {
                let mut m = self.inner();
                let events = std::mem::take(m.queue.as_mut().expect("set above"));
                let (mut out, now) = (Output::default(), m.now);
                events.into_iter().for_each(|e| m.core.step(now, e, &mut out));
                m.records.extend(out.records.iter().cloned());
                (out.records, out.effects, m.core.catalog().dump())
            };
            if !records.is_empty() {
                store.commit(&records, || dump).await.expect("a memory disk does not fail");
            }
            self.carry_out(effects);
            tokio::task::yield_now().await;
        }
    }

    fn carry_out(&self, effects: Vec<Effect>) {
        let mut m = self.inner();
        for effect in effects {
            match effect {
                Effect::Reply { conn, id, result } => drop(m.replies.insert((conn, id), result)),
                Effect::Push { conn, push, body } => m.pushes.entry(conn).or_default().push_back((push, body)),
                Effect::AdminReply { to, result } => drop(m.admin.insert(to, result)),
                Effect::Verdict { ticket, result } => drop(m.verdicts.insert(ticket, result)),
                errand @ (Effect::OpenSlot { .. }
                | Effect::OpenPlaces { .. }
                | Effect::SealSlot { .. }
                | Effect::ReadSlot { .. }
                | Effect::ReadJournals { .. }
                | Effect::LayAgain { .. }
                | Effect::Errand { .. }) => {
                    if let Some(errands) = &mut m.errands {
                        errands.push_back(errand);
                    }
                }
                // Nobody's process dies here: no lock is asked for. (The simulator is where they die.)
                Effect::Close { .. }
                | Effect::ProbeLock { .. }
                | Effect::Fence { .. }
                | Effect::ReadNonce { .. }
                | Effect::Copy { .. }
                | Effect::LookAtDisk { .. }
                | Effect::WriteLetter { .. }
                | Effect::ReadAnswer { .. }
                | Effect::Notice(_) => {}
            }
        }
        let wake = std::mem::take(&mut m.wakers);
        drop(m);
        wake.into_iter().for_each(Waker::wake);
    }

    /// From now on what the core asks of the disks waits until it is [taken](Manager::errand).
    pub fn helped(&self) {
        self.inner().errands = Some(VecDeque::new());
    }

    /// What is to be done on the disks next; who takes it answers it by [`Manager::step`].
    #[must_use]
    pub fn errand(&self) -> Option<Effect> {
        self.inner().errands.as_mut().and_then(VecDeque::pop_front)
    }

    /// Time goes by.
    pub fn advance(&self, by: Duration) {
        let mut m = self.inner();
        m.now.boot = m.now.boot.plus(by);
        drop(m);
        self.step(Event::Tick);
    }

    /// Asks the core.
    pub fn look<T>(&self, f: impl FnOnce(&Core) -> T) -> T {
        f(&self.inner().core)
    }

    fn number(&self) -> u64 {
        let mut m = self.inner();
        m.next += 1;
        m.next
    }

    /// A verb that is answered at once.
    ///
    /// # Errors
    /// The core's.
    ///
    /// # Panics
    /// If the answer comes later.
    pub fn admin(&self, request: AdminRequest) -> Result<AdminReply> {
        let from = AdminId(self.number());
        self.step(Event::Admin { from, request });
        self.inner().admin.remove(&from).expect("it is answered at once").map_err(Error::from)
    }

    /// A new connection.
    #[must_use]
    pub fn connect(self: &Arc<Self>, print: KeyPrint) -> Link {
        let conn = ConnId(self.number());
        self.step(Event::Connected { conn, print });
        Link { manager: self.clone(), conn }
    }

    /// AUs that are free.
    #[must_use]
    pub fn free_aus(&self) -> u64 {
        self.inner().core.catalog().free_aus()
    }

    /// The catalog as the records of a checkpoint.
    #[must_use]
    pub fn dump(&self) -> Vec<Record> {
        self.inner().core.catalog().dump()
    }

    /// Where the journals of all writers lie.
    #[must_use]
    pub fn journals(&self) -> Vec<JournalRef> {
        let m = self.inner();
        let writers = m.core.catalog().attachments();
        writers
            .filter_map(|a| {
                Some(JournalRef { volume: a.volume, session: a.session, token: a.token, journal: a.journal.clone()?, without: Vec::new() })
            })
            .collect()
    }

    /// AUs in quarantine.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.inner().core.catalog().quarantine().map(|q| q.places.len()).sum()
    }

    /// The maps of a volume: the live one, and those of its snapshots.
    #[must_use]
    pub fn maps(&self, id: VolumeId) -> Vec<VolumeMap> {
        let m = self.inner();
        let c = m.core.catalog();
        let live = c.volume(id).map(|v| v.map.clone());
        live.into_iter().chain(c.snapshots_of(id).into_iter().map(|s| s.map.clone())).collect()
    }

    /// Whether all that the volume and its snapshots have is on other disks than this one, too.
    #[must_use]
    pub fn is_beside(&self, id: VolumeId, disk: usize) -> bool {
        let beside = |l: &Leg| l.state == LegState::InSync && usize::from(l.at.disk.0) != disk;
        self.maps(id).iter().all(|m| m.iter().all(|(_, e)| e.legs().iter().any(beside)))
    }

    /// Whether a preserve segment of the volume has fewer copies than the volume.
    #[must_use]
    pub fn has_thin_segments(&self, id: VolumeId, copies: u8) -> bool {
        let m = self.inner();
        m.core.catalog().volume(id).is_some_and(|v| v.segments.values().any(|s| s.legs.len() < usize::from(copies)))
    }

    /// What is wrong with the catalog: as it stands, and folded anew from its records and from its checkpoint.
    ///
    /// # Panics
    /// If the records cannot be folded.
    #[must_use]
    pub fn prove(&self) -> Vec<String> {
        let m = self.inner();
        let folded = Catalog::fold(&m.records).expect("what was applied can be folded");
        let dump = m.core.catalog().dump();
        let loaded = Catalog::fold(&dump).expect("a checkpoint can be folded");
        let mut wrong: Vec<String> =
            [m.core.catalog(), &folded, &loaded].into_iter().flat_map(fusevol_mgr::catalog::prove).map(|v| v.0).collect();
        if folded.dump() != dump || loaded.dump() != dump {
            wrong.push("the fold of the records is not the catalog".into());
        }
        wrong
    }
}

/// One client's connection.
#[derive(Clone)]
pub struct Link {
    manager: Arc<Manager>,
    conn: ConnId,
}

impl Link {
    /// The next push.
    pub async fn push(&self) -> (u64, Push) {
        poll_fn(|cx| {
            let mut m = self.manager.inner();
            if let Some(push) = m.pushes.entry(self.conn).or_default().pop_front() {
                return Poll::Ready(push);
            }
            m.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Answers a push.
    pub fn ack(&self, push: u64, ack: Ack) {
        self.manager.step(Event::Ack { conn: self.conn, push, ack });
    }

    /// The manager.
    #[must_use]
    pub fn manager(&self) -> &Arc<Manager> {
        &self.manager
    }
}

impl Control for Link {
    async fn call<T: Call>(&self, call: T) -> Result<T::Reply> {
        let request: Request = call.into();
        let key = (self.conn, self.manager.number());
        self.manager.step(Event::Request { conn: key.0, id: key.1, request });
        tokio::task::yield_now().await; // an answer takes its time: others go on meanwhile
        let result = poll_fn(|cx| {
            let mut m = self.manager.inner();
            if let Some(result) = m.replies.remove(&key) {
                return Poll::Ready(result);
            }
            m.wakers.push(cx.waker().clone());
            Poll::Pending
        });
        let reply = result.await.map_err(Error::from)?;
        Ok(T::Reply::try_from(reply).unwrap_or_else(|r| panic!("{} answered by {r:?}", T::NAME)))
    }

    /// Time stands still: others have their turn some times.
    async fn sleep(&self, _: Duration) {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }
}
