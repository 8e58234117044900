//! The thread that opens the manager's lost disks anew. The connections to an NBD export are one life, which nothing brings back
//! (`shared::disk::nbd`); this makes the next one, and hands it to the driver. A disk that was missing when the manager began is in the same state;
//! it is looked for where it was, then by its label on all block devices.
//!
//! ```text
//!  well --lost--> tried at once, then after a pause that doubles --opened, label and marks read, locked--> handed to the driver --> used: well
//!                       ^                                             '--another's label, or none          '--older, or else not fit
//!                       '---------------------------------------------------'-- said to the core -----------------'
//! ```
//! Invariants: a disk is handed over only after its label and its marks were read by the very connections that will be used, and nothing else is done
//! over these before the driver has judged it: until then all who have the disk have the lost one, of which nothing can be read; each disk is tried by
//! itself, within [`PATIENCE`], so that one that hangs holds up no other; a disk that is handed over is not tried again before the driver has answered.

use super::Input;
use super::join::Opened;
use super::log::File;
use crate::core::Event;
use crate::data::Table;
use crate::marks;
use crate::session_io::{self, Member};
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::disk::any::{Address, Lock, PoolDisk};
use fusevol_shared::disk::file::OpenMode;
use fusevol_shared::disk::find::{self, Found, Places, Wanted};
use fusevol_shared::disk::nbd::NbdOptions;
use fusevol_shared::disk::{Disk as _, ring};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::format::layout::MANAGER_LOCK;
use fusevol_shared::ids::{DiskId, Life, PoolId};
use fusevol_shared::units::DiskNo;
use futures_util::StreamExt;
use futures_util::future::{Either, select, select_all};
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::pin::pin;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The first pause after a try that failed.
const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const MOST: Duration = Duration::from_secs(2);
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether one is due, while there is one that is lost.
const LOOK: Duration = Duration::from_millis(50);
/// How often disks that have joined are looked for, while none is lost.
const IDLE: Duration = Duration::from_secs(1);

/// The thread; it ends when this is dropped.
pub(super) struct Reopener {
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Reopener {
    /// Watches the disks of `table`; what it has opened goes to `to`.
    ///
    /// # Errors
    /// `Internal` without a thread.
    pub fn start(pool: PoolId, table: Table<File>, to: mpsc::Sender<Input>) -> Result<Self> {
        let (end, ends) = watch::channel(false);
        let work = move || ring::block_on(Watch { pool, table, to, lost: BTreeMap::new() }.run(ends));
        let thread = std::thread::Builder::new().name("reopen".to_owned()).spawn(work).context(Kind::Internal, || "no thread")?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Reopener {
    fn drop(&mut self) {
        self.end.send_replace(true);
        // A panic of it was reported where it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A disk that is lost.
struct Lost {
    /// Which life of it: another one in the table is another disk.
    life: Life,
    pause: Duration,
    /// When it is tried next; `None` while it is, and once it is handed over.
    next: Option<BootTime>,
    /// What stands at its place is not used: as the core was told.
    refused: Option<String>,
}

struct Watch {
    pool: PoolId,
    table: Table<File>,
    to: mpsc::Sender<Input>,
    lost: BTreeMap<DiskNo, Lost>,
}

impl Watch {
    async fn run(mut self, mut ends: watch::Receiver<bool>) {
        let mut tries = FuturesUnordered::new();
        loop {
            tries.extend(self.due().into_iter().map(|(no, id, disk)| attempt(self.pool, no, id, disk, self.to.clone())));
            let disks: Vec<File> = self.table.load().iter().map(|(.., d)| d.clone()).collect();
            let resting = self.lost.is_empty();
            let look = async {
                let lost = select_all(disks.iter().map(|d| Box::pin(d.until_lost())));
                // A kernel that refuses a timer serves no disk either.
                match resting {
                    true => drop(select(lost, pin!(ring::sleep(IDLE))).await),
                    false => drop(ring::sleep(LOOK).await),
                }
            };
            tokio::select! {
                _ = ends.wait_for(|end| *end) => return,
                () = look => {}
                Some((no, used)) = tries.next() => {
                    if !self.tried(no, used).await {
                        return;
                    }
                }
            }
        }
    }

    /// The lost disks whose time has come.
    fn due(&mut self) -> Vec<session_io::Member<File>> {
        let (now, table) = (SystemClock.now(), self.table.load_full());
        let is = |no: &DiskNo, life: Life| table.iter().any(|(n, _, d)| n == no && d.life() == life && d.lost().is_some());
        self.lost.retain(|no, l| is(no, l.life));
        let mut due = Vec::new();
        for (no, id, disk) in table.iter() {
            let Some(why) = disk.lost() else { continue };
            let lost = self.lost.entry(*no).or_insert_with(|| {
                tracing::warn!("disk {no} is lost to this manager, and is opened anew: {why}");
                Lost { life: disk.life(), pause: FIRST, next: Some(now), refused: None }
            });
            if lost.next.is_some_and(|at| at <= now) {
                lost.next = None;
                due.push((*no, *id, disk.clone()));
            }
        }
        due
    }

    /// A disk was tried; whether there is still a driver.
    async fn tried(&mut self, no: DiskNo, used: Result<()>) -> bool {
        let Some(lost) = self.lost.get_mut(&no) else { return true };
        let Err(e) = used else {
            // In the table is the next life.
            return true;
        };
        tracing::info!("disk {no} is not back yet: {e}");
        lost.next = Some(SystemClock.now().plus(lost.pause));
        lost.pause = (lost.pause * 2).min(MOST);
        let refused = matches!(e.kind(), Kind::Refused | Kind::Damaged).then(|| e.to_string());
        if lost.refused == refused {
            return true;
        }
        lost.refused.clone_from(&refused);
        self.to.send(Event::DiskRefused { disk: no, why: refused }.into()).await.is_ok()
    }
}

/// Opens a disk and hands it over; whether it is used.
async fn attempt(pool: PoolId, no: DiskNo, id: DiskId, disk: File, to: mpsc::Sender<Input>) -> (DiskNo, Result<()>) {
    let opened = match reach(pool, no, id, disk).await {
        Ok(opened) => Box::new(opened),
        Err(e) => return (no, Err(e)),
    };
    let (answer, coming) = oneshot::channel();
    let ending = || Err(Error::new(Kind::Unreachable, "the manager is ending"));
    let used = match to.send(Input::Reopened { no, opened, answer }).await {
        Ok(()) => coming.await.unwrap_or_else(|_| ending()),
        Err(_) => ending(),
    };
    (no, used)
}

/// Of a disk that is missing only hints are known, and its label.
async fn reach(pool: PoolId, no: DiskNo, id: DiskId, disk: File) -> Result<Opened> {
    let PoolDisk::Absent(absent) = &*disk else { return in_time(pool, no, id, &disk.address()).await };
    let mut why: Option<Error> = None;
    for address in absent.hints() {
        match in_time(pool, no, id, address).await {
            Ok(opened) => return Ok(opened),
            Err(e) => why = why.or(Some(e)),
        }
    }
    // Each device that is looked at has its own limit of time.
    let wanted = Wanted { no, id, paths: Vec::new() };
    let found = find::find(pool, &[wanted], &Places { globs: Vec::new(), scan: true }, OpenMode::Read).await.pop();
    match found {
        Some(Found::Here(here)) => in_time(pool, no, id, &here.disk.address()).await,
        Some(Found::Refused(why)) => Err(Error::new(Kind::Refused, why)),
        Some(Found::Missing(_)) | None => Err(why.unwrap_or_else(|| Error::new(Kind::NotFound, "no block device carries its label"))),
    }
}

async fn in_time(pool: PoolId, no: DiskNo, id: DiskId, address: &Address) -> Result<Opened> {
    match select(pin!(open(pool, no, id, address)), pin!(ring::sleep(PATIENCE))).await {
        Either::Left((opened, _)) => opened,
        Either::Right(_) => Err(Error::new(Kind::Io, format!("{address} did not open within {} s", PATIENCE.as_secs()))),
    }
}

async fn open(pool: PoolId, no: DiskNo, id: DiskId, address: &Address) -> Result<Opened> {
    let disk =
        PoolDisk::open_with(address, OpenMode::ReadWrite, &NbdOptions::patient()).await.context(Kind::Io, || format!("disk {address}"))?;
    let (label, _) = find::confirm(&disk, pool, id).await?;
    if label.no != no {
        return Err(Error::new(Kind::Refused, format!("it says that it is disk number {} of its pool", label.no)));
    }
    match disk.try_lock(MANAGER_LOCK).context(Kind::Io, || "the manager's lock")? {
        Lock::Taken | Lock::Absent => {}
        Lock::Held => return Err(Error::new(Kind::Busy, format!("another manager holds {address}"))),
    }
    let mark = marks::read(&disk, pool, id).await.context(Kind::Io, || format!("the marks of {address}"))?.newest;
    Ok(Opened { disk, label, mark })
}

/// Of this disk: what the new life must have as the former one had.
pub(super) fn same(former: &Member<File>, new: &PoolDisk) -> Result<()> {
    let (no, _, disk) = former;
    // Of one that was missing only whole AUs are known.
    let fits = if matches!(**disk, PoolDisk::Absent(_)) { new.size() >= disk.size() } else { new.size() == disk.size() };
    match fits {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::Refused, format!("disk {no} has another size than before: {} bytes, not {}", new.size(), disk.size())))
        }
    }
}

#[cfg(test)]
mod tests;
