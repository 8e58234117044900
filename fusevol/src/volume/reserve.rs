//! The reserve of a write attachment: AUs that the manager granted ahead, which the writer binds without asking.
//!
//! States of a place: *granted* (here) -> *bound* (in the map, to be journaled) or *given back* (never written to, and said so).
//! What was discarded never comes back here: only the manager knows when others are done with it.
//!
//! It is sized by the rate at which it is used: about two seconds' worth. [`Reserve::take`] only looks at memory; who finds it
//! empty asks for a grant and waits ([`super::grant`]), which is counted.

use fusevol_shared::change::Places;
use fusevol_shared::clock::BootTime;
use fusevol_shared::units::{AuNo, DiskAu, DiskNo};
use fusevol_shared::wire::messages::AUS_PER_GRANT;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Smallest target.
const LOW: u32 = 16;
/// The shortest time over which a rate is measured: a burst is not a rate.
const WINDOW: Duration = Duration::from_millis(250);
/// The reserve lasts so long at the rate of the last refill.
const AHEAD: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    /// By the place of the first leg.
    runs: BTreeMap<DiskAu, Places>,
    total: u32,
    target: u32,
    /// Taken since the last refill.
    taken: u32,
    refilled: BootTime,
}

/// The reserve.
pub struct Reserve {
    state: Mutex<State>,
    /// It is below half of its target.
    low: Notify,
    /// Grants that came, takers that waited for one, and the longest such wait in microseconds.
    pub(super) grants: AtomicU64,
    pub(super) waits: AtomicU64,
    pub(super) longest_wait: AtomicU64,
}

impl State {
    fn add(&mut self, p: Places) {
        let Some(first) = p.legs.first().copied().filter(|_| p.fits()) else { return };
        self.total += p.count;
        self.runs.insert(first, p);
    }

    fn take_from(&mut self, first: DiskAu) -> Option<Vec<DiskAu>> {
        let mut run = self.runs.remove(&first)?;
        let legs = run.legs.clone();
        run.count -= 1;
        self.total -= 1;
        self.taken += 1;
        if run.count > 0 {
            run.legs.iter_mut().for_each(|l| l.au = AuNo(l.au.0 + 1));
            self.runs.insert(run.legs[0], run);
        }
        Some(legs)
    }
}

impl Reserve {
    /// A reserve that begins with these.
    #[must_use]
    pub fn new(places: Vec<Places>, now: BootTime) -> Self {
        let mut state = State { refilled: now, ..State::default() };
        places.into_iter().for_each(|p| state.add(p));
        state.target = state.total.clamp(LOW, AUS_PER_GRANT);
        Self {
            state: Mutex::new(state),
            low: Notify::new(),
            grants: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            longest_wait: AtomicU64::new(0),
        }
    }

    /// A place, by preference the one behind `near`; `None` where the reserve is empty.
    #[must_use]
    pub fn take(&self, near: Option<DiskAu>) -> Option<Vec<DiskAu>> {
        let mut s = self.state();
        let behind = near.and_then(|n| Some(DiskAu { disk: n.disk, au: AuNo(n.au.0.checked_add(1)?) }));
        let first = behind.filter(|b| s.runs.contains_key(b)).or_else(|| s.runs.keys().next().copied());
        let taken = first.and_then(|f| s.take_from(f));
        if s.total * 2 < s.target {
            self.low.notify_one();
        }
        taken
    }

    /// A place of which no replica lies on one of these disks; `None` where there is none.
    #[must_use]
    pub fn take_apart(&self, from: &[DiskNo]) -> Option<Vec<DiskAu>> {
        self.take_whole(0, from)
    }

    /// The same, with at least so many replicas.
    #[must_use]
    pub fn take_whole(&self, copies: u8, from: &[DiskNo]) -> Option<Vec<DiskAu>> {
        let mut s = self.state();
        let fits = |p: &Places| p.legs.len() >= copies.into() && !p.lie_on(from);
        let first = s.runs.iter().find(|(_, p)| fits(p)).map(|(first, _)| *first);
        first.and_then(|first| s.take_from(first))
    }

    /// Takes out all that has a replica on one of these disks.
    #[must_use]
    pub fn lying_on(&self, disks: &[DiskNo]) -> Vec<Places> {
        let mut s = self.state();
        let firsts: Vec<DiskAu> = s.runs.iter().filter(|(_, p)| p.lie_on(disks)).map(|(first, _)| *first).collect();
        let out: Vec<Places> = firsts.iter().filter_map(|first| s.runs.remove(first)).collect();
        s.total -= out.iter().map(|p| p.count).sum::<u32>();
        out
    }

    /// Puts back a place that was taken and never written to.
    pub fn put_back(&self, legs: Vec<DiskAu>) {
        self.state().add(Places { legs, count: 1 });
    }

    /// What a grant brought.
    pub fn add(&self, places: Vec<Places>) {
        let mut s = self.state();
        places.into_iter().for_each(|p| s.add(p));
        // Where fewer came than were asked for, the pool has not more to spare: asking again at once would take it all, bit by bit.
        s.target = s.target.min(s.total.max(LOW));
        self.grants.fetch_add(1, Ordering::Relaxed);
    }

    /// AUs in it.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.state().total
    }

    /// Returns when it may be too small.
    pub async fn wait_until_low(&self) {
        self.low.notified().await;
    }

    /// How many AUs to ask for now: by the rate since the last refill. None where it is large enough.
    #[must_use]
    pub fn want(&self, now: BootTime) -> u32 {
        let mut s = self.state();
        let quick = now.since(s.refilled) < WINDOW && s.taken > 0 && s.total * 2 < s.target;
        let since = now.since(s.refilled).max(WINDOW);
        let rate =
            u64::from(s.taken) * u64::try_from(AHEAD.as_millis()).unwrap_or(u64::MAX) / u64::try_from(since.as_millis()).unwrap_or(1);
        // Up by four where half of it was gone at once: the rate is not known yet. Down by a quarter at a time: bursts come in rows.
        let least = if quick { s.target.saturating_mul(4) } else { s.target / 4 * 3 };
        s.target = u32::try_from(rate).unwrap_or(u32::MAX).max(least).clamp(LOW, AUS_PER_GRANT);
        // Nobody takes from it: what there is will do, however little.
        if s.total * 2 >= s.target || s.taken == 0 && s.total > 0 {
            return 0;
        }
        (s.taken, s.refilled) = (0, now);
        s.target - s.total
    }

    /// Takes out what is far more than is needed: the longest runs stay.
    #[must_use]
    pub fn surplus(&self) -> Vec<Places> {
        let mut s = self.state();
        let keep = s.target.max(LOW) * 2;
        let mut out = Vec::new();
        while s.total > keep {
            let shortest = s.runs.iter().min_by_key(|(_, p)| p.count).map(|(k, p)| (*k, p.count));
            let Some((key, count)) = shortest.filter(|(_, n)| s.total - n >= keep / 2) else { break };
            if let Some(p) = s.runs.remove(&key) {
                s.total -= count;
                out.push(p);
            }
        }
        out
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(au: u32) -> DiskAu {
        DiskAu { disk: DiskNo(0), au: AuNo(au) }
    }

    fn run(au: u32, count: u32) -> Places {
        Places { legs: vec![at(au)], count }
    }

    #[test]
    fn sequential_takers_find_their_neighbours() {
        let r = Reserve::new(vec![run(10, 3), run(50, 2)], BootTime(0));
        assert_eq!(r.take(Some(at(49))), Some(vec![at(50)]));
        assert_eq!(r.take(Some(at(50))), Some(vec![at(51)]));
        assert_eq!(r.take(Some(at(51))), Some(vec![at(10)]), "no neighbour is left");
        assert_eq!(r.len(), 2);
        r.put_back(vec![at(10)]);
        assert_eq!((0..4).map(|_| r.take(None)).collect::<Vec<_>>(), [Some(vec![at(10)]), Some(vec![at(11)]), Some(vec![at(12)]), None]);
    }

    #[test]
    fn it_grows_with_the_rate_and_gives_back_what_is_far_too_much() {
        let second = 1_000_000_000;
        let r = Reserve::new(vec![run(0, 100)], BootTime(0));
        for _ in 0..90 {
            let _ = r.take(None);
        }
        assert_eq!(r.want(BootTime(second)), 180 - 10, "two seconds of 90 a second");
        r.add(vec![run(1000, 170)]);
        assert_eq!(r.want(BootTime(2 * second)), 0);
        assert_eq!(r.surplus(), Vec::new());
        for i in 3..30 {
            assert_eq!(r.want(BootTime(i * second)), 0, "idle: the target falls");
        }
        r.add(vec![run(5000, 20)]);
        let back: u32 = r.surplus().iter().map(|p| p.count).sum();
        assert_eq!((back, r.len()), (30, 170), "runs go back whole, the longest stays");
    }
}
