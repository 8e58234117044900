//! Worlds from seeds (`sim::world`): managers, clients, disks and nets in one thread, with everything that may go wrong; and the sentences
//! of the protocols switched off one by one, which some seed must see.
//!
//! `FUSEVOL_SEED=n` runs that seed alone and prints its trace; `FUSEVOL_LONG=n` runs n times as many. A seed that ever failed stays in [`REGRESSIONS`].

use fusevol_shared::sentence::{Tag, without};
use fusevol_tests::sim::setup::Template;
use fusevol_tests::sim::world::{Done, run};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds run each time.
const SEEDS: u64 = 2_000;
/// The same of worlds with mirrors.
const MIRRORED: u64 = 3_000;
/// The same of worlds in which clients lose their ways to disks.
const WAYS: u64 = 250;
/// Of them, seeds that have failed once; and the same with mirrors.
const WAYS_REGRESSIONS: [u64; 5] = [15, 44, 50, 64, 69];
const MIRRORED_WAYS_REGRESSIONS: [u64; 5] = [57, 162, 172, 217, 283];
/// Of those with mirrors, seeds that have failed once.
const MIRRORED_REGRESSIONS: [u64; 8] = [35, 64, 200, 404, 2255, 2771, 2906, 3828];
/// Seeds that have failed once.
const REGRESSIONS: [u64; 3] = [1100, 1505, 1613];

fn template() -> Template {
    Template::new(2, 64 << 20, &[("red", 10 * (256 << 10) + 4096, 1), ("blue", 7 * (256 << 10), 1)])
}

/// Disks die in it.
fn mirrored() -> Template {
    Template::new(3, 64 << 20, &[("red", 10 * (256 << 10) + 4096, 2), ("blue", 7 * (256 << 10), 2)])
}

fn ways() -> Template {
    template().with_ways()
}

fn mirrored_ways() -> Template {
    mirrored().with_ways()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().expect("a number"))
}

fn add(all: &mut Done, d: Done) {
    all.events += d.events;
    all.ops += d.ops;
    all.commits += d.commits;
    all.shots += d.shots;
    all.faults += d.faults;
    all.steps += d.steps;
    all.redirected += d.redirected;
    all.reopened += d.reopened;
    all.rejoined += d.rejoined;
    all.late += d.late;
    all.moved += d.moved;
    all.letters += d.letters;
    all.slots += d.slots;
}

#[test]
fn worlds_from_seeds_keep_every_promise() {
    keep_every_promise(&template(), SEEDS, &REGRESSIONS);
}

#[test]
fn worlds_with_mirrors_keep_every_promise() {
    keep_every_promise(&mirrored(), MIRRORED, &MIRRORED_REGRESSIONS);
}

#[test]
fn worlds_that_lose_ways_keep_every_promise() {
    keep_every_promise(&ways(), WAYS, &WAYS_REGRESSIONS);
}

#[test]
fn worlds_with_mirrors_that_lose_ways_keep_every_promise() {
    keep_every_promise(&mirrored_ways(), WAYS, &MIRRORED_WAYS_REGRESSIONS);
}

fn keep_every_promise(template: &Template, seeds: u64, regressions: &[u64]) {
    if let Some(seed) = number("FUSEVOL_SEED") {
        println!("{:?}", run(template, seed, true));
        return;
    }
    let seeds = seeds * number("FUSEVOL_LONG").unwrap_or(1);
    let from = number("FUSEVOL_FROM").unwrap_or(1);
    let mut all = Done::default();
    let mut failed = Vec::new();
    for seed in regressions.iter().copied().chain(from..from + seeds) {
        match catch_unwind(AssertUnwindSafe(|| run(template, seed, false))) {
            Ok(done) => add(&mut all, done),
            Err(_) => failed.push(seed),
        }
        assert!(failed.len() < 5, "seeds {failed:?} failed, and perhaps more: FUSEVOL_SEED={} prints its trace", failed[0]);
    }
    println!("{seeds} worlds: {all:?}");
    assert!(failed.is_empty(), "seeds {failed:?} failed: FUSEVOL_SEED={} prints its trace", failed[0]);
    let lost = all.redirected > 10 * seeds && all.reopened > seeds / 2 && all.late > seeds / 2 && all.moved > seeds / 10;
    let lost = lost && all.rejoined > seeds / 20;
    assert!(!template.ways || lost, "the worlds lose too few ways: {all:?}");
    assert!(!template.mirrored || all.slots > seeds / 10, "the worlds move too few slots: {all:?}");
    assert!(all.ops > 20 * seeds && all.shots > seeds / 4 && all.faults > seeds, "the worlds do too little: {all:?}");
}

#[test]
fn the_same_seed_is_the_same_world() {
    let template = template();
    for seed in 1..=12 {
        assert_eq!(run(&template, seed, false), run(&template, seed, false), "seed {seed}");
    }
    assert_ne!(run(&template, 1, false).hash, run(&template, 2, false).hash);
}

/// Runs worlds with a sentence switched off until one breaks a promise; gives how many it took.
fn broken_without(tag: Tag, seeds: std::ops::Range<u64>) -> Option<u64> {
    let template = template();
    let mut seeds = seeds;
    seeds.find(|seed| catch_unwind(AssertUnwindSafe(|| without(tag, || run(&template, *seed, false)))).is_err())
}

/// Worlds that are tried from there on.
const MOST: u64 = 200;

/// Sentences that a world sees soon, and where it does. (The others have tests of their own: J2 the journal's, F2 and R1 the core's, S1
/// and W1 the model's, J1, M1 and M2 those of the marks, L1 the slot's.)
const SENTENCES: [(Tag, u64); 4] = [(Tag::K1, 42), (Tag::T3, 2), (Tag::F1, 2), (Tag::H1, 1)];

#[test]
fn without_a_sentence_some_world_breaks_a_promise() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found: Vec<(Tag, Option<u64>)> = SENTENCES.iter().map(|(tag, first)| (*tag, broken_without(*tag, *first..first + MOST))).collect();
    std::panic::set_hook(hook);
    println!("broken at seed: {found:?}");
    let kept: Vec<Tag> = found.iter().filter(|(_, seed)| seed.is_none()).map(|(tag, _)| *tag).collect();
    assert!(kept.is_empty(), "no world sees that these are switched off: {kept:?}");
}
