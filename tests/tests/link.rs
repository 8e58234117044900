//! The client's link against the manager's door, with a stand-in for the core: what is asked is done once and answered once, in order,
//! however often the manager dies in between.

#![allow(clippy::unwrap_used)] // a failure here is the test's

use fusevol::link::{Link, LinkConfig, Owner, Phase, Pushed};
use fusevol_mgr::authority::Authority;
use fusevol_mgr::core::{ConnId, Event};
use fusevol_mgr::data::NoData;
use fusevol_mgr::listen::{Connections, ListenLimits, Listener};
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::ids::{BootId, FenceToken, Generation, PoolId, Seq, SessionId, SessionNo, VolumeId};
use fusevol_shared::name::Name;
use fusevol_shared::net::memory::{MemNet, Way};
use fusevol_shared::net::{Net, SystemNet};
use fusevol_shared::random::{Random, SystemRandom};
use fusevol_shared::units::AuSize;
use fusevol_shared::wire::messages::{Ack, Fold, Folded, Hello, PROTOCOL, Push, Recall, Renew, Renewed, Reply, Request, Volumes, Welcome};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const POOL: PoolId = PoolId([4; 16]);
/// Nothing here takes this long; what does hangs.
const HANG: Duration = Duration::from_secs(120);
/// Folds are answered one in so many times only: the others are lost with the manager.
const ANSWERED: u64 = 3;

/// What outlives the manager: its catalog, so to say.
#[derive(Default)]
struct Lasting {
    generation: u64,
    /// Sequence numbers in the order in which they were done.
    done: Vec<u64>,
    /// How often each was asked for.
    asked: BTreeMap<u64, u32>,
    /// Pushes without an acknowledgement.
    unacked: BTreeMap<u64, Push>,
    acks: Vec<u64>,
    /// What `Hello` is answered with, where it is not welcome.
    refuse: Option<Kind>,
    hellos: Vec<Hello>,
}

/// One life of a manager.
struct Life {
    listener: Listener,
    task: tokio::task::JoinHandle<()>,
}

struct Pool {
    runtime: Runtime,
    authority: Authority,
    address: String,
    net: Arc<dyn Net>,
    lasting: Arc<Mutex<Lasting>>,
    life: Option<Life>,
}

impl Pool {
    /// A pool whose manager does not live yet, at an address that is nobody else's.
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let authority = Authority::create(POOL, &Name::new("san1").unwrap()).unwrap();
        let mut b = [0; 2];
        SystemRandom.fill(&mut b);
        let socket = std::net::TcpListener::bind(format!("127.84.{}.{}:0", b[0], b[1].clamp(1, 254))).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        Self { runtime, authority, address, net: Arc::new(SystemNet), lasting: Arc::default(), life: None }
    }

    fn start(&mut self) {
        let (sender, events) = mpsc::channel(16);
        let tls = self.authority.tls().unwrap();
        self.lasting.lock().unwrap().generation += 1;
        let bound = self.runtime.block_on(Listener::bind_on(
            &*self.net,
            std::slice::from_ref(&self.address),
            tls,
            Arc::new(NoData),
            ListenLimits::default(),
            sender,
        ));
        let listener = bound.unwrap();
        let core = Core { lasting: Arc::clone(&self.lasting), connections: listener.connections(), session: None };
        let task = self.runtime.spawn(core.run(events));
        self.life = Some(Life { listener, task });
    }

    fn kill(&mut self) {
        if let Some(life) = self.life.take() {
            life.task.abort();
            self.runtime.block_on(life.listener.close());
            let _ = self.runtime.block_on(life.task);
        }
    }

    fn config(&self, addresses: Vec<String>) -> LinkConfig {
        let name = |text| Name::new(text).unwrap();
        let (key, _) = self.authority.key_file(&name("san1"), &name("host1"), addresses).unwrap();
        LinkConfig { net: self.net.clone(), pause: (Duration::from_millis(2), Duration::from_millis(20)), ..LinkConfig::new(Arc::new(key)) }
    }

    fn link(&self) -> (Link, mpsc::Receiver<Pushed>, Arc<Session>) {
        let session = Arc::new(Session::default());
        let (link, pushed) = Link::start(self.config(vec![self.address.clone()]), session.clone()).unwrap();
        (link, pushed, session)
    }

    fn within<F: Future>(&self, what: F) -> F::Output {
        self.runtime.block_on(async { tokio::time::timeout(HANG, what).await.expect("it hangs") })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The stand-in for the core.
struct Core {
    lasting: Arc<Mutex<Lasting>>,
    connections: Connections,
    session: Option<ConnId>,
}

impl Core {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Request { conn, id, request } => self.request(conn, id, request),
                Event::Ack { push, .. } => {
                    let mut lasting = self.lasting.lock().unwrap();
                    lasting.unacked.remove(&push);
                    lasting.acks.push(push);
                }
                _ => {}
            }
        }
    }

    fn request(&mut self, conn: ConnId, id: u64, request: Request) {
        let mut lasting = self.lasting.lock().unwrap();
        let answer = match request {
            Request::Hello(hello) => {
                lasting.hellos.push(hello);
                match lasting.refuse {
                    Some(kind) => Err(WireError { kind, message: "refused".into(), hint: String::new() }),
                    None => Ok(welcome(lasting.generation).into()),
                }
            }
            Request::Fold(fold) => {
                let seq = fold.prev.0 + 1;
                let asked = lasting.asked.entry(seq).or_default();
                *asked += 1;
                let lost = !(u64::from(*asked) + seq).is_multiple_of(ANSWERED);
                if seq > lasting.done.last().copied().unwrap_or(0) {
                    lasting.done.push(seq);
                }
                if lost {
                    return;
                }
                Ok(Folded { seq: Seq(seq) }.into())
            }
            Request::Renew(_) => Ok(Renewed {}.into()),
            Request::ListVolumes(_) => Ok(Volumes { volumes: vec![] }.into()),
            other => panic!("{}", other.name()),
        };
        let welcomed = matches!(answer, Ok(Reply::Welcome(_)));
        self.connections.reply(conn, id, answer);
        if welcomed {
            self.session = Some(conn);
            lasting.unacked.iter().for_each(|(push, body)| self.connections.push(conn, *push, body.clone()));
        }
    }
}

fn welcome(generation: u64) -> Welcome {
    Welcome {
        session: SessionNo(1),
        pool: POOL,
        pool_name: "san1".into(),
        au_size: AuSize::DEFAULT,
        lease_ms: 10_000,
        generation: Generation(generation),
        disks: vec![],
        slots: vec![],
        moves: 0,
        reservations: false,
    }
}

/// The stand-in for the owner of the session.
#[derive(Default)]
struct Session(Mutex<Option<BootTime>>, std::sync::atomic::AtomicU8);

impl Owner for Session {
    fn hello(&self) -> Hello {
        let session = SessionId([self.1.load(std::sync::atomic::Ordering::SeqCst); 16]);
        let resume = self.0.lock().unwrap().is_some();
        Hello { protocol: PROTOCOL, session, boot: BootId([2; 16]), host: "host1".into(), program: "test".into(), resume }
    }

    fn welcomed(&self, _: &Welcome, sent_at: BootTime) {
        *self.0.lock().unwrap() = Some(sent_at);
    }
}

fn fold(seq: u64) -> Fold {
    Fold { volume: VolumeId([1; 16]), token: FenceToken(1), prev: Seq(seq - 1), appends: vec![] }
}

/// The manager dies fifty times while requests are in flight; most of its answers are lost.
#[test]
fn done_once_and_answered_once_through_fifty_restarts() {
    const CALLS: u64 = 400;
    let mut pool = Pool::new();
    let (link, _pushed, _) = pool.link();
    let calls: Vec<_> = (1..=CALLS).map(|seq| link.call(fold(seq), None)).collect();
    let answers = pool.runtime.spawn(async move {
        let mut answered = 0;
        for call in calls {
            call.await.unwrap();
            answered += 1;
        }
        answered
    });
    for _ in 0..50 {
        let known = pool.lasting.lock().unwrap().hellos.len();
        pool.start();
        // Killed as soon as it was said hello to: most of what it was asked it does not answer any more.
        let greeted = async {
            while pool.lasting.lock().unwrap().hellos.len() == known {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        pool.within(greeted);
        pool.kill();
    }
    pool.start();
    assert_eq!(pool.within(answers).unwrap(), CALLS);
    let lasting = pool.lasting.lock().unwrap();
    assert_eq!(lasting.done, (1..=CALLS).collect::<Vec<_>>(), "each is done once, in order");
    assert!(lasting.asked.values().any(|n| *n > 1), "some were asked again");
    assert!(lasting.hellos.iter().skip(1).all(|h| h.resume));
}

#[test]
fn pushes_come_in_order_once_and_are_acknowledged() {
    const PUSHES: u64 = 200;
    let mut pool = Pool::new();
    let recall = |n: u64| Push::Recall(Recall { volume: VolumeId([1; 16]), reason: n.to_string() });
    pool.lasting.lock().unwrap().unacked = (1..=PUSHES).map(|n| (n, recall(n))).collect();
    // One life only: another manager's life may repeat what this one has handed on.
    pool.lasting.lock().unwrap().generation = 6;
    pool.start();
    let (link, mut pushed, _) = pool.link();
    for n in 1..=PUSHES {
        let push = pool.within(pushed.recv()).unwrap();
        assert_eq!(push.body, recall(n));
        if n.is_multiple_of(20) {
            link.reconnect();
        }
        push.ack(Ack::Done);
    }
    let all = async {
        while !pool.lasting.lock().unwrap().unacked.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    pool.within(all);
    assert!(pushed.try_recv().is_err(), "none came twice");
}

#[test]
fn a_session_that_is_gone_is_an_end_until_a_new_one_begins() {
    let mut pool = Pool::new();
    pool.start();
    let (link, _pushed, session) = pool.link();
    pool.within(link.opened(HANG)).unwrap();
    pool.lasting.lock().unwrap().refuse = Some(Kind::Lapsed);
    let open = link.call(fold(1), None);
    link.reconnect();
    let mut state = link.state();
    let ended = async { state.wait_for(|s| matches!(s.phase, Phase::Ended(_))).await.unwrap().phase.clone() };
    assert!(matches!(pool.within(ended), Phase::Ended(WireError { kind: Kind::Lapsed, .. })));
    assert_eq!(pool.within(open).unwrap_err().kind(), Kind::Lapsed);
    assert_eq!(pool.within(link.call(Renew {}, None)).unwrap_err().kind(), Kind::Lapsed);

    pool.lasting.lock().unwrap().refuse = None;
    session.1.store(2, std::sync::atomic::Ordering::SeqCst);
    link.restart();
    pool.within(link.call(Renew {}, None)).unwrap();
    assert_eq!(pool.lasting.lock().unwrap().hellos.last().unwrap().session, SessionId([2; 16]));
}

#[test]
fn the_time_of_an_answer_is_that_of_its_last_sending() {
    let mut pool = Pool::new();
    let (link, _pushed, session) = pool.link();
    let call = link.call_timed(Renew {}, None);
    pool.within(async { tokio::time::sleep(Duration::from_millis(30)).await });
    let before = SystemClock.now();
    pool.start();
    let (_, sent_at) = pool.within(call).unwrap();
    let hello_at = session.0.lock().unwrap().unwrap();
    assert!(before <= hello_at && hello_at <= sent_at && sent_at <= SystemClock.now());
}

#[test]
fn no_manager_is_unreachable_and_a_foreign_one_denied() {
    let pool = Pool::new();
    let (link, _pushed, _) = pool.link();
    let e = pool.within(link.call(Renew {}, Some(Duration::from_millis(100)))).unwrap_err();
    assert_eq!(e.kind(), Kind::Unreachable);
    assert!(e.to_string().contains(&pool.address), "{e}");
    assert_eq!(pool.within(link.opened(Duration::from_millis(50))).unwrap_err().kind(), Kind::Unreachable);

    // The same pool id and names, another key.
    let mut other = Pool::new();
    other.start();
    let (link, _pushed) = Link::start(pool.config(vec![other.address.clone()]), Arc::new(Session::default())).unwrap();
    let e = pool.within(link.opened(HANG)).unwrap_err();
    assert_eq!(e.kind(), Kind::Denied, "{e}");
    assert!(e.hint_text().is_some());
    let e = pool.within(link.call(Renew {}, Some(Duration::from_millis(100)))).unwrap_err();
    assert_eq!(e.kind(), Kind::Denied, "{e}");
}

#[test]
fn a_key_that_the_manager_does_not_take_is_denied() {
    // The client trusts the manager, but shows a certificate of another authority.
    let mut pool = Pool::new();
    pool.start();
    let foreign = Authority::create(POOL, &Name::new("san1").unwrap()).unwrap();
    let name = |text| Name::new(text).unwrap();
    let (mut key, _) = foreign.key_file(&name("san1"), &name("host1"), vec![pool.address.clone()]).unwrap();
    key.authority = pool.authority.certificate().to_vec();
    let (link, _pushed) = Link::start(LinkConfig::new(Arc::new(key)), Arc::new(Session::default())).unwrap();
    let e = pool.within(link.opened(HANG)).unwrap_err();
    assert_eq!(e.kind(), Kind::Denied, "{e}");
}

#[test]
fn the_next_address_is_tried() {
    let mut pool = Pool::new();
    pool.start();
    let nobody = Pool::new().address.clone();
    let addresses = vec![nobody, pool.address.clone()];
    let (link, _pushed) = Link::start(pool.config(addresses), Arc::new(Session::default())).unwrap();
    pool.within(link.call(Renew {}, None)).unwrap();
    assert!(matches!(&link.state().borrow().phase, Phase::Connected { address } if *address == pool.address));
}

/// The packets of the manager are dropped, and nothing says so: neither an end nor an error of the socket.
#[test]
fn a_silent_connection_is_given_up_and_what_it_owed_is_asked_again() {
    let net = MemNet::default();
    let mut pool = Pool::new();
    pool.net = Arc::new(net.clone());
    pool.start();
    let door = pool.address.parse().unwrap();
    let config = LinkConfig { silence: Duration::from_millis(100), ..pool.config(vec![pool.address.clone()]) };
    let (link, _pushed) = Link::start(LinkConfig { connect: config.silence, ..config }, Arc::new(Session::default())).unwrap();
    pool.within(link.opened(HANG)).unwrap();
    net.ways(door, Way::Open, Way::Stall);
    let call = link.call(Renew {}, None);
    let mut state = link.state();
    pool.within(async { state.wait_for(|s| s.last_error.is_some()).await.map(|_| ()) }).unwrap();
    net.ways(door, Way::Open, Way::Open);
    pool.within(call).unwrap();
    assert!(pool.lasting.lock().unwrap().hellos.len() > 1, "on another connection");
}

#[test]
fn calls_are_answered_on_any_executor_and_fail_on_close() {
    let mut pool = Pool::new();
    pool.start();
    let (link, mut pushed, session) = pool.link();
    let other = link.clone();
    std::thread::spawn(move || fusevol_shared::disk::ring::block_on(other.call(Renew {}, Some(HANG)))).join().unwrap().unwrap();
    pool.lasting.lock().unwrap().refuse = Some(Kind::Busy);
    pool.kill();
    let open = link.call(Renew {}, None);
    link.close();
    assert_eq!(pool.within(open).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(pool.within(link.call(Renew {}, None)).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(link.state().borrow().phase, Phase::Closed);
    assert!(pool.within(pushed.recv()).is_none());
    assert_eq!(Arc::strong_count(&session), 1, "the owner is let go");
}
