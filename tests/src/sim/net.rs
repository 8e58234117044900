//! The net of a simulated world, between clients and managers.
//!
//! A connection carries messages in order, each way, each after a seeded while; different connections overtake each other. It may be
//! *cut* at any moment: what is under way on it is lost, and both ends hear of it a little later, each at its own time. When a process dies,
//! what it had sent still arrives, then the end. Between two hosts the net may be *parted*: what stands between them is cut, and
//! nothing new comes up.
//!
//! Who is listening is a [`Door`]: the inbox of a manager that serves. A message that is delivered waits there until its process runs.
//!
//! A connection is one of the session, or one for data ([`super::data`]): both live by the same rules.
//!
//! Invariants: a connection's number is never used again; a message is delivered once or never; after the end of a connection nothing
//! of it is delivered.

use super::sched::{ProcId, Sched, WORLD};
use fusevol_mgr::core::{ConnId, Event};
use fusevol_shared::disk::buf::IoBytes;
use fusevol_shared::error::WireError;
use fusevol_shared::ids::KeyPrint;
use fusevol_shared::wire::data;
use fusevol_shared::wire::messages::{FromClient, FromManager};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// A host: where a process runs, for the net.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostNo(pub u32);

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;

/// A queue that one task reads.
pub struct Inbox<T>(Arc<Mutex<(VecDeque<T>, Option<Waker>)>>);

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((VecDeque::new(), None))))
    }
}

impl<T> Inbox<T> {
    fn queue(&self) -> MutexGuard<'_, (VecDeque<T>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something in.
    pub fn put(&self, item: T) {
        let waker = {
            let mut q = self.queue();
            q.0.push_back(item);
            q.1.take()
        };
        if let Some(w) = waker {
            w.wake();
        }
    }

    /// Takes what is there.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        self.queue().0.pop_front()
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue().0.is_empty()
    }

    /// Waits until something is there.
    pub async fn filled(&self) {
        std::future::poll_fn(|cx| {
            let mut q = self.queue();
            if !q.0.is_empty() {
                return Poll::Ready(());
            }
            q.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The next.
    pub async fn next(&self) -> T {
        loop {
            self.filled().await;
            if let Some(item) = self.take() {
                return item;
            }
        }
    }
}

/// What a client's link hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A message on this connection.
    Said(ConnId, FromManager),
    /// A message on this data connection, with what was read.
    Data(ConnId, data::FromManager, IoBytes),
    /// The connection has ended.
    Ended(ConnId),
}

/// What a manager's data server hears.
pub enum DataSaid {
    /// A connection of the client with this key.
    Connected(ConnId, KeyPrint),
    /// A message, with what is to be written.
    Said(ConnId, data::FromClient, IoBytes),
    /// It has ended.
    Ended(ConnId),
}

/// Where a manager hears.
#[derive(Clone, Default)]
pub struct Ears {
    /// What its core is told.
    pub events: Inbox<Event>,
    /// What its data server is told.
    pub data: Inbox<DataSaid>,
}

struct Door {
    proc: ProcId,
    host: HostNo,
    ears: Ears,
}

struct Conn {
    client: ProcId,
    client_host: HostNo,
    manager: ProcId,
    manager_host: HostNo,
    to_client: Inbox<Heard>,
    to_manager: Ears,
    /// It is one for data.
    data: bool,
    /// Each end: whether it still takes what comes.
    client_up: bool,
    manager_up: bool,
    /// When the last message each way arrives.
    last_to_client: u64,
    last_to_manager: u64,
}

#[derive(Default)]
struct State {
    doors: BTreeMap<u64, Door>,
    conns: BTreeMap<ConnId, Conn>,
    parted: BTreeSet<(HostNo, HostNo)>,
    next: u64,
}

/// The net; a clone is another handle.
#[derive(Clone)]
pub struct Net {
    sched: Sched,
    state: Arc<Mutex<State>>,
}

impl Ears {
    fn ended(&self, conn: ConnId, data: bool) {
        if data { self.data.put(DataSaid::Ended(conn)) } else { self.events.put(Event::Disconnected { conn }) }
    }
}

fn pair(a: HostNo, b: HostNo) -> (HostNo, HostNo) {
    (a.min(b), a.max(b))
}

impl Net {
    /// An empty net.
    #[must_use]
    pub fn new(sched: Sched) -> Self {
        Self { sched, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A manager serves at this address from now on, in place of who did before.
    pub fn listen(&self, address: u64, proc: ProcId, host: HostNo, ears: Ears) {
        self.state().doors.insert(address, Door { proc, host, ears });
    }

    /// The address is closed, if this process has it.
    pub fn shut(&self, address: u64, proc: ProcId) {
        self.state().doors.retain(|a, d| *a != address || d.proc != proc);
    }

    /// The inbox of who serves at this address.
    #[must_use]
    pub fn door(&self, address: u64) -> Option<(ProcId, Inbox<Event>)> {
        self.state().doors.get(&address).map(|d| (d.proc, d.ears.events.clone()))
    }

    /// A connection to this address, if somebody is there and can be reached.
    #[must_use]
    pub fn connect(&self, client: ProcId, host: HostNo, print: KeyPrint, address: u64, to_client: Inbox<Heard>) -> Option<ConnId> {
        let conn = self.begin(client, host, address, to_client, false)?;
        self.to_manager(conn, move |ears| ears.events.put(Event::Connected { conn, print }));
        Some(conn)
    }

    /// The same for data.
    #[must_use]
    pub fn connect_data(&self, client: ProcId, host: HostNo, print: KeyPrint, address: u64, to_client: Inbox<Heard>) -> Option<ConnId> {
        let conn = self.begin(client, host, address, to_client, true)?;
        self.to_manager(conn, move |ears| ears.data.put(DataSaid::Connected(conn, print)));
        Some(conn)
    }

    fn begin(&self, client: ProcId, host: HostNo, address: u64, to_client: Inbox<Heard>, data: bool) -> Option<ConnId> {
        let mut s = self.state();
        let door = s.doors.get(&address)?;
        if !self.sched.alive(door.proc) || s.parted.contains(&pair(host, door.host)) {
            return None;
        }
        let (manager, manager_host, to_manager) = (door.proc, door.host, door.ears.clone());
        s.next += 1;
        let conn = ConnId(s.next);
        let connection = Conn {
            client,
            client_host: host,
            manager,
            manager_host,
            to_client,
            to_manager,
            data,
            client_up: true,
            manager_up: true,
            last_to_client: 0,
            last_to_manager: 0,
        };
        s.conns.insert(conn, connection);
        drop(s);
        self.sched.trace(client, "connect", conn.0, u64::from(manager.0));
        Some(conn)
    }

    fn delay(&self) -> u64 {
        let slow = if self.sched.one_in(30) { self.sched.below(200 * MILLI) } else { 0 };
        50 * MICRO + self.sched.below(400 * MICRO) + slow
    }

    fn to_manager(&self, conn: ConnId, deliver: impl FnOnce(&Ears) + Send + 'static) {
        let delay = self.delay();
        let mut s = self.state();
        let now = self.sched.now();
        let Some(c) = s.conns.get_mut(&conn) else { return };
        c.last_to_manager = (c.last_to_manager + 1).max(now + delay);
        let after = c.last_to_manager - now;
        drop(s);
        let net = self.clone();
        self.sched.after(after, move || {
            let ears = net.state().conns.get(&conn).filter(|c| c.manager_up).map(|c| c.to_manager.clone());
            if let Some(ears) = ears {
                deliver(&ears);
            }
        });
    }

    fn to_client(&self, conn: ConnId, heard: Heard) {
        let delay = self.delay();
        let mut s = self.state();
        let now = self.sched.now();
        let Some(c) = s.conns.get_mut(&conn) else { return };
        c.last_to_client = (c.last_to_client + 1).max(now + delay);
        let after = c.last_to_client - now;
        drop(s);
        let net = self.clone();
        self.sched.after(after, move || {
            let inbox = net.state().conns.get(&conn).filter(|c| c.client_up).map(|c| c.to_client.clone());
            if let Some(inbox) = inbox {
                inbox.put(heard);
            }
        });
    }

    /// The client says something on this connection.
    pub fn say(&self, conn: ConnId, message: FromClient) {
        self.to_manager(conn, move |ears| {
            ears.events.put(match message {
                FromClient::Request { id, request } => Event::Request { conn, id, request },
                FromClient::Ack { push, ack } => Event::Ack { conn, push, ack },
            });
        });
    }

    /// The manager says something on this connection.
    pub fn reply(&self, conn: ConnId, message: FromManager) {
        self.to_client(conn, Heard::Said(conn, message));
    }

    /// The client asks for I/O on this data connection.
    pub fn say_data(&self, conn: ConnId, message: data::FromClient, payload: IoBytes) {
        self.to_manager(conn, move |ears| ears.data.put(DataSaid::Said(conn, message, payload)));
    }

    /// The manager answers it.
    pub fn reply_data(&self, conn: ConnId, message: data::FromManager, payload: IoBytes) {
        self.to_client(conn, Heard::Data(conn, message, payload));
    }

    /// The manager closes it, after what it said before on it.
    pub fn close(&self, conn: ConnId) {
        self.end_at_client(conn);
        if let Some(c) = self.state().conns.get_mut(&conn) {
            c.manager_up = false;
        }
    }

    /// The client closes it, after what it said before on it.
    pub fn hang_up(&self, conn: ConnId) {
        self.end_at_manager(conn);
        if let Some(c) = self.state().conns.get_mut(&conn) {
            c.client_up = false;
        }
    }

    fn end_at_client(&self, conn: ConnId) {
        let net = self.clone();
        self.to_client(conn, Heard::Ended(conn));
        // After it nothing: what the manager says from now on is not said.
        let after = self.state().conns.get(&conn).map_or(0, |c| c.last_to_client.saturating_sub(self.sched.now()));
        self.sched.after(after + 1, move || {
            if let Some(c) = net.state().conns.get_mut(&conn) {
                c.client_up = false;
            }
        });
    }

    fn end_at_manager(&self, conn: ConnId) {
        let net = self.clone();
        let data = self.is_data(conn);
        self.to_manager(conn, move |ears| {
            ears.ended(conn, data);
            if let Some(c) = net.state().conns.get_mut(&conn) {
                c.manager_up = false;
            }
        });
    }

    /// The connection is lost with all that is under way on it.
    pub fn cut(&self, conn: ConnId) {
        let mut s = self.state();
        let Some(c) = s.conns.get_mut(&conn) else { return };
        let (client, manager) = (c.client_up.then(|| c.to_client.clone()), c.manager_up.then(|| c.to_manager.clone()));
        let data = c.data;
        (c.client_up, c.manager_up) = (false, false);
        drop(s);
        self.sched.trace(WORLD, "cut", conn.0, 0);
        let when = |s: &Sched| if s.one_in(4) { s.below(5_000 * MILLI) } else { s.below(20 * MILLI) };
        if let Some(inbox) = client {
            self.sched.after(when(&self.sched), move || inbox.put(Heard::Ended(conn)));
        }
        if let Some(ears) = manager {
            self.sched.after(when(&self.sched), move || ears.ended(conn, data));
        }
    }

    fn is_data(&self, conn: ConnId) -> bool {
        self.state().conns.get(&conn).is_some_and(|c| c.data)
    }

    fn of(&self, which: impl Fn(&Conn) -> bool) -> Vec<ConnId> {
        self.state().conns.iter().filter(|(_, c)| (c.client_up || c.manager_up) && which(c)).map(|(id, _)| *id).collect()
    }

    /// The connections that stand.
    #[must_use]
    pub fn standing(&self) -> Vec<ConnId> {
        self.of(|_| true)
    }

    /// The process is dead: its doors are shut, its connections end.
    pub fn dead(&self, proc: ProcId) {
        self.state().doors.retain(|_, d| d.proc != proc);
        for conn in self.of(|c| c.client == proc) {
            self.hang_up(conn);
        }
        for conn in self.of(|c| c.manager == proc) {
            self.close(conn);
        }
    }

    /// The host is gone: nobody hears of it by itself; a while later its connections are given up.
    pub fn host_gone(&self, procs: &[ProcId]) {
        for conn in self.of(|c| procs.contains(&c.client) || procs.contains(&c.manager)) {
            self.cut(conn);
        }
        self.state().doors.retain(|_, d| !procs.contains(&d.proc));
    }

    /// Nothing passes between these hosts from now on.
    pub fn part(&self, a: HostNo, b: HostNo) {
        self.sched.trace(WORLD, "parted", u64::from(a.0), u64::from(b.0));
        self.state().parted.insert(pair(a, b));
        for conn in self.of(|c| pair(c.client_host, c.manager_host) == pair(a, b)) {
            self.cut(conn);
        }
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.sched.trace(WORLD, "healed", 0, 0);
        self.state().parted.clear();
    }
}

/// What is answered to a request.
pub type Answer = Result<fusevol_shared::wire::messages::Reply, WireError>;
