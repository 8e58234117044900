//! A small catalog area that is filled by growth: it is refused in time, and what makes the catalog smaller goes on, as do those who write.
//!
//! The real core over the real store on a memory disk of 64 MiB, whose catalog areas have 1,024 pages.

use fusevol_mgr::catalog::Catalog;
use fusevol_mgr::catalog::record::{DiskEntry, PoolEntry, Record};
use fusevol_mgr::core::{AdminId, AdminReply, AdminRequest, Config, ConnId, Core, Effect, Event, Now, Output};
use fusevol_mgr::store::{self, Candidate, Door, NewDisk, NewPool, Options, Store, Who};
use fusevol_shared::change::{Append, Entry};
use fusevol_shared::clock::BootTime;
use fusevol_shared::disk::any::Lock;
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::error::{Kind, Result, WireError};
use fusevol_shared::format::layout::Layout;
use fusevol_shared::ids::{BootId, DiskId, KeyPrint, PoolId, Seq, SessionId, VolumeId};
use fusevol_shared::map::{AuMask, Leg, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::name::Name;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{AuSize, DiskNo, VolAu};
use fusevol_shared::wire::messages::{AttachWrite, Attached, Fold, Grant, Hello, PROTOCOL, Reply, Request};
use fusevol_shared::wire::rights::{Right, Rights};
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(10);
const KEY: KeyPrint = KeyPrint([4; 32]);
/// The clock stands still: no lease ends.
const NOW: Now = Now { boot: BootTime(1_000_000_000), wall: 1_000_000_000 };
/// Events in one transaction.
const BATCH: usize = 256;

struct Alone;

impl Door<MemDisk> for Alone {
    fn try_lock(&self, _: &MemDisk) -> Result<Lock> {
        Ok(Lock::Taken)
    }
    async fn sleep(&self, _: Duration) {
        std::future::pending().await
    }
}

struct Pool {
    disk: MemDisk,
    core: Core,
    store: Store<MemDisk, Alone>,
    /// Whether the core is told how full the catalog is.
    told: bool,
    next: u64,
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

impl Pool {
    fn new(told: bool) -> Self {
        let disk = MemDisk::new(64 << 20);
        let layout = Layout::for_disk(AuSize::DEFAULT, 64 << 20).expect("large enough");
        let (pool, id, boot) = (PoolId([1; 16]), DiskId([2; 16]), BootId([3; 16]));
        let entry = DiskEntry { no: DiskNo(0), id, aus: 64, first_data: layout.first_data, end_data: layout.end_data, paths: vec![] };
        let genesis = [
            Record::PoolCreated(PoolEntry { id: pool, name: name("pool"), au_size: AuSize::DEFAULT, lease_ms: 10_000, created: 1 }),
            Record::DiskAdded(entry),
        ];
        let who = Who::here(&mut SeededRandom(1)).expect("this host");
        let new = NewDisk { disk: disk.clone(), path: "memory".into(), id, no: DiskNo(0) };
        let made = NewPool { pool, name: name("pool"), au_size: AuSize::DEFAULT, lease: LEASE };
        block_on(store::create(vec![new], &made, &who, Alone, false, &genesis)).expect("a pool");
        let (catalog, store) = open(&disk);
        let mut config = Config::new(LEASE, boot);
        (config.limits.volumes, config.limits.clients) = (usize::MAX, usize::MAX);
        let core = Core::new(catalog, config, store.generation(), NOW, Box::new(SeededRandom(2)));
        Self { disk, core, store, told, next: 0 }
    }

    /// Steps these events and commits what they lead to. A failed commit is the end of a manager.
    fn step(&mut self, events: Vec<Event>) -> Result<Vec<Effect>> {
        let mut out = Output::default();
        if self.told {
            self.core.set_tight(self.store.room().is_tight());
        }
        events.into_iter().for_each(|e| self.core.step(NOW, e, &mut out));
        if !out.records.is_empty() {
            let catalog = self.core.catalog();
            block_on(self.store.commit(&out.records, || catalog.dump()))?;
        }
        Ok(out.effects)
    }

    fn admin(&mut self, requests: Vec<AdminRequest>) -> Result<Vec<std::result::Result<AdminReply, WireError>>> {
        let mut events = Vec::new();
        for request in requests {
            self.next += 1;
            events.push(Event::Admin { from: AdminId(self.next), request });
        }
        let effects = self.step(events)?;
        Ok(effects.into_iter().filter_map(|e| if let Effect::AdminReply { result, .. } = e { Some(result) } else { None }).collect())
    }

    fn ask(&mut self, request: impl Into<Request>) -> std::result::Result<Reply, WireError> {
        self.next += 1;
        let id = self.next;
        let effects = self.step(vec![Event::Request { conn: ConnId(1), id, request: request.into() }]).expect("committed");
        let reply = effects.into_iter().find_map(|e| match e {
            Effect::Reply { id: of, result, .. } if of == id => Some(result),
            _ => None,
        });
        reply.expect("answered at once")
    }

    /// A client that writes volume `db`.
    fn writer(&mut self) -> (VolumeId, Attached) {
        let rights = Rights::NONE.with(Right::Write);
        let done = self.admin(vec![
            AdminRequest::ClientAdd { name: "host".into(), print: KEY },
            create("db"),
            AdminRequest::AccessGrant { volume: "db".into(), client: "host".into(), rights },
        ]);
        assert!(done.expect("committed").iter().all(std::result::Result::is_ok));
        self.step(vec![Event::Connected { conn: ConnId(1), print: KEY }]).expect("committed");
        let (session, boot) = (SessionId([6; 16]), BootId([7; 16]));
        self.ask(Hello { protocol: PROTOCOL, session, boot, host: "h".into(), program: "p".into(), resume: false }).expect("welcome");
        let volume = self.core.catalog().volume_named("db").expect("there").entry.id;
        match self.ask(AttachWrite { volume }).expect("attached") {
            Reply::Attached(a) => (volume, a),
            other => panic!("{other:?}"),
        }
    }
}

fn open(disk: &MemDisk) -> (Catalog, Store<MemDisk, Alone>) {
    let who = Who::here(&mut SeededRandom(3)).expect("this host");
    let candidates = vec![Candidate { disk: disk.clone(), path: "memory".into() }];
    let (takeover, records) = block_on(store::open(candidates, who, Alone, &Options::default())).expect("won");
    let catalog = Catalog::fold(&records).expect("folds");
    let store = block_on(takeover.start(&catalog.dump())).expect("starts");
    (catalog, store)
}

fn create(name: &str) -> AdminRequest {
    AdminRequest::VolumeCreate { name: name.to_owned(), size: 64 << 20 }
}

/// Volumes and clients from this number on, with names as long as they may be.
fn growth(from: usize) -> Vec<AdminRequest> {
    let one = |i: usize| {
        let name = format!("{}-{i:08}", "x".repeat(54));
        let print = KeyPrint(std::array::from_fn(|b| i.to_le_bytes().get(b).copied().unwrap_or(9)));
        [create(&name), AdminRequest::ClientAdd { name, print }]
    };
    (from..from + BATCH / 2).flat_map(one).collect()
}

#[test]
fn growth_is_refused_in_time_and_the_rest_goes_on() {
    let mut pool = Pool::new(true);
    let (volume, attached) = pool.writer();
    let mut made = 0;
    // An area holds far fewer than that.
    let refused = (0..1000).find_map(|_| {
        let done = pool.admin(growth(made)).expect("growth is refused before it hurts");
        made += done.iter().filter(|r| r.is_ok()).count();
        done.into_iter().find_map(std::result::Result::err)
    });
    let refused = refused.expect("refused at last");
    assert!(refused.kind == Kind::NoSpace && made > 1000, "{made} entries: {refused:?}");
    for _ in 0..20 {
        assert!(pool.admin(growth(1 << 20)).expect("committed").iter().all(std::result::Result::is_err));
    }

    // The writer folds what it has bound and gives back; it gets no more.
    let place = attached.reserve[0].get(0).expect("an AU");
    let run = MapRun { first: VolAu(0), legs: place.iter().map(|l| Leg::single(*l)).collect(), written: vec![0] };
    let mask = |blocks| vec![AuMask { au: VolAu(0), blocks }];
    let entries = [
        vec![Entry::Bound { runs: vec![run] }, Entry::Written { masks: mask(BlockMask(1)) }],
        vec![Entry::Discarded { cleared: mask(BlockMask::ALL) }],
    ];
    let token = attached.token;
    let free = pool.core.catalog().free_aus();
    for (n, entries) in (0..).zip(entries) {
        let appends = vec![Append { seq: Seq(n + 1), entries }];
        pool.ask(Fold { volume, token, prev: Seq(n), appends }).expect("folds go through");
    }
    assert_eq!(pool.core.catalog().free_aus(), free + 1, "what was discarded is free");
    let more = pool.ask(Grant { volume, token, no: 1, want: 1, back: vec![], apart: vec![] }).expect_err("no grant");
    assert_eq!(more.kind, Kind::NoSpace);

    // Deletes go through until there is room again.
    let names: Vec<String> = pool.core.catalog().volumes().map(|v| v.entry.name.to_string()).filter(|n| n != "db").collect();
    for part in names.chunks(BATCH) {
        let done = pool.admin(part.iter().map(|n| AdminRequest::VolumeRemove { name: n.clone() }).collect()).expect("deletes go through");
        assert!(done.iter().all(std::result::Result::is_ok));
    }
    assert!(pool.admin(vec![create("again")]).expect("committed").iter().all(std::result::Result::is_ok), "there is room again");
    let expected = pool.core.catalog().clone();
    let disk = pool.disk.clone();
    drop(pool);
    assert!(open(&disk).0 == expected, "what was answered is what the next manager reads");
}

#[test]
fn a_manager_that_is_not_told_would_end() {
    let mut pool = Pool::new(false);
    let end = (0..1000).find_map(|i| pool.admin(growth(i * BATCH)).err());
    assert_eq!(end.expect("the area is full").kind(), Kind::NoSpace);
}
