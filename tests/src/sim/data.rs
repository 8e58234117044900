//! A manager's data server in a simulated world: it keeps the rules of `mgr::data`, whose own runs on a runtime and a thread with a ring. The
//! core's verdicts, the questions that wait for them, and the I/O are the real ones.
//!
//! Invariants: nothing goes to a disk that the core has not let through; each write that it let through is said to have returned, once; a
//! session's new connection is opened when nothing of its former ones is in flight.

use super::disk::SimDisk;
use super::exec::Exec;
use super::net::{DataSaid, Ears, Net};
use super::sched::ProcId;
use fusevol_mgr::core::{ConnId, Event, Verdict};
use fusevol_mgr::data::{self, Verdicts};
use fusevol_mgr::session_io::Member;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::error::{Error, Kind, WireError};
use fusevol_shared::ids::{KeyPrint, SessionId, SessionNo};
use fusevol_shared::wire::data::{Failure, FromClient, FromManager, Io, Verb, fits};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// What is under way for a session.
#[derive(Default)]
struct OfSession {
    /// Requests that have not returned, over all its connections.
    under_way: usize,
    newest: Option<ConnId>,
    wakers: Vec<Waker>,
}

/// The server of one manager process.
pub struct DataServer {
    /// Tasks.
    pub exec: Exec,
    /// Connections.
    pub net: Net,
    /// Its process.
    pub proc: ProcId,
    /// What it hears, and where its core does.
    pub ears: Ears,
    /// Questions to the core.
    pub verdicts: Verdicts,
    /// The manager's disks.
    pub disks: Rc<Vec<Member<SimDisk>>>,
    sessions: RefCell<BTreeMap<SessionNo, OfSession>>,
    /// Whose key a connection came with, and whose I/O it is.
    conns: RefCell<BTreeMap<ConnId, (KeyPrint, Option<SessionNo>)>>,
}

fn nothing() -> IoBytes {
    IoBuf::zeroed(0).freeze()
}

fn ending() -> WireError {
    WireError::from(&Error::new(Kind::Unreachable, "the manager is ending"))
}

impl DataServer {
    /// A server that is not begun yet.
    #[must_use]
    pub fn new(exec: Exec, net: Net, proc: ProcId, ears: Ears, verdicts: Verdicts, disks: Rc<Vec<Member<SimDisk>>>) -> Rc<Self> {
        Rc::new(Self { exec, net, proc, ears, verdicts, disks, sessions: RefCell::default(), conns: RefCell::default() })
    }

    /// Its task.
    pub async fn run(self: Rc<Self>) {
        loop {
            let server = self.clone();
            match self.ears.data.next().await {
                DataSaid::Connected(conn, print) => drop(self.conns.borrow_mut().insert(conn, (print, None))),
                DataSaid::Ended(conn) => drop(self.conns.borrow_mut().remove(&conn)),
                DataSaid::Said(conn, FromClient::Open { session }, _) => {
                    drop(self.exec.spawn(self.proc, async move { server.open(conn, session).await }));
                }
                DataSaid::Said(conn, FromClient::Io { id, io }, payload) => {
                    let of = self.conns.borrow().get(&conn).and_then(|c| c.1);
                    let Some(session) = of.filter(|no| self.sessions.borrow().get(no).is_some_and(|s| s.newest == Some(conn))) else {
                        self.net.close(conn);
                        continue;
                    };
                    fits(&io, &payload).expect("a client asks for what can be asked for");
                    self.sessions.borrow_mut().entry(session).or_default().under_way += 1;
                    drop(self.exec.spawn(self.proc, async move { server.serve(conn, session, id, io, payload).await }));
                }
            }
        }
    }

    async fn open(&self, conn: ConnId, id: SessionId) {
        let Some(print) = self.conns.borrow().get(&conn).map(|c| c.0) else { return };
        let (ticket, answer) = self.verdicts.ask();
        self.ears.events.put(Event::DataOpen { ticket, print, session: id });
        let (session, opened) = match answer.await.unwrap_or_else(|_| Err(ending())) {
            Ok(Verdict::Opened { session, generation, drained }) => (session, FromManager::Opened { generation, drained }),
            Ok(Verdict::May) => panic!("an answer to another question"),
            Err(e) => {
                self.net.reply_data(conn, FromManager::Refused(e), nothing());
                return self.net.close(conn);
            }
        };
        let former = self.sessions.borrow_mut().entry(session).or_default().newest.replace(conn);
        former.into_iter().for_each(|c| self.net.close(c));
        if let Some(c) = self.conns.borrow_mut().get_mut(&conn) {
            c.1 = Some(session);
        }
        std::future::poll_fn(|cx| {
            let mut sessions = self.sessions.borrow_mut();
            let of = sessions.entry(session).or_default();
            if of.under_way == 0 || of.newest != Some(conn) {
                return Poll::Ready(());
            }
            of.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        if self.sessions.borrow().get(&session).is_some_and(|s| s.newest == Some(conn)) {
            self.net.reply_data(conn, opened, nothing());
        }
    }

    async fn serve(&self, conn: ConnId, session: SessionNo, id: u64, io: Io, payload: IoBytes) {
        let (result, buf) = self.done(session, io, payload).await;
        let wakers = {
            let mut sessions = self.sessions.borrow_mut();
            let of = sessions.entry(session).or_default();
            of.under_way -= 1;
            std::mem::take(&mut of.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        let payload = if io.verb == Verb::Read && result.is_ok() { buf.freeze() } else { nothing() };
        let answer = match (io.verb, result) {
            (Verb::Flush, Ok(life)) => FromManager::Flushed { id, life },
            (_, result) => FromManager::Done { id, result: result.map(drop) },
        };
        self.net.reply_data(conn, answer, payload);
    }

    async fn done(&self, session: SessionNo, io: Io, payload: IoBytes) -> data::Done {
        let refused = |e| (Err(Failure::Refused(e)), IoBuf::zeroed(0));
        let (ticket, answer) = self.verdicts.ask();
        self.ears.events.put(Event::DataIo { ticket, session, io });
        if let Err(e) = answer.await.unwrap_or_else(|_| Err(ending())) {
            self.exec.sched().say(self.proc, format_args!("session {session} may not {io:?}: {}", e.message));
            return refused(e);
        }
        let Some((.., disk)) = self.disks.iter().find(|(no, ..)| *no == io.disk) else { return refused(ending()) };
        let buf = if io.verb == Verb::Read { IoBuf::zeroed(io.len as usize) } else { IoBuf::copy_of(&payload) };
        let done = data::on(disk, &io, buf).await;
        if matches!(io.verb, Verb::Write | Verb::WriteDurable) {
            self.ears.events.put(Event::DataDone { session });
        }
        done
    }
}
