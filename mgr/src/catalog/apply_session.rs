//! Records of sessions and attachments, and of who still holds what is in limbo.

use super::record::{AttachmentEntry, Mode, SegmentEntry, SessionEntry};
use super::{Catalog, must, unfit};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, VolumeEpoch, VolumeId};
use fusevol_shared::wire::messages::Segment;

/// Longest host or program text of a session, bytes.
pub const HOST_MAX: usize = 256;

impl Catalog {
    pub(super) fn session_opened(&mut self, entry: &SessionEntry) -> Result<()> {
        must(entry.no == self.counters.session, "a session has a number that is not the next")?;
        must(self.client(entry.client).is_some_and(|c| !c.revoked), "a session of a client that is not served")?;
        let next = entry.no.0.checked_add(1).ok_or_else(|| unfit("all numbers of sessions are used up"))?;
        self.session_loaded(entry)?;
        self.counters.session = SessionNo(next);
        Ok(())
    }

    pub(super) fn session_loaded(&mut self, entry: &SessionEntry) -> Result<()> {
        must(self.client(entry.client).is_some(), "a session of an unknown client")?;
        must(!self.sessions.contains_key(&entry.no) && self.session_by_id(entry.id).is_none(), "a session begins twice")?;
        must(entry.host.len() <= HOST_MAX && entry.program.len() <= HOST_MAX, "a session's texts are too long")?;
        self.sessions.insert(entry.no, entry.clone());
        Ok(())
    }

    pub(super) fn session_ended(&mut self, no: SessionNo) -> Result<()> {
        must(self.sessions.remove(&no).is_some(), "a session that is not there ends")?;
        self.attachments.retain(|_, a| a.session != no);
        self.opens.retain(|(_, s)| *s != no);
        for l in self.limbo.values_mut() {
            l.waits.retain(|s| *s != no);
        }
        Ok(())
    }

    pub(super) fn volume_attached(
        &mut self,
        volume: VolumeId,
        session: SessionNo,
        token: FenceToken,
        mode: Mode,
        segment: Option<&Segment>,
    ) -> Result<()> {
        must(token == self.counters.token, "an attachment has a token that is not the next")?;
        let next = token.0.checked_add(1).ok_or_else(|| unfit("all tokens are used up"))?;
        must(self.attachment_of(volume, session).is_none(), "a volume is attached twice by a session")?;
        let entry = AttachmentEntry { volume, session, token, mode, last: Seq(0), flipped: VolumeEpoch(0) };
        self.attachment_fits(&entry)?;
        if let Some(segment) = segment {
            must(mode == Mode::Write, "a reader is granted a preserve segment")?;
            must(segment.session == session && segment.token == token, "a preserve segment of another attachment")?;
            self.segment_fits(volume, segment)?;
        }
        self.attachments.insert(token, entry);
        self.counters.token = FenceToken(next);
        if let Some(segment) = segment {
            self.segment_taken(volume, SegmentEntry { segment: segment.clone(), seq: None });
        }
        Ok(())
    }

    /// Whether an attachment may stand beside the others.
    pub(super) fn attachment_fits(&self, entry: &AttachmentEntry) -> Result<()> {
        must(self.volumes.contains_key(&entry.volume) && self.sessions.contains_key(&entry.session), "an attachment of nothing")?;
        must(!self.attachments.contains_key(&entry.token), "a token is used twice")?;
        must(entry.mode == Mode::Read || self.writer(entry.volume).is_none(), "a volume has two writers")
    }

    pub(super) fn detached(&mut self, token: FenceToken) -> Result<()> {
        let gone = self.attachments.remove(&token).ok_or_else(|| unfit("an attachment that is not there ends"))?;
        for l in self.limbo.values_mut().filter(|l| l.volume == gone.volume) {
            l.waits.retain(|s| *s != gone.session);
        }
        Ok(())
    }

    pub(super) fn limbo_answered(&mut self, no: u64, session: SessionNo) -> Result<()> {
        let entry = self.limbo.get_mut(&no).ok_or_else(|| unfit("an answer for nothing in limbo"))?;
        let at = entry.waits.binary_search(&session).map_err(|_| unfit("an answer of a session that was not waited for"))?;
        entry.waits.remove(at);
        Ok(())
    }

    pub(super) fn limbo_freed(&mut self, no: u64) -> Result<()> {
        must(self.limbo.get(&no).is_some_and(|l| l.waits.is_empty()), "AUs are freed that somebody may still use")?;
        if let Some(entry) = self.limbo.remove(&no) {
            self.release(entry.places);
        }
        Ok(())
    }

    /// Whether a list of waiting sessions is one: ascending, all of them attached to the volume.
    pub(super) fn waits_fit(&self, volume: VolumeId, waits: &[SessionNo]) -> Result<()> {
        must(waits.is_sorted_by(|a, b| a < b), "a list of waiting sessions is out of order")?;
        must(waits.iter().all(|s| self.attachment_of(volume, *s).is_some()), "a session is waited for that holds nothing")
    }
}
