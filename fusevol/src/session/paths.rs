//! How a session opens a path to a disk: at its beginning, and again when one has failed.
//!
//! ```text
//!  looked for by label -> locked -> a nonce written into the session's slot -> the manager reads it over its own path -> used
//! ```
//! The byte lock is a shared one: a descriptor that failed may still have I/O in flight, and holds it until that has landed, while the next
//! one has it already (PROTOCOL.md, "Nobody writes where a predecessor may still write"). Over NBD there is none: a path that was lost is a
//! life of its connections that has ended, and what it had in flight is not returned.

use super::known::Known;
use crate::disks::Member;
use crate::link::Link;
use crate::path::keeper::{Opener, Told};
use fusevol_shared::disk::any::{Address, Lock, PoolDisk};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::file::OpenMode;
use fusevol_shared::disk::find::{self, Found, Places, Wanted};
use fusevol_shared::disk::reservations::{HostKey, Reservations};
use fusevol_shared::disk::{Disk, DiskError, ring};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::format::layout::{Layout, MANAGER_LOCK};
use fusevol_shared::format::slot::{Heartbeat, SlotAt};
use fusevol_shared::ids::{Seq, SessionId, SessionNo};
use fusevol_shared::random::{Random, SystemRandom};
use fusevol_shared::wire::messages::{AskLives, CheckPath, DiskInfo, Welcome};
use std::sync::Arc;
use std::time::Duration;

/// How long the manager is waited for.
const ASK: Duration = Duration::from_secs(4);

/// Opens the paths of one session.
#[derive(Clone)]
pub(super) struct Paths {
    pub(super) link: Link,
    pub(super) welcome: Welcome,
    pub(super) id: SessionId,
    /// By which the disks know this host.
    pub(super) host: HostKey,
    /// Where the user said that disks are.
    pub(super) globs: Vec<String>,
    /// Which disks there are.
    pub(super) known: Arc<Known>,
}

impl Paths {
    /// Looks for these disks. One result for each, in order.
    pub(super) async fn find(&self, disks: &[DiskInfo], known: &[Address]) -> Vec<Found> {
        let wanted: Vec<Wanted> = disks.iter().map(|d| wanted(d, known)).collect();
        let places = Places { globs: self.globs.clone(), scan: true };
        find::find(self.welcome.pool, &wanted, &places, OpenMode::ReadWrite).await
    }

    /// Makes a disk that was found by its label the session's: locked, and known by the manager to be the pool's.
    ///
    /// # Errors
    /// `Busy` where the lock is another's, `Refused` where it is another disk, `Unreachable` without a manager, `Io`.
    pub(super) async fn take(&self, disk: &PoolDisk, info: &DiskInfo) -> Result<()> {
        lock(disk, self.welcome.session)?;
        if self.welcome.reservations {
            register(disk, self.host)?;
        }
        let layout = Layout::for_aus(self.welcome.au_size, info.aus);
        let layout = layout.ok_or_else(|| Error::new(Kind::Damaged, "the disk is too small to carry a slot"))?;
        let at = SlotAt::new(self.welcome.pool, info.id, &layout, self.welcome.session);
        let mut random = [0; 8];
        SystemRandom.fill(&mut random);
        // Never zero: a heartbeat has that.
        let nonce = u64::from_le_bytes(random) | 1;
        let page = Heartbeat { session: self.welcome.session, id: self.id, beat: Seq(0), nonce, answer: None }.encode(at);
        disk.write(at.off, IoBuf::copy_of(&page).freeze()).await.map_err(|e| unreadable(&e))?;
        self.link.call(CheckPath { disk: info.no, nonce }, Some(ASK)).await.map(drop)
    }
}

fn unreadable(e: &DiskError) -> Error {
    Error::new(Kind::Io, e.to_string())
}

fn wanted(d: &DiskInfo, known: &[Address]) -> Wanted {
    let paths = known.iter().cloned().chain(d.paths.iter().filter_map(|p| p.parse().ok())).collect();
    Wanted { no: d.no, id: d.id, paths }
}

/// Takes the session's byte lock (FORMAT.md): held until this process's last I/O on the disk has landed. A disk that knows no locks is used
/// without: the manager knows that nothing proves this session drained there.
fn lock(disk: &PoolDisk, session: SessionNo) -> Result<()> {
    let byte = MANAGER_LOCK + 1 + u64::from(session.0);
    match disk.try_lock_shared(byte).context(Kind::Io, || "the session's lock cannot be taken")? {
        Lock::Taken | Lock::Absent => Ok(()),
        Lock::Held => Err(Error::new(Kind::Busy, format!("session {session} is locked by another process"))),
    }
}

/// Makes the host one that may write to a disk that is reserved, and that can be cut off from it. Only where it is, the disk is used directly.
fn register(disk: &PoolDisk, host: HostKey) -> Result<()> {
    let hint = "all disks of a pool with `reservations=on` must be block devices that know them (SCSI-3, NVMe); see `fusevol-mgr pool set`";
    disk.register(host).map_err(|e| Error::new(Kind::Refused, format!("this host cannot be registered: {e}")).hint(hint))
}

impl Opener<PoolDisk> for Paths {
    async fn open(&self, member: &Member<PoolDisk>) -> Result<PoolDisk> {
        let info = self.known.info(member.no());
        let info = info.ok_or_else(|| Error::new(Kind::Internal, "a disk of which the manager has not told"))?;
        let found = self.find(std::slice::from_ref(&info), &[]).await.pop();
        match found {
            Some(Found::Here(here)) => {
                self.take(&here.disk, &info).await?;
                self.known.found_at(info.no, here.disk.address().to_string());
                Ok(here.disk)
            }
            Some(Found::Missing(why)) => Err(Error::new(Kind::NotFound, why)),
            Some(Found::Refused(why)) => Err(Error::new(Kind::Refused, why)),
            None => Err(Error::new(Kind::Internal, "nothing was looked for")),
        }
    }
    async fn lives(&self) -> Option<Told> {
        self.link.call(AskLives {}, Some(ASK)).await.ok()
    }
    async fn sleep(&self, time: Duration) {
        // A kernel that refuses a ring serves no disk either.
        let _ = ring::sleep(time).await;
    }
}
