//! Some AUs from claimed to clean: copied beside each other, their new copies flushed together, said by one append.
//!
//! What is copied is what the volume or a snapshot reads there: the written blocks as the writer has them, and those that are not preserved yet.
//! A copy that was there before is compared first, and only what differs is written.

use super::Copying;
use super::task::{Need, Task};
use crate::control::Control;
use crate::disks::io_error;
use crate::path::lives::Stamp;
use crate::volume::Volume;
use crate::volume::guard::Locked;
use crate::volume::view::{Slot, malformed};
use fusevol_shared::change::{Entry, Placed, Places};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{BLOCKS_PER_AU, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::data::Claim;
use fusevol_shared::wire::messages::RecoveryOrders;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// AUs that are remembered as unreadable.
const HOLES: usize = 4096;

/// An AU that is claimed.
struct Claimed<'a> {
    task: Task,
    /// For its new copies, and what they are apart from.
    places: Vec<(Vec<DiskNo>, DiskAu)>,
    /// Nobody writes in it. (None where a test has switched that off.)
    _held: Option<Locked<'a>>,
}

impl Claimed<'_> {
    fn targets(&self) -> impl Iterator<Item = DiskAu> + '_ {
        self.task.stale.iter().copied().chain(self.places.iter().map(|(_, at)| *at))
    }
}

/// The disks that were written, each with the moment of its oldest write.
type Unflushed = Mutex<BTreeMap<DiskNo, Stamp>>;

/// How a piece is brought to a target.
#[derive(Clone, Copy)]
struct How<'a> {
    /// Something is there already.
    compare: bool,
    unflushed: &'a Unflushed,
}

/// Why an AU was not copied.
enum Failed {
    /// Of no copy could all be read.
    Source(Error),
    /// A copy could not be written.
    Target(DiskNo, Error),
    /// The session is over, or the like.
    Other(Error),
}

impl Copying {
    fn hole(&self, au: VolAu, why: &Error) {
        let mut holes = self.holes();
        if holes.len() < HOLES && holes.insert(au) {
            tracing::error!("AU {au} cannot be copied, no copy of it can be read: {why}");
        }
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Claims these AUs, copies what they lack, flushes, says so. Those in which somebody writes just now are left for later.
    pub(super) async fn copy_claimed(&self, tasks: Vec<Task>, orders: &RecoveryOrders) -> Result<()> {
        let mut claimed = Vec::new();
        for task in tasks {
            // Places are had before anything waits for us.
            let places = match self.new_places(&task).await {
                Ok(places) => places,
                // Others may have room, or need none.
                Err(e) if e.kind() == Kind::NoSpace => {
                    self.copying.say("no other disk has room for copies: add a disk, or free space");
                    continue;
                }
                Err(e) => return Err(e),
            };
            match self.claim(task.au, claimed.is_empty()).await? {
                Some(held) if self.still_needs(&task, orders) => claimed.push(Claimed { task, places, _held: held }),
                _ => self.put_back(places).await,
            }
        }
        let unflushed = Unflushed::default();
        let results = join_all(claimed.iter().map(|c| self.copy_au(c, &unflushed))).await;
        let (mut good, mut failed) = (Vec::new(), Vec::new());
        for (c, result) in claimed.into_iter().zip(results) {
            match result {
                Ok(()) => good.push(c),
                Err(e) => failed.push((c.task.au, e)),
            }
        }
        match self.flush_copies(unflushed).await {
            Ok(()) => self.say_placed(&good).await?,
            Err(e) => failed.extend(good.first().map(|c| (c.task.au, e))),
        }
        drop(good);
        for (au, failed) in failed {
            self.copy_failed(au, failed).await?;
        }
        Ok(())
    }

    /// The range guard of an AU: waited for, or only if it is to be had at once.
    async fn claim(&self, au: VolAu, wait: bool) -> Result<Option<Option<Locked<'_>>>> {
        let first = u64::from(au.0) * u64::from(BLOCKS_PER_AU);
        let blocks = first..first + u64::from(BLOCKS_PER_AU);
        if !sentence::holds(Tag::B1) {
            return Ok(Some(None));
        }
        match wait {
            true => self.guard.lock(blocks).await.map(|held| Some(Some(held))),
            false => Ok(self.guard.try_lock(blocks).map(Some)),
        }
    }

    fn still_needs(&self, task: &Task, orders: &RecoveryOrders) -> bool {
        if self.is_closed() || self.late.touches(task.au.0..task.au.0 + 1) {
            return false;
        }
        let now = self.view.get(task.au).map(|slot| Task::of(task.au, &slot, &self.legs.out.disks(), orders));
        now == Some(Need::Copies(task.clone()))
    }

    /// One more place for each copy that is missing, each apart from all others. Fewer, where there is no room for all.
    async fn new_places(&self, task: &Task) -> Result<Vec<(Vec<DiskNo>, DiskAu)>> {
        let mut places: Vec<(Vec<DiskNo>, DiskAu)> = Vec::new();
        for _ in 0..task.more {
            let others: BTreeSet<DiskNo> = task.disks().into_iter().chain(places.iter().map(|(_, at)| at.disk)).collect();
            let from: Vec<DiskNo> = others.into_iter().collect();
            match self.place_apart_from(&from).await {
                Ok(at) => places.push((from, at)),
                Err(e) if e.kind() == Kind::NoSpace && (!places.is_empty() || !task.stale.is_empty()) => break,
                Err(e) => {
                    self.put_back(places).await;
                    return Err(e);
                }
            }
        }
        Ok(places)
    }

    async fn put_back(&self, places: Vec<(Vec<DiskNo>, DiskAu)>) {
        for (from, at) in places {
            self.put_back_apart(&from, at).await;
        }
    }

    async fn copy_au(&self, c: &Claimed<'_>, unflushed: &Unflushed) -> std::result::Result<(), Failed> {
        let au = c.task.au;
        let Some(slot) = self.view.get(au) else { return Ok(()) };
        self.engine.lease.wait().await.map_err(Failed::Other)?;
        for run in slot.written().or(slot.need()).runs() {
            let mut first = run.start;
            while first < run.end {
                let turn = self.copying.pace.turn(|| self.engine.lease.now()).await;
                let most = u32::try_from((turn.most / self.block_size()).max(1)).expect("few blocks");
                let end = run.end.min(first + most);
                self.copy_blocks(c, &slot, first..end, unflushed).await?;
                let rest = turn.rest(self.engine.lease.now());
                if rest > Duration::ZERO {
                    self.engine.control.sleep(rest).await;
                }
                first = end;
            }
        }
        self.engine.lease.wait().await.map_err(Failed::Other)
    }

    async fn copy_blocks(
        &self,
        c: &Claimed<'_>,
        slot: &Slot<'_>,
        blocks: Range<u32>,
        unflushed: &Unflushed,
    ) -> std::result::Result<(), Failed> {
        let (au, block) = (c.task.au, self.block_size());
        let within = u64::from(blocks.start) * block..u64::from(blocks.end) * block;
        let data = self.read_copies(au, slot, BlockMask::ALL, within.clone()).await.map_err(Failed::Source)?.freeze();
        let writes = c.targets().map(|at| {
            let how = How { compare: c.task.stale.contains(&at), unflushed };
            self.copy_to_target(au, at, within.start, &data, how)
        });
        join_all(writes).await.into_iter().collect()
    }

    /// Brings `data` to byte `off` of the AU at `at`; what is there already is not written again.
    async fn copy_to_target(&self, au: VolAu, at: DiskAu, off: u64, data: &IoBytes, how: How<'_>) -> std::result::Result<(), Failed> {
        let How { compare, unflushed } = how;
        let claim = Claim::Live { volume: self.id, au };
        let place = at.au.start(self.engine.au_size).plus(off);
        let disk = self.engine.disks.get(at.disk).map_err(|e| Failed::Target(at.disk, e))?;
        if compare {
            let looked = disk.path().lives().now();
            let (read, is) = disk.read(place, IoBuf::zeroed(data.len()), claim).await;
            // A bad sector is written anew.
            if read.is_ok() && is[..] == data[..] {
                // What is there may never have been flushed.
                unflushed.lock().unwrap_or_else(PoisonError::into_inner).entry(at.disk).or_insert(looked);
                self.copying.equal.fetch_add(data.len() as u64, Ordering::Relaxed);
                return Ok(());
            }
        }
        let done = disk.write(place, data.clone(), claim).await;
        self.copying.copied.fetch_add(data.len() as u64, Ordering::Relaxed);
        if let Some(submitted) = done.map_err(|e| Failed::Target(at.disk, io_error(at.disk, e)))? {
            self.dirty.mark(at.disk, submitted);
            unflushed.lock().unwrap_or_else(PoisonError::into_inner).entry(at.disk).or_insert(submitted);
        }
        Ok(())
    }

    async fn flush_copies(&self, unflushed: Unflushed) -> std::result::Result<(), Failed> {
        let disks = unflushed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let flushes = disks.into_iter().map(|(no, since)| async move {
            let disk = self.engine.disks.get(no).map_err(|e| Failed::Target(no, e))?;
            disk.flush(since, self.id).await.map_err(|e| Failed::Target(no, io_error(no, e)))
        });
        join_all(flushes).await.into_iter().collect()
    }

    /// The copies count from now on, and are written with the others.
    async fn say_placed(&self, good: &[Claimed<'_>]) -> Result<()> {
        if good.is_empty() {
            return Ok(());
        }
        self.engine.lease.wait().await?;
        let named = self.has_snapshots.load(Ordering::SeqCst);
        let _gate = self.legs.gate().await;
        // A disk that was lost meanwhile has missed what was written since: the next look sees to it.
        let good = good.iter().filter(|c| c.targets().all(|at| !self.legs.out.has(at.disk)));
        let new: Vec<(VolAu, Vec<DiskAu>)> =
            good.map(|c| (c.task.au, c.task.keep.iter().copied().chain(c.places.iter().map(|(_, at)| *at)).collect())).collect();
        let _turn = self.turn.lock().await;
        let mut entries: Vec<Entry> = new.iter().flat_map(|(au, _)| self.ledger.moved(*au)).collect();
        let placed = |(au, legs): &(VolAu, Vec<DiskAu>)| Placed { first: *au, places: Places { legs: legs.clone(), count: 1 }, named };
        entries.push(Entry::Placed { runs: new.iter().map(placed).collect() });
        // What the journal is told of is not in doubt: where the append fails, it may count all the same.
        self.log()?.append(entries).await.inspect_err(|_| self.poison())?.clear()?;
        for (au, legs) in &new {
            self.set_legs(*au, legs, named)?;
        }
        self.view.drain(new.iter().map(|(au, _)| *au)).await;
        Ok(())
    }

    /// The AU has these legs from now on; all else of it stays. The caller holds its guard.
    fn set_legs(&self, au: VolAu, legs: &[DiskAu], named: bool) -> Result<()> {
        let Some(slot) = self.view.get(au) else { return Ok(()) };
        let (need, fresh, changed) = (slot.need(), slot.is_fresh(), slot.take_changed());
        let entry = slot.entry().and_then(|e| e.placed(legs, named)).ok_or_else(malformed)?;
        match fresh {
            true => self.view.set_fresh(au, &entry),
            false => self.view.set(au, &entry),
        }
        if let Some(slot) = self.view.get(au) {
            slot.add_need(need);
            slot.add_changed(changed);
        }
        Ok(())
    }

    async fn copy_failed(&self, au: VolAu, failed: Failed) -> Result<()> {
        match failed {
            Failed::Source(e) => self.copying.hole(au, &e),
            Failed::Target(no, e) => self.lose_leg(no, &format!("a copy could not be written: {e}")).await?,
            Failed::Other(e) => return Err(e),
        }
        Ok(())
    }
}
