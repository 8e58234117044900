//! A client's link in a simulated world: it keeps the rules of `fusevol::link`, whose own runs on a thread and a socket.
//!
//! Requests go out in the order of the calls, and again on each new connection, oldest first, under the same numbers, once the manager has
//! welcomed; each is answered once. Pushes are handed on once in the life of a manager; a repeated one is answered from memory.

use super::net::{Answer, Heard, HostNo, Inbox, Net};
use super::sched::{ProcId, Sched};
use fusevol::control::Control;
use fusevol::lease::Lease;
use fusevol::session::machine::Event as SessionEvent;
use fusevol_mgr::core::ConnId;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::format::mail::Letter;
use fusevol_shared::format::slot;
use fusevol_shared::ids::{BootId, Generation, KeyPrint, SessionId};
use fusevol_shared::wire::codec::Message;
use fusevol_shared::wire::messages::{Ack, Call, FromClient, FromManager, Hello, PROTOCOL, Push, Reply, Request, Welcome};
use futures_util::future::{Either, select};
use rkyv::util::AlignedVec;
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Most requests unanswered on a connection.
const IN_FLIGHT: usize = 64;
/// How long a manager may be silent that owes an answer.
const SILENCE: Duration = Duration::from_secs(15);
/// How long a welcome is waited for.
const HELLO: Duration = Duration::from_secs(10);
/// Most pushes that are remembered.
const MEMORY: usize = 4096;

struct Entry {
    request: Request,
    sent: BootTime,
    open: bool,
    answer: Option<Result<(Reply, BootTime)>>,
    waker: Option<Waker>,
    /// Nobody waits any more.
    dropped: bool,
}

struct Known {
    ack: Option<Ack>,
    here: bool,
    /// It came by letter, too.
    by_letter: bool,
}

#[derive(Default)]
struct State {
    calls: BTreeMap<u64, Entry>,
    last_id: u64,
    cursor: u64,
    conn: Option<ConnId>,
    ended: Option<WireError>,
    welcome: Option<Welcome>,
    life: Option<Generation>,
    known: BTreeMap<u64, Known>,
    acks: VecDeque<(u64, Ack)>,
    /// The answer to the last letter.
    shown: Option<slot::Answer>,
    failing: bool,
    failing_wakers: Vec<Waker>,
    kicked: bool,
    closed: bool,
    opening: Option<Waker>,
}

/// What a link works with.
pub struct Link {
    sched: Sched,
    net: Net,
    proc: ProcId,
    host: HostNo,
    print: KeyPrint,
    hello: Hello,
    addresses: Vec<u64>,
    lease: Arc<Lease>,
    /// Something is to be sent, or was heard.
    heard: Inbox<Heard>,
    work: Inbox<()>,
    /// What the session's machine is told.
    pub events: Inbox<SessionEvent>,
    /// What the manager says, to be acknowledged under its number and life.
    pub pushes: Inbox<(Generation, u64, Push)>,
    /// Answers to letters, to be shown by the next heartbeat.
    pub mailed: Inbox<slot::Answer>,
    state: Mutex<State>,
}

impl Link {
    /// A link that is not begun yet.
    #[must_use]
    #[allow(clippy::too_many_arguments)] // each is its own
    pub fn new(
        sched: &Sched,
        net: &Net,
        proc: ProcId,
        host: HostNo,
        print: KeyPrint,
        session: SessionId,
        boot: BootId,
        addresses: Vec<u64>,
        lease: Arc<Lease>,
    ) -> Arc<Self> {
        let name = sched.name(proc);
        let hello = Hello { protocol: PROTOCOL, session, boot, host: name, program: "simulated".into(), resume: false };
        Arc::new(Self {
            sched: sched.clone(),
            net: net.clone(),
            proc,
            host,
            print,
            hello,
            addresses,
            lease,
            heard: Inbox::default(),
            work: Inbox::default(),
            events: Inbox::default(),
            pushes: Inbox::default(),
            mailed: Inbox::default(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> BootTime {
        BootTime(self.sched.local(self.proc))
    }

    /// The first welcome, once there is one.
    ///
    /// # Errors
    /// The manager's refusal.
    pub async fn opened(&self) -> Result<Welcome> {
        std::future::poll_fn(|cx| {
            let mut s = self.state();
            match (&s.ended, &s.welcome) {
                (Some(e), _) => return Poll::Ready(Err(e.clone().into())),
                (None, Some(w)) => return Poll::Ready(Ok(w.clone())),
                (None, None) => {}
            }
            s.opening = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Makes a new connection.
    pub fn reconnect(&self) {
        self.state().kicked = true;
        self.work.put(());
    }

    /// What needs the manager fails, or does no more.
    pub fn set_failing(&self, failing: bool) {
        let wakers = {
            let mut s = self.state();
            s.failing = failing;
            std::mem::take(&mut s.failing_wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends it.
    pub fn close(&self) {
        self.state().closed = true;
        self.reconnect();
    }

    /// Answers a push.
    pub fn ack(&self, life: Generation, push: u64, ack: Ack) {
        let mut s = self.state();
        if s.life != Some(life) {
            return;
        }
        let Some(known) = s.known.get_mut(&push) else { return };
        known.ack = Some(ack.clone());
        let (here, by_letter) = (known.here, known.by_letter);
        if by_letter {
            s.show(&self.mailed, answer_of(push, &ack));
        }
        if here {
            s.acks.push_back((push, ack));
            drop(s);
            self.work.put(());
        }
    }

    /// Takes in a push that stood in a letter: it is handed on once, whichever way it comes.
    pub fn by_letter(&self, letter: &Letter) {
        let mut archive = AlignedVec::with_capacity(letter.body.len());
        archive.extend_from_slice(&letter.body);
        let Ok(FromManager::Push { push, body }) = FromManager::from_archive(&archive) else { panic!("a letter that holds no push") };
        assert_eq!(push, letter.push, "a letter holds another push than it says");
        let mut s = self.state();
        // Before the first connection there is no session to which it could be.
        let Some(life) = s.life.filter(|life| letter.generation >= *life) else { return };
        if letter.generation > life {
            s.life = Some(letter.generation);
            s.known.clear();
            s.acks.clear();
        }
        if let Some(known) = s.known.get_mut(&push) {
            known.by_letter = true;
            let answer = known.ack.as_ref().map(|ack| answer_of(push, ack));
            return answer.into_iter().for_each(|a| s.show(&self.mailed, a));
        }
        s.known.insert(push, Known { ack: None, here: false, by_letter: true });
        drop(s);
        self.sched.say(self.proc, format_args!("told by letter: push {push}"));
        self.pushes.put((letter.generation, push, body));
    }

    /// The link's own task.
    pub async fn run(self: Arc<Self>) {
        let mut pause = Duration::from_millis(50);
        while !self.state().closed {
            for address in self.addresses.clone() {
                self.sched.sleep(self.proc, Duration::from_micros(200)).await;
                let Some(conn) = self.net.connect(self.proc, self.host, self.print, address, self.heard.clone()) else { continue };
                if self.serve(conn).await {
                    pause = Duration::from_millis(50);
                }
                self.net.hang_up(conn);
                self.state().conn = None;
                if self.state().ended.is_some() {
                    return;
                }
            }
            self.sched.sleep(self.proc, pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// One connection; whether it was welcomed.
    async fn serve(&self, conn: ConnId) -> bool {
        {
            let mut s = self.state();
            s.kicked = false;
        }
        let sent = self.now();
        let resume = self.state().welcome.is_some();
        self.net.say(conn, FromClient::Request { id: 0, request: Hello { resume, ..self.hello.clone() }.into() });
        let Some(welcome) = self.welcomed(conn).await else { return false };
        {
            let mut s = self.state();
            s.conn = Some(conn);
            s.cursor = 0;
            s.calls.values_mut().for_each(|e| e.open = false);
            if s.life != Some(welcome.generation) {
                s.life = Some(welcome.generation);
                s.known.clear();
            }
            s.acks.clear();
            s.known.values_mut().for_each(|k| k.here = false);
        }
        let (lease, generation) = (Duration::from_millis(u64::from(welcome.lease_ms)), welcome.generation);
        self.events.put(SessionEvent::Welcomed { sent, lease, generation });
        let opening = {
            let mut s = self.state();
            s.welcome.get_or_insert(welcome);
            s.opening.take()
        };
        opening.into_iter().for_each(Waker::wake);
        let mut last_heard = self.now();
        loop {
            self.send(conn);
            if self.state().kicked {
                return true;
            }
            let wait = async {
                select(pin!(self.heard.filled()), pin!(self.work.filled())).await;
            };
            let timer = self.sched.sleep(self.proc, SILENCE / 3);
            drop(select(pin!(wait), timer).await);
            while self.work.take().is_some() {}
            while let Some(heard) = self.heard.take() {
                match heard {
                    Heard::Said(c, message) if c == conn => {
                        last_heard = self.now();
                        self.take(message);
                    }
                    Heard::Ended(c) if c == conn => return true,
                    Heard::Said(..) | Heard::Data(..) | Heard::Ended(_) => {}
                }
            }
            let owed = self.state().calls.values().any(|e| e.open && e.answer.is_none());
            if owed && self.now().since(last_heard) > SILENCE {
                return true;
            }
        }
    }

    async fn welcomed(&self, conn: ConnId) -> Option<Welcome> {
        let mut timer = pin!(self.sched.sleep(self.proc, HELLO));
        loop {
            match select(pin!(self.heard.next()), timer.as_mut()).await {
                Either::Left((Heard::Said(c, FromManager::Reply { id: 0, result }), _)) if c == conn => match result {
                    Ok(Reply::Welcome(w)) => return Some(w),
                    Ok(_) => panic!("Hello is answered by another message"),
                    Err(e) => {
                        self.refused(&e);
                        return None;
                    }
                },
                Either::Left((Heard::Data(..), _)) => {}
                Either::Left((Heard::Said(c, _) | Heard::Ended(c), _)) if c != conn => {}
                Either::Left((Heard::Ended(_), _)) | Either::Right(_) => return None,
                Either::Left((Heard::Said(..), _)) => panic!("the manager speaks before it has welcomed"),
            }
        }
    }

    fn refused(&self, e: &WireError) {
        if !matches!(e.kind, Kind::Lapsed | Kind::Denied | Kind::Version | Kind::Refused | Kind::NotFound | Kind::Exists) {
            return;
        }
        self.sched.say(self.proc, format_args!("refused: {}", e.message));
        let wakers: Vec<Waker> = {
            let mut s = self.state();
            s.ended = Some(e.clone());
            let end = |c: &mut Entry| {
                c.answer.get_or_insert(Err(e.clone().into()));
                c.waker.take()
            };
            let opening = s.opening.take();
            s.calls.values_mut().filter_map(end).chain(opening).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
        self.events.put(SessionEvent::Ended { kind: e.kind, sentence: e.message.clone() });
    }

    fn send(&self, conn: ConnId) {
        let now = self.now();
        let mut s = self.state();
        let mut out: Vec<FromClient> = s.acks.drain(..).map(|(push, ack)| FromClient::Ack { push, ack }).collect();
        let mut open = s.calls.values().filter(|e| e.open && e.answer.is_none()).count();
        while open < IN_FLIGHT {
            let cursor = s.cursor;
            let Some((id, entry)) = s.calls.range_mut(cursor + 1..).find(|(_, e)| e.answer.is_none()) else { break };
            (entry.sent, entry.open) = (now, true);
            out.push(FromClient::Request { id: *id, request: entry.request.clone() });
            s.cursor = *id;
            open += 1;
        }
        drop(s);
        for message in out {
            self.net.say(conn, message);
        }
    }

    fn take(&self, message: FromManager) {
        match message {
            FromManager::Reply { id, result } => self.reply(id, result),
            FromManager::Push { push, body } => {
                let mut s = self.state();
                let life = s.life.expect("welcomed before anything is pushed");
                if let Some(known) = s.known.get_mut(&push) {
                    assert!(!known.here, "push {push} comes twice on one connection");
                    known.here = true;
                    if let Some(ack) = known.ack.clone() {
                        s.acks.push_back((push, ack));
                    }
                    return;
                }
                assert!(s.known.len() < MEMORY, "more pushes than a simulation makes");
                s.known.insert(push, Known { ack: None, here: true, by_letter: false });
                drop(s);
                self.pushes.put((life, push, body));
            }
        }
    }

    fn reply(&self, id: u64, result: Answer) {
        let waker = {
            let mut s = self.state();
            let Some(entry) = s.calls.get_mut(&id) else { return };
            assert!(entry.open, "an answer to request {id}, which was not sent on this connection");
            let sent = entry.sent;
            entry.answer = Some(result.map(|r| (r, sent)).map_err(Error::from));
            let waker = entry.waker.take();
            if entry.dropped {
                s.calls.remove(&id);
            }
            waker
        };
        if let Some(w) = waker {
            w.wake();
        }
    }

    /// Asks, and says when the request that was answered was sent. Waits on while the session fails.
    ///
    /// # Errors
    /// The manager's.
    pub async fn call_timed<C: Call>(&self, call: C) -> Result<(C::Reply, BootTime)> {
        let asked = self.queue(call.into())?;
        let (reply, sent) = asked.await?;
        C::Reply::try_from(reply).map(|r| (r, sent)).map_err(|_| Error::new(Kind::Internal, "answered by another message"))
    }

    fn queue(&self, request: Request) -> Result<Asked<'_>> {
        let mut s = self.state();
        if let Some(e) = &s.ended {
            return Err(e.clone().into());
        }
        s.last_id += 1;
        let id = s.last_id;
        let sent = BootTime(0);
        s.calls.insert(id, Entry { request, sent, open: false, answer: None, waker: None, dropped: false });
        drop(s);
        self.work.put(());
        Ok(Asked { link: self, id })
    }

    /// Returns once the session fails.
    async fn hopeless(&self) {
        std::future::poll_fn(|cx| {
            let mut s = self.state();
            if s.failing {
                return Poll::Ready(());
            }
            s.failing_wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl State {
    /// Shows it with the heartbeats, if it is not shown already.
    fn show(&mut self, mailed: &Inbox<slot::Answer>, answer: slot::Answer) {
        if self.shown.replace(answer) != Some(answer) {
            mailed.put(answer);
        }
    }
}

fn answer_of(push: u64, ack: &Ack) -> slot::Answer {
    slot::Answer { push, done: !matches!(ack, Ack::Failed(_)) }
}

/// A request that waits for its answer; dropped, it is answered all the same.
struct Asked<'a> {
    link: &'a Link,
    id: u64,
}

impl Future for Asked<'_> {
    type Output = Result<(Reply, BootTime)>;
    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let mut s = self.link.state();
        let entry = s.calls.get_mut(&self.id).expect("a call stays until its answer is taken");
        match entry.answer.take() {
            Some(answer) => {
                s.calls.remove(&self.id);
                Poll::Ready(answer)
            }
            None => {
                entry.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut s = self.link.state();
        let answered = match s.calls.get_mut(&self.id) {
            Some(e) => {
                e.dropped = true;
                e.answer.is_some()
            }
            None => false,
        };
        if answered {
            s.calls.remove(&self.id);
        }
    }
}

impl Control for Link {
    async fn call<T: Call>(&self, call: T) -> Result<T::Reply> {
        match select(pin!(self.call_timed(call)), pin!(self.hopeless())).await {
            Either::Left((answer, _)) => answer.map(|(reply, _)| reply),
            Either::Right(_) if self.lease.is_over() => Err(Error::new(Kind::Lapsed, "the session is over")),
            Either::Right(_) => Err(Error::new(Kind::Unreachable, format!("{}: the manager did not answer in time", T::NAME))),
        }
    }

    async fn sleep(&self, time: Duration) {
        self.sched.sleep(self.proc, time).await;
    }
}
