//! Winning the pool: reading, claiming a generation, sealing the predecessors, waiting them out.
//!
//! ```text
//! gather labels -> byte locks -> view (newest label, quorum) -> watch heartbeats of foreign predecessors
//!   -> claim (own Clear SEAL and owner record, durable) -> seal every other generation (durable)
//!   -> wait one lease and a margin, unless all predecessors ran on this boot and their locks are free (on every disk: one
//!      that knows no locks, or is not here, proves nothing, so a predecessor of this boot is waited for as one of another host)
//!   -> read the owner table and the labels again: still mine, nothing newer -> read the log -> Takeover
//! ```
//! The order "seal, then read the labels again" meets the predecessor's "write labels, then read the SEAL": one of the
//! two sees the other. See the module doc of the store for the proof of each step.

use super::door::{Door, Who};
use super::group::{Entry, Group, failures};
use super::record::{LogRecord, unpack};
use super::replay::{Replay, replay};
use super::survey::{View, gather};
use super::{Candidate, Options, Takeover};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::any::Lock;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::label::Instance;
use fusevol_shared::format::layout::owner_at;
use fusevol_shared::format::owner::{OwnerRecord, OwnerState, Seal};
use fusevol_shared::ids::{Generation, Seq};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::PAGE;
use std::collections::BTreeMap;
use std::time::Duration;

/// Tries to win before giving up: each is lost only to a change that somebody else made meanwhile.
const ATTEMPTS: u32 = 4;
/// The lease of a predecessor whose owner record cannot be read.
const LEASE_UNKNOWN: Duration = Duration::from_secs(10);

/// What one attempt came to.
enum Attempt {
    Won(Box<Won>),
    /// The labels moved, or a rival claimed at the same time: again.
    Again,
}

/// A generation that was won, and whom from.
pub(super) struct Won {
    pub view: View,
    pub generation: Generation,
    /// Byte locks speak for the managers of this boot: every disk is here and knows them.
    pub locked: bool,
    /// Predecessors whose last I/O may still land.
    pub undrained: Vec<OwnerRecord>,
    /// The owner table at the end.
    pub table: Vec<Entry>,
    pub lease: Duration,
    pub replay: Replay,
}

/// Wins the pool that these disks carry, and reads its catalog. The records rebuild the state: fold them, then
/// [`Takeover::start`].
///
/// # Errors
/// `NotFound`: no pool there. `Busy`: a manager lives, or another one is starting. `Refused`: too few catalog disks, or
/// disks that contradict each other. `Damaged`: the catalog cannot be read. `Io`.
pub async fn open<D, W, R>(candidates: Vec<Candidate<D>>, who: Who, door: W, options: &Options) -> Result<(Takeover<D, W>, Vec<R>)>
where
    D: Disk,
    W: Door<D>,
    R: LogRecord,
{
    let known = candidates.len();
    let (pool, members, mut warnings) = gather(candidates, options.pool).await?;
    let whole = options.whole && members.len() == known;
    let mut group = Group { pool, members, door, limit: options.limit };
    let locked = lock(&group).await? && whole || !holds(Tag::K1);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            group.read_labels().await?;
        }
        if let Attempt::Won(won) = group.attempt(&who, options, locked).await? {
            let mut records = Vec::new();
            won.replay.units.iter().try_for_each(|u| unpack::<R>(u, &mut records))?;
            warnings.extend(won.replay.warnings.iter().cloned());
            let gone = won.view.missing.iter();
            warnings.extend(gone.map(|c| format!("disk {} ({}) holds a copy of the catalog and is not here", c.no, c.disk)));
            return Ok((Takeover { group, who, won: *won, warnings, force: options.force }, records));
        }
    }
    Err(Error::new(Kind::Busy, "another manager is starting on this pool at the same time").hint("try again"))
}

/// Takes the manager's lock on every disk; whether all of them know locks.
async fn lock<D: Disk, W: Door<D>>(group: &Group<D, W>) -> Result<bool> {
    let mut all = true;
    for m in &group.members {
        let lock = group.door.try_lock(&m.disk)?;
        all &= lock != Lock::Absent;
        if lock == Lock::Held {
            let table = group.table(&group.well()).await;
            let owner = table.into_iter().filter_map(|e| e.owner).max_by_key(|o| o.generation);
            let who = owner.map_or_else(String::new, |o| format!(": {}, process {}", o.host, o.pid));
            return Err(Error::new(Kind::Busy, format!("another manager serves this pool{who}"))
                .hint("one manager serves a pool; end that one first, or talk to it"));
        }
    }
    Ok(all)
}

/// The owner records that matter to `me`, newest first: back to the newest that has ever served, which had waited for all
/// before it.
pub(super) fn predecessors(table: &[Entry], me: Instance) -> Vec<OwnerRecord> {
    let mut newest: BTreeMap<(Generation, Instance), OwnerRecord> = BTreeMap::new();
    for o in table.iter().filter_map(|e| e.owner.as_ref()).filter(|o| o.instance != me) {
        let seen = newest.entry((o.generation, o.instance)).or_insert_with(|| o.clone());
        // Of one manager, the copy that says the most: later heartbeat, later state.
        if (o.beat, o.state as u8) > (seen.beat, seen.state as u8) {
            *seen = o.clone();
        }
    }
    let served = newest.values().filter(|o| o.state != OwnerState::Claiming).map(|o| o.generation).max();
    newest.into_values().rev().filter(|o| served.is_none_or(|s| o.generation >= s)).collect()
}

fn alive(o: &OwnerRecord) -> Error {
    Error::new(Kind::Busy, format!("another manager serves this pool: {}, process {} (generation {})", o.host, o.pid, o.generation))
        .hint("one manager serves a pool; end that one first, or talk to it")
}

impl<D: Disk, W: Door<D>> Group<D, W> {
    async fn attempt(&mut self, who: &Who, options: &Options, locked: bool) -> Result<Attempt> {
        let all = self.well();
        let table = self.table(&all).await;
        let view = self.view(&table)?;
        view.enough(options.force)?;
        let before = predecessors(&table, who.instance);
        // Only on this very boot do the byte locks, which are ours now, speak for all others; and only where every disk knows them: what
        // was sent to a disk without them may land after its sender's death.
        let proven = |o: &OwnerRecord| locked && o.boot == who.boot;
        let undrained: Vec<OwnerRecord> = before.iter().filter(|o| !proven(o) && o.state != OwnerState::Ended).cloned().collect();
        let at_once = !before.is_empty() && before.iter().all(proven);
        if !undrained.is_empty() {
            self.watch(&all, &before, who, options.watch).await?;
        }
        let lease = before.iter().map(|o| o.lease).max().unwrap_or(LEASE_UNKNOWN);
        let generation = next_generation(&table, &view);
        self.claim(&view, who, generation, lease, options.force).await?;
        self.seal_others(&view, &table, generation, options.force).await?;
        if !at_once {
            self.door.sleep(lease.saturating_add(options.margin)).await;
        }
        let table = self.table(&self.well()).await;
        if !self.still_mine(&view, &table, who, generation)? {
            return Ok(Attempt::Again);
        }
        self.read_labels().await?;
        let now = self.view(&table)?;
        if now.newest.generation >= generation {
            return Err(Error::new(Kind::Busy, format!("another manager has taken generation {}", now.newest.generation)));
        }
        if now != view {
            return Ok(Attempt::Again);
        }
        let replay = replay(self, &now.present, &now.newest).await?;
        Ok(Attempt::Won(Box::new(Won { view: now, generation, locked, undrained, table, lease, replay })))
    }

    /// Refuses where a predecessor moves for which no lock speaks.
    async fn watch(&self, all: &[usize], before: &[OwnerRecord], who: &Who, time: Duration) -> Result<()> {
        self.door.sleep(time).await;
        let later = predecessors(&self.table(all).await, who.instance);
        match later.iter().find(|o| o.state != OwnerState::Ended && !before.contains(o)) {
            Some(moved) => Err(alive(moved)),
            None => Ok(()),
        }
    }

    /// Writes the own entry on every present copy: SEAL and owner record, durable.
    async fn claim(&mut self, view: &View, who: &Who, generation: Generation, lease: Duration, force: bool) -> Result<()> {
        let owner = OwnerRecord {
            generation,
            instance: who.instance,
            boot: who.boot,
            host: who.host.clone(),
            pid: who.pid,
            state: OwnerState::Claiming,
            area: view.newest.pointer.area,
            lease,
            beat: Seq(1),
        };
        let seal = Seal { generation, instance: who.instance, by: None };
        let pool = self.pool;
        let results = self
            .each(&view.present, |m| {
                let mut entry = owner.encode(pool, m.label.disk);
                entry.extend(seal.encode(pool, m.label.disk));
                debug_assert_eq!(entry.len(), 2 * PAGE);
                async move { m.put(owner_at(generation), &entry).await }
            })
            .await;
        self.lose(failures(results).into_iter().map(|(i, e)| (i, e.to_string())));
        self.quorate(view, force)
    }

    /// Seals every other generation of which a trace is left, on every present copy, durable.
    async fn seal_others(&mut self, view: &View, table: &[Entry], generation: Generation, force: bool) -> Result<()> {
        let owners = table.iter().filter_map(|e| e.owner.as_ref()).map(|o| (o.generation, o.instance));
        let seals = table.iter().filter_map(|e| e.seal.as_ref()).map(|s| (s.generation, s.instance));
        let mut others: BTreeMap<Generation, Instance> = BTreeMap::from([(view.newest.generation, view.newest.writer)]);
        others.extend(owners.chain(seals));
        others.retain(|g, _| owner_at(*g) != owner_at(generation));
        for (of, instance) in others {
            let seal = Seal { generation: of, instance, by: Some(generation) };
            let pool = self.pool;
            let at = owner_at(of).plus(PAGE as u64);
            let results = self
                .each(&view.present, |m| {
                    let page = seal.encode(pool, m.label.disk);
                    async move { m.put(at, &page).await }
                })
                .await;
            self.lose(failures(results).into_iter().map(|(i, e)| (i, e.to_string())));
        }
        self.quorate(view, force)
    }

    /// Whether the claim stands on every copy that is well; `false` if a rival's and ours are mixed and ours is to try
    /// again.
    fn still_mine(&self, view: &View, table: &[Entry], who: &Who, generation: Generation) -> Result<bool> {
        let (mut mine, mut rival) = (0, None::<&OwnerRecord>);
        for e in table {
            let Some(o) = &e.owner else { continue };
            if o.generation > generation {
                return Err(alive(o));
            }
            if o.generation == generation && view.present.contains(&e.disk) {
                let clear = e.seal.is_some_and(|s| s.is_clear_for(generation, who.instance));
                match o.instance == who.instance && clear {
                    true => mine += 1,
                    false if o.instance == who.instance => {}
                    false => rival = Some(o),
                }
            }
        }
        match rival {
            None => Ok(mine == view.present.iter().filter(|i| self.members[**i].well).count()),
            // Nobody has a majority for certain: the greater instance goes on, under a new generation.
            Some(r) if mine > 0 && who.instance > r.instance => Ok(false),
            Some(r) => Err(alive(r)),
        }
    }

    pub(super) fn lose(&mut self, failed: impl Iterator<Item = (usize, String)>) {
        for (i, _) in failed {
            self.members[i].well = false;
        }
    }

    fn quorate(&self, view: &View, force: bool) -> Result<()> {
        let well = View { present: view.present.iter().copied().filter(|i| self.members[*i].well).collect(), ..view.clone() };
        well.enough(force).map_err(|e| e.within("a catalog disk failed while the pool was taken over"))
    }
}

/// Above every generation of which a trace is left.
fn next_generation(table: &[Entry], view: &View) -> Generation {
    let seen =
        table.iter().flat_map(|e| [e.owner.as_ref().map(|o| o.generation), e.seal.map(|s| s.generation.max(s.by.unwrap_or_default()))]);
    Generation(seen.flatten().max().unwrap_or_default().max(view.newest.generation).0 + 1)
}
