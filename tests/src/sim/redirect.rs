//! A client's way through the manager, and who tries its lost ways again, in a simulated world: the real queue of `fusevol::redirect` and the real
//! keeper of `fusevol::path`, over simulated data connections and disks.

use super::disk::SimDisk;
use super::link::Link;
use super::manager::Pool;
use super::net::{Heard, HostNo, Inbox, Net};
use super::sched::{ProcId, Sched};
use fusevol::control::Control;
use fusevol::disks::Member;
use fusevol::path::door::{Door, Got};
use fusevol::path::keeper::{Opener, Told};
use fusevol::path::lives::ManagerLife;
use fusevol::path::spare::Spare;
use fusevol::redirect::queue::Queue;
use fusevol_mgr::core::ConnId;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, Disk, DiskError};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::layout::{Layout, MANAGER_LOCK};
use fusevol_shared::format::slot::{Heartbeat, SlotAt};
use fusevol_shared::ids::{Generation, KeyPrint, Seq, SessionId, VolumeId};
use fusevol_shared::random::{Random, SeededRandom};
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::data::{FromClient, FromManager, Io};
use fusevol_shared::wire::messages::{AskLives, CheckPath, Welcome};
use futures_util::future::{Either, LocalBoxFuture, select};
use std::cell::RefCell;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a request waits in all.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the manager may take to open a connection.
const OPENING: Duration = Duration::from_secs(15);
/// With requests unanswered and nothing coming in for so long a connection is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// How often it is looked who has waited for too long.
const LOOK: Duration = Duration::from_millis(200);
/// How long the manager is waited for when a way is tried.
const ASK: Duration = Duration::from_secs(4);

/// What clients did that only some worlds do, all together.
#[derive(Default, Debug)]
pub struct Counts {
    /// Requests through the manager.
    pub redirected: AtomicU64,
    /// Letters that were answered.
    pub letters: AtomicU64,
    /// Ways that were opened again.
    pub reopened: AtomicU64,
}

/// The door.
pub struct Redirect {
    queue: Arc<Queue>,
    au_size: AuSize,
    counts: Arc<Counts>,
}

impl Redirect {
    /// For a pool with AUs of this size.
    #[must_use]
    pub fn new(queue: Arc<Queue>, au_size: AuSize, counts: Arc<Counts>) -> Self {
        Self { queue, au_size, counts }
    }
}

impl Door for Redirect {
    fn io(&self, io: Io, data: IoBytes) -> LocalBoxFuture<'_, std::result::Result<Got, DiskError>> {
        self.counts.redirected.fetch_add(1, Ordering::Relaxed);
        let answer = self.queue.add(io, data, PATIENCE);
        Box::pin(async move {
            let lost = |_| Err(DiskError { answer: Answer::NotReturned, errno: libc::ESHUTDOWN, what: "the process is ending".into() });
            answer?.await.unwrap_or_else(lost)
        })
    }

    fn release(&self, disk: DiskNo) {
        self.queue.release(disk);
    }

    fn spare(&self, volume: VolumeId, spare: Weak<Spare>) {
        self.queue.spare(volume, spare);
    }

    fn au_size(&self) -> AuSize {
        self.au_size
    }
}

/// The data connections of one client.
pub struct Run {
    /// Clock and dice.
    pub sched: Sched,
    /// Connections.
    pub net: Net,
    /// Whose.
    pub proc: ProcId,
    /// Where it runs.
    pub host: HostNo,
    /// Its key.
    pub print: KeyPrint,
    /// Its session.
    pub session: SessionId,
    /// Where managers listen.
    pub addresses: Vec<u64>,
    /// What waits.
    pub queue: Arc<Queue>,
}

impl Run {
    /// A connection while there is something to do, a pause after each that failed.
    pub async fn run(self) {
        let look = async {
            loop {
                self.sched.sleep(self.proc, LOOK).await;
                self.queue.look();
            }
        };
        select(pin!(self.serve()), pin!(look)).await;
    }

    async fn serve(&self) {
        let mut pause = Duration::from_millis(50);
        loop {
            while self.queue.is_empty() {
                self.queue.work.notified().await;
            }
            for address in self.addresses.clone() {
                let heard = Inbox::default();
                self.sched.sleep(self.proc, Duration::from_micros(200)).await;
                let Some(conn) = self.net.connect_data(self.proc, self.host, self.print, address, heard.clone()) else { continue };
                if let Some(generation) = self.open(conn, &heard).await {
                    pause = Duration::from_millis(50);
                    self.exchange(conn, &heard, generation).await;
                }
                self.net.hang_up(conn);
            }
            self.sched.sleep(self.proc, pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn open(&self, conn: ConnId, heard: &Inbox<Heard>) -> Option<Generation> {
        self.net.say_data(conn, FromClient::Open { session: self.session }, IoBuf::zeroed(0).freeze());
        let late = self.sched.sleep(self.proc, OPENING);
        let next = heard.next();
        match select(pin!(next), pin!(late)).await {
            Either::Left((Heard::Data(_, FromManager::Opened { generation, drained }, _), _)) => {
                self.queue.opened(generation, drained);
                Some(generation)
            }
            Either::Left((Heard::Data(_, FromManager::Refused(e), _), _)) => {
                self.queue.refused(&e);
                None
            }
            Either::Left((Heard::Data(..) | Heard::Said(..), _)) => panic!("an answer before anything was asked"),
            Either::Left((Heard::Ended(_), _)) | Either::Right(_) => None,
        }
    }

    /// Requests out and answers in, until it fails or nothing was to be done for a while.
    async fn exchange(&self, conn: ConnId, heard: &Inbox<Heard>, of: Generation) {
        loop {
            while let Some((id, io, data)) = self.queue.next(of) {
                self.net.say_data(conn, FromClient::Io { id, io }, data);
            }
            {
                let some = async { _ = select(pin!(heard.filled()), pin!(self.queue.work.notified())).await };
                if let Either::Right(_) = select(pin!(some), pin!(self.sched.sleep(self.proc, SILENCE))).await {
                    return;
                }
            }
            while let Some(h) = heard.take() {
                let (id, result, payload) = match h {
                    Heard::Data(_, FromManager::Done { id, result }, p) => (id, result.map(|()| ManagerLife::default()), p),
                    Heard::Data(_, FromManager::Flushed { id, life }, p) => (id, Ok(ManagerLife { generation: of, life }), p),
                    Heard::Data(_, other, _) => panic!("something else than an answer came: {other:?}"),
                    Heard::Ended(_) | Heard::Said(..) => return,
                };
                assert!(self.queue.answered(id, result, IoBuf::copy_of(&payload)), "an answer to request {id}, which was not asked");
            }
        }
    }
}

/// Opens ways of one session again.
pub struct Ways {
    /// The pool, and how this process has it open.
    pub pool: Pool,
    /// The process.
    pub proc: ProcId,
    /// On which boot.
    pub boot: super::disk::Boot,
    /// Clock and dice.
    pub sched: Sched,
    /// The way to the manager.
    pub link: Arc<Link>,
    /// Numbers of the session.
    pub welcome: Welcome,
    /// Its identity.
    pub id: SessionId,
    /// For nonces.
    pub random: RefCell<SeededRandom>,
    /// What it did.
    pub counts: Arc<Counts>,
}

impl Ways {
    async fn ask<T: fusevol_shared::wire::messages::Call>(&self, call: T) -> Result<T::Reply> {
        match select(pin!(self.link.call(call)), pin!(self.sched.sleep(self.proc, ASK))).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err(Error::new(Kind::Unreachable, "the manager did not answer in time")),
        }
    }
}

impl Opener<SimDisk> for Ways {
    async fn open(&self, member: &Member<SimDisk>) -> Result<SimDisk> {
        let (_, id, disk) = self.pool.open(self.proc, self.boot).swap_remove(usize::from(member.no().0));
        assert!(disk.try_lock(MANAGER_LOCK + 1 + u64::from(self.welcome.session.0)), "the lock is the process's own");
        let layout = Layout::for_disk(self.pool.au_size, disk.size()).expect("large enough");
        let at = SlotAt::new(self.welcome.pool, id, &layout, self.welcome.session);
        let mut nonce = [0; 8];
        self.random.borrow_mut().fill(&mut nonce);
        let nonce = u64::from_le_bytes(nonce) | 1;
        let page = Heartbeat { session: self.welcome.session, id: self.id, beat: Seq(0), nonce, answer: None }.encode(at);
        disk.write(at.off, IoBuf::copy_of(&page).freeze()).await.map_err(|e| Error::new(Kind::Io, e.to_string()))?;
        self.ask(CheckPath { disk: member.no(), nonce }).await?;
        self.counts.reopened.fetch_add(1, Ordering::Relaxed);
        Ok(disk)
    }

    async fn lives(&self) -> Option<Told> {
        self.ask(AskLives {}).await.ok()
    }

    async fn sleep(&self, time: Duration) {
        self.sched.sleep(self.proc, time).await;
    }
}
