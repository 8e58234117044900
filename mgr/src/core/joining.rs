//! A disk that is to join: every session that lives hears of it before the pool uses it.
//!
//! ```text
//!  labelled, told to all that live -> each has answered, or lives no more -> DiskAdded: used from now on
//!        '--not answered in time--> refused; its label counts for nothing, and it may be added again
//! ```
//! Invariant: what the catalog has, every session knows that lives; one that comes back later hears it in its welcome, before it asks for anything.
//! So no place is ever named to who cannot reach it.

use super::admin_api::Level;
use super::life::Life;
use super::{AdminId, AdminReply, Core};
use crate::catalog::record::{DiskEntry, Record};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::SessionNo;
use fusevol_shared::wire::messages::{DiskInfo, NewDisk, Push};
use std::collections::BTreeMap;

/// Leases and margins within which all must have answered.
const PATIENCE: u32 = 2;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Joining {
    from: AdminId,
    entry: DiskEntry,
    /// Who was told, by which push.
    told: BTreeMap<SessionNo, u64>,
    pub deadline: BootTime,
}

/// What sessions are told of a disk.
pub(super) fn info(d: &DiskEntry) -> DiskInfo {
    DiskInfo { no: d.no, id: d.id, aus: d.aus, paths: d.paths.clone() }
}

/// Whether a session may ask for something before its next welcome.
pub(super) fn lives(l: &Life) -> bool {
    !l.lapsed && !l.doomed && !l.is_sealed() && !l.is_ending()
}

impl Core {
    /// One disk joins at a time.
    ///
    /// # Errors
    /// `Busy` while another one does.
    pub fn may_join(&self) -> Result<()> {
        match self.joining {
            Some(_) => Err(Error::new(Kind::Busy, "another disk is just joining").hint("try again in a moment")),
            None => Ok(()),
        }
    }

    /// The disk joins once everybody knows it; the administrator is answered then.
    pub(super) fn join_begins(&mut self, from: AdminId, entry: DiskEntry) -> Result<()> {
        self.may_join()?;
        let patience = (self.config.lease + self.config.margin()) * PATIENCE;
        self.joining = Some(Joining { from, entry, told: BTreeMap::new(), deadline: self.now.boot.plus(patience) });
        Ok(())
    }

    /// Tells those who live and do not know yet, and goes on where all have answered.
    pub(super) fn join_goes_on(&mut self) {
        let Some(mut j) = self.joining.take() else { return };
        let new: Vec<SessionNo> = self.lives.iter().filter(|(no, l)| lives(l) && !j.told.contains_key(no)).map(|(no, _)| *no).collect();
        for no in new {
            if let Some(push) = self.push(no, Push::NewDisk(NewDisk { disk: info(&j.entry) })) {
                j.told.insert(no, push);
            }
        }
        let waits = |(no, push): (&SessionNo, &u64)| {
            let life = self.lives.get(no).filter(|l| lives(l) && l.pushes.contains_key(push));
            life.map(|_| *no)
        };
        let waits: Vec<SessionNo> = j.told.iter().filter_map(waits).collect();
        if waits.is_empty() {
            let joined = self.joined(&j.entry);
            self.admin_reply(j.from, joined);
        } else if j.deadline <= self.now.boot {
            self.join_fails(&j, &waits);
        } else {
            self.joining = Some(j);
        }
    }

    fn join_fails(&mut self, j: &Joining, waits: &[SessionNo]) {
        let deaf: Vec<String> = waits.iter().map(|no| self.who(*no)).collect();
        for no in j.told.keys() {
            self.unpush(*no, |p| matches!(p, Push::NewDisk(_)));
        }
        let e = Error::new(Kind::Busy, format!("the disk has not joined: {} has not answered that it knows it", deaf.join(", ")));
        self.admin_reply(j.from, Err(e.hint("its log says why; then add the disk again")));
    }

    fn joined(&mut self, entry: &DiskEntry) -> Result<AdminReply> {
        let (no, id) = (entry.no, entry.id);
        self.commit(Record::DiskAdded(entry.clone()))?;
        self.tell(Level::Ok, "disk-added", format!("disk {no} ({id}) joined the pool"));
        // Its room is worth another look: of volumes that lack copies, and of what waits for space.
        let clients: Vec<_> = self.catalog.clients().map(|c| c.id).collect();
        clients.into_iter().for_each(|c| self.list_of_changed(c));
        self.jobs_at = self.now.boot;
        let d = self.catalog.disk(no).ok_or_else(|| Error::new(Kind::Internal, "the disk is not there"))?;
        Ok(AdminReply::Disk(self.disk_view(d)))
    }
}
