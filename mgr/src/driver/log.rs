//! The store on the pool's disks as the driver's log. Each call drives the disks' I/O on the calling thread's own ring.

use super::Input;
use super::copier::Copier;
use super::fence::{self, CutOff, Fencer};
use super::helper::{Helper, Job};
use super::join::{Joining, Log, Opened};
use super::marker::{Marker, Marking};
use super::reopen::{self, Reopener};
use crate::admin::config::Config;
use crate::admin::disks::{Member, Missing};
use crate::catalog::Catalog;
use crate::catalog::record::{DiskEntry, Record};
use crate::core::{AdminRequest, Effect, Event};
use crate::data::Table;
use crate::marks::Marks;
use crate::session_io::{self, SessionIo, Silent, SlotOf};
use crate::store::{self, Candidate, HostDoor, NewDisk, NewPool, Options, Store, Takeover, Who};
use arc_swap::ArcSwap;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::absent::AbsentDisk;
use fusevol_shared::disk::any::PoolDisk;
use fusevol_shared::disk::reservations::{HostKey, Reservations};
use fusevol_shared::disk::ring::{self, block_on};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::format::layout::{Layout, MANAGER_LOCK};
use fusevol_shared::ids::{BootId, DiskId, Generation, Life, PoolId, SessionId, SessionNo};
use fusevol_shared::random::{Random, SystemRandom};
use fusevol_shared::units::{AuSize, DiskNo};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two signs of life; the store's `watch` is longer.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a predecessor that was just killed may still hold its locks: until its last request has landed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often its locks are tried.
const RETRY: Duration = Duration::from_millis(50);

/// How long the welcome of a new session waits for a slot disk: the driver does nothing else meanwhile.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

pub(super) type File = Arc<PoolDisk>;

/// A pool that this process serves.
pub struct StoreLog {
    /// Ends before the store does: nothing of it is in flight then.
    helper: Helper,
    fencer: Fencer,
    copier: Copier,
    reopener: Reopener,
    marker: Marker,
    marks: Arc<Marks>,
    store: Store<File, HostDoor>,
    disks: Vec<session_io::Member<File>>,
    table: Table<File>,
    pool: PoolId,
    /// Of this host.
    boot: BootId,
    au_size: AuSize,
    silent: Arc<Silent>,
    drained: bool,
}

/// A generation that was won, not serving yet.
pub struct Won {
    takeover: Takeover<File, HostDoor>,
    disks: Vec<session_io::Member<File>>,
    pool: PoolId,
    au_size: AuSize,
    /// What the catalog is folded from.
    pub records: Vec<Record>,
}

/// What was read of a pool without serving it.
#[derive(Debug)]
pub struct Read {
    /// What the catalog is folded from.
    pub records: Vec<Record>,
    /// Damaged and missing copies, of labels too.
    pub flaws: Vec<String>,
    /// Of the manager that wrote the catalog last.
    pub generation: Generation,
}

/// Labels the disks and writes the first catalog.
///
/// # Errors
/// The store's.
pub fn create(
    files: Vec<PoolDisk>,
    entries: &[DiskEntry],
    config: &Config,
    au_size: AuSize,
    lease: Duration,
    genesis: &[Record],
) -> Result<()> {
    let disks = files.into_iter().zip(entries);
    let disks = disks.map(|(f, e)| NewDisk { path: f.address().to_string(), disk: Arc::new(f), id: e.id, no: e.no });
    let pool = NewPool { pool: config.pool_id, name: config.pool.clone(), au_size, lease };
    let who = Who::here(&mut SystemRandom)?;
    block_on(store::create(disks.collect(), &pool, &who, HostDoor, false, genesis))
}

/// Reads the catalog; writes nothing.
///
/// # Errors
/// The store's.
pub fn read(members: &[Member]) -> Result<Read> {
    let pool = members.first().map(|m| m.label.pool);
    let (seen, records) = block_on(store::inspect(candidates(members), &Options { pool, ..Options::default() }))?;
    Ok(Read { records, flaws: seen.warnings, generation: seen.newest.generation })
}

/// Wins the pool on the disks that are here; `whole`: these are all; `force`: the administrator's word (`store::Options`).
///
/// # Errors
/// The store's; `Busy` only after a killed predecessor has had its time.
pub fn open(members: &[Member], whole: bool, force: bool) -> Result<Won> {
    let label = &members.first().ok_or_else(|| Error::new(Kind::NotFound, "the pool has no disk"))?.label;
    let options = Options { pool: Some(label.pool), whole, force, ..Options::default() };
    let until = SystemClock.now().plus(PATIENCE);
    let (takeover, records) = block_on(async {
        loop {
            let who = Who::here(&mut SystemRandom)?;
            match store::open(candidates(members), who, HostDoor, &options).await {
                Err(e) if e.kind() == Kind::Busy && SystemClock.now() < until => {
                    ring::sleep(RETRY).await.context(Kind::Io, || "the ring's timer")?;
                }
                end => return end,
            }
        }
    })?;
    takeover.warnings().iter().for_each(|w| tracing::warn!("{w}"));
    let disks = members.iter().map(|m| (m.label.no, m.label.disk, Arc::clone(&m.disk))).collect();
    Ok(Won { takeover, disks, pool: label.pool, au_size: label.au_size, records })
}

fn candidates(members: &[Member]) -> Vec<Candidate<File>> {
    members.iter().map(|m| Candidate { disk: Arc::clone(&m.disk), path: m.disk.address().to_string() }).collect()
}

/// In the place of disks that are missing.
fn absent(catalog: &Catalog, missing: &[Missing], au_size: AuSize) -> Vec<session_io::Member<File>> {
    let entry = |m: &Missing| catalog.disks().map(|d| &d.entry).find(|e| e.id == m.id);
    let one = |m: &Missing| {
        let (no, aus) = entry(m).map(|e| (e.no, e.aus))?;
        let disk = AbsentDisk::new(m.hints.clone(), u64::from(aus) << au_size.log2(), m.why.clone());
        Some((no, m.id, Arc::new(PoolDisk::Absent(disk))))
    };
    missing.iter().filter_map(one).collect()
}

impl Won {
    /// Writes the catalog into an area of its own, and serves from then on, with the fence agents of this folder; disks that are missing are as lost ones.
    /// What is done on the disks for sessions is answered to `to`.
    ///
    /// # Errors
    /// The store's; `Internal` without a thread.
    pub fn start(
        mut self,
        catalog: &Catalog,
        missing: &[Missing],
        marks: Marks,
        agents: PathBuf,
        to: mpsc::Sender<Input>,
    ) -> Result<StoreLog> {
        self.disks.extend(absent(catalog, missing, self.au_size));
        let drained = self.takeover.is_drained();
        let mut store = block_on(self.takeover.start(&catalog.dump()))?;
        store.take_warnings().iter().for_each(|w| tracing::warn!("{w}"));
        let lease = Duration::from_millis(catalog.pool().map_or(0, |p| p.lease_ms).into());
        store.set_lease(lease);
        let silent = Arc::default();
        let boot = Who::here(&mut SystemRandom)?.boot;
        let fencer = Fencer::start(agents, to.clone())?;
        let table = Arc::new(ArcSwap::from_pointee(self.disks.clone()));
        let copier = Copier::start(self.pool, self.au_size, to.clone())?;
        let reopener = Reopener::start(self.pool, Arc::clone(&table), to.clone())?;
        let marks = Arc::new(marks);
        let (generation, pool) = (store.generation(), self.pool);
        let of = Marking { pool, generation, lease, table: Arc::clone(&table), marks: Arc::clone(&marks) };
        let marker = Marker::start(of, |d: &File| d.lost().is_some())?;
        let helper = Helper::start(self.pool, self.au_size, &silent, to)?;
        let Won { disks, pool, au_size, .. } = self;
        Ok(StoreLog { helper, fencer, copier, reopener, marker, marks, store, disks, table, pool, boot, au_size, silent, drained })
    }
}

impl StoreLog {
    /// The generation that serves.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.store.generation()
    }

    /// Whether nothing that an earlier manager has sent, for its clients too, may still land.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// The disks as they are now, for whoever does I/O beside this.
    #[must_use]
    pub fn table(&self) -> Table<File> {
        self.table.clone()
    }

    /// Where a disk of the pool was found.
    #[must_use]
    pub fn path(&self, id: DiskId) -> Option<String> {
        let found = self.disks.iter().find(|(_, i, d)| *i == id && !matches!(**d, PoolDisk::Absent(_)));
        found.map(|(.., d)| d.address().to_string())
    }

    fn warn(&mut self) {
        self.store.take_warnings().iter().for_each(|w| tracing::warn!("{w}"));
    }
}

impl Log for StoreLog {
    fn commit(&mut self, records: &[Record], checkpoint: impl FnOnce() -> Vec<Record>) -> Result<()> {
        let done = block_on(self.store.commit(records, checkpoint));
        self.warn();
        done
    }

    fn heartbeat_every(&self) -> Duration {
        HEARTBEAT
    }

    fn heartbeat(&mut self) -> Result<()> {
        let done = block_on(self.store.heartbeat());
        self.warn();
        done
    }

    fn check(&mut self) -> Result<()> {
        let done = block_on(self.store.check());
        self.warn();
        done
    }

    fn is_tight(&self) -> bool {
        self.store.room().is_tight()
    }

    fn open_slot(&mut self, session: SessionNo, id: SessionId, slots: &[DiskNo]) {
        let io = SessionIo::new(self.pool, self.au_size, &self.disks, OPEN_LIMIT).knowing(&self.silent);
        let (_, failed) = block_on(io.open_slot(SlotOf { session, id, slots }, self.store.generation()));
        failed.iter().for_each(|why| tracing::warn!("the slot of session {session} could not be opened: {why}"));
    }

    fn begin(&mut self, effect: Effect) -> Option<Event> {
        if let Effect::Fence { asked, client, on, host } = effect {
            let disks = || self.disks.iter().map(|(no, _, d)| (*no, Arc::clone(d) as Arc<dyn Reservations>)).collect();
            let cut =
                host.map(|host| CutOff { disks: disks(), own: HostKey::of(self.pool, self.boot), other: HostKey::of(self.pool, host) });
            return self.fencer.begin(fence::Job { asked, client, on, cut });
        }
        if let Effect::Copy { .. } | Effect::LayAgain { .. } | Effect::LookAtDisk { .. } = effect {
            return self.copier.begin(effect, self.disks.clone());
        }
        self.helper.begin(Job { effect, disks: self.disks.clone(), generation: self.store.generation() })
    }

    fn has_locks(&self) -> bool {
        self.disks.iter().all(|(.., d)| d.has_locks())
    }

    fn lock_held(&self, session: SessionNo) -> bool {
        let byte = MANAGER_LOCK + 1 + u64::from(session.0);
        // A disk that knows no locks never says that a session is drained.
        self.disks.iter().any(|(.., d)| d.lock_held_by_other(byte).ok().flatten().unwrap_or(true))
    }

    fn label(&mut self, new: Joining, catalog: &Catalog) -> Result<AdminRequest> {
        let Joining { disk, was } = new;
        let known = was.and_then(|id| catalog.disks().find(|d| d.entry.id == id));
        if let Some(known) = known {
            let what = format!("disk {}: it is disk {} of this pool already", disk.address(), known.entry.no);
            return Err(Error::new(Kind::Refused, what).hint("see `fusevol-mgr disk ls`"));
        }
        let no = catalog.disks().map(|d| u32::from(d.entry.no.0) + 1).max().unwrap_or(0);
        let no = DiskNo(u16::try_from(no).map_err(|_| Error::new(Kind::Refused, "the pool has no number left for a disk"))?);
        let layout = Layout::for_disk(self.au_size, disk.size())?;
        let (id, path) = (DiskId::from_random(SystemRandom.id()), disk.address().to_string());
        let disk = Arc::new(disk);
        let member = NewDisk { disk: Arc::clone(&disk), path: path.clone(), id, no };
        block_on(self.store.add_disk(member, was.is_some()))?;
        // Of one that was labelled before, and has not joined, nothing is left.
        self.disks.retain(|(no, ..)| catalog.disk(*no).is_some());
        self.disks.push((no, id, disk));
        self.table.store(Arc::new(self.disks.clone()));
        Ok(AdminRequest::DiskAdd { id, aus: layout.aus, first_data: layout.first_data, end_data: layout.end_data, paths: vec![path] })
    }

    fn reopened(&mut self, no: DiskNo, opened: Opened, checkpoint: impl FnOnce() -> Vec<Record>) -> Result<Result<()>> {
        let refused = |why: String| Ok(Err(Error::new(Kind::Refused, why)));
        let Some(at) = self.disks.iter().position(|(n, ..)| *n == no) else { return refused("the pool has no such disk".to_owned()) };
        if let Err(e) = reopen::same(&self.disks[at], &opened.disk) {
            return Ok(Err(e));
        }
        let id = self.disks[at].1;
        // Before the store asks it anything: of an older copy not even a SEAL is to be believed.
        if let Some(why) = self.marks.judge(id, opened.mark).or_else(|| self.store.is_older(&opened.label)) {
            return refused(why);
        }
        let disk = Arc::new(opened.disk);
        tracing::info!("disk {no} is open again: {disk}");
        let new = Candidate { path: disk.address().to_string(), disk: Arc::clone(&disk) };
        let done = block_on(self.store.rejoin(id, new, checkpoint));
        let said = self.store.take_warnings();
        said.iter().for_each(|w| tracing::warn!("{w}"));
        if !done? {
            return refused(said.into_iter().next_back().unwrap_or_default());
        }
        self.disks[at].2 = disk;
        self.table.store(Arc::new(self.disks.clone()));
        self.silent.answers(no);
        Ok(Ok(()))
    }

    fn lost(&self) -> Vec<(DiskNo, String)> {
        self.disks.iter().filter_map(|(no, _, d)| Some((*no, d.lost()?))).collect()
    }

    fn lives(&self) -> Vec<(DiskNo, Life)> {
        self.disks.iter().map(|(no, _, d)| (*no, d.life())).collect()
    }

    fn close(self) -> Result<()> {
        drop((self.helper, self.fencer, self.copier, self.reopener, self.marker));
        block_on(self.store.close())
    }
}
