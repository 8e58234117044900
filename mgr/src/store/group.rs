//! The disks of the pool as the store sees them, and what is done on several of them at once.
//!
//! Each request to a disk is bounded in time: a disk that does not answer within the limit counts as failed, like one
//! that answers with an error. (What it still does with the request later is harmless: the disk is out of the set then,
//! and a later generation never writes where an undrained one could.)

use super::door::Door;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, Disk, DiskError, DiskResult};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::label::{DiskLabel, Instance, LabelState};
use fusevol_shared::format::layout::{LABEL_COPIES, OWNER_SLOTS, OWNER_TABLE, seal_at};
use fusevol_shared::format::owner::{OwnerRecord, Seal};
use fusevol_shared::ids::{Generation, PoolId, Seq};
use fusevol_shared::units::{DiskOff, PAGE};
use futures_util::future::{Either, join_all, select};
use std::pin::pin;
use std::time::Duration;

/// A disk of the pool.
pub(super) struct Member<D> {
    pub disk: D,
    /// Where it was found, for people.
    pub path: String,
    /// Its label, as last read or written.
    pub label: DiskLabel,
    /// It has not failed since it was opened.
    pub well: bool,
    /// The age of the label that this manager has made durable there last.
    pub kept: Option<(Generation, Seq)>,
}

/// What came of reading the SEAL.
#[derive(Debug)]
pub(super) enum Sealed {
    /// Clear on every disk asked.
    Clear,
    /// Over: someone has taken the generation away.
    Over(Error),
    /// Clear where it could be read; these could not be read.
    Unread(Vec<usize>),
}

/// All the disks.
pub(super) struct Group<D, W> {
    pub pool: PoolId,
    pub members: Vec<Member<D>>,
    pub door: W,
    /// How long a disk may take for one request.
    pub limit: Duration,
}

impl<D: Disk> Member<D> {
    /// Writes and makes durable.
    pub async fn put(&self, at: DiskOff, bytes: &[u8]) -> DiskResult<()> {
        self.disk.write(at, IoBuf::copy_of(bytes).freeze()).await?;
        self.disk.flush().await
    }

    pub async fn write(&self, at: DiskOff, bytes: IoBytes) -> DiskResult<()> {
        self.disk.write(at, bytes).await
    }

    pub async fn get(&self, at: DiskOff, len: usize) -> DiskResult<IoBuf> {
        let (result, buf) = self.disk.read(at, IoBuf::zeroed(len)).await;
        result.map(|()| buf)
    }

    /// For people.
    pub fn name(&self) -> String {
        format!("disk {} ({})", self.label.no, self.path)
    }
}

/// Those of `results` that failed, each with a sentence.
pub(super) fn failures<T>(results: Vec<(usize, DiskResult<T>)>) -> Vec<(usize, DiskError)> {
    results.into_iter().filter_map(|(i, r)| Some((i, r.err()?))).collect()
}

impl<D: Disk, W: Door<D>> Group<D, W> {
    /// Does `op` on each of these disks at once.
    pub async fn each<'a, T, F>(&'a self, which: &[usize], op: impl Fn(&'a Member<D>) -> F) -> Vec<(usize, DiskResult<T>)>
    where
        F: Future<Output = DiskResult<T>>,
    {
        join_all(which.iter().filter_map(|i| Some((*i, self.members.get(*i)?))).map(|(i, m)| {
            let work = op(m);
            async move { (i, self.bounded(|| m.name(), work).await) }
        }))
        .await
    }

    /// Does it, or has failed once the limit is over.
    pub async fn bounded<T>(&self, name: impl FnOnce() -> String, work: impl Future<Output = DiskResult<T>>) -> DiskResult<T> {
        let (work, sleep) = (pin!(work), pin!(self.door.sleep(self.limit)));
        match select(work, sleep).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(DiskError {
                answer: Answer::NotReturned,
                errno: libc::ETIMEDOUT,
                what: format!("no answer of {} in {} s", name(), self.limit.as_secs()),
            }),
        }
    }

    /// Indices of the disks that have not failed.
    pub fn well(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|i| self.members[*i].well).collect()
    }

    /// Asks each of these disks whether the manager may go on.
    pub async fn sealed(&self, which: &[usize], generation: Generation, instance: Instance) -> Sealed {
        let entry = generation.0 % OWNER_SLOTS;
        let mut unread = Vec::new();
        for (i, page) in self.each(which, |m| m.get(seal_at(generation), PAGE)).await {
            let Ok(page) = page else {
                unread.push(i);
                continue;
            };
            let m = &self.members[i];
            let why = match Seal::decode(&page, self.pool, m.label.disk, entry) {
                Ok(s) if s.is_clear_for(generation, instance) => continue,
                Ok(Seal { by: Some(by), .. }) => format!("generation {by} has taken the pool over"),
                Ok(s) => format!("another manager has claimed generation {}", s.generation),
                Err(flaw) => format!("the SEAL on {} cannot be believed: {flaw}", m.name()),
            };
            return Sealed::Over(Error::new(Kind::Lapsed, format!("this manager (generation {generation}) is over: {why}")));
        }
        if unread.is_empty() { Sealed::Clear } else { Sealed::Unread(unread) }
    }

    /// Writes labels to these disks, copy after copy, each durable on all of them before the next; before each copy the
    /// SEAL is read on `set`. Gives the disks that failed, which are left out from then on.
    ///
    /// # Errors
    /// `Lapsed` where the SEAL is not clear.
    pub async fn publish(&mut self, which: &[usize], set: &[usize], model: &DiskLabel) -> Result<Vec<(usize, DiskError)>> {
        let mut failed: Vec<(usize, DiskError)> = Vec::new();
        for copy in 0..LABEL_COPIES {
            match self.sealed(set, model.generation, model.writer).await {
                Sealed::Clear => {}
                Sealed::Over(e) => return Err(e),
                Sealed::Unread(some) => {
                    failed.extend(some.into_iter().map(|i| (i, DiskError::answered(libc::EIO, "the SEAL cannot be read"))));
                }
            }
            let left: Vec<usize> = which.iter().copied().filter(|i| failed.iter().all(|(f, _)| f != i)).collect();
            let results = self
                .each(&left, |m| async {
                    let at = m.label.layout().labels()[copy];
                    m.put(at, &labelled(&m.label, model).encode(at)).await
                })
                .await;
            failed.extend(failures(results));
        }
        for i in which {
            let m = &mut self.members[*i];
            match failed.iter().any(|(f, _)| f == i) {
                true => m.well = false,
                false => (m.label, m.kept) = (labelled(&m.label, model), Some(model.age())),
            }
        }
        Ok(failed)
    }

    /// The owner records and SEALs on these disks; of a disk that cannot be read, none.
    pub async fn table(&self, which: &[usize]) -> Vec<Entry> {
        let entries = usize::try_from(OWNER_SLOTS).expect("eight");
        let mut all = Vec::new();
        for (disk, pages) in self.each(which, |m| m.get(OWNER_TABLE, entries * 2 * PAGE)).await {
            let Ok(pages) = pages else { continue };
            let id = self.members[disk].label.disk;
            for (entry, pair) in (0..).zip(pages.chunks_exact(2 * PAGE)) {
                let owner = OwnerRecord::decode(&pair[..PAGE], self.pool, id, entry).ok();
                let seal = Seal::decode(&pair[PAGE..], self.pool, id, entry).ok();
                all.push(Entry { disk, owner, seal });
            }
        }
        all
    }
}

/// One entry of one disk's owner table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub disk: usize,
    pub owner: Option<OwnerRecord>,
    pub seal: Option<Seal>,
}

/// `model` for the disk that `own` belongs to.
fn labelled(own: &DiskLabel, model: &DiskLabel) -> DiskLabel {
    DiskLabel { disk: own.disk, no: own.no, aus: own.aus, state: LabelState::Member, ..model.clone() }
}
