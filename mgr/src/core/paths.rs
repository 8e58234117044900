//! A client's path to a disk opens only after the manager has read, over its own path, what the client wrote by way of it
//! (PROTOCOL.md, P2): a cloned or private disk with the right label is not the shared one.

use super::admin_api::{Finding, Level};
use super::{Asker, Core, Effect};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{Life, SessionNo};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{CheckPath, Lives, PathChecked, Reply};

/// Most questions of all clients that wait for a disk.
const WAITING_MAX: usize = 4096;

/// A client that waits for what is read.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    asker: Asker,
    session: SessionNo,
    disk: DiskNo,
    nonce: u64,
}

impl Core {
    /// The manager's paths to the disks have these lives from now on. Said after they have begun.
    pub fn set_lives(&mut self, lives: Vec<(DiskNo, Life)>) {
        self.path_lives = lives;
    }

    /// The disks that the manager does not reach, and why. Said before each step.
    pub fn set_lost(&mut self, lost: Vec<(DiskNo, String)>) {
        self.lost = lost;
    }

    pub(super) fn begins_without(&mut self, disk: DiskNo, why: &str) {
        self.tell(Level::Warning, "disk-missing", format!("disk {disk} is missing: the manager serves without it ({why})"));
    }

    /// Said once for each reason: it is tried again and again.
    pub(super) fn disk_refused(&mut self, disk: DiskNo, why: Option<String>) {
        let Some(why) = why else {
            self.refused.remove(&disk);
            return;
        };
        if self.refused.get(&disk) == Some(&why) {
            return;
        }
        let text = format!("{}; put the right one there, or give it up: fusevol-mgr disk fail {disk}", is_not_used(disk, &why));
        self.refused.insert(disk, why);
        self.tell(Level::Critical, "disk-refused", text);
    }

    pub(super) fn disk_back(&mut self, disk: DiskNo) {
        self.refused.remove(&disk);
        self.tell(Level::Ok, "disk-back", format!("disk {disk} is back, and is used again"));
    }

    pub(super) fn lost_findings(&self) -> Vec<Finding> {
        let one = |(no, why): &(DiskNo, String)| match self.refused.get(no) {
            Some(why) => Finding { level: Level::Critical, text: is_not_used(*no, why), action: format!("fusevol-mgr disk fail {no}") },
            None => {
                let text = format!("disk {no} is missing: this host does not reach it ({why})");
                Finding { level: Level::Warning, text, action: "fusevol-mgr disk scan".to_owned() }
            }
        };
        self.lost.iter().map(one).collect()
    }

    pub(super) fn paths_now(&self) -> Reply {
        Reply::Lives(Lives { generation: self.generation, lives: self.path_lives.clone() })
    }

    pub(super) fn check_path(&mut self, session: SessionNo, m: &CheckPath, asker: Asker) -> Result<()> {
        if self.catalog.disk(m.disk).is_none() {
            return Err(Error::new(Kind::NotFound, format!("the pool has no disk {}", m.disk)));
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(Error::new(Kind::Busy, "too many paths are being looked at"));
        }
        // A question that was asked again, on another connection, takes the place of the former.
        self.waiting.retain(|w| (w.session, w.disk) != (session, m.disk));
        self.waiting.push(Waiting { asker, session, disk: m.disk, nonce: m.nonce });
        self.out.effects.push(Effect::ReadNonce { session, disk: m.disk });
        Ok(())
    }

    /// What stands in the session's slot on a disk: identity and nonce.
    pub(super) fn nonce_read(&mut self, session: SessionNo, disk: DiskNo, found: Option<(fusevol_shared::ids::SessionId, u64)>) {
        let Some(at) = self.waiting.iter().position(|w| (w.session, w.disk) == (session, disk)) else { return };
        let w = self.waiting.swap_remove(at);
        let id = self.catalog.session(session).map(|s| s.id);
        let result = match found {
            Some((of, nonce)) if (Some(of), nonce) == (id, w.nonce) || !holds(Tag::P2) => Ok(Reply::PathChecked(PathChecked {})),
            Some(_) => Err(Error::new(
                Kind::Refused,
                format!("what was written to disk {disk} is not found on the pool's disk: it is another one"),
            )
            .hint("a clone or a private disk with the same label? fusevol-mgr disk scan, on both hosts")),
            None => Err(Error::new(Kind::Io, format!("the manager cannot read disk {disk}"))),
        };
        self.reply(w.asker, result);
    }
}

fn is_not_used(disk: DiskNo, why: &str) -> String {
    format!("disk {disk} is back, and is not used: {why}")
}
