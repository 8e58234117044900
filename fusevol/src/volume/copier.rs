//! The copier: brings the AUs of a volume that is attached for writing back to as many copies as they should have (DESIGN D9, PROTOCOL.md, B1).
//!
//! ```text
//!  AU:   Dirty (fewer copies in sync than there should be) --guard had--> Claimed --copied, flushed, Placed appended--> Clean
//!  disk: out --answers twice in a row--> Returned appended --> written again; its stale legs are copied in place
//!         '--the manager gives it up--> its legs get other places
//! ```
//! A claim is the range guard of an AU: nothing of it is written meanwhile, what the volume says is written is what is there, and from its end on the
//! new copy is written with the others. It lasts as long as a few AUs take to copy. Where the client dies in the midst the AU is as it was.
//!
//! It gives way to those who use the volume ([`pace`]).
//!
//! How far it is, is counted by the manager, from the catalog alone: everybody prints the same.

mod claim;
mod pace;
mod round;
mod task;

use super::Volume;
use crate::control::Control;
use crate::disks::io_error;
use fusevol_shared::change::Entry;
use fusevol_shared::clock::BootTime;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::Result;
use fusevol_shared::map::LegState;
use fusevol_shared::units::{DiskNo, VolAu};
use fusevol_shared::wire::data::Claim;
use fusevol_shared::wire::messages::{GetMap, Recovery, RecoveryOrders};
use futures_util::future::{Either, select};
use pace::Pace;
use round::Round;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked whether there is something to copy, or a disk is back.
const LOOK: Duration = Duration::from_secs(1);
/// Where nothing is known to lack, one in so many looks asks the manager all the same.
const IDLE: u32 = 30;
/// Looks in a row at which a disk must answer before it is written again.
const WELL: u32 = 2;

/// What is known of the copier.
#[derive(Default)]
pub(super) struct Copying {
    /// Every AU has its copies, as far as was looked.
    whole: AtomicBool,
    /// AUs without all their copies, as the manager counts.
    todo: AtomicU64,
    /// Bytes copied, and bytes that were equal already.
    copied: AtomicU64,
    equal: AtomicU64,
    says: Mutex<String>,
    /// Of no copy of these could everything be read.
    holes: Mutex<BTreeSet<VolAu>>,
    /// When the next bytes may be copied, by the limit.
    next: Mutex<BootTime>,
    /// How it gives way to those who use the volume.
    pub(super) pace: Pace,
    /// One looks at a time.
    looking: tokio::sync::Mutex<()>,
}

/// What is shown of the copier.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// AUs without all their copies, as the manager counts.
    pub todo: u64,
    /// Bytes copied since the volume was attached.
    pub copied: u64,
    /// Of those that were looked at, bytes that were equal already.
    pub equal: u64,
    /// Disks that are out.
    pub out: Vec<u16>,
    /// What keeps it from going on; empty where nothing does.
    pub says: String,
    /// AUs of which no copy could be read.
    pub holes: u64,
}

impl Copying {
    /// There may be something to copy.
    pub(super) fn wake(&self) {
        self.whole.store(false, Ordering::SeqCst);
    }

    fn say(&self, says: impl Into<String>) {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = says.into();
    }

    fn says(&self) -> String {
        self.says.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn holes(&self) -> std::sync::MutexGuard<'_, BTreeSet<VolAu>> {
        self.holes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Whether its AUs should have more than one copy.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        self.legs.is_mirrored()
    }

    /// What its copier does.
    #[must_use]
    pub fn copying(&self) -> Progress {
        Progress {
            todo: self.copying.todo.load(Ordering::Relaxed),
            copied: self.copying.copied.load(Ordering::Relaxed),
            equal: self.copying.equal.load(Ordering::Relaxed),
            out: self.legs.out.disks().iter().map(|d| d.0).collect(),
            says: self.copying.says(),
            holes: self.copying.holes().len() as u64,
        }
    }

    /// The manager may have orders: it is asked soon.
    pub fn ask_for_orders(&self) {
        self.copying.wake();
    }

    /// Looks after the copies as long as the volume is attached.
    pub(super) async fn keep_copies(&self) {
        let (mut well, mut idle) = (BTreeMap::new(), 0);
        while self.legs.is_mirrored() && self.stands_until(self.engine.control.sleep(LOOK)).await {
            idle = if self.copying.whole.load(Ordering::SeqCst) { (idle + 1) % IDLE } else { 0 };
            if idle > 0 {
                continue;
            }
            if let Err(e) = self.look_after_copies(&mut well).await {
                tracing::debug!("the copies of volume {}: {e}", self.id);
                self.copying.say(e.to_string());
            }
        }
    }

    /// One look: disks that are back, then every AU that lacks a copy. What was begun is done when this returns.
    ///
    /// # Errors
    /// What the manager answers; those of the disks and of the journal. What is left is done by the next one.
    pub async fn look_after_copies(&self, well: &mut BTreeMap<DiskNo, u32>) -> Result<()> {
        let _one = self.copying.looking.lock().await;
        self.engine.lease.wait().await?;
        let orders = self.orders().await?;
        let round = Round::new(&orders);
        self.asking_meanwhile(&round, self.one_round(&orders, &round, well)).await
    }

    async fn one_round(&self, orders: &RecoveryOrders, round: &Round<'_>, well: &mut BTreeMap<DiskNo, u32>) -> Result<()> {
        self.give_up(orders).await?;
        self.look_at_suspects(orders).await?;
        self.look_for_returns(orders, well).await?;
        self.copying.say("");
        self.heal_log().await?;
        if orders.paused {
            self.copying.say("paused");
            return Ok(());
        }
        let left = self.copy_all(round).await?;
        let out = !self.legs.out.disks().is_empty();
        if !left && !out && self.adopt(orders.todo).await? {
            self.copying.whole.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Says what it does, and asks what it may do.
    async fn orders(&self) -> Result<RecoveryOrders> {
        let (says, before) = (self.copying.says(), self.legs.spare.now());
        let orders = self.engine.control.call(Recovery { volume: self.id, token: self.token, says }).await?;
        self.copying.todo.store(orders.todo, Ordering::Relaxed);
        // What is given up holds no copy that counts.
        let waits = self.legs.out.disks().iter().any(|d| !orders.given_up.contains(d));
        self.legs.spare.counted(before, orders.todo == 0 && !waits);
        Ok(orders)
    }

    /// Nothing is lacking as this map has it. Where the catalog counts some all the same, its map is taken over; whether there was nothing.
    async fn adopt(&self, todo: u64) -> Result<bool> {
        let log = self.log()?;
        if todo == 0 || log.unfolded() > 0 {
            return Ok(todo == 0);
        }
        let last = log.last();
        let mut stale = Vec::new();
        let part = async |from| self.engine.control.call(GetMap { volume: self.id, from }).await;
        super::fetch_map(self.view.aus(), part, |au, e| {
            let missing = e.legs().iter().filter(|l| l.state == LegState::Stale).map(|l| l.at.disk);
            stale.extend(missing.map(|disk| (au, disk)));
        })
        .await?;
        let _gate = self.legs.gate().await;
        if log.last() == last {
            stale.into_iter().for_each(|(au, disk)| self.view.miss(au, &[disk]));
        }
        Ok(false)
    }

    /// What is given up is not written any more, whether it answers or not.
    async fn give_up(&self, orders: &RecoveryOrders) -> Result<()> {
        for no in orders.given_up.iter().copied().filter(|no| !self.legs.out.has(*no)) {
            let there = |s: &super::view::Slot<'_>| s.legs().any(|l| l.at.disk == no && l.state != LegState::Gone);
            if self.view.iter_from(VolAu(0)).any(|(_, s)| there(&s)) {
                self.lose_leg(no, "it was given up").await?;
            }
        }
        Ok(())
    }

    /// Disks that a reader does not reach: where they do not answer here either, the volume goes on without them, if it can.
    async fn look_at_suspects(&self, orders: &RecoveryOrders) -> Result<()> {
        for no in orders.look_at.iter().copied().filter(|no| !self.legs.out.has(*no)) {
            let Err(e) = self.read_there(no).await else { continue };
            let there: Vec<_> = self.view.iter_from(VolAu(0)).map(|(_, s)| s).filter(|s| s.in_sync().any(|at| at.disk == no)).collect();
            if Self::have_others(&there, &[no]) {
                self.lose_leg(no, &format!("neither a reader nor the writer gets an answer: {e}")).await?;
            }
        }
        Ok(())
    }

    /// Disks that are out, not given up, and answer again.
    async fn look_for_returns(&self, orders: &RecoveryOrders, well: &mut BTreeMap<DiskNo, u32>) -> Result<()> {
        for no in self.legs.out.disks().iter().copied().filter(|no| !orders.given_up.contains(no)) {
            let answers = self.answers(no).await;
            let times = well.entry(no).or_default();
            *times = if answers { *times + 1 } else { 0 };
            if *times >= WELL {
                well.remove(&no);
                self.take_back(no).await?;
            }
        }
        Ok(())
    }

    /// Whether a page of the volume on this disk can be read, at once.
    async fn answers(&self, no: DiskNo) -> bool {
        // One that is not there would be waited for as long as for a manager.
        match select(pin!(self.read_there(no)), pin!(self.engine.control.sleep(LOOK))).await {
            Either::Left((read, _)) => read.is_ok(),
            Either::Right(_) => false,
        }
    }

    /// Reads a page of the volume on this disk, where there is any.
    async fn read_there(&self, no: DiskNo) -> Result<()> {
        let legs = self.view.iter_from(VolAu(0)).flat_map(|(au, s)| s.legs().map(move |l| (au, l)));
        let Some((au, leg)) = legs.into_iter().find(|(_, l)| l.at.disk == no && l.state != LegState::Gone) else { return Ok(()) };
        let (disk, page) = (self.engine.disks.get(no)?, IoBuf::zeroed(fusevol_shared::units::PAGE));
        let (read, _) = disk.read(leg.at.au.start(self.engine.au_size), page, Claim::Live { volume: self.id, au }).await;
        read.map_err(|e| io_error(no, e))
    }

    /// The disk is written again: the map says of each leg there whether it misses something.
    async fn take_back(&self, no: DiskNo) -> Result<()> {
        let _gate = self.legs.close().await;
        if !self.legs.out.has(no) {
            return Ok(());
        }
        // What was bound without its copies there must stand before the return: after it a binding has all its copies.
        let _turn = self.turn.lock().await;
        loop {
            let page = self.ledger.bindings(super::flush::AUS_PER_PAGE);
            if page.is_empty() {
                break;
            }
            let appended = self.log()?.append(page.entries()).await;
            appended.inspect_err(|_| self.ledger.put_back_bindings(page))?.clear()?;
        }
        self.log()?.append(vec![Entry::Returned { disk: no }]).await?.clear()?;
        self.legs.returned(no);
        self.log()?.returned(no).await;
        tracing::warn!("volume {}: disk {no} answers again: what its copies missed is copied", self.id);
        Ok(())
    }
}
