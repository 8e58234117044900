//! The crash proof of journal, preserve log, catalog, flips and frees together: the real volume engine, core and store on crash disks, a
//! power cut at every moment, and the real code that reads catalog, journals and preserve logs afterwards.
//!
//! After each cut: what was acknowledged is there, or something that was written after it; no sector holds what its volume did not write
//! there; every snapshot that the catalog has holds exactly the bytes of its instant; every AU has one owner, and none is lost.

use fusevol::control::Control;
use fusevol::disks::Disks;
use fusevol::preserve::log_reader::{LogReader, read_copy};
use fusevol::volume::{Mode, Volume};
use fusevol_mgr::catalog::record::{DiskEntry, PoolEntry, Record};
use fusevol_mgr::catalog::{Catalog, prove};
use fusevol_mgr::core::{AdminReply, AdminRequest, Config, Core, Effect, Event, Now, Output};
use fusevol_mgr::session_io::SessionIo;
use fusevol_mgr::store::{NewPool, create, inspect, open};
use fusevol_shared::clock::BootTime;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::format::layout::Layout;
use fusevol_shared::ids::{BootId, DiskId, Generation, PoolId, SnapshotId, VolumeId};
use fusevol_shared::map::MapEntry;
use fusevol_shared::name::Name;
use fusevol_shared::random::{Random, SeededRandom};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{AuSize, DiskNo, SECTOR, VolAu};
use fusevol_shared::wire::data::Claim;
use fusevol_shared::wire::messages::{CreateSnapshot, RemoveSnapshot};
use fusevol_shared::wire::rights::{Right, Rights};
use fusevol_tests::catalog::{DISK, NoLocks, candidates, new_disk, options, who};
use fusevol_tests::crash::{CrashDisk, CrashSet, State};
use fusevol_tests::model::host::Host;
use fusevol_tests::model::manager::{Link, Manager};
use fusevol_tests::model::run::print;
use fusevol_tests::model::run_local;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const POOL: PoolId = PoolId([7; 16]);
/// AUs of the volume, and blocks of each that are used: the first so many.
const AUS: u32 = 6;
const BLOCKS: u32 = 5;
const BLOCK: usize = 4096;
/// States over all recordings of one test, at least.
const STATES: usize = 55_000;

type Block = (u32, u32);
/// What a block may hold: numbers of writes, 0 for zeros.
type May = BTreeMap<Block, BTreeSet<u64>>;
type Image = BTreeMap<Block, u64>;

/// What holds from one mark to the next.
#[derive(Clone, Default)]
struct Moment {
    may: May,
    /// Snapshots that were taken for certain, and not asked to go.
    kept: BTreeSet<SnapshotId>,
}

fn au_size() -> AuSize {
    AuSize::from_log2(18).expect("256 KiB")
}

fn genesis(disks: usize) -> Vec<Record> {
    let name = Name::new("p").expect("a name");
    let pool = PoolEntry { id: POOL, name, au_size: au_size(), lease_ms: 10_000, created: 1 };
    let layout = Layout::for_disk(au_size(), DISK).expect("large enough");
    let disk = |no: u16| {
        let id = DiskId([u8::try_from(no).expect("few") + 1; 16]);
        let (aus, first_data, end_data) = (layout.aus, layout.first_data, layout.end_data);
        Record::DiskAdded(DiskEntry { no: DiskNo(no), id, aus, first_data, end_data, paths: vec![] })
    };
    let numbers = (0..u16::try_from(disks).expect("few")).map(disk);
    std::iter::once(Record::PoolCreated(pool)).chain(numbers).collect()
}

/// A block of which every sector says which write it is of.
fn block(at: Block, n: u64) -> IoBytes {
    let mut b = IoBuf::zeroed(BLOCK);
    for (i, sector) in (0u64..).zip(b.chunks_exact_mut(SECTOR)) {
        let head = [n, u64::from(at.0), u64::from(at.1), i, 0x5eed];
        for (word, to) in head.iter().zip(sector.chunks_exact_mut(8)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    b.freeze()
}

/// Of which write a sector is; an error where it is nothing of this place.
fn parse(at: Block, i: u64, sector: &[u8]) -> Result<u64, String> {
    if sector.iter().all(|b| *b == 0) {
        return Ok(0);
    }
    let word = |n: usize| u64::from_le_bytes(sector[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
    let fits = [word(1), word(2), word(3), word(4)] == [u64::from(at.0), u64::from(at.1), i, 0x5eed];
    if fits { Ok(word(0)) } else { Err(format!("block {at:?} sector {i} holds what was never written there")) }
}

/// One run on crash disks, with what is right at each of its marks.
struct Story {
    set: CrashSet,
    moments: Vec<Moment>,
    images: BTreeMap<SnapshotId, Image>,
}

struct Teller {
    manager: Arc<Manager>,
    volume_id: VolumeId,
    writer: Rc<Host<CrashDisk>>,
    volume: Arc<Volume<CrashDisk, Link>>,
    random: SeededRandom,
    story: Story,
    /// Now: what each block holds, and what it may hold after a cut.
    now: Image,
    may: May,
    kept: BTreeSet<SnapshotId>,
    writes: u64,
}

impl Teller {
    fn mark(&mut self) {
        self.story.moments.push(Moment { may: self.may.clone(), kept: self.kept.clone() });
        self.story.set.mark(self.story.moments.len() as u64);
    }

    /// A block may become this from here on.
    fn begins(&mut self, at: Block, n: u64) {
        self.may.entry(at).or_insert_with(|| BTreeSet::from([0])).insert(n);
        let may = self.may[&at].clone();
        let moment = self.story.moments.last_mut().expect("the first mark stands");
        moment.may.insert(at, may);
    }

    fn below(&mut self, n: u32) -> u32 {
        u32::try_from(self.random.below(u64::from(n))).expect("small")
    }

    async fn write_some(&mut self) {
        let batch = self.batch();
        self.write(&batch).await;
        self.now.extend(batch);
    }

    /// A flush beside writes: it makes durable what was there before it, and of these it may make any.
    async fn flush_beside_writes(&mut self) {
        let batch = self.batch();
        let volume = self.volume.clone();
        let (flushed, ()) = futures_util::future::join(volume.flush(), self.write(&batch)).await;
        flushed.expect("flushed");
        self.may = self.now.iter().map(|(at, n)| (*at, BTreeSet::from([*n]))).collect();
        for (at, n) in &batch {
            self.may.entry(*at).or_insert_with(|| BTreeSet::from([0])).insert(*n);
        }
        self.now.extend(batch);
        self.mark();
    }

    fn batch(&mut self) -> Image {
        let mut batch = BTreeMap::new();
        for _ in 0..1 + self.below(4) {
            let at = (self.below(AUS), self.below(BLOCKS));
            self.writes += 1;
            batch.insert(at, self.writes);
        }
        for (at, n) in &batch {
            self.begins(*at, *n);
        }
        batch
    }

    async fn write(&self, batch: &Image) {
        let off = |at: Block| u64::from(at.0) * au_size().bytes() + u64::from(at.1) * BLOCK as u64;
        let volume = &self.volume;
        let writes = batch.iter().map(|(at, n)| volume.write(off(*at), block(*at, *n)));
        futures_util::future::join_all(writes).await.into_iter().for_each(|w| w.expect("written"));
    }

    /// Everything that was written is durable.
    fn settled(&mut self) {
        self.may = self.now.iter().map(|(at, n)| (*at, BTreeSet::from([*n]))).collect();
        self.mark();
    }

    async fn discard(&mut self) {
        let au = self.below(AUS);
        let whole = self.below(2) == 0;
        let blocks: Vec<Block> = (0..if whole { BLOCKS } else { 2 }).map(|b| (au, b)).collect();
        blocks.iter().for_each(|b| self.begins(*b, 0));
        let len = if whole { au_size().bytes() } else { 2 * BLOCK as u64 };
        self.volume.discard(u64::from(au) * au_size().bytes(), len).await.expect("discarded");
        for b in blocks {
            self.now.insert(b, 0);
            self.may.insert(b, BTreeSet::from([0]));
        }
        self.mark();
    }

    async fn snapshot(&mut self) {
        if self.kept.len() >= 3 {
            return;
        }
        let id = SnapshotId(self.random.id());
        self.story.images.insert(id, self.now.clone());
        let call = CreateSnapshot { volume: self.volume_id, id, name: format!("s{}", self.story.images.len()) };
        self.writer.engine.control.call(call).await.expect("taken");
        self.kept.insert(id);
        self.settled();
    }

    async fn remove(&mut self) {
        let Some(id) = self.kept.pop_first() else { return };
        self.mark(); // from here on it may be gone
        self.writer.engine.control.call(RemoveSnapshot { snapshot: id }).await.expect("removed");
    }

    async fn attach_again(&mut self) {
        self.writer.detach(self.volume_id).await.expect("given back");
        self.settled();
        self.volume = self.writer.attach(self.volume_id, Mode::Write).await.expect("attached again");
    }

    async fn op(&mut self) {
        match self.below(100) {
            0..46 => self.write_some().await,
            46..58 => self.flush_beside_writes().await,
            58..76 => {
                self.volume.flush().await.expect("flushed");
                self.settled();
            }
            76..86 => self.discard().await,
            86..92 => self.snapshot().await,
            92..96 => self.remove().await,
            _ => self.attach_again().await,
        }
    }
}

/// Runs a story on fresh disks.
fn tell(seed: u64, disks: usize, ops: u32) -> Story {
    run_local(async {
        let plain: Vec<MemDisk> = (0..disks).map(|_| MemDisk::new(DISK)).collect();
        let new = plain.iter().cloned().zip(0..).map(|(d, no)| new_disk(d, no)).collect();
        let pool = NewPool { pool: POOL, name: Name::new("p").expect("a name"), au_size: au_size(), lease: Duration::from_secs(2) };
        let genesis = genesis(disks);
        create(new, &pool, &who(1, 1), NoLocks::default(), false, &genesis).await.expect("a pool");
        let set = CrashSet::over(plain);
        let (takeover, records) =
            open::<_, _, Record>(candidates(set.disks()), who(1, 2), NoLocks::default(), &options()).await.expect("won");
        let manager = Manager::over(Catalog::fold(&records).expect("it begins"), seed);
        let made = manager.admin(AdminRequest::VolumeCreate { name: "vol".into(), size: u64::from(AUS) * au_size().bytes() });
        let AdminReply::Volume(made) = made.expect("made") else { panic!("another reply") };
        let rights = Right::ALL.into_iter().fold(Rights::NONE, Rights::with);
        manager.admin(AdminRequest::ClientAdd { name: "host1".into(), print: print(1) }).expect("added");
        manager.admin(AdminRequest::AccessGrant { volume: "vol".into(), client: "host1".into(), rights }).expect("granted");
        // The checkpoint with which it begins to serve has the volume; the story begins after it.
        let store = takeover.start(&manager.dump()).await.expect("it serves");
        tokio::task::spawn_local(manager.clone().serve(store));
        tokio::task::yield_now().await;
        let handles = (0u8..).zip(set.disks()).map(|(no, d)| (DiskId([no + 1; 16]), Arc::new(d))).collect();
        let writer = Host::start(&manager, print(1), handles).await;
        let volume = writer.attach(made.id, Mode::Write).await.expect("attached");
        let story = Story { set, moments: Vec::new(), images: BTreeMap::new() };
        let (now, may, kept) = (Image::new(), May::new(), BTreeSet::new());
        let random = SeededRandom(seed);
        let mut t = Teller { manager, volume_id: made.id, writer, volume, random, story, now, may, kept, writes: 0 };
        t.mark();
        for _ in 0..ops {
            t.op().await;
        }
        assert_eq!(t.manager.prove(), Vec::<String>::new());
        t.story
    })
}

/// What the next manager has once every session of the past is ended: real core, real journals.
async fn recover(catalog: Catalog, disks: &[(DiskNo, DiskId, MemDisk)]) -> Catalog {
    let start = Now { boot: BootTime(1 << 40), wall: 1 << 60 };
    let config = Config::new(Duration::from_secs(10), BootId([2; 16]));
    let mut core = Core::new(catalog, config, Generation(9), start, Box::new(SeededRandom(1)));
    let io = SessionIo::new(POOL, au_size(), disks, Duration::from_secs(60));
    let mut events = vec![Event::Tick];
    let mut now = start;
    for _ in 0..64 {
        now.boot = now.boot.plus(Duration::from_millis(300));
        let mut out = Output::default();
        for e in std::mem::take(&mut events) {
            core.step(now, e, &mut out);
        }
        for effect in out.effects {
            match effect {
                Effect::ProbeLock { session } => events.push(Event::LockProbed { session, held: false }),
                Effect::ReadJournals { session, journals } => {
                    let tails = io.read_journals(&journals).await;
                    events.push(Event::JournalsRead { session, tails });
                }
                _ => {}
            }
        }
        if core.catalog().sessions().next().is_none() {
            return core.catalog().clone();
        }
        if events.is_empty() {
            events.push(Event::Tick);
        }
    }
    panic!("the sessions of the past do not end");
}

/// Sectors of a block as a map says, through a preserve log where there is one.
async fn read(disks: &Disks<MemDisk>, entry: Option<MapEntry>, at: Block, log: Option<&LogReader>) -> Result<Vec<u64>, String> {
    let Some(place) = entry.filter(|e| e.written.has(at.1)).and_then(|e| e.first_in_sync()) else { return Ok(vec![0; BLOCK / SECTOR]) };
    let disk = disks.get(place.disk).map_err(|e| e.to_string())?;
    let off = place.au.start(au_size()).plus(u64::from(at.1) * BLOCK as u64);
    let (done, mut bytes) = disk.read(off, IoBuf::zeroed(BLOCK), Claim::Slot).await;
    done.map_err(|e| e.to_string())?;
    for copy in log.map(|l| l.copies(place, at.1)).unwrap_or_default() {
        let log = log.expect("copies come from one");
        match read_copy(disks, VolumeId([0; 16]), au_size(), &log.legs(copy), copy).await.map_err(|e| e.to_string())? {
            Some(kept) => {
                bytes = kept;
                break;
            }
            None if log.counts(copy) => return Err(format!("the preserved copy of block {at:?} is damaged")),
            None => {}
        }
    }
    (0u64..).zip(bytes.chunks_exact(SECTOR)).map(|(i, s)| parse(at, i, s)).collect()
}

async fn judge(story: &Story, state: &State) -> Result<(), String> {
    let e = |e: fusevol_shared::error::Error| e.to_string();
    let (_, records) = inspect::<_, Record>(candidates(state.disks.iter().cloned()), &options()).await.map_err(e)?;
    let members: Vec<(DiskNo, DiskId, MemDisk)> =
        (0u8..).zip(&state.disks).map(|(no, d)| (DiskNo(no.into()), DiskId([no + 1; 16]), d.clone())).collect();
    let catalog = recover(Catalog::fold(&records).map_err(e)?, &members).await;
    if let Some(wrong) = prove(&catalog).into_iter().next() {
        return Err(format!("the catalog: {}", wrong.0));
    }
    let disks = Disks::new();
    members.iter().for_each(|(no, id, d)| disks.set_present(*no, *id, Arc::new(d.clone())));
    let moment = &story.moments[usize::try_from(state.acknowledged - 1).expect("few")];
    let Some(v) = catalog.volumes().next() else { return Err("the volume is gone".into()) };
    let places = (0..AUS).flat_map(|au| (0..BLOCKS).map(move |b| (au, b)));
    for at in places.clone() {
        let found = read(&disks, v.map.get(VolAu(at.0)), at, None).await?;
        let nothing = BTreeSet::from([0]);
        let may = moment.may.get(&at).unwrap_or(&nothing);
        if let Some(n) = found.iter().find(|n| !may.contains(n)) {
            return Err(format!("block {at:?} holds write {n}, and may hold {may:?}"));
        }
    }
    let there: BTreeSet<SnapshotId> = catalog.snapshots_of(v.entry.id).iter().map(|s| s.entry.id).collect();
    if let Some(lost) = moment.kept.iter().find(|s| !there.contains(s)) {
        return Err(format!("snapshot {lost} was acknowledged and is gone"));
    }
    for s in catalog.snapshots_of(v.entry.id) {
        let mut log = LogReader::new(POOL, v.entry.id, s.entry.epoch, au_size(), Default::default());
        v.segments.values().filter(|g| g.epoch >= s.entry.epoch).for_each(|g| log.add(g));
        log.refresh(&disks).await.map_err(e)?;
        let image = &story.images[&s.entry.id];
        for at in places.clone() {
            let want = image.get(&at).copied().unwrap_or(0);
            let found = read(&disks, s.map.get(VolAu(at.0)), at, Some(&log)).await?;
            if let Some(n) = found.iter().find(|n| **n != want) {
                return Err(format!("snapshot of epoch {}: block {at:?} holds write {n}, and held {want}", s.entry.epoch));
            }
        }
    }
    Ok(())
}

/// Judges the states after every cut of one story; how many.
fn cut(seed: u64, disks: usize) -> Result<usize, String> {
    let story = tell(seed, disks, 60);
    let mut judged = 0;
    for state in story.set.states(&mut SeededRandom(seed), 12).filter(|s| s.acknowledged > 0) {
        let found = run_local(judge(&story, &state));
        found.map_err(|what| format!("seed {seed}, {}: after mark {}: {what}", state.label, state.acknowledged))?;
        judged += 1;
    }
    Ok(judged)
}

fn cut_everywhere(disks: usize, seeds: std::ops::Range<u64>) {
    let mut judged = 0;
    for seed in seeds {
        judged += cut(seed, disks).unwrap_or_else(|what| panic!("{what}"));
        if judged >= STATES {
            break;
        }
    }
    println!("{judged} states over {disks} disks");
    assert!(judged >= STATES, "only {judged} states");
}

#[test]
fn a_power_cut_at_any_moment_over_one_disk() {
    cut_everywhere(1, 100..200);
}

#[test]
fn a_power_cut_at_any_moment_over_two_disks() {
    cut_everywhere(2, 200..300);
}

/// The proof would notice: a writer that goes on in the old epoch after a hold breaks a snapshot at some cut of some story.
#[test]
fn without_h1_some_cut_breaks_a_snapshot() {
    let found = (300..330).find_map(|seed| without(Tag::H1, || cut(seed, 1)).err());
    assert!(found.is_some_and(|what| what.contains("snapshot")), "no cut sees that it is switched off");
}
