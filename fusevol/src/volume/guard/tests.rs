//! The range guard: order, exclusion, fairness, and what a dropped waiter leaves; step by step against a plain reference, then on threads.

use super::*;
use fusevol_shared::random::SeededRandom;
use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::{Context, Wake};

#[test]
fn overlapping_ranges_exclude_and_others_do_not() {
    let g = RangeGuard::default();
    let a = g.lock(0..10).now_or_never().expect("free").expect("few wait");
    let _b = g.lock(10..20).now_or_never().expect("beside").expect("few wait");
    let mut c = Box::pin(g.lock(5..6));
    assert!((&mut c).now_or_never().is_none());
    drop(a);
    assert!((&mut c).now_or_never().is_some());
}

#[test]
fn a_guard_over_everything_gets_its_turn_before_later_writes() {
    let g = RangeGuard::default();
    let a = g.lock(0..1).now_or_never().expect("free");
    let mut all = Box::pin(g.lock(0..u64::MAX));
    assert!((&mut all).now_or_never().is_none());
    let mut later = Box::pin(g.lock(7..8));
    assert!((&mut later).now_or_never().is_none(), "it may not pass the one that waits");
    drop(a);
    let held = (&mut all).now_or_never().expect("its turn");
    assert!((&mut later).now_or_never().is_none());
    drop(held);
    assert!((&mut later).now_or_never().is_some());
}

#[test]
fn giving_up_lets_the_next_one_through() {
    let g = RangeGuard::default();
    let _a = g.lock(0..1).now_or_never().expect("free");
    let mut all = Box::pin(g.lock(0..9));
    assert!((&mut all).now_or_never().is_none());
    let mut later = Box::pin(g.lock(7..8));
    assert!((&mut later).now_or_never().is_none());
    drop(all);
    assert!((&mut later).now_or_never().is_some());
}

#[test]
fn the_number_of_waiters_is_bounded() {
    let g = RangeGuard::default();
    let held: Vec<_> = (0..LIMIT as u64).map(|i| g.enter(i..i + 1).expect("below the limit")).collect();
    assert_eq!(g.enter(0..1).err().expect("full").kind(), Kind::Busy);
    drop(held);
    assert_eq!(g.queued.load(Ordering::SeqCst), 0);
}

#[test]
fn while_nobody_waits_a_write_goes_past_the_queue() {
    let g = RangeGuard::default();
    let is_fast = |range| matches!(g.try_lock(range).expect("free").how, How::Fast(_));
    assert!(is_fast(0..64) && is_fast(60..70) && is_fast(1 << 40..(1 << 40) + 1));
    assert!(!is_fast(60..129), "three AUs");
    let _all = g.try_lock(0..1000).expect("free");
    assert!(!is_fast(5000..5001), "somebody is in the queue");
}

/// The steps of a fast range one by one, and another that comes to the queue between any two of them: never do both hold, and never neither.
#[test]
fn one_that_comes_between_the_steps_of_a_fast_range_excludes_it_or_waits_for_it() {
    for between in 0..4 {
        let g = RangeGuard::default();
        let mut other = Box::pin(g.lock(0..200));
        let mut come = |step| (step == between).then(|| (&mut other).now_or_never()).flatten();
        let bits = Bits::of(&(5..6)).expect("one AU");
        assert_eq!(g.queued.load(Ordering::SeqCst), 0, "the first look");
        let mut others = [come(0), None, None];
        assert!(g.table.set(&bits));
        others[1] = come(1);
        let mine = g.keep(bits);
        others[2] = come(2);
        let held = others.into_iter().flatten().count();
        match between {
            // Its bits were clear when the other looked; or it has backed out, and the other goes on.
            0 => assert!(mine.is_none() && held == 1),
            1 => assert!(mine.is_none() && held == 0 && (&mut other).now_or_never().is_some()),
            2 => {
                assert!(mine.is_some() && held == 0 && (&mut other).now_or_never().is_none());
                drop(mine);
                assert!((&mut other).now_or_never().is_some());
            }
            _ => assert!(mine.is_some()),
        }
    }
}

/// Says whether it was woken, and wakes the thread that made it.
struct Flag(AtomicBool, std::thread::Thread);

impl Flag {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(false), std::thread::current()))
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        self.1.unpark();
    }
}

/// What the guard does, said plainly: in order of arrival; held or waiting.
#[derive(Default)]
struct Plain(BTreeMap<u64, (Range<u64>, bool)>);

impl Plain {
    fn grant(&mut self) {
        let all: Vec<u64> = self.0.keys().copied().collect();
        for id in all {
            let range = self.0[&id].0.clone();
            // What waits and came later does not count.
            let free = !self.0.iter().any(|(other, (r, held))| *other != id && (*held || *other < id) && overlap(r, &range));
            if free && let Some(e) = self.0.get_mut(&id) {
                e.1 = true;
            }
        }
    }
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Locked<'a>>> + 'a>>;

enum Mine<'a> {
    Waits(Waiting<'a>, Arc<Flag>),
    /// Until it is dropped.
    Holds(#[allow(dead_code)] Locked<'a>),
}

/// Polls it if it is its first time, or it was woken.
fn poll(mine: &mut Mine<'_>, first: bool) {
    let Mine::Waits(future, flag) = mine else { return };
    if !first && !flag.0.swap(false, Ordering::SeqCst) {
        return;
    }
    let waker = Waker::from(flag.clone());
    if let Poll::Ready(locked) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
        *mine = Mine::Holds(locked.expect("few wait"));
    }
}

fn random_range(r: &mut SeededRandom, aus: &[u64]) -> Range<u64> {
    let start = aus[usize::try_from(r.below(aus.len() as u64)).expect("few")] * 64 + r.below(64);
    match r.below(12) {
        0 => 0..u64::MAX,
        1 => start..start + 1 + r.below(300),
        2..5 => start..start + 1 + r.below(70),
        _ => start..start + 1 + r.below(8),
    }
}

/// Random ranges come, are polled when they are woken and only then, and are dropped in any state. `same`: the AUs share no word, so it is to
/// be the reference at each step; otherwise it may exclude more.
fn against_the_reference(seed: u64, aus: &[u64], same: bool) {
    let g = RangeGuard::default();
    let mut r = SeededRandom(seed);
    let mut plain = Plain::default();
    let mut mine: BTreeMap<u64, Mine<'_>> = BTreeMap::new();
    for id in 0..400 {
        let range = random_range(&mut r, aus);
        let crowd = mine.len() as u64;
        if r.below(3) == 0 {
            let got = g.try_lock(range.clone());
            let free = !plain.0.values().any(|(other, _)| overlap(other, &range));
            assert!(got.is_none() || free, "{range:?} is another's");
            assert!(got.is_some() || !free || !same, "{range:?} is free");
            if let Some(locked) = got {
                plain.0.insert(id, (range, true));
                mine.insert(id, Mine::Holds(locked));
            }
        } else if crowd < 12 {
            let mut one = Mine::Waits(Box::pin(g.lock(range.clone())), Flag::new());
            poll(&mut one, true);
            mine.insert(id, one);
            plain.0.insert(id, (range, false));
            plain.grant();
        }
        if crowd > 0 && r.below(2) == 0 {
            let nth = usize::try_from(r.below(crowd)).expect("few");
            let gone = *mine.keys().nth(nth).expect("one of them");
            drop(mine.remove(&gone));
            plain.0.remove(&gone);
            plain.grant();
        }
        mine.values_mut().for_each(|m| poll(m, false));
        compare(&plain, &mine, same);
    }
    // Whoever holds lets go: then everybody has had a turn.
    for _ in 0..mine.len() {
        let Some(id) = mine.iter().find_map(|(id, m)| matches!(m, Mine::Holds(_)).then_some(*id)) else { break };
        drop(mine.remove(&id));
        mine.values_mut().for_each(|m| poll(m, false));
    }
    assert!(mine.is_empty(), "somebody waits, and nobody holds anything");
    assert_eq!(g.queued.load(Ordering::SeqCst), 0);
    assert!(g.try_lock(0..u64::MAX).is_some(), "nothing is left behind");
}

fn compare(plain: &Plain, mine: &BTreeMap<u64, Mine<'_>>, same: bool) {
    for (id, m) in mine {
        let holds = matches!(m, Mine::Holds(_));
        let (range, may) = &plain.0[id];
        assert!(!holds || *may, "{range:?} is held, and another holds of it or came before");
        assert!(holds || !may || !same, "{range:?} waits for nobody");
    }
}

#[test]
fn it_is_the_plain_reference_at_each_step() {
    let aus: Vec<u64> = (0..6).collect();
    (0..300).for_each(|seed| against_the_reference(seed, &aus, true));
}

#[test]
fn two_aus_in_one_word_exclude_each_other_and_nobody_is_left_waiting() {
    let twin = (1..1 << 20).find(|au| Bits::share_a_word(0, *au)).expect("there are 4096 words");
    assert!(twin > 100, "neighbours have words of their own");
    (0..300).for_each(|seed| against_the_reference(seed, &[0, twin], false));
}

/// Waits on this thread; a wake-up that does not come within half a minute is a lost one.
fn wait<'a>(g: &'a RangeGuard, range: Range<u64>) -> Locked<'a> {
    let flag = Flag::new();
    let waker = Waker::from(flag.clone());
    let mut future = std::pin::pin!(g.lock(range.clone()));
    loop {
        if let Poll::Ready(locked) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return locked.expect("few wait");
        }
        for _ in 0..30 {
            if flag.0.load(Ordering::SeqCst) {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_secs(1));
        }
        assert!(flag.0.swap(false, Ordering::SeqCst), "{range:?} was forgotten");
    }
}

#[test]
fn threads_exclude_each_other_and_each_gets_its_turns() {
    const BLOCKS: u64 = 4 * 64;
    let (g, held) = (RangeGuard::default(), AtomicU64::new(0));
    let owners: Vec<AtomicU64> = (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
    let work = |seed: u64| {
        let mut r = SeededRandom(seed);
        for _ in 0..8_000 {
            // Few blocks, so that they meet; now and then a border, three AUs, or everything.
            let range = match r.below(64) {
                0 => 0..u64::MAX,
                1 => 10..200,
                2..10 => 62..66,
                _ => {
                    let block = r.below(4) * 64 + r.below(3);
                    block..block + 1 + r.below(2)
                }
            };
            if r.below(8) == 0 {
                // Gives up after it has begun to wait, or at once.
                drop(Box::pin(g.lock(range)).now_or_never());
                continue;
            }
            let locked = if r.below(8) == 0 { g.try_lock(range.clone()) } else { Some(wait(&g, range.clone())) };
            let Some(locked) = locked else { continue };
            let blocks = usize::try_from(range.start).expect("small")..usize::try_from(range.end.min(BLOCKS)).expect("small");
            for o in &owners[blocks.clone()] {
                assert_eq!(o.swap(seed, Ordering::Relaxed), 0, "another holds it");
            }
            if r.below(4) == 0 {
                std::thread::yield_now();
            }
            for o in &owners[blocks] {
                assert_eq!(o.swap(0, Ordering::Relaxed), seed, "another came in");
            }
            held.fetch_add(1, Ordering::Relaxed);
            drop(locked);
        }
    };
    std::thread::scope(|s| {
        for seed in 1..=4 {
            let work = &work;
            s.spawn(move || work(seed));
        }
    });
    assert!(held.load(Ordering::Relaxed) > 20_000);
    assert_eq!(g.queued.load(Ordering::SeqCst), 0);
    assert!(g.try_lock(0..u64::MAX).is_some());
}
