//! Recalls: what a client may not hold any more it is asked to give back, and has a while to do so.

use super::Core;
use super::admin_api::Level;
use crate::catalog::record::{Mode, Record};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{ClientId, SessionNo, VolumeId};
use fusevol_shared::wire::messages::{Push, Recall};
use fusevol_shared::wire::rights::Right;

impl Core {
    /// Recalls what this client holds of this volume (or of all) beyond its rights.
    pub(super) fn recall_beyond_rights(&mut self, client: ClientId, volume: Option<VolumeId>, reason: &str) {
        let revoked = self.catalog.client(client).is_none_or(|c| c.revoked);
        let beyond: Vec<(SessionNo, VolumeId)> = self
            .catalog
            .attachments()
            .filter(|a| volume.is_none_or(|v| v == a.volume))
            .filter(|a| self.catalog.session(a.session).is_some_and(|s| s.client == client))
            .filter(|a| {
                let needed = if a.mode == Mode::Write { Right::Write } else { Right::Read };
                revoked || !self.catalog.rights(a.volume, client).has(needed)
            })
            .map(|a| (a.session, a.volume))
            .collect();
        for (session, volume) in beyond {
            self.recall(session, volume, reason);
        }
    }

    fn recall(&mut self, session: SessionNo, volume: VolumeId, reason: &str) {
        let until = self.now.boot.plus(self.config.patience);
        let Some(life) = self.lives.get_mut(&session).filter(|l| !l.recalled.contains_key(&volume)) else { return };
        life.recalled.insert(volume, until);
        self.push(session, Push::Recall(Recall { volume, reason: reason.to_owned() }));
    }

    /// What was recalled is drained: the attachment is over. A writer's journal is read to its end first: it could not fold what it had
    /// appended, perhaps, as it is revoked or does not hear us.
    pub(super) fn recall_answered(&mut self, session: SessionNo, volume: VolumeId) {
        let Some((token, writes)) = self.catalog.attachment_of(volume, session).map(|a| (a.token, a.writes())) else { return };
        if let Some(life) = self.lives.get_mut(&session) {
            life.recalled.remove(&volume);
        }
        self.locks_gone(volume, session);
        if writes {
            return self.close_attachment(session, token);
        }
        if let Err(e) = self.end_attachment(token) {
            self.tell(Level::Critical, "internal", e.to_string());
        }
    }

    /// What is being given back is not attached anew under the same token.
    ///
    /// # Errors
    /// `Busy` where an answer to a recall is waited for, or the journal is being read.
    pub(super) fn check_not_given_back(&self, session: SessionNo, volume: VolumeId) -> Result<()> {
        let Some(token) = self.catalog.attachment_of(volume, session).map(|a| a.token) else { return Ok(()) };
        let given = |l: &super::life::Life| l.recalled.contains_key(&volume) || l.closing.as_ref().is_some_and(|c| c.ends(token));
        if self.lives.get(&session).is_some_and(given) {
            return Err(Error::new(Kind::Busy, "the volume is being given back").hint("try again in a moment"));
        }
        Ok(())
    }

    /// Ends an attachment that is drained, and what depends on it.
    pub(super) fn end_attachment(&mut self, token: fusevol_shared::ids::FenceToken) -> Result<()> {
        let Some((volume, session, writes)) = self.catalog.attachment(token).map(|a| (a.volume, a.session, a.writes())) else {
            return Ok(());
        };
        self.commit(Record::Detached { token })?;
        self.attachment_is_over(session, volume, writes);
        Ok(())
    }

    /// What follows from the end of an attachment.
    pub(super) fn attachment_is_over(&mut self, session: SessionNo, volume: VolumeId, writes: bool) {
        self.limbo_moved = true;
        self.spent.insert(volume);
        if self.catalog.reads_frozen(volume, session) {
            self.reads_frozen_only(session, volume);
        } else {
            self.reader_gone(session, volume);
        }
        self.legs_not_read(session, volume);
        self.pending.remove(&(volume, session));
        if writes {
            self.writer_gone(volume);
        }
    }
}
