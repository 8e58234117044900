//! The store that serves: commits, area switches, dropped copies, heartbeats.
//!
//! ```text
//! commit:  append to every copy -> flush each -> (drop the copies that failed) -> read the own SEAL on each -> answer
//! switch:  owner record names the area -> checkpoint on every copy, flushed -> labels, copy after copy, SEAL before each
//! drop:    labels with the smaller set on all disks that are left, SEAL before each copy and at the end
//! ```
//! After any error the store is over: what memory holds is ahead of the disks, and only a new manager may go on.

use super::Log;
use super::area::{Area, Piece};
use super::door::{Door, Who};
use super::group::{Group, Sealed, failures};
use super::record::{LogRecord, pack, pack_pieces};
use super::replay::UNIT_BLOCKS;
use super::survey::quorum;
use fusevol_shared::disk::{Disk, DiskError};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::catalog::{Role, blocks_for};
use fusevol_shared::format::label::{CATALOG_COPIES_MAX, CatalogCopy, CatalogPointer, DiskLabel, Quarantine};
use fusevol_shared::format::layout::{AREAS, owner_at};
use fusevol_shared::format::owner::{OwnerRecord, OwnerState, Seal};
use fusevol_shared::ids::{Generation, Seq};
use std::time::Duration;

/// Failed copies are dropped one after the other; more rounds than copies there are never.
const ROUNDS: usize = CATALOG_COPIES_MAX + 1;

/// The catalog log of a pool that this process serves.
pub struct Store<D, W> {
    pub(super) group: Group<D, W>,
    /// Indices of the disks that hold the catalog.
    pub(super) set: Vec<usize>,
    pub(super) who: Who,
    pub(super) generation: Generation,
    pub(super) lease: Duration,
    pub(super) state: OwnerState,
    pub(super) beat: Seq,
    /// Of the newest label.
    pub(super) label_seq: Seq,
    pub(super) quarantine: [Option<Quarantine>; AREAS as usize],
    pub(super) area: Area,
    /// A disk is there that could hold a further copy.
    pub(super) grow: bool,
    /// The last checkpoint that was to be written fits no area.
    pub(super) outgrown: bool,
    pub(super) warnings: Vec<String>,
    pub(super) over: bool,
}

/// How full the catalog is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Pages of an area.
    pub pages: u64,
    /// Pages of its last checkpoint.
    pub checkpoint: u64,
    /// Pages in use, the checkpoint included.
    pub used: u64,
    /// The last try to move to another area failed: the state is too large for one.
    pub outgrown: bool,
}

impl Room {
    /// Whether what makes the catalog larger should be refused: the last checkpoint takes three quarters of an area, or the next one
    /// would not fit in one. Then the reserve takes what makes it smaller, until it fits again.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.outgrown || self.checkpoint > self.pages / 4 * 3
    }
}

impl<D: Disk, W: Door<D>> Store<D, W> {
    /// The generation under which this manager serves.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The labels of the pool's disks, with the paths under which they were found.
    pub fn disks(&self) -> impl Iterator<Item = (&DiskLabel, &str)> {
        self.group.members.iter().map(|m| (&m.label, m.path.as_str()))
    }

    /// The disks that hold a copy of the catalog.
    #[must_use]
    pub fn copies(&self) -> Vec<CatalogCopy> {
        self.set.iter().map(|i| &self.group.members[*i].label).map(|l| CatalogCopy { disk: l.disk, no: l.no }).collect()
    }

    /// What is to be said to the administrator since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// How full the catalog is.
    #[must_use]
    pub fn room(&self) -> Room {
        Room { pages: self.area.pages, checkpoint: self.area.checkpoint, used: self.area.next, outgrown: self.outgrown }
    }

    /// The lease under which the manager serves from now on; its owner record says it at the next heartbeat.
    pub fn set_lease(&mut self, lease: Duration) {
        self.lease = lease;
    }

    /// Makes `records` durable on every copy, all or none of them. `checkpoint` gives records that rebuild the state *with
    /// `records` applied*; it is asked where the log has to move to another area, and then stands for them.
    ///
    /// # Errors
    /// Any error ends the store: `Lapsed` (another manager has taken over), `Io` (too few copies left), `NoSpace` (the
    /// catalog fits no area any more), `Internal`. Whether the records are durable is then for the next manager to see.
    pub async fn commit<R: LogRecord>(&mut self, records: &[R], checkpoint: impl FnOnce() -> Vec<R>) -> Result<()> {
        self.alive()?;
        let done = self.try_commit(records, checkpoint).await;
        self.over |= done.is_err();
        done
    }

    /// Reads the own SEAL: nothing is to be answered on behalf of the pool unless it is clear.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn check(&mut self) -> Result<()> {
        self.alive()?;
        let done = self.settle().await;
        self.over |= done.is_err();
        done
    }

    /// Shows other hosts that this manager lives, and reads its SEAL.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn heartbeat(&mut self) -> Result<()> {
        self.alive()?;
        let failed = self.write_owner(self.area.no, false).await;
        self.warnings.extend(failed.iter().map(|(_, e)| format!("a heartbeat failed: {e}")));
        self.check().await
    }

    /// Gives the pool back: the next manager on this host need not wait. To be called when nothing is in flight any more.
    ///
    /// # Errors
    /// `Io` or `Lapsed`; the store is over in any case.
    pub async fn close(mut self) -> Result<()> {
        self.check().await?;
        self.state = OwnerState::Ended;
        match self.write_owner(self.area.no, true).await.into_iter().next() {
            Some((_, e)) => Err(Error::new(Kind::Io, "the end of this manager is not recorded").because(e)),
            None => Ok(()),
        }
    }

    fn alive(&self) -> Result<()> {
        match self.over {
            true => Err(Error::new(Kind::Lapsed, "this manager has ended after an error of its catalog")),
            false => Ok(()),
        }
    }

    async fn try_commit<R: LogRecord>(&mut self, records: &[R], checkpoint: impl FnOnce() -> Vec<R>) -> Result<()> {
        let bytes = pack(records)?;
        let blocks = blocks_for(bytes.len()) as u64;
        let loggable = blocks <= UNIT_BLOCKS;
        if self.grow || !loggable || !self.area.fits(blocks) {
            match self.switch(&pack_pieces(&checkpoint())?).await {
                Err(e) if e.kind() == Kind::NoSpace && loggable && self.area.fits_in_reserve(blocks) => self.outgrown = true,
                done => {
                    self.outgrown &= done.is_err();
                    return done;
                }
            }
        }
        let piece = Piece { role: Role::Transaction, bytes: &bytes };
        let failed = self.append(&self.set, &self.area, piece).await;
        let failed = match failed.is_empty() {
            true => failures(self.group.each(&self.set, |m| m.disk.flush()).await),
            false => {
                let rest: Vec<usize> = self.set.iter().copied().filter(|i| failed.iter().all(|(f, _)| f != i)).collect();
                let flushed = failures(self.group.each(&rest, |m| m.disk.flush()).await);
                failed.into_iter().chain(flushed).collect()
            }
        };
        self.area.advance(blocks);
        self.drop_copies(failed).await?;
        self.settle().await
    }

    /// Reads the SEAL on every copy until all that are left are clear.
    async fn settle(&mut self) -> Result<()> {
        for _ in 0..ROUNDS {
            match self.group.sealed(&self.set, self.generation, self.who.instance).await {
                Sealed::Clear => return Ok(()),
                Sealed::Over(e) => return Err(e),
                Sealed::Unread(some) => {
                    let failed = some.into_iter().map(|i| (i, DiskError::answered(libc::EIO, "the SEAL cannot be read")));
                    self.drop_copies(failed.collect()).await?;
                }
            }
        }
        Err(Error::new(Kind::Io, "the copies of the catalog fail one after the other"))
    }

    /// Writes one unit to these copies; not durable yet.
    pub(super) async fn append(&self, which: &[usize], area: &Area, piece: Piece<'_>) -> Vec<(usize, DiskError)> {
        failures(
            self.group
                .each(which, |m| {
                    let (at, bytes) = area.lay_out(&m.label, self.generation, self.who.instance, piece);
                    m.write(at, bytes)
                })
                .await,
        )
    }

    fn owner(&self, area: u8) -> OwnerRecord {
        OwnerRecord {
            generation: self.generation,
            instance: self.who.instance,
            boot: self.who.boot,
            host: self.who.host.clone(),
            pid: self.who.pid,
            state: self.state,
            area,
            lease: self.lease,
            beat: self.beat,
        }
    }

    /// Writes the own entry, owner record and clear SEAL, to disks that hold no copy yet and are to take one.
    pub(super) async fn enter(&self, which: &[usize], area: u8) -> Vec<(usize, DiskError)> {
        let (owner, pool, at) = (self.owner(area), self.group.pool, owner_at(self.generation));
        let seal = Seal { generation: self.generation, instance: self.who.instance, by: None };
        let results = self
            .group
            .each(which, |m| {
                let mut entry = owner.encode(pool, m.label.disk);
                entry.extend(seal.encode(pool, m.label.disk));
                async move { m.put(at, &entry).await }
            })
            .await;
        failures(results)
    }

    /// Writes the owner record to every copy.
    pub(super) async fn write_owner(&mut self, area: u8, durable: bool) -> Vec<(usize, DiskError)> {
        self.beat = self.beat.next();
        let owner = self.owner(area);
        let (pool, at) = (self.group.pool, owner_at(self.generation));
        let results = self
            .group
            .each(&self.set, |m| {
                let page = owner.encode(pool, m.label.disk);
                async move {
                    match durable {
                        true => m.put(at, &page).await,
                        false => m.write(at, fusevol_shared::disk::buf::IoBuf::copy_of(&page).freeze()).await,
                    }
                }
            })
            .await;
        failures(results)
    }

    /// What all labels say now.
    pub(super) fn model(&self) -> DiskLabel {
        let any = &self.group.members[self.set[0]].label;
        DiskLabel {
            generation: self.generation,
            writer: self.who.instance,
            seq: self.label_seq,
            set: self.copies(),
            pointer: CatalogPointer { area: self.area.no, first_seq: self.area.first_seq, quarantine: self.quarantine },
            ..any.clone()
        }
    }

    /// Writes the labels of all disks that are well. Gives the failed copies of the catalog; other disks are only named.
    pub(super) async fn publish(&mut self) -> Result<Vec<(usize, DiskError)>> {
        self.label_seq = self.label_seq.next();
        let (model, all) = (self.model(), self.group.well());
        let failed = self.group.publish(&all, &self.set, &model).await?;
        let (copies, others): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(i, _)| self.set.contains(i));
        let names = others.iter().map(|(i, e)| format!("the label of {} could not be written: {e}", self.group.members[*i].name()));
        self.warnings.extend(names);
        Ok(copies)
    }

    /// Leaves these copies out of the set: recorded on all that are left before anything else happens.
    pub(super) async fn drop_copies(&mut self, failed: Vec<(usize, DiskError)>) -> Result<()> {
        let left = self.without(&failed)?;
        if left.len() == self.set.len() {
            return Ok(());
        }
        self.set = left;
        if let Some((_, e)) = self.publish().await?.into_iter().next() {
            return Err(Error::new(Kind::Io, "a second copy of the catalog failed").because(e));
        }
        match self.group.sealed(&self.set, self.generation, self.who.instance).await {
            Sealed::Clear => Ok(()),
            Sealed::Over(e) => Err(e),
            Sealed::Unread(_) => Err(Error::new(Kind::Io, "a second copy of the catalog failed")),
        }
    }

    /// The set without these; names them.
    fn without(&mut self, failed: &[(usize, DiskError)]) -> Result<Vec<usize>> {
        let left: Vec<usize> = self.set.iter().copied().filter(|i| failed.iter().all(|(f, _)| f != i)).collect();
        for (i, e) in failed {
            let m = &mut self.group.members[*i];
            if m.well || self.set.contains(i) {
                m.well = false;
                self.warnings.push(format!("the catalog copy on {} is given up: {e}", m.name()));
            }
        }
        // Of three, two suffice to go on, of two, one: more than one at a time could not be told from a split.
        if left.is_empty() || left.len() + 1 < self.set.len() {
            let why = failed.first().map_or_else(String::new, |(_, e)| format!(": {e}"));
            return Err(Error::new(
                Kind::Io,
                format!("{} of {} copies of the catalog failed{why}", self.set.len() - left.len(), self.set.len()),
            ));
        }
        Ok(left)
    }

    /// Moves to the next free area with this checkpoint, on the copies there are and, where there is room in the set, one more.
    pub(super) async fn switch(&mut self, pieces: &[Vec<u8>]) -> Result<()> {
        let old = self.set.clone();
        let further = self.further();
        let mut wider: Vec<usize> = self.set.iter().copied().chain(further).collect();
        let no = self.next_area()?;
        let pages = self.group.area_pages(&wider);
        let mut area = Area::fresh(no, self.area.next_seq(), self.area.unit, pages);
        area.check_fits(pieces)?;
        let failed = self.write_owner(no, true).await;
        self.drop_copies(failed).await?;
        wider.retain(|i| self.group.members[*i].well);
        let mut failed = self.enter(further.as_slice(), no).await;
        failed.extend(self.lay_down(&wider, &mut area, pieces).await);
        self.drop_copies(failed).await?;
        self.set = wider.into_iter().filter(|i| self.group.members[*i].well).collect();
        self.area = area;
        self.grow = self.further().is_some();
        self.move_labels(&old, old.len()).await
    }

    /// Writes labels that name the new area and set. `old` are those present of a set of `recorded` disks that this replaces:
    /// so many of them must be told that any quorum of that set holds one that was. Nothing more is written where they are
    /// not: a smaller set yet, told to the rest, could start beside a quorum that knows nothing of it.
    pub(super) async fn move_labels(&mut self, old: &[usize], recorded: usize) -> Result<()> {
        let failed = self.publish().await?;
        let told = old.iter().filter(|i| self.group.members[**i].well).count();
        if told + quorum(recorded) <= recorded {
            return Err(Error::new(Kind::Io, "too few of the catalog disks could be told of the change"));
        }
        self.drop_copies(failed).await?;
        self.settle().await
    }

    /// Writes a checkpoint to these copies, durable. Gives those that failed.
    pub(super) async fn lay_down(&self, which: &[usize], area: &mut Area, pieces: &[Vec<u8>]) -> Vec<(usize, DiskError)> {
        let mut failed: Vec<(usize, DiskError)> = Vec::new();
        for (i, bytes) in pieces.iter().enumerate() {
            let left: Vec<usize> = which.iter().copied().filter(|i| failed.iter().all(|(f, _)| f != i)).collect();
            let role = if i + 1 == pieces.len() { Role::LastPiece } else { Role::Piece };
            failed.extend(self.append(&left, area, Piece { role, bytes }).await);
            area.advance(blocks_for(bytes.len()) as u64);
        }
        area.checkpoint = area.next;
        let left: Vec<usize> = which.iter().copied().filter(|i| failed.iter().all(|(f, _)| f != i)).collect();
        failed.extend(failures(self.group.each(&left, |m| m.disk.flush()).await));
        failed
    }

    /// A disk that could take a further copy, where there is room for one. A set grows by one at a time: so each quorum of
    /// the new one shares a disk with each of the old one.
    pub(super) fn further(&self) -> Option<usize> {
        let room = self.set.len() < CATALOG_COPIES_MAX;
        self.group.well().into_iter().find(|i| room && !self.set.contains(i))
    }

    /// The next area, round and round, that nobody else may write.
    pub(super) fn next_area(&self) -> Result<u8> {
        (1..AREAS).map(|n| (self.area.no + n) % AREAS).find(|a| self.quarantine[usize::from(*a)].is_none()).ok_or_else(|| {
            Error::new(Kind::Refused, "every catalog area may still be written by a manager of the past, on another host or over NBD")
                .hint("make sure that those hosts are down or rebooted, or that the NBD server has been started anew, then start once with --force")
        })
    }
}

impl<D: Disk, W: Door<D>, R: LogRecord> Log<R> for Store<D, W> {
    fn commit(&mut self, records: &[R], checkpoint: impl FnOnce() -> Vec<R>) -> impl Future<Output = Result<()>> {
        Store::commit(self, records, checkpoint)
    }
    fn check(&mut self) -> impl Future<Output = Result<()>> {
        Store::check(self)
    }
    fn heartbeat(&mut self) -> impl Future<Output = Result<()>> {
        Store::heartbeat(self)
    }
    fn generation(&self) -> Generation {
        self.generation
    }
}
