//! `client confirm-dead`: the administrator's word that lost sessions of a client can write no more.
//!
//! It is not taken while a heartbeat moves. Then the sessions are sealed, their leases waited for, their journals read, and they are
//! ended; the answer comes when all of them are. What cannot be ended in time goes on; asked again, it is waited for again.

use super::admin_api::SessionState;
use super::seal::{Seal, Watch};
use super::{AdminId, AdminReply, Core};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{ClientId, SessionNo};
use std::collections::BTreeSet;

/// Between two looks at a heartbeat: a part of the lease, in which a live session beats at least once.
pub(super) const BEATS_A_LEASE: u32 = 3;
/// Leases and margins after which the administrator is told that it lasts longer.
const PATIENCE: u32 = 4;
/// Administrators that wait for this at once.
const MOST: usize = 64;

/// An administrator who waits.
#[derive(Debug)]
pub(super) struct Confirm {
    from: AdminId,
    client: String,
    sessions: BTreeSet<SessionNo>,
    pub deadline: BootTime,
}

impl Core {
    pub(super) fn client_confirm_dead(&mut self, name: &str, from: AdminId) -> Result<()> {
        let (id, name) = self.named_client(name).map(|c| (c.id, c.name.to_string()))?;
        let lost: BTreeSet<SessionNo> = self.lost_sessions(id);
        if lost.is_empty() {
            let e = Error::new(Kind::Refused, format!("no session of client '{name}' has lost its lease"));
            return Err(e.hint("a lease that is not renewed is over after a few seconds: `fusevol-mgr client ls` shows the state"));
        }
        if self.confirms.len() >= MOST {
            return Err(Error::new(Kind::Busy, "too many administrators wait for the end of sessions"));
        }
        for no in &lost {
            self.confirm(*no);
        }
        let patience = (self.config.lease + self.config.margin()) * PATIENCE;
        self.confirms.push(Confirm { from, client: name, sessions: lost, deadline: self.now.boot.plus(patience) });
        Ok(())
    }

    pub(super) fn lost_sessions(&self, client: ClientId) -> BTreeSet<SessionNo> {
        let lost = |no: &SessionNo| matches!(self.session_state(*no), SessionState::Lapsed | SessionState::Sealed);
        self.catalog.sessions().filter(|s| s.client == client).map(|s| s.no).filter(lost).collect()
    }

    /// One session: it is watched first, unless its SEAL is on its way already.
    pub(super) fn confirm(&mut self, no: SessionNo) {
        let (now, gap) = (self.now.boot, self.config.lease / BEATS_A_LEASE);
        let Some(life) = self.lives.get_mut(&no) else { return };
        if let Some(c) = life.closing.as_mut().filter(|c| c.whole) {
            // Drained already: its journals are read once more.
            c.next = now;
            return;
        }
        match life.seal {
            Seal::Open => life.watch = Some(Watch::new(now, gap, true)),
            Seal::Asked { .. } | Seal::Settling { .. } => life.confirmed = true,
            Seal::Over => {
                life.confirmed = true;
                self.end_sealed(no, true);
            }
        }
    }

    /// A heartbeat moves: the session lives, whatever the administrator says.
    pub(super) fn confirm_moves(&mut self, no: SessionNo) {
        self.fence_was_no_fence(no);
        let who = self.who(no);
        self.confirms_fail(no, &|| {
            Error::new(Kind::Busy, format!("{who} is alive: its heartbeat on the disks moves"))
                .hint("end its process there first, or cut its host off from the disks")
        });
    }

    /// A session has come back.
    pub(super) fn confirm_returns(&mut self, no: SessionNo) {
        let who = self.who(no);
        self.confirms_fail(no, &|| Error::new(Kind::Busy, format!("{who} has come back")).hint("end its process there first"));
    }

    /// Who waits for the end of this session is told that it does not come.
    pub(super) fn confirms_fail(&mut self, no: SessionNo, error: &dyn Fn() -> Error) {
        let (gone, kept) = std::mem::take(&mut self.confirms).into_iter().partition(|c| c.sessions.contains(&no));
        self.confirms = kept;
        let gone: Vec<Confirm> = gone;
        for c in gone {
            self.admin_reply(c.from, Err(error()));
        }
    }

    /// Answers those whose sessions are all ended, and those who have waited for too long.
    pub(super) fn confirms_go_on(&mut self) {
        let now = self.now.boot;
        for mut c in std::mem::take(&mut self.confirms) {
            c.sessions.retain(|s| self.catalog.session(*s).is_some());
            if c.sessions.is_empty() {
                self.admin_reply(c.from, Ok(AdminReply::Done));
            } else if c.deadline <= now {
                let e = Error::new(
                    Kind::Busy,
                    format!(
                        "the sessions of client '{}' are not ended yet: their slots cannot be sealed, or their journals not be read",
                        c.client
                    ),
                );
                self.admin_reply(c.from, Err(e.hint("it goes on: see `fusevol-mgr status`, then ask again")));
            } else {
                self.confirms.push(c);
            }
        }
    }
}
