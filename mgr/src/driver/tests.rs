//! The driver with the real core, a log in memory and clients that only note down.

use super::*;
use crate::catalog::Catalog;
use crate::catalog::record::{PoolEntry, Record};
use crate::core::{Config, ConnId};
use fusevol_shared::clock::SystemClock;
use fusevol_shared::disk::any::PoolDisk;
use fusevol_shared::disk::file::{FileDisk, OpenMode};
use fusevol_shared::error::{Error, Kind};
use fusevol_shared::format::label::{CatalogPointer, DiskLabel, Instance, LabelState};
use fusevol_shared::format::mark::Age;
use fusevol_shared::ids::{BootId, DiskId, Generation, KeyPrint, Life, PoolId, Seq, SessionId, SessionNo};
use fusevol_shared::name::Name;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::messages::Done;
use fusevol_shared::wire::slots::Slots;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("not poisoned").push(what.into());
    }
    fn all(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").clone()
    }
}

struct MemLog {
    seen: Seen,
    commits_left: usize,
    beats_left: usize,
    every: Duration,
}

impl Log for MemLog {
    fn commit(&mut self, records: &[Record], checkpoint: impl FnOnce() -> Vec<Record>) -> Result<()> {
        self.commits_left = self.commits_left.checked_sub(1).ok_or_else(|| Error::new(Kind::Io, "the disk is gone"))?;
        assert!(!checkpoint().is_empty());
        self.seen.note(format!("commit {}", records.len()));
        Ok(())
    }
    fn heartbeat_every(&self) -> Duration {
        self.every
    }
    fn heartbeat(&mut self) -> Result<()> {
        self.beats_left = self.beats_left.checked_sub(1).ok_or_else(|| Error::new(Kind::Lapsed, "another manager has taken over"))?;
        self.seen.note("heartbeat");
        Ok(())
    }
    fn check(&mut self) -> Result<()> {
        self.seen.note("check");
        Ok(())
    }
    fn is_tight(&self) -> bool {
        false
    }
    fn has_locks(&self) -> bool {
        true
    }
    fn lock_held(&self, _session: SessionNo) -> bool {
        true
    }
    fn open_slot(&mut self, session: SessionNo, _id: SessionId, slots: &[DiskNo]) {
        self.seen.note(format!("open slot {session} on {}", slots.len()));
    }
    fn begin(&mut self, effect: Effect) -> Option<Event> {
        let Effect::SealSlot { session, .. } = effect else { return None };
        self.seen.note(format!("seal slot {session}"));
        Some(Event::Sealed { session, done: false })
    }
    fn label(&mut self, _disk: Joining, _catalog: &Catalog) -> Result<AdminRequest> {
        Err(Error::new(Kind::Refused, "it carries an xfs filesystem"))
    }
    fn reopened(&mut self, no: DiskNo, opened: Opened, checkpoint: impl FnOnce() -> Vec<Record>) -> Result<Result<()>> {
        self.seen.note(format!("reopened {no}, {} records", checkpoint().len()));
        Ok(opened.mark.map(drop).ok_or_else(|| Error::new(Kind::Refused, "it is older")))
    }
    fn lost(&self) -> Vec<(DiskNo, String)> {
        Vec::new()
    }
    fn lives(&self) -> Vec<(DiskNo, Life)> {
        Vec::new()
    }
    fn close(self) -> Result<()> {
        self.seen.note("closed");
        Ok(())
    }
}

struct Noted(Seen);

impl Clients for Noted {
    fn carry_out(&mut self, effect: Effect) {
        self.0.note(match effect {
            Effect::Close { conn } => format!("close {}", conn.0),
            Effect::Reply { conn, .. } => format!("reply {}", conn.0),
            _ => "push".to_owned(),
        });
    }
}

struct Rig {
    seen: Seen,
    runtime: tokio::runtime::Runtime,
    handle: Handle,
    driver: std::thread::JoinHandle<Result<()>>,
}

fn driver(commits_left: usize, beats_left: usize, every: Duration) -> (Driver<MemLog, Noted>, mpsc::Sender<Input>, Seen) {
    let seen = Seen::default();
    let mut catalog = Catalog::default();
    let pool =
        PoolEntry { id: PoolId([1; 16]), name: Name::new("p").expect("a name"), au_size: AuSize::DEFAULT, lease_ms: 10_000, created: 1 };
    catalog.apply(&Record::PoolCreated(pool)).expect("the first record");
    let config = Config::new(Duration::from_secs(10), BootId([2; 16]));
    let core = Core::new(catalog, config, Generation(1), Now::of(&SystemClock), Box::new(SeededRandom(1)));
    let log = MemLog { seen: seen.clone(), commits_left, beats_left, every };
    let (to, inputs) = mpsc::channel(QUEUE_MAX);
    (Driver::new(core, log, Noted(seen.clone()), Box::new(SystemClock), inputs), to, seen)
}

fn rig(commits_left: usize, beats_left: usize, every: Duration) -> Rig {
    let (driver, to, seen) = driver(commits_left, beats_left, every);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let on = runtime.handle().clone();
    let driver = std::thread::spawn(move || driver.run(&on));
    Rig { seen, runtime, handle: Handle::new(to), driver }
}

const HOUR: Duration = Duration::from_secs(3600);

fn add_client(rig: &Rig, name: &str, key: u8) -> Result<AdminReply> {
    rig.runtime.block_on(rig.handle.ask(AdminRequest::ClientAdd { name: name.to_owned(), print: KeyPrint([key; 32]) }))
}

#[test]
fn an_answer_follows_its_commit_and_a_stop_is_in_order() {
    let rig = rig(10, 10, HOUR);
    assert!(matches!(add_client(&rig, "host1", 1), Ok(AdminReply::Client(c)) if c.name.as_str() == "host1"));
    assert_eq!(add_client(&rig, "host1", 2).expect_err("is there").kind(), Kind::Exists);
    rig.runtime.block_on(rig.handle.stop());
    rig.driver.join().expect("no panic").expect("in order");
    assert_eq!(rig.seen.all(), ["commit 1", "closed"]);
}

#[test]
fn after_a_failed_commit_nothing_is_answered_and_the_manager_ends() {
    let rig = rig(0, 10, HOUR);
    assert_eq!(add_client(&rig, "host1", 1).expect_err("not durable").kind(), Kind::Unreachable);
    assert_eq!(rig.driver.join().expect("no panic").expect_err("ended").to_string(), "the disk is gone");
    assert!(rig.seen.all().is_empty());
}

#[test]
fn a_manager_that_was_superseded_ends() {
    let rig = rig(10, 2, Duration::from_millis(1));
    assert_eq!(rig.driver.join().expect("no panic").expect_err("ended").kind(), Kind::Lapsed);
    assert_eq!(rig.seen.all(), ["heartbeat", "heartbeat"]);
}

#[test]
fn a_disk_that_cannot_join_changes_nothing() {
    let rig = rig(10, 10, HOUR);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let disk = Joining { disk: PoolDisk::from(FileDisk::open(file.path(), OpenMode::ReadWrite).expect("opens")), was: None };
    let e = rig.runtime.block_on(rig.handle.add_disk(disk)).expect_err("refused");
    assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Refused, "it carries an xfs filesystem"));
    rig.runtime.block_on(rig.handle.stop());
    rig.driver.join().expect("no panic").expect("in order");
    assert_eq!(rig.seen.all(), ["closed"]);
}

#[test]
fn waiting_events_share_one_commit() {
    let (mut driver, to, seen) = driver(1, 10, HOUR);
    let mut answers = Vec::new();
    for i in 0..BATCH_MAX {
        let (answer, coming) = oneshot::channel();
        let print = KeyPrint([u8::try_from(i).expect("below 256"); 32]);
        let request = AdminRequest::ClientAdd { name: format!("c{i}"), print };
        to.try_send(Input::Ask { request, answer }).expect("there is room");
        answers.push(coming);
    }
    let effects = driver.batch(None).expect("durable");
    assert!(answers.iter_mut().all(|a| a.try_recv().is_err()), "nothing is said before the effects are carried out");
    effects.into_iter().for_each(|e| driver.carry_out(e));
    assert!(answers.iter_mut().all(|a| matches!(a.try_recv(), Ok(Ok(AdminReply::Client(_))))));
    assert_eq!(seen.all(), [format!("commit {BATCH_MAX}")]);
}

/// What is known of disk 1 once the driver has taken it, and whether it is used.
fn comes_back(shows: Option<Age>) -> (Vec<Event>, Result<()>, Vec<String>) {
    let (mut driver, _to, seen) = driver(1, 10, HOUR);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let disk = PoolDisk::from(FileDisk::open(file.path(), OpenMode::ReadWrite).expect("opens"));
    let (answer, mut coming) = oneshot::channel();
    let opened = Box::new(Opened { disk, label: label(), mark: shows });
    let mut out = Output::default();
    driver.take(Input::Reopened { no: DiskNo(1), opened, answer }, &mut out).expect("the manager goes on");
    (driver.own.into(), coming.try_recv().expect("it is answered"), seen.all())
}

#[test]
fn who_has_opened_a_disk_hears_whether_it_is_used() {
    let (own, used, seen) = comes_back(Some(Age { generation: Generation(1), number: Seq(2) }));
    assert_eq!((own, used.is_ok()), (vec![Event::DiskBack { disk: DiskNo(1) }], true));
    assert!(seen.len() == 1 && seen[0].starts_with("reopened 1, "), "{seen:?}");
    let (own, used, _) = comes_back(None);
    assert_eq!((own, used.expect_err("older").kind()), (vec![], Kind::Refused));
}

fn label() -> DiskLabel {
    DiskLabel {
        pool: PoolId([1; 16]),
        pool_name: Name::new("p").expect("a name"),
        disk: DiskId([2; 16]),
        no: DiskNo(1),
        au_size: AuSize::DEFAULT,
        aus: 64,
        state: LabelState::Member,
        generation: Generation(1),
        writer: Instance([6; 16]),
        seq: Seq(7),
        set: Vec::new(),
        pointer: CatalogPointer { area: 1, first_seq: Seq(10), quarantine: [None; 4] },
    }
}

fn slot_effects() -> (Effect, Effect, Effect) {
    let (session, id, slots) = (SessionNo(7), SessionId([1; 16]), vec![DiskNo(0), DiskNo(1)]);
    let open = Effect::OpenSlot { session, id, slots: slots.clone() };
    let seal = Effect::SealSlot { session, id, slots: Slots::new(slots, Generation(1)) };
    (open, seal, Effect::Reply { conn: ConnId(3), id: 1, result: Ok(Reply::Done(Done {})) })
}

#[test]
fn a_slot_is_written_only_by_who_still_has_the_pool_and_before_the_answer() {
    let (mut driver, _to, seen) = driver(0, 10, HOUR);
    let (open, seal, reply) = slot_effects();
    let out = Output { effects: vec![open, reply.clone()], ..Output::default() };
    driver.commit(&out).expect("clear");
    out.effects.into_iter().for_each(|e| driver.carry_out(e));
    assert_eq!(seen.all(), ["check", "open slot 7 on 2", "reply 3"]);
    driver.commit(&Output { effects: vec![seal], ..Output::default() }).expect("clear");
    driver.commit(&Output { effects: vec![reply], ..Output::default() }).expect("nothing to look at");
    assert_eq!(seen.all()[3..], ["check"]);
}

#[test]
fn what_cannot_be_begun_is_answered_as_an_own_event() {
    let (mut driver, _to, seen) = driver(0, 10, HOUR);
    let (_, seal, _) = slot_effects();
    driver.carry_out(seal);
    assert_eq!(driver.own, [Event::Sealed { session: SessionNo(7), done: false }]);
    assert_eq!(seen.all(), ["seal slot 7"]);
}
