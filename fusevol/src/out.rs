//! The disks whose legs of a volume miss writes: *out*. What lies there is not read, and not written, whatever the map says of it.
//!
//! Each map has its own set: a disk that is out for one stays so until that map says itself which of its legs miss something. [`Outs`]
//! knows the sets of one session, so that the manager's word ([`LegFailed`](fusevol_shared::wire::messages::LegFailed)) reaches all of a volume.
//!
//! How a reader keeps to it without a lock: it notes the set's [`version`](OutSet::version) before it plans and looks again after it has read. Where
//! it is another, what was read may miss a write that was acknowledged meanwhile, and is read again.

use arc_swap::ArcSwap;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::units::DiskNo;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The disks that are out for one map.
#[derive(Default)]
pub struct OutSet {
    /// Counts its changes.
    version: AtomicU64,
    disks: ArcSwap<Vec<DiskNo>>,
}

impl OutSet {
    /// With these.
    #[must_use]
    pub fn new(disks: &[DiskNo]) -> Self {
        let out = Self::default();
        disks.iter().for_each(|d| out.add(*d));
        out
    }

    /// Whether no disk was ever out: most look no further.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.version() == 0
    }

    /// Counts its changes.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Those that are out.
    #[must_use]
    pub fn disks(&self) -> Arc<Vec<DiskNo>> {
        self.disks.load_full()
    }

    /// Whether `no` is.
    #[must_use]
    pub fn has(&self, no: DiskNo) -> bool {
        !self.is_untouched() && self.disks.load().contains(&no)
    }

    /// `no` is out from now on.
    pub fn add(&self, no: DiskNo) {
        self.change(|disks| {
            if !disks.contains(&no) {
                disks.push(no);
            }
        });
    }

    /// `no` is not out any more: the map says of each leg there whether it misses something.
    pub fn remove(&self, no: DiskNo) {
        self.change(|disks| disks.retain(|d| *d != no));
    }

    /// These are, and no others: of a map that was asked for anew.
    pub fn replace(&self, disks: &[DiskNo]) {
        self.change(|old| {
            old.clear();
            old.extend(disks);
        });
    }

    fn change(&self, change: impl Fn(&mut Vec<DiskNo>)) {
        self.disks.rcu(|disks| {
            let mut disks = Vec::clone(disks);
            change(&mut disks);
            disks
        });
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}

/// The sets of what a session reads.
#[derive(Default)]
pub struct Outs(Mutex<Known>);

#[derive(Default)]
struct Known {
    sets: BTreeMap<VolumeId, Vec<Weak<OutSet>>>,
    /// When each pair was said last; as many as there are volumes with disks that failed.
    said: BTreeMap<(VolumeId, DiskNo), u64>,
    now: u64,
}

impl Known {
    fn since(&self, volume: VolumeId, since: u64) -> Vec<DiskNo> {
        let of_it = self.said.range((volume, DiskNo(0))..=(volume, DiskNo(u16::MAX)));
        of_it.filter(|(_, when)| **when > since).map(|((_, disk), _)| *disk).collect()
    }
}

impl Outs {
    /// A moment: what is said after it reaches the sets that begin by it.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.known().now
    }

    /// The set of a map that was asked for at `since`: what was said of the volume from then on is in it, and what is said later reaches it.
    #[must_use]
    pub fn begin(&self, volume: VolumeId, since: u64) -> Arc<OutSet> {
        let mut known = self.known();
        let set = Arc::new(OutSet::new(&known.since(volume, since)));
        known.sets.retain(|_, sets| {
            sets.retain(|s| s.strong_count() > 0);
            !sets.is_empty()
        });
        known.sets.entry(volume).or_default().push(Arc::downgrade(&set));
        set
    }

    /// What `set` has from now on: these disks, which the manager named when it was asked at `since`, and what was said from then on.
    pub fn renew(&self, set: &OutSet, volume: VolumeId, since: u64, named: &[DiskNo]) {
        let known = self.known();
        set.replace(&[known.since(volume, since), named.to_vec()].concat());
    }

    /// The legs of this volume on this disk have failed.
    pub fn failed(&self, volume: VolumeId, disk: DiskNo) {
        let mut known = self.known();
        known.now += 1;
        let now = known.now;
        known.said.insert((volume, disk), now);
        known.sets.get(&volume).into_iter().flatten().filter_map(Weak::upgrade).for_each(|s| s.add(disk));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_reaches_the_maps_of_that_volume_that_were_asked_for_before() {
        let (a, b) = (VolumeId([1; 16]), VolumeId([2; 16]));
        let outs = Outs::default();
        let before = outs.now();
        let (mine, other, gone) = (outs.begin(a, before), outs.begin(b, before), outs.begin(a, before));
        drop(gone);
        outs.failed(a, DiskNo(3));
        assert!(mine.has(DiskNo(3)) && !mine.is_untouched());
        assert!(!other.has(DiskNo(3)) && other.is_untouched());
        assert!(outs.begin(a, before).has(DiskNo(3)), "it was being opened");
        assert!(!outs.begin(a, outs.now()).has(DiskNo(3)), "the manager says what was before");
        mine.remove(DiskNo(3));
        assert!(!mine.has(DiskNo(3)) && mine.version() == 2);
    }
}
