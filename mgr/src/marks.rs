//! Whether a disk that comes back is an older copy of itself: what the marks on it show (`format::mark`), against what was durable there.
//!
//! ```text
//!  marker: a mark written durable on disk A --> told: in this process, and with the next marks on all other disks
//!  back, or here at a start:  what A shows against the newest that is told of A  --> used, or refused
//! ```
//! Invariants: what is told was durable, and a healthy disk shows at least the mark before it: of the two pages of a generation one may be
//! torn, rotten, or overwritten late by a path that was lost, never both; so a disk is refused only for more than that, and the first mark of a
//! generation is not told. At a start all pages are read for what they tell before any is read for what it shows: a manager that still lives makes no
//! disk look old.

use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::{Answer, Disk, DiskResult};
use fusevol_shared::format::mark::{Age, MARK_PAGES, Mark, TOLD_MAX, mark_at};
use fusevol_shared::ids::{DiskId, Generation, PoolId, Seq};
use fusevol_shared::units::PAGE;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The marks on one disk.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The newest of the disk's own.
    pub newest: Option<Age>,
    /// What they tell of others.
    pub told: Vec<(DiskId, Age)>,
}

/// Reads the marks on a disk. A page that cannot be read or believed shows nothing.
///
/// # Errors
/// Where the disk is lost, or does not answer.
pub async fn read<D: Disk>(disk: &D, pool: PoolId, id: DiskId) -> DiskResult<Shown> {
    let mut shown = Shown::default();
    for page in 0..MARK_PAGES {
        let (read, bytes) = disk.read(mark_at(page), IoBuf::zeroed(PAGE)).await;
        match read {
            Ok(()) => {}
            Err(e) if e.answer == Answer::Answered && e.errno != libc::ENOTCONN => continue,
            Err(e) => return Err(e),
        }
        if let Ok(mark) = Mark::decode(&bytes, pool, id, page) {
            shown.newest = shown.newest.max(Some(mark.age));
            shown.told.extend(mark.told);
        }
    }
    Ok(shown)
}

/// What is known to have been durable.
#[derive(Default, Debug)]
pub struct Marks {
    told: Mutex<BTreeMap<DiskId, Age>>,
}

impl Marks {
    fn told(&self) -> MutexGuard<'_, BTreeMap<DiskId, Age>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A mark was durable on a disk.
    pub fn was_durable(&self, disk: DiskId, age: Age) {
        // Of the first one of a generation no other would be left where its page tears.
        if age.number > Seq(1) {
            self.hear(&[(disk, age)]);
        }
    }

    /// What a disk tells of others.
    pub fn hear(&self, told: &[(DiskId, Age)]) {
        let mut all = self.told();
        for (disk, age) in told {
            let known = all.entry(*disk).or_insert(*age);
            *known = (*known).max(*age);
        }
    }

    /// Why a disk that shows this is not what it was.
    #[must_use]
    pub fn judge(&self, disk: DiskId, shown: Option<Age>) -> Option<String> {
        let durable = *self.told().get(&disk)?;
        let enough = |a: Age| a >= durable || a.generation == durable.generation && a.number.next() >= durable.number;
        if shown.is_some_and(enough) {
            return None;
        }
        let shows = shown.map_or_else(|| "no mark".to_owned(), |a| format!("mark {a}"));
        Some(format!("it is an older copy of itself: it shows {shows}, where {durable} was durable"))
    }

    /// The mark for one of these disks, in their order: it tells of those that follow, round and round, as many as it can hold.
    #[must_use]
    pub fn next(&self, age: Age, at: usize, disks: &[DiskId]) -> Mark {
        let told = self.told();
        let others = disks.iter().cycle().skip(at + 1).take(disks.len().saturating_sub(1));
        Mark { age, told: others.filter_map(|d| Some((*d, *told.get(d)?))).take(TOLD_MAX).collect() }
    }
}

/// What is known at a start by these disks, which are read first for what they tell, then for what they show. Gives why some of them are not to be
/// used, by index. One that cannot be read says nothing.
pub async fn survey<D: Disk>(pool: PoolId, disks: &[(DiskId, &D)]) -> (Marks, Vec<(usize, String)>) {
    let all = async || join_all(disks.iter().map(async |(id, disk)| read(*disk, pool, *id).await.ok())).await;
    let marks = Marks::default();
    all().await.into_iter().flatten().for_each(|shown| marks.hear(&shown.told));
    let shown = all().await;
    let old = shown.into_iter().enumerate().filter_map(|(i, shown)| Some((i, marks.judge(disks[i].0, shown?.newest)?)));
    let old = old.collect();
    (marks, old)
}

/// The age of a manager's first mark.
#[must_use]
pub fn first(generation: Generation) -> Age {
    Age { generation, number: Seq(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::disk::mem::MemDisk;
    use futures_util::FutureExt;

    const POOL: PoolId = PoolId([1; 16]);
    const IDS: [DiskId; 3] = [DiskId([1; 16]), DiskId([2; 16]), DiskId([3; 16])];

    fn now<T>(work: impl Future<Output = T>) -> T {
        work.now_or_never().expect("memory does not wait")
    }

    fn age(generation: u64, number: u64) -> Age {
        Age { generation: Generation(generation), number: Seq(number) }
    }

    struct World {
        disks: Vec<MemDisk>,
        marks: Marks,
    }

    impl World {
        fn new() -> Self {
            Self { disks: (0..IDS.len()).map(|_| MemDisk::new(64 << 20)).collect(), marks: Marks::default() }
        }

        fn mark(&self, at: usize, age: Age) {
            let page = self.marks.next(age, at, &IDS).encode(POOL, IDS[at]);
            now(self.disks[at].write_durable(mark_at(age.page()), IoBuf::copy_of(&page).freeze())).expect("memory");
            self.marks.was_durable(IDS[at], age);
        }

        fn round(&self, age: Age) {
            (0..IDS.len()).for_each(|at| self.mark(at, age));
        }

        fn newest(&self, at: usize) -> Option<Age> {
            now(read(&self.disks[at], POOL, IDS[at])).expect("memory").newest
        }

        /// What a manager finds that begins with these images.
        fn found(&self) -> Vec<usize> {
            let disks: Vec<_> = IDS.into_iter().zip(&self.disks).collect();
            now(survey(POOL, &disks)).1.into_iter().map(|(i, _)| i).collect()
        }
    }

    #[test]
    fn a_disk_that_lacks_what_was_durable_is_known_by_the_manager_that_wrote_it() {
        let mut w = World::new();
        assert_eq!((w.newest(1), w.marks.judge(IDS[1], None)), (None, None), "nothing was ever told");
        w.round(age(5, 1));
        assert_eq!(w.marks.judge(IDS[1], None), None, "the first one is not told");
        let copy = w.disks[1].fork();
        (2..=4).for_each(|n| w.round(age(5, n)));
        assert_eq!(w.marks.judge(IDS[1], w.newest(1)), None);
        let newest = std::mem::replace(&mut w.disks[1], copy);
        let why = w.marks.judge(IDS[1], w.newest(1)).expect("it is older");
        assert!(why.contains("mark 5.1") && why.contains("5.4 was durable"), "{why}");
        assert!(w.marks.judge(IDS[1], None).is_some_and(|why| why.contains("no mark")), "a blank one is older than anything");
        w.disks[1] = newest;
        assert_eq!(w.marks.judge(IDS[1], w.newest(1)), None, "the right one is used again");
    }

    #[test]
    fn a_page_that_tears_makes_no_disk_old() {
        for last in [2, 3, 4, 9] {
            let w = World::new();
            (1..=last).for_each(|n| w.round(age(7, n)));
            w.disks[1].poke(mark_at(age(7, last).page()).plus(500), &[9; 512]);
            assert_eq!((w.newest(1), w.marks.judge(IDS[1], w.newest(1))), (Some(age(7, last - 1)), None));
            assert!(w.found().is_empty());
        }
        // Nor does what a lost path writes late.
        let w = World::new();
        (1..=3).for_each(|n| w.round(age(7, n)));
        let late = now(w.disks[1].read(mark_at(age(7, 3).page()), IoBuf::zeroed(PAGE))).1;
        (4..=5).for_each(|n| w.round(age(7, n)));
        w.disks[1].poke(mark_at(age(7, 3).page()), &late);
        assert_eq!((w.newest(1), w.found()), (Some(age(7, 4)), vec![]));
    }

    #[test]
    fn the_next_manager_knows_it_by_the_other_disks() {
        let mut w = World::new();
        (1..=2).for_each(|n| w.round(age(5, n)));
        let copy = w.disks[1].fork();
        (3..=6).for_each(|n| w.round(age(5, n)));
        assert!(w.found().is_empty());
        w.disks[1] = copy;
        assert_eq!(w.found(), [1]);
        // Also one that never saw the disk: what it was told it tells on.
        let next = World { disks: w.disks.clone(), marks: Marks::default() };
        for d in [0, 2] {
            next.marks.hear(&now(read(&w.disks[d], POOL, IDS[d])).expect("memory").told);
        }
        for generation in 6..16 {
            for n in 1..=3 {
                [0, 2].iter().for_each(|at| next.mark(*at, age(generation, n)));
            }
        }
        assert_eq!(next.found(), [1]);
        assert!(next.marks.judge(IDS[1], next.newest(1)).is_some());
    }

    #[test]
    fn all_disks_put_back_together_are_as_new_as_each_other() {
        let w = World::new();
        (1..=4).for_each(|n| w.round(age(5, n)));
        let copies = World { disks: w.disks.iter().map(MemDisk::fork).collect(), marks: Marks::default() };
        (5..=9).for_each(|n| w.round(age(5, n)));
        assert!(copies.found().is_empty());
    }

    #[test]
    fn a_mark_tells_of_as_many_as_it_holds_and_together_they_tell_of_all() {
        let ids: Vec<DiskId> = (0..200).map(|n| DiskId([n; 16])).collect();
        let marks = Marks::default();
        ids.iter().for_each(|d| marks.was_durable(*d, age(1, 2)));
        let of = |at| marks.next(age(1, 3), at, &ids).told.into_iter().map(|(d, _)| d).collect::<Vec<_>>();
        assert_eq!(of(0), ids[1..=TOLD_MAX]);
        assert_eq!((of(150).len(), of(150)[49], of(150).contains(&ids[150])), (TOLD_MAX, ids[0], false));
        assert_eq!(Marks::default().next(age(1, 1), 0, &ids[..1]).told, []);
    }
}
