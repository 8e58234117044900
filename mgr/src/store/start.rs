//! From a won pool to a serving store: the checkpoint in an own area, the labels, the owner record.
//!
//! The new set is what is left of the recorded one; further disks take copies with the commits that follow, one at a time.
//! The labels are switched last: until they are, the predecessor's log is the catalog, and a crash leaves it so.

use super::area::Area;
use super::door::{Door, Who};
use super::group::Group;
use super::log::Store;
use super::open::Won;
use super::record::{LogRecord, pack_pieces};
use super::survey::quorum;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::label::{DiskLabel, Quarantine};
use fusevol_shared::format::layout::AREAS;
use fusevol_shared::format::owner::OwnerState;
use fusevol_shared::ids::{Generation, PoolId, Seq};

/// A pool that was won and does not serve yet.
pub struct Takeover<D, W> {
    pub(super) group: Group<D, W>,
    pub(super) who: Who,
    pub(super) won: Won,
    pub(super) warnings: Vec<String>,
    pub(super) force: bool,
}

impl<D: Disk, W: Door<D>> Takeover<D, W> {
    /// The generation that was won.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.won.generation
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        self.group.pool
    }

    /// Whether nothing that an earlier manager has sent may still land: each has ended in order, or its byte locks were free on this boot, on every disk
    /// (K1). An administrator's word does not say that much.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        !self.force && self.won.undrained.is_empty() && self.quarantine().iter().all(Option::is_none)
    }

    /// The labels of the pool's disks, with the paths under which they were found.
    pub fn disks(&self) -> impl Iterator<Item = (&DiskLabel, &str)> {
        self.group.members.iter().map(|m| (&m.label, m.path.as_str()))
    }

    /// Damaged and missing copies, labels that were not whole, and the like, as sentences.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Writes `checkpoint`, which rebuilds the state that the records of `open` gave, and serves from then on.
    ///
    /// # Errors
    /// `Lapsed` where another manager was quicker; `Refused` where no area is free; `NoSpace`, `Io`.
    pub async fn start<R: LogRecord>(self, checkpoint: &[R]) -> Result<Store<D, W>> {
        let quarantine = self.quarantine();
        let Takeover { group, who, won, warnings, force } = self;
        let old: Vec<usize> = won.view.present.clone();
        // By the administrator's word, nobody will start from the disks that are left behind.
        let recorded = if force { old.len() } else { won.view.newest.set.len() };
        let pointer = &won.view.newest.pointer;
        let largest = group.members.iter().map(|m| m.label.layout().area_pages()).max().unwrap_or(0);
        let mut store = Store {
            set: old.iter().copied().filter(|i| group.members[*i].well).collect(),
            who,
            generation: won.generation,
            lease: won.lease,
            state: OwnerState::Claiming,
            beat: Seq(1),
            label_seq: Seq(0),
            quarantine,
            area: Area::fresh(pointer.area, pointer.first_seq, won.replay.next_unit, largest),
            grow: false,
            outgrown: false,
            warnings,
            over: false,
            group,
        };
        let pieces = pack_pieces(checkpoint)?;
        let no = store.next_area()?;
        let mut area = Area::fresh(no, store.area.next_seq(), store.area.unit, store.group.area_pages(&store.set));
        area.check_fits(&pieces)?;
        // The record names the area before anything is written there: a successor that cannot prove this process drained
        // keeps away from it.
        let mut failed = store.write_owner(no, true).await;
        failed.extend(store.lay_down(&store.set, &mut area, &pieces).await);
        for (i, e) in failed {
            let m = &mut store.group.members[i];
            m.well = false;
            store.warnings.push(format!("{} takes no copy of the catalog: {e}", m.name()));
        }
        store.set.retain(|i| store.group.members[*i].well);
        let told = old.iter().filter(|i| store.group.members[**i].well).count();
        if store.set.is_empty() || told == 0 || told + quorum(recorded) <= recorded {
            return Err(Error::new(Kind::Io, "too few of the catalog disks can be written"));
        }
        store.area = area;
        store.grow = store.further().is_some();
        store.move_labels(&old, recorded).await?;
        store.state = OwnerState::Serving;
        let failed = store.write_owner(no, true).await;
        store.drop_copies(failed).await?;
        store.check().await?;
        Ok(store)
    }

    /// The areas that nobody may use: those of undrained predecessors, and those recorded before unless they are proven
    /// drained since.
    fn quarantine(&self) -> [Option<Quarantine>; AREAS as usize] {
        if self.force {
            return [None; AREAS as usize];
        }
        let owners = || self.won.table.iter().filter_map(|e| e.owner.as_ref());
        let ended = |g: Generation| owners().any(|o| o.generation == g && o.state == OwnerState::Ended);
        let newest = &self.won.view.newest;
        let drained = |q: &Quarantine| self.won.locked && q.boot == self.who.boot || ended(q.generation);
        let mut areas = newest.pointer.quarantine.map(|q| q.filter(|q| !drained(q)));
        for o in &self.won.undrained {
            let mark = Quarantine { generation: o.generation, boot: o.boot };
            areas[usize::from(o.area)] = Some(mark);
            if o.generation == newest.generation {
                areas[usize::from(newest.pointer.area)] = Some(mark);
            }
        }
        // Whoever wrote the log, and left no record to say that it is drained.
        if owners().all(|o| o.generation != newest.generation) {
            areas[usize::from(newest.pointer.area)] = Some(Quarantine { generation: newest.generation, boot: Default::default() });
        }
        areas
    }
}
