//! Pushes: each is numbered within its session, kept until it is answered, and sent again on the session's next connection.

use super::admin_api::Level;
use super::{ConnId, Core, Effect};
use fusevol_shared::ids::SessionNo;
use fusevol_shared::wire::messages::{Ack, Push};

impl Core {
    /// Says something to a session, now or when it comes back. A session that leaves too much unanswered is given up.
    pub(super) fn push(&mut self, session: SessionNo, body: Push) -> Option<u64> {
        let most = self.config.limits.pushes_per_session;
        let life = self.lives.get_mut(&session)?;
        if life.pushes.len() >= most {
            self.doom(session, "it leaves too many pushes unanswered");
            return None;
        }
        let push = life.next_push;
        life.next_push += 1;
        life.pushes.insert(push, body.clone());
        if let Some(conn) = life.conn {
            self.out.effects.push(Effect::Push { conn, push, body });
        }
        Some(push)
    }

    /// Forgets pushes of a session that need no answer any more.
    pub(super) fn unpush(&mut self, session: SessionNo, gone: impl Fn(&Push) -> bool) {
        if let Some(life) = self.lives.get_mut(&session) {
            life.pushes.retain(|_, p| !gone(p));
        }
    }

    /// Says again, on its new connection, what a session has not answered.
    pub(super) fn push_again(&mut self, session: SessionNo) {
        let Some((life, conn)) = self.lives.get(&session).and_then(|l| Some((l, l.conn?))) else { return };
        self.out.effects.extend(life.pushes.iter().map(|(push, body)| Effect::Push { conn, push: *push, body: body.clone() }));
    }

    /// A session that is never renewed again.
    pub(super) fn doom(&mut self, session: SessionNo, why: &str) {
        let Some(life) = self.lives.get_mut(&session).filter(|l| !l.doomed) else { return };
        life.doomed = true;
        let who = self.who(session);
        self.tell(Level::Warning, "session-given-up", format!("the session of {who} is not renewed any more: {why}"));
    }

    /// A push was answered. An answer to what was never asked, or was answered before, is passed over.
    pub(super) fn acknowledged(&mut self, conn: ConnId, push: u64, ack: Ack) {
        let Some(session) = self.conns.get(&conn).and_then(|c| c.session) else { return };
        if self.lives.get(&session).is_some_and(|l| l.conn == Some(conn)) {
            self.answered(session, push, ack);
        }
    }

    /// A push was answered, by whichever way.
    pub(super) fn answered(&mut self, session: SessionNo, push: u64, ack: Ack) {
        let Some(body) = self.lives.get_mut(&session).and_then(|l| l.pushes.remove(&push)) else { return };
        if let (Ack::Failed(e), false) =
            (&ack, matches!(body, Push::Hold(_) | Push::Release(_) | Push::VolumesChanged(_) | Push::LocksFreed(_) | Push::NewDisk(_)))
        {
            let why = format!("it could not do what was asked: {}", e.message);
            return self.doom(session, &why);
        }
        match body {
            Push::Hold(hold) => self.hold_answered(hold.volume, hold.snapshot, push, &ack),
            Push::MapChanged(m) => self.reader_answered(session, m.volume, push),
            Push::SegmentAdded(_) => self.segment_answered(session, push),
            Push::Recall(m) => self.recall_answered(session, m.volume),
            Push::LegFailed(_) => {
                self.leg_waits_over(|_, w| *w == (session, push));
                self.segment_answered(session, push);
            }
            Push::MoveSlot(m) => self.slot_moved(session, m.no),
            Push::Release(_) | Push::VolumesChanged(_) | Push::LocksFreed(_) | Push::NewDisk(_) => {}
        }
    }
}
