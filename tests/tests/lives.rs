//! Flushes over paths that have lives: a connection that is lost may take with it what was written and not flushed (PROTOCOL.md, P1).

use fusevol::volume::Mode;
use fusevol_mgr::core::{AdminReply, AdminRequest};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Disk, DiskError, DiskResult};
use fusevol_shared::ids::{DiskId, Generation, KeyPrint, Life, VolumeId};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{AuSize, DiskNo, DiskOff};
use fusevol_shared::wire::messages::Lives;
use fusevol_tests::model::host::Host;
use fusevol_tests::model::manager::Manager;
use fusevol_tests::model::run_local;
use fusevol_tests::model::through::Through;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const AUS: u32 = 64;
const ENOTCONN: i32 = 107;

/// A server with a cache that is lost when it is started again.
struct Server {
    cache: Mutex<MemDisk>,
    durable: Mutex<MemDisk>,
    run: AtomicU64,
}

impl Server {
    fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { cache: Mutex::new(MemDisk::new(bytes)), durable: Mutex::new(MemDisk::new(bytes)), run: AtomicU64::new(1) })
    }

    /// A power cut: every connection ends, and what was not flushed is gone.
    fn restart(&self) {
        *self.cache.lock().expect("whole") = self.durable.lock().expect("whole").fork();
        self.run.fetch_add(1, Ordering::SeqCst);
    }
}

/// A connection to it. The manager's is made anew by itself, and is another life then; the client's is not.
struct Connection {
    server: Arc<Server>,
    run: AtomicU64,
    life: AtomicU64,
    cut: AtomicBool,
    again: bool,
}

impl Connection {
    fn new(server: &Arc<Server>, again: bool) -> Arc<Self> {
        let run = AtomicU64::new(server.run.load(Ordering::SeqCst));
        Arc::new(Self { server: server.clone(), run, life: AtomicU64::new(1), cut: AtomicBool::new(false), again })
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    fn stands(&self) -> DiskResult<()> {
        let run = self.server.run.load(Ordering::SeqCst);
        let lost = self.cut.load(Ordering::SeqCst) || self.run.load(Ordering::SeqCst) != run;
        match (lost, self.again) {
            (false, _) => Ok(()),
            (true, true) => {
                self.cut.store(false, Ordering::SeqCst);
                self.run.store(run, Ordering::SeqCst);
                self.life.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            (true, false) => Err(DiskError::answered(ENOTCONN, "the connection is lost")),
        }
    }

    fn cache(&self) -> MemDisk {
        self.server.cache.lock().expect("whole").clone()
    }
}

impl Disk for Connection {
    fn size(&self) -> u64 {
        self.cache().size()
    }
    async fn read(&self, at: DiskOff, buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        match self.stands() {
            Ok(()) => self.cache().read(at, buf).await,
            Err(e) => (Err(e), buf),
        }
    }
    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.stands()?;
        self.cache().write(at, data).await
    }
    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.write(at, data.clone()).await?;
        let durable = self.server.durable.lock().expect("whole").clone();
        durable.write(at, data).await
    }
    async fn flush(&self) -> DiskResult<()> {
        self.stands()?;
        *self.server.durable.lock().expect("whole") = self.cache().fork();
        Ok(())
    }
    fn life(&self) -> Life {
        Life(self.life.load(Ordering::SeqCst))
    }
}

fn page(n: u8) -> IoBytes {
    IoBuf::copy_of(&[n; 4096]).freeze()
}

/// A client and a manager with connections of their own to two servers.
struct World {
    manager: Arc<Manager>,
    servers: [Arc<Server>; 2],
    managers: [Arc<Connection>; 2],
    clients: [Arc<Connection>; 2],
    host: Rc<Host<Connection>>,
    print: KeyPrint,
}

impl World {
    async fn new() -> Self {
        let au_size = AuSize::from_log2(20).expect("1 MiB");
        let ids = [DiskId([1; 16]), DiskId([2; 16])];
        let manager = Manager::new(7, au_size, &ids.map(|id| (id, AUS)));
        let servers = ids.map(|_| Server::new(u64::from(AUS) << au_size.log2()));
        let (managers, clients) =
            (servers.each_ref().map(|s| Connection::new(s, true)), servers.each_ref().map(|s| Connection::new(s, false)));
        let print = KeyPrint([9; 32]);
        manager.admin(AdminRequest::ClientAdd { name: "host1".into(), print }).expect("added");
        let host = Host::start(&manager, print, ids.into_iter().zip(clients.clone()).collect()).await;
        host.engine.disks.redirect_by(Through::new(manager.clone(), host.engine.session, au_size, managers.to_vec()));
        let w = Self { manager, servers, managers, clients, host, print };
        w.tell();
        w
    }

    fn volume(&self, name: &str) -> VolumeId {
        let made = self.manager.admin(AdminRequest::VolumeCreate { name: name.into(), size: 16 << 20 }).expect("made");
        let AdminReply::Volume(v) = made else { panic!("{made:?}") };
        let (rights, _) = ("read,write".parse().expect("rights"), self.print);
        self.manager.admin(AdminRequest::AccessGrant { volume: name.into(), client: "host1".into(), rights }).expect("granted");
        v.id
    }

    /// The client hears of the lives that the manager's paths have.
    fn tell(&self) {
        let lives = (0..2).map(|n| (DiskNo(n), self.managers[usize::from(n)].life())).collect();
        // `Through` names no generation.
        self.host.engine.disks.heard(&Lives { generation: Generation::default(), lives });
    }

    fn restart(&self) {
        self.servers.iter().for_each(|s| s.restart());
    }
}

/// Writes, and the server is started again: whether the fsync is answered, and what is there. And another volume's fsync, and the next one.
async fn a_restart() -> (bool, u8, bool, bool) {
    let w = World::new().await;
    let (db, other) = (w.volume("db"), w.volume("other"));
    let (volume, beside) =
        (w.host.attach(db, Mode::Write).await.expect("attached"), w.host.attach(other, Mode::Write).await.expect("attached"));
    volume.write(0, page(1)).await.expect("written");
    volume.flush().await.expect("flushed");
    volume.write(0, page(2)).await.expect("written");
    w.restart();
    beside.write(0, page(7)).await.expect("it goes through the manager");
    let (said, others) = (volume.flush().await.is_ok(), beside.flush().await.is_ok());
    let found = volume.read(0, 4096).await.expect("read")[0];
    volume.write(4096, page(3)).await.expect("written");
    (said, found, others, volume.flush().await.is_ok())
}

/// > A flush counts only by a connection that was up since before the oldest write that it is to cover.
#[test]
fn a_flush_by_another_life_says_nothing_of_what_was_written_before() {
    assert_eq!(run_local(a_restart()), (false, 1, true, true), "an error to exactly the fsync that it concerns, once");
    let seen = without(Tag::P1, || run_local(a_restart()));
    assert_eq!((seen.0, seen.1), (true, 1), "without the sentence what was acknowledged is lost");
}

/// > ...: a connection of the manager's, too.
#[test]
fn a_path_that_is_lost_alone_is_nobodys_error() {
    run_local(async {
        let w = World::new().await;
        let volume = w.host.attach(w.volume("db"), Mode::Write).await.expect("attached");
        for (round, at) in [(1, 0), (2, 0), (3, 9 << 20)] {
            volume.write(at, page(round)).await.expect("written");
            w.clients.iter().for_each(|c| c.cut());
            volume.flush().await.expect("by the manager's connection, which was up before");
            w.restart();
            assert_eq!(volume.read(at, 4096).await.expect("read")[0], round, "it is durable");
            // What goes through the manager is written through: its own connections may be lost, too.
            volume.write(at, page(round + 10)).await.expect("written");
            w.restart();
            volume.flush().await.expect("nothing is in doubt");
            assert_eq!(volume.read(at, 4096).await.expect("read")[0], round + 10);
        }
    });
}

/// The manager's connection is younger than the write: the server may have been another one then.
#[test]
fn a_connection_that_is_younger_than_a_write_proves_nothing() {
    run_local(async {
        let w = World::new().await;
        let volume = w.host.attach(w.volume("db"), Mode::Write).await.expect("attached");
        volume.write(0, page(1)).await.expect("written");
        w.managers.iter().for_each(|m| {
            m.cut();
            m.stands().expect("made anew");
        });
        w.tell();
        w.clients.iter().for_each(|c| c.cut());
        assert!(volume.flush().await.is_err(), "it cannot be known");
        volume.write(0, page(2)).await.expect("written");
        volume.flush().await.expect("flushed");
        assert_eq!(volume.read(0, 4096).await.expect("read")[0], 2);
    });
}
