//! Sessions: opened, taken up again, renewed, lapsed, ended; and the proof that a dead one has drained.

use super::admin_api::Level;
use super::fence::Fence;
use super::life::Life;
use super::rights::lapsed;
use super::{Asker, Conn, ConnId, Core, Effect};
use crate::catalog::record::{Record, SessionEntry};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{ClientId, KeyPrint, SessionNo};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::wire::messages::{Hello, PROTOCOL, Renewed, Reply, Welcome};
use fusevol_shared::wire::slots::Slots;

/// Longest host or program text that is kept, bytes.
const TEXT_MAX: usize = 128;

/// A text of a stranger, fit to be shown and kept.
fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > TEXT_MAX {
            break;
        }
        out.push(c);
    }
    out
}

impl Core {
    pub(super) fn connected(&mut self, conn: ConnId, print: KeyPrint) {
        if self.conns.len() >= self.config.limits.connections || self.conns.contains_key(&conn) {
            self.out.effects.push(Effect::Close { conn });
            return;
        }
        self.conns.insert(conn, Conn { print, session: None });
    }

    pub(super) fn disconnected(&mut self, conn: ConnId) {
        let session = self.conns.remove(&conn).and_then(|c| c.session);
        let now = self.now.boot;
        if let Some(life) = session.and_then(|s| self.lives.get_mut(&s)).filter(|l| l.conn == Some(conn)) {
            life.conn = None;
            life.probe_now(now);
        }
    }

    /// Client and host of a session, for people.
    pub(super) fn who(&self, session: SessionNo) -> String {
        let Some(s) = self.catalog.session(session) else { return format!("session {session}") };
        let name = self.catalog.client(s.client).map_or_else(String::new, |c| c.name.to_string());
        format!("client '{name}' on host '{}' (session {session})", s.host)
    }

    fn until(&self) -> fusevol_shared::clock::BootTime {
        self.now.boot.plus(self.config.lease + self.config.margin())
    }

    pub(super) fn hello(&mut self, conn: ConnId, client: ClientId, m: &Hello) -> Result<Reply> {
        if m.protocol != PROTOCOL {
            return Err(Error::new(
                Kind::Version,
                format!("the client speaks version {} of the protocol, the manager {PROTOCOL}", m.protocol),
            )
            .hint("install the same release on both"));
        }
        let known = self.catalog.session_by_id(m.session).map(|s| (s.no, s.client));
        let no = match known {
            Some((no, of)) if of == client => {
                self.resume(conn, no)?;
                if !m.resume {
                    self.reopen(no)?;
                }
                no
            }
            Some(_) => return Err(Error::new(Kind::Denied, "the session is another client's")),
            None if m.resume => return Err(lapsed()),
            None => self.open(conn, client, m)?,
        };
        self.welcome(no)
    }

    fn open(&mut self, conn: ConnId, client: ClientId, m: &Hello) -> Result<SessionNo> {
        let limits = &self.config.limits;
        let of_client = self.catalog.sessions().filter(|s| s.client == client).count();
        if of_client >= limits.sessions_per_client || self.catalog.sessions().count() >= limits.sessions {
            return Err(Error::new(Kind::Busy, "too many sessions").hint("`fusevol-mgr client ls` shows them"));
        }
        let no = self.catalog.next_session().ok_or_else(|| Error::new(Kind::Busy, "all slots of sessions are taken"))?;
        let entry = SessionEntry {
            no,
            id: m.session,
            client,
            boot: m.boot,
            host: clean(&m.host),
            program: clean(&m.program),
            opened: self.now.seconds(),
            slots: Slots::new(self.slot_disks(), self.generation),
            generation: self.generation,
            sealed: false,
        };
        self.commit(Record::SessionOpened(entry))?;
        self.open_slot(no);
        self.lives.insert(no, Life::live(conn, self.until(), self.generation.0 << 32, self.now.boot));
        self.leave(conn);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session = Some(no);
        }
        let who = self.who(no);
        self.tell(Level::Ok, "session-opened", format!("{who} opened a session"));
        Ok(no)
    }

    /// The answer to the first `Hello` was lost, perhaps with the manager that had opened the session: the clear SEAL is this one's now.
    fn reopen(&mut self, no: SessionNo) -> Result<()> {
        let generation = self.generation;
        if self.catalog.session(no).is_some_and(|s| s.generation != generation) {
            self.commit(Record::SessionReopened { no, generation })?;
        }
        self.open_slot(no);
        Ok(())
    }

    fn open_slot(&mut self, session: SessionNo) {
        if let Some((id, slots)) = self.slot_of(session) {
            self.out.effects.push(Effect::OpenSlot { session, id, slots });
        }
    }

    /// The connection stands for no session any more.
    fn leave(&mut self, conn: ConnId) {
        let former = self.conns.get_mut(&conn).and_then(|c| c.session.take());
        let now = self.now.boot;
        if let Some(life) = former.and_then(|s| self.lives.get_mut(&s)).filter(|l| l.conn == Some(conn)) {
            life.conn = None;
            life.probe_now(now);
        }
    }

    fn resume(&mut self, conn: ConnId, no: SessionNo) -> Result<()> {
        let until = self.until();
        if self.conns.get(&conn).is_some_and(|c| c.session != Some(no)) {
            self.leave(conn);
        }
        let life = self.lives.get_mut(&no).ok_or_else(lapsed)?;
        if life.doomed || life.is_ending() {
            // It may still say that it has drained.
            if let Some(c) = self.conns.get_mut(&conn) {
                c.session = Some(no);
            }
            return Err(lapsed());
        }
        let former = life.conn.replace(conn).filter(|c| *c != conn);
        life.until = until;
        life.lapsed = false;
        life.probe.asked = false;
        (life.wanted, life.watch) = (false, None);
        if let Fence::Done { .. } = life.fence {
            // What was cut off must be let in again; what it holds is its own still.
            life.fence = Fence::none();
        }
        if let Some(old) = former {
            // A half-open connection: what still comes on it is nobody's.
            if let Some(c) = self.conns.get_mut(&old) {
                c.session = None;
            }
            self.out.effects.push(Effect::Close { conn: old });
        }
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session = Some(no);
        }
        self.confirm_returns(no);
        Ok(())
    }

    fn welcome(&mut self, no: SessionNo) -> Result<Reply> {
        let pool = self.catalog.pool().ok_or_else(|| Error::new(Kind::Internal, "a manager without a pool"))?;
        let session = self.catalog.session(no).ok_or_else(lapsed)?;
        let lease_ms = u32::try_from(self.config.lease.as_millis()).unwrap_or(u32::MAX);
        let disks = self.catalog.disks().map(|d| super::joining::info(&d.entry));
        Ok(Reply::Welcome(Welcome {
            session: no,
            pool: pool.id,
            pool_name: pool.name.to_string(),
            au_size: pool.au_size,
            lease_ms,
            generation: self.generation,
            disks: disks.collect(),
            slots: session.slots.now.clone(),
            moves: session.slots.moves - u64::from(session.slots.is_moving()),
            reservations: self.catalog.has_reservations(no),
        }))
    }

    pub(super) fn renew(&mut self, no: SessionNo) -> Result<Reply> {
        let until = self.until();
        let life = self.lives.get_mut(&no).filter(|l| !l.doomed && !l.lapsed && !l.is_ending()).ok_or_else(lapsed)?;
        life.until = until;
        Ok(Reply::Renewed(Renewed {}))
    }

    /// It is drained by its own word. What it may have appended and not folded is read from its journals first.
    pub(super) fn goodbye(&mut self, no: SessionNo, asker: Asker) -> Result<()> {
        self.begin_end(no, String::new(), Some(asker))
    }

    /// The lock of a session was looked at.
    pub(super) fn lock_probed(&mut self, no: SessionNo, held: bool) {
        let Some(life) = self.lives.get_mut(&no).filter(|l| l.probe.asked) else { return };
        life.probe.asked = false;
        // The end of a process proves nothing: its last I/O may be in flight. Its lock is held until that has landed.
        if held && holds(Tag::K1) || !life.may_be_dead() {
            return self.pending_holder_stays(no);
        }
        let why = "its locks on the disks are free, so its last I/O has landed";
        if let Err(e) = self.begin_end(no, why.to_owned(), None) {
            self.tell(Level::Critical, "internal", e.to_string());
        }
    }

    /// Whether a byte lock speaks for this session: it is of this boot, and every disk knows locks.
    pub(super) fn is_probed(&self, no: SessionNo) -> bool {
        self.has_locks && self.catalog.session(no).is_some_and(|s| s.boot == self.config.boot)
    }

    /// The lease and the margin are over.
    pub(super) fn lapse(&mut self, no: SessionNo) {
        let now = self.now.boot;
        let Some(life) = self.lives.get_mut(&no) else { return };
        life.lapsed = true;
        life.probe_now(now);
        if let Some(conn) = life.conn.filter(|_| life.doomed) {
            self.out.effects.push(Effect::Close { conn });
        }
        self.drop_holds_of(no);
        if self.legs_wait_for(no) {
            self.holder_is_wanted(no);
        }
        let who = self.who(no);
        self.tell(
            Level::Warning,
            "session-lapsed",
            format!("the lease of {who} is over; what it holds stays held until it is proven drained"),
        );
    }
}
