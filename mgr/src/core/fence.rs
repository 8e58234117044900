//! Fencing: somebody wants what a lost session could still write, so its client is cut off from the disks (DESIGN.md, D7).
//!
//! ```text
//!  lost, of another host, and wanted -> Fence(off) -> done: as the administrator's word (`confirm`): its heartbeat must stand still, then SEAL,
//!     ^                                   |           lease and margin, journals read, ended: "fenced by agent NAME"
//!     '-------- at growing intervals -----+---------- failed: said
//!                                         '---------- no agent knows the client: the next rung
//! ```
//! The rungs: a recall with a deadline (`recall`), a hard fence here, else SEAL, lease and margin (`seal`), and what was written is taken over (`remap`), which
//! is called *unfenced*. The pool says how far down it may go ([`Fencing`]): `required` ends nothing without a fence, a byte lock or the administrator's
//! word, `best` goes on where no agent helps, `lease-only` asks none.
//!
//! A fence takes everything of its client on that host away, so it is asked for only where something is held that could be written (with
//! `required` also to end a reader), and never while another session of the client lives: a host that has come back keeps its disks.
//! Nobody is let in again by itself: `client unfence` does that.

use super::admin_api::{AdminReply, Level, SessionState};
use super::{AdminId, Core, Effect};
use crate::catalog::record::Fencing;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{BootId, SessionNo};
use std::time::Duration;

/// First wait before agents are asked again; it doubles.
const AGAIN_FIRST: Duration = Duration::from_secs(2);
const AGAIN_MOST: Duration = Duration::from_secs(60);

/// For whom agents are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FenceFor {
    /// A lost session is to be succeeded: its client is cut off.
    Session(SessionNo),
    /// An administrator lets a client in again.
    Admin(AdminId),
}

/// What the agents have done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fenced {
    /// No agent knows the client.
    NoAgent,
    /// Done, and looked at.
    Done {
        /// Who did it.
        agents: String,
        /// What they said.
        said: String,
    },
    /// It is not known what the client can reach.
    Failed {
        /// Which agent, and why.
        why: String,
    },
}

/// How far a session is on this rung.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fence {
    /// Agents may be asked from `next` on. What they said last, if that was no.
    Open { next: BootTime, wait: Duration, failed: Option<String> },
    /// They are asked.
    Asked { wait: Duration },
    /// They have cut it off.
    Done { by: String },
}

impl Fence {
    /// Nobody was asked.
    pub fn none() -> Self {
        Self::Open { next: BootTime(0), wait: AGAIN_FIRST, failed: None }
    }

    /// What is to be said of it, for people.
    pub fn said(&self) -> Option<String> {
        match self {
            Self::Open { failed, .. } => failed.clone(),
            Self::Asked { .. } => Some("its fence agents are asked".to_owned()),
            Self::Done { by } => Some(format!("it is fenced by agent {by}")),
        }
    }

    fn again(&mut self, now: BootTime, failed: Option<String>) {
        let wait = match self {
            Self::Open { wait, .. } | Self::Asked { wait } => *wait,
            Self::Done { .. } => AGAIN_FIRST,
        };
        *self = Self::Open { next: now.plus(wait), wait: (wait * 2).min(AGAIN_MOST), failed };
    }
}

impl Core {
    /// Whether nothing is succeeded without a proof.
    pub(super) fn must_be_fenced(&self) -> bool {
        self.catalog.fencing() == Fencing::Required
    }

    /// Somebody wants what this session holds.
    pub(super) fn holder_is_wanted(&mut self, no: SessionNo) {
        if let Some(l) = self.lives.get_mut(&no) {
            l.wanted |= l.lapsed || l.is_sealed();
        }
    }

    /// When agents are to be asked for this session.
    pub(super) fn fence_due(&self, no: SessionNo) -> Option<BootTime> {
        let life = self.lives.get(&no)?;
        let Fence::Open { next, .. } = life.fence else { return None };
        let policy = self.catalog.fencing();
        // Of nearly every session this is known at once; it is asked at each step.
        if !life.lapsed || life.is_ending() || life.confirmed || policy == Fencing::LeaseOnly || self.is_probed(no) {
            return None;
        }
        let waited = life.wanted || self.catalog.limbo().any(|l| l.waits.binary_search(&no).is_ok());
        let writes =
            || self.catalog.attachments().any(|a| a.session == no && a.writes()) || self.catalog.quarantine().any(|q| q.session == no);
        let asked = waited && (policy == Fencing::Required || writes()) && !self.another_lives(no);
        asked.then_some(next)
    }

    /// Whether no agent can prove anything of this session soon: they were asked and could not, or must not be asked.
    pub(super) fn agents_are_no_help(&self, no: SessionNo) -> bool {
        match self.lives.get(&no).map(|l| &l.fence) {
            Some(Fence::Open { failed, .. }) => failed.is_some() || self.another_lives(no),
            Some(Fence::Asked { .. } | Fence::Done { .. }) | None => false,
        }
    }

    /// Whether the client has a session that is not lost: a fence would hit that, too.
    fn another_lives(&self, no: SessionNo) -> bool {
        let Some(client) = self.catalog.session(no).map(|s| s.client) else { return false };
        let others = self.catalog.sessions().filter(|s| s.client == client && s.no != no);
        others.into_iter().any(|s| matches!(self.session_state(s.no), SessionState::Live | SessionState::Away))
    }

    pub(super) fn fences_due(&mut self) {
        let now = self.now.boot;
        let due: Vec<SessionNo> = self.lives.keys().copied().filter(|no| self.fence_due(*no).is_some_and(|d| d <= now)).collect();
        for no in due {
            let Some(client) = self.client_of(no) else { continue };
            if let Some(life) = self.lives.get_mut(&no) {
                let wait = if let Fence::Open { wait, .. } = life.fence { wait } else { AGAIN_FIRST };
                life.fence = Fence::Asked { wait };
                let host = self.host_to_cut_off(no);
                self.out.effects.push(Effect::Fence { asked: FenceFor::Session(no), client, on: false, host });
            }
        }
    }

    /// Its host, where its disks know that and no session lives there: all processes of a host are one to a disk.
    fn host_to_cut_off(&self, no: SessionNo) -> Option<BootId> {
        let session = self.catalog.session(no).filter(|_| self.catalog.has_reservations(no))?;
        let lives = |s: SessionNo| matches!(self.session_state(s), SessionState::Live | SessionState::Away);
        let alone = !self.catalog.sessions().any(|s| s.boot == session.boot && lives(s.no));
        alone.then_some(session.boot)
    }

    fn client_of(&self, no: SessionNo) -> Option<String> {
        self.catalog.session(no).and_then(|s| self.catalog.client(s.client)).map(|c| c.name.to_string())
    }

    /// The agents have answered.
    pub(super) fn fenced(&mut self, asked: FenceFor, fenced: Fenced) {
        match asked {
            FenceFor::Session(no) => self.session_fenced(no, fenced),
            FenceFor::Admin(from) => self.unfenced(from, fenced),
        }
    }

    fn session_fenced(&mut self, no: SessionNo, fenced: Fenced) {
        let (now, who) = (self.now.boot, self.who(no));
        let Some(life) = self.lives.get_mut(&no).filter(|l| matches!(l.fence, Fence::Asked { .. })) else { return };
        match fenced {
            Fenced::NoAgent => life.fence.again(now, Some("no fence agent knows its client".to_owned())),
            Fenced::Failed { why } => {
                life.fence.again(now, Some(format!("it could not be fenced: {why}")));
                self.tell(Level::Critical, "fence-failed", format!("{who} could not be fenced, what it holds stays held: {why}"));
            }
            Fenced::Done { agents, said } if !life.lapsed => {
                life.fence = Fence::none();
                let text = format!(
                    "{who} has come back while agent {agents} cut it off from its disks: {said}; `fusevol-mgr client unfence` lets it in"
                );
                self.tell(Level::Critical, "client-fenced", text);
            }
            Fenced::Done { agents, said } => {
                life.fence = Fence::Done { by: agents.clone() };
                self.tell(Level::Warning, "client-fenced", format!("{who} is fenced by agent {agents}: {said}"));
                // What follows is what follows the administrator's word, the look at the heartbeat too: an agent may be wrong.
                self.confirm(no);
            }
        }
    }

    /// The heartbeat of a session moves that is said to be cut off.
    pub(super) fn fence_was_no_fence(&mut self, no: SessionNo) {
        let (now, who) = (self.now.boot, self.who(no));
        let Some(life) = self.lives.get_mut(&no) else { return };
        let Fence::Done { by } = &life.fence else { return };
        let why = format!("agent {by} says that it is cut off, but its heartbeat on the disks moves");
        life.fence.again(now, Some(why.clone()));
        self.tell(Level::Critical, "fence-failed", format!("{who} is not fenced: {why}"));
    }

    /// By which rung a session is ended, for people.
    pub(super) fn rung(&self, no: SessionNo, confirmed: bool) -> String {
        match self.lives.get(&no).map(|l| &l.fence) {
            Some(Fence::Done { by }) => format!("fenced by agent {by}, and its lease is over"),
            _ if confirmed => "the administrator says so, and its lease is over".to_owned(),
            _ => "unfenced: it is sealed, lease and margin were waited, and it could only read".to_owned(),
        }
    }

    /// Lets a client in again, once nothing of it is to be succeeded any more.
    pub(super) fn client_unfence(&mut self, name: &str, from: AdminId) -> Result<()> {
        let (id, client) = self.named_client(name).map(|c| (c.id, c.name.to_string()))?;
        if !self.lost_sessions(id).is_empty() {
            let e = Error::new(Kind::Refused, format!("a lost session of client '{client}' is not over yet: it could write again"));
            return Err(e.hint("see `fusevol-mgr status`; it is ended once somebody wants what it holds, or by `client confirm-dead`"));
        }
        self.out.effects.push(Effect::Fence { asked: FenceFor::Admin(from), client: client.clone(), on: true, host: None });
        self.unfencing.insert(from, client);
        Ok(())
    }

    fn unfenced(&mut self, from: AdminId, fenced: Fenced) {
        let Some(client) = self.unfencing.remove(&from) else { return };
        let result = match fenced {
            Fenced::Done { agents, said } => {
                self.tell(Level::Ok, "client-unfenced", format!("client '{client}' is let in again by agent {agents}: {said}"));
                Ok(AdminReply::Done)
            }
            Fenced::NoAgent => Err(Error::new(Kind::NotFound, format!("no fence agent knows client '{client}'"))
                .hint("agents are programs in the folder fence.d beside the manager's configuration")),
            Fenced::Failed { why } => Err(Error::new(Kind::Io, format!("client '{client}' could not be let in again: {why}"))),
        };
        self.admin_reply(from, result);
    }
}
