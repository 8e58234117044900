//! The manager's state machine: events in, records and effects out. It does no I/O, reads no clock, spawns nothing.
//!
//! ```text
//! step:  rights (one check) -> handler: validate, apply records to the state in memory -> settle (timers, limbo, pushes)
//! ```
//! What is durable is the catalog's ([`crate::catalog`]); what is here besides is rebuilt after a restart or is lost without harm:
//! connections, leases, pushes that wait for their answer, holds that are under way, requests that wait, locks.
//!
//! - [`rights`]: who may ask what. - `session`: sessions, leases, lapse, proof of drain. - `death`: journals of the drained. - `seal`, `confirm`:
//!   the ladder for those of whom no proof comes. - `fence`: its agents. - `attach`: attachments. - `change`: space ahead of writes. - `fold`: the writer's changes.
//! - `remap`: what a lost writer could still write is taken from it without a fence; `errand`: what that asks of the disks.
//! - `slots`: a session's slot moves to other disks. `mail`: what is said through the disks. - `data`: I/O through the manager. `paths`: whether a path leads to the pool's disk.
//! - `mirror`: legs that fail. `returns`: and come back. `recovery`: how far the copies are. `jobs`: the same for people. `copier`: the manager's own.
//! - `reader`: what readers are told, limbo. - `locks`: byte-range locks. - `hold`: snapshots taken. - `snapshot`: snapshots read and removed. - `admin*`: the verbs.
//!
//! Invariants: each record that is put out has been applied here; each request is answered once; nothing leaves limbo that a
//! session may still use; a session that is not proven drained keeps what it holds.

mod admin;
mod admin_access;
pub mod admin_api;
mod attach;
mod change;
mod config;
mod confirm;
mod copier;
mod data;
mod death;
pub mod errand;
mod event;
mod fence;
mod fold;
mod hold;
mod jobs;
mod joining;
mod life;
mod list;
mod locks;
mod mail;
mod mirror;
mod notice;
mod paths;
mod push;
mod reader;
mod recall;
mod recovery;
mod remap;
mod returns;
mod rights;
mod seal;
mod segments;
mod session;
mod settle;
mod slots;
mod snapshot;
mod status;

#[cfg(test)]
mod tests;
mod view;

pub use admin_api::{AdminReply, AdminRequest, Notice};
pub use config::{Config, Limits};
pub use copier::{CopyEnd, CopyJob};
pub use data::{Ticket, Verdict};
pub use event::{AdminId, ConnId, Effect, Event, JournalRef, Now, Output, Tails};
pub use fence::{FenceFor, Fenced};
pub use segments::{LayEnd, LayJob};
pub use slots::Opened;

use crate::catalog::Catalog;
use crate::catalog::alloc::Allocator;
use crate::catalog::record::{Mode, Record};
use attach::Pending;
use confirm::Confirm;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::ids::{Generation, KeyPrint, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::random::Random;
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{Reply, Request};
use hold::Holding;
use joining::Joining;
use life::Life;
use locks::Locks;
use notice::Notices;
use reader::Reader;
use std::collections::{BTreeMap, BTreeSet};

/// One connection.
struct Conn {
    print: KeyPrint,
    session: Option<SessionNo>,
}

/// Who asked, and is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asker {
    Client { conn: ConnId, id: u64 },
    Admin(AdminId),
}

/// The manager's state machine.
pub struct Core {
    catalog: Catalog,
    config: Config,
    generation: Generation,
    random: Box<dyn Random>,
    allocator: Allocator,
    now: Now,
    out: Output,
    conns: BTreeMap<ConnId, Conn>,
    lives: BTreeMap<SessionNo, Life>,
    holds: BTreeMap<VolumeId, Holding>,
    locks: Locks,
    pending: BTreeMap<(VolumeId, SessionNo), Pending>,
    held_us: BTreeMap<SnapshotId, u64>,
    notices: Notices,
    /// Volumes whose preserve segments may be spent.
    spent: BTreeSet<VolumeId>,
    /// Something in limbo may be free.
    limbo_moved: bool,
    /// Administrators that wait for the end of sessions.
    confirms: Vec<Confirm>,
    joining: Option<Joining>,
    /// Copies that a reader does not reach, beside a writer: when it said so.
    suspects: BTreeMap<(VolumeId, DiskNo), BootTime>,
    /// Administrators that wait until a client is let in again.
    unfencing: BTreeMap<AdminId, String>,
    /// Clients that wait for a look at a disk.
    waiting: Vec<paths::Waiting>,
    /// Legs that failed, and who waits until nobody reads them.
    leg_waits: Vec<mirror::LegWait>,
    /// Since when the legs of a volume on a disk are out; a new manager counts anew.
    out_since: BTreeMap<(VolumeId, DiskNo), BootTime>,
    /// What volumes lack.
    counted: BTreeMap<VolumeId, recovery::Counted>,
    /// How fast that becomes less.
    meters: BTreeMap<VolumeId, jobs::Meter>,
    /// When that is looked at next.
    jobs_at: BootTime,
    /// The manager's own copier, for each volume that lacks copies.
    copiers: BTreeMap<VolumeId, copier::Copier>,
    layings: BTreeMap<VolumeId, segments::Laying>,
    /// Batches of it that were begun.
    batches: u64,
    /// Disks that failed as targets, and until when they are none.
    bad_targets: BTreeMap<DiskNo, BootTime>,
    /// Disks that are out and may be back.
    looks: BTreeMap<DiskNo, returns::Look>,
    /// The lives of the manager's own paths.
    path_lives: Vec<(DiskNo, fusevol_shared::ids::Life)>,
    /// Disks that the manager does not reach, and why.
    lost: Vec<(DiskNo, String)>,
    /// Since when each disk is lost, or back.
    health: BTreeMap<DiskNo, slots::Health>,
    /// Those at whose places something stands that is not used, and why.
    refused: BTreeMap<DiskNo, String>,
    /// The catalog is nearly full.
    tight: bool,
    /// Every disk knows byte locks.
    has_locks: bool,
    /// No step was made yet.
    fresh: bool,
}

impl Core {
    /// Takes up service with what the catalog says: every session of it is taken as alive for one lease and a margin.
    #[must_use]
    pub fn new(catalog: Catalog, config: Config, generation: Generation, now: Now, random: Box<dyn Random>) -> Self {
        let first_push = generation.0 << 32;
        let until = now.boot.plus(config.lease + config.margin());
        let mut lives: BTreeMap<_, _> = catalog.sessions().map(|s| (s.no, Life::away(until, first_push, now.boot))).collect();
        for a in catalog.attachments() {
            let asked = catalog.limbo().any(|l| l.volume == a.volume && l.waits.contains(&a.session));
            if let Some(life) = lives.get_mut(&a.session).filter(|_| asked || a.mode == Mode::Read) {
                life.readers.insert(a.volume, Reader::unknown(a.mode, asked));
            }
        }
        for l in catalog.limbo() {
            for session in l.waits.iter().filter(|s| catalog.attachment_of(l.volume, **s).is_none()) {
                if let Some(life) = lives.get_mut(session) {
                    life.readers.insert(l.volume, Reader::unknown(Mode::Read, true));
                }
            }
        }
        let out_since = catalog.volumes().flat_map(|v| v.out.iter().map(|d| ((v.entry.id, *d), now.boot))).collect();
        let locks = Locks::of_unknown(catalog.attachments().map(|a| (a.volume, a.session)));
        let spent = catalog.volumes().map(|v| v.entry.id).collect();
        let notices = Notices::new(config.limits.notices);
        Self {
            catalog,
            config,
            generation,
            random,
            allocator: Allocator::default(),
            now,
            out: Output::default(),
            conns: BTreeMap::new(),
            lives,
            holds: BTreeMap::new(),
            locks,
            pending: BTreeMap::new(),
            held_us: BTreeMap::new(),
            notices,
            spent,
            limbo_moved: true,
            confirms: Vec::new(),
            joining: None,
            suspects: BTreeMap::new(),
            unfencing: BTreeMap::new(),
            waiting: Vec::new(),
            leg_waits: Vec::new(),
            out_since,
            counted: BTreeMap::new(),
            meters: BTreeMap::new(),
            jobs_at: now.boot,
            copiers: BTreeMap::new(),
            layings: BTreeMap::new(),
            batches: 0,
            bad_targets: BTreeMap::new(),
            looks: BTreeMap::new(),
            path_lives: Vec::new(),
            lost: Vec::new(),
            health: BTreeMap::new(),
            refused: BTreeMap::new(),
            tight: false,
            has_locks: true,
            fresh: true,
        }
    }

    /// Whether the catalog is nearly full: then nothing is taken up that makes it larger. Said before each step.
    pub fn set_tight(&mut self, tight: bool) {
        self.tight = tight;
    }

    /// Whether every disk knows byte locks: where one does not, no lock proves that a session has drained (K1). Said before each step.
    pub fn set_locks(&mut self, locks: bool) {
        self.has_locks = locks;
    }

    /// The first step of a life puts right what the former one left half done.
    fn begin(&mut self) {
        self.drop_old_holds();
        self.sealed_before();
        self.say_legs_again();
        self.say_moves_again();
        self.settle_copies();
        self.drop_old_takeovers();
        let clients: Vec<_> = self.catalog.clients().map(|c| (c.id, c.revoked)).collect();
        for (client, revoked) in clients {
            self.recall_beyond_rights(client, None, "the right to it was taken away");
            if revoked {
                self.sessions_of(client).into_iter().for_each(|s| self.doom(s, "its client was revoked"));
            }
        }
    }

    /// One event. The state in memory is ahead of the disk until the records are committed.
    pub fn step(&mut self, now: Now, event: Event, out: &mut Output) {
        self.now = now;
        std::mem::swap(&mut self.out, out);
        if std::mem::take(&mut self.fresh) {
            self.begin();
        }
        match event {
            Event::Connected { conn, print } => self.connected(conn, print),
            Event::Disconnected { conn } => self.disconnected(conn),
            Event::Request { conn, id, request } => {
                if let Some(result) = self.request(conn, id, &request).transpose() {
                    let welcomed = matches!(result, Ok(Reply::Welcome(_)));
                    self.reply(Asker::Client { conn, id }, result);
                    // The answer to `Hello` is the first that is said on a connection.
                    if let Some(session) = self.conns.get(&conn).and_then(|c| c.session).filter(|_| welcomed) {
                        self.push_again(session);
                    }
                }
            }
            Event::Ack { conn, push, ack } => self.acknowledged(conn, push, ack),
            Event::Admin { from, request } => {
                if let Some(result) = self.admin(from, request).transpose() {
                    self.admin_reply(from, result);
                }
            }
            Event::LockProbed { session, held } => self.lock_probed(session, held),
            Event::Sealed { session, done } => self.sealed(session, done),
            Event::PlacesOpened { session, ends } => self.places_opened(session, &ends),
            Event::SlotRead { session, beat } => self.slot_read(session, beat),
            Event::JournalsRead { session, tails } => self.journals_read(session, tails),
            Event::Fenced { asked, fenced } => self.fenced(asked, fenced),
            Event::DataOpen { ticket, print, session } => self.data_open(ticket, print, session),
            Event::DataIo { ticket, session, io } => self.data_io(ticket, session, &io),
            Event::DataDone { session } => self.data_done(session),
            Event::NonceRead { session, disk, found } => self.nonce_read(session, disk, found),
            Event::BlocksCopied { batch, ends } => self.blocks_copied(batch, ends),
            Event::LaidAgain { lay, end } => self.laid_again(lay, end),
            Event::DiskMissing { disk, why } => self.begins_without(disk, &why),
            Event::DiskRefused { disk, why } => self.disk_refused(disk, why),
            Event::DiskBack { disk } => self.disk_back(disk),
            Event::DiskLooked { disk, well } => self.disk_looked(disk, well),
            Event::Errand { session, outcome } => self.errand_done(session, outcome),
            Event::LetterWritten { session, done } => self.letter_written(session, done),
            Event::AnswerRead { session, answer } => self.answer_read(session, answer),
            Event::Tick => {}
        }
        self.settle();
        std::mem::swap(&mut self.out, out);
    }

    /// When to send `Event::Tick` next.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        self.next_due()
    }

    /// What the manager knows.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Applies a record and puts it out.
    fn commit(&mut self, record: Record) -> Result<()> {
        self.catalog
            .apply(&record)
            .map_err(|e| Error::new(Kind::Internal, "the manager made a record that does not fit its own catalog").because(e))?;
        self.out.records.push(record);
        Ok(())
    }

    /// Commits what cannot be refused to anybody: a failure is our own, and is told.
    fn commit_or_tell(&mut self, record: Record) {
        if let Err(e) = self.commit(record) {
            self.tell(admin_api::Level::Critical, "internal", e.to_string());
        }
    }

    fn reply(&mut self, to: Asker, result: Result<Reply>) {
        let Asker::Client { conn, id } = to else { return };
        self.out.effects.push(Effect::Reply { conn, id, result: result.map_err(|e| WireError::from(&e)) });
    }

    fn admin_reply(&mut self, to: AdminId, result: Result<AdminReply>) {
        self.out.effects.push(Effect::AdminReply { to, result: result.map_err(|e| WireError::from(&e)) });
    }

    /// Answers a request; nothing where the answer comes later.
    fn request(&mut self, conn: ConnId, id: u64, request: &Request) -> Result<Option<Reply>> {
        let caller = self.check(conn, request)?;
        let session = match (request, caller.session) {
            (Request::Hello(m), _) => return self.hello(conn, caller.client, m).map(Some),
            (_, Some(session)) => session,
            (_, None) => return Err(rights::no_session()),
        };
        let done = |r: Result<()>| r.map(|()| Some(Reply::Done(fusevol_shared::wire::messages::Done {})));
        let asker = Asker::Client { conn, id };
        match request {
            Request::Hello(_) => Err(rights::no_session()),
            Request::Renew(_) => self.renew(session).map(Some),
            Request::Goodbye(_) => self.goodbye(session, asker).map(|()| None),
            Request::ListVolumes(_) => Ok(Some(self.list_volumes(caller.client))),
            Request::AttachWrite(m) => self.attach_write(session, m.volume, conn, id),
            Request::AttachRead(m) => self.attach_read(session, m.volume, conn, id),
            Request::Detach(m) => done(self.detach(session, m.volume)),
            Request::GetMap(m) => self.get_map(session, m.volume, m.from).map(Some),
            Request::GetNeed(m) => self.get_need(session, m.volume, m.from).map(Some),
            Request::Grant(m) => self.grant(session, m).map(Some),
            Request::Fold(m) => self.fold(session, m).map(Some),
            Request::NewJournal(m) => self.new_journal(session, m).map(Some),
            Request::CreateSnapshot(m) => self.create_snapshot(m.volume, m.id, &m.name, asker).map(|s| s.map(Reply::SnapshotTaken)),
            Request::RemoveSnapshot(m) => done(self.remove_snapshot(m.snapshot)),
            Request::OpenSnapshot(m) => self.open_snapshot(session, m.snapshot).map(Some),
            Request::GetSnapshotMap(m) => self.get_snapshot_map(session, m.snapshot, m.from).map(Some),
            Request::CloseSnapshot(m) => done(self.close_snapshot(session, m.snapshot)),
            Request::SetLock(m) => self.set_lock(session, m).map(Some),
            Request::GetLock(m) => self.get_lock(session, m).map(Some),
            Request::RetakeLocks(m) => self.retake_locks(session, m).map(Some),
            Request::LegOut(m) => self.leg_out(session, m, asker),
            Request::Recovery(m) => self.recovery(session, m).map(Some),
            Request::CheckPath(m) => self.check_path(session, m, asker).map(|()| None),
            Request::AskLives(_) => Ok(Some(self.paths_now())),
        }
    }
}
