//! The catalog over the crash disk: after a power cut at any moment of any run, recovery with the real code keeps every
//! answered commit, no half one, and no older catalog; also after a cut of the recovery itself; and a disk that lies is
//! made good by the other copy, and named.

use fusevol_shared::disk::Answer;
use fusevol_shared::disk::fault::{Fault, FaultDisk, Ops, Rule};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::error::Kind;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::PAGE_U64;
use fusevol_tests::catalog::{DISK, NoLocks, Rec, commit_of, look, make, new_disk, serve, who, win};
use fusevol_tests::crash::{CrashDisk, CrashSet, State};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// "The pool is made" is mark 1; commit `n` is answered: mark `n + 1`.
const MADE: u64 = 1;

/// A pool on `n` disks with `commits` small commits behind it, served last by host 1.
fn pool(n: usize, commits: u64) -> Vec<MemDisk> {
    let disks: Vec<MemDisk> = (0..n).map(|_| MemDisk::new(DISK)).collect();
    block_on(async {
        make(disks.clone(), false).await.expect("a pool");
        let (mut store, _) = serve(disks.clone(), who(1, 2)).await.expect("serves");
        for c in 1..=commits {
            store.commit(&commit_of(c, 2, 10), || vec![Rec::Upto(c)]).await.expect("commits");
        }
    });
    disks
}

/// Recovers a state and holds it against what was answered. Gives the number of the last commit found.
fn judge(state: &State, acknowledged: u64, begun: u64) -> u64 {
    let disks: Vec<MemDisk> = state.disks.iter().map(MemDisk::fork).collect();
    let upto = match block_on(win(disks, who(2, 99), NoLocks::default())) {
        Ok((_, upto)) => upto,
        Err(e) if acknowledged < MADE => {
            assert!(matches!(e.kind(), Kind::NotFound | Kind::Refused), "{}: {e}", state.label);
            return 0;
        }
        Err(e) => panic!("{}: {e} (answered: {acknowledged})", state.label),
    };
    assert!(upto + MADE >= acknowledged, "{}: commit {} was answered, {upto} found", state.label, acknowledged - MADE);
    assert!(upto <= begun, "{}: commit {upto} was never begun", state.label);
    upto
}

/// Judges all states of a run; of one in `nest` also the states of its recovery. Gives how many there were.
fn judge_all(set: &CrashSet, random: &mut SeededRandom, per_point: usize, begun: u64, nest: usize) -> usize {
    let (mut count, mut inner_random) = (0, SeededRandom(random.next_u64()));
    for state in set.states(random, per_point) {
        count += 1;
        let upto = judge(&state, state.acknowledged, begun);
        if count % nest == 0 && state.acknowledged >= MADE {
            count += judge_recovery(&state, upto, begun, &mut inner_random);
        }
    }
    count
}

/// Cuts the recovery of a state anywhere, and recovers again.
fn judge_recovery(state: &State, upto: u64, begun: u64, random: &mut SeededRandom) -> usize {
    let set = CrashSet::over(state.disks.iter().map(MemDisk::fork).collect());
    set.mark(state.acknowledged);
    block_on(async {
        let (mut store, again) = serve(set.disks(), who(2, 98)).await.expect("recovers");
        assert_eq!(again, upto, "{}: the same state, read twice", state.label);
        // Served means answered: from here on nothing that recovery found may be lost any more.
        set.mark(MADE + upto);
        store.commit(&commit_of(upto + 1, 2, 10), || vec![Rec::Upto(upto + 1)]).await.expect("commits");
        set.mark(MADE + upto + 1);
    });
    let mut count = 0;
    for inner in set.states(random, 1) {
        count += 1;
        judge(&inner, inner.acknowledged, begun.max(upto + 1));
    }
    count
}

fn init_and_first_commits(seed: u64) -> usize {
    let set = CrashSet::new(2 + usize::from(seed % 2 == 1) * 2, DISK);
    block_on(async {
        make(set.disks(), false).await.expect("a pool");
        set.mark(MADE);
        let (mut store, _) = serve(set.disks(), who(1, 2)).await.expect("serves");
        for c in 1..=4 {
            store.commit(&commit_of(c, 3, 100), || vec![Rec::Upto(c)]).await.expect("commits");
            set.mark(MADE + c);
        }
        store.close().await.expect("closes");
    });
    judge_all(&set, &mut SeededRandom(seed), 4, 4, 50)
}

fn many_commits(seed: u64) -> usize {
    let mut random = SeededRandom(seed);
    let set = CrashSet::over(pool(2 + usize::from(seed % 2 == 1), 3));
    set.mark(MADE + 3);
    let last = 33;
    block_on(async {
        let (mut store, _) = serve(set.disks(), who(1, 3)).await.expect("serves");
        for c in 4..=last {
            let (parts, size) = (1 + u32::try_from(random.below(4)).expect("few"), usize::try_from(random.below(5000)).expect("small"));
            store.commit(&commit_of(c, parts, size), || vec![Rec::Upto(c)]).await.expect("commits");
            set.mark(MADE + c);
            if c % 5 == 0 {
                store.heartbeat().await.expect("beats");
            }
        }
    });
    judge_all(&set, &mut random, if seed % 2 == 1 { 6 } else { 14 }, last, 60)
}

fn area_switches(seed: u64) -> usize {
    let set = CrashSet::over(pool(2, 1));
    set.mark(MADE + 1);
    let last = 20;
    block_on(async {
        let (mut store, _) = serve(set.disks(), who(1, 3)).await.expect("serves");
        let mut switches = 0;
        for c in 2..=last {
            let before = store.room().used;
            store.commit(&commit_of(c, 4, 300_000), || vec![Rec::Upto(c)]).await.expect("commits");
            switches += usize::from(store.room().used < before);
            set.mark(MADE + c);
        }
        assert!(switches >= 4, "round and round all areas: {switches}");
    });
    judge_all(&set, &mut SeededRandom(seed), 8, last, 60)
}

fn a_dropped_copy(seed: u64) -> usize {
    let copies = 2 + usize::from(seed % 2 == 1);
    let set = CrashSet::over(pool(copies, 2));
    set.mark(MADE + 2);
    let disks: Vec<_> = set.disks().into_iter().map(FaultDisk::new).collect();
    let faults: Vec<_> = disks.iter().map(FaultDisk::faults).collect();
    let ops = [Ops::WRITE, Ops::FLUSH, Ops::READ][usize::try_from(seed / 2 % 3).expect("below 3")];
    let last = 14;
    block_on(async {
        let disks: Vec<_> = disks.into_iter().map(std::sync::Arc::new).collect();
        let (mut store, _) = serve(disks, who(1, 3)).await.expect("serves");
        for c in 3..=last {
            if c == 6 {
                faults[copies - 1].add(Rule::on(ops, Fault::Fail(5, Answer::NotReturned)));
            }
            if c == 10 && copies == 3 {
                faults[0].add(Rule::on(ops, Fault::LandThenFail(5, Answer::NotReturned)));
            }
            store.commit(&commit_of(c, 2, 3000), || vec![Rec::Upto(c)]).await.expect("commits");
            set.mark(MADE + c);
        }
        assert_eq!(store.copies().len(), 1);
    });
    judge_all(&set, &mut SeededRandom(seed), if copies == 2 { 12 } else { 7 }, last, 60)
}

fn takeovers(seed: u64) -> usize {
    let set = CrashSet::over(pool(2, 1));
    set.mark(MADE + 1);
    let mut c = 1;
    block_on(async {
        let mut old = None;
        for life in 0..3u8 {
            // Odd lives come from another host: they wait, and keep away from the areas of those before.
            let host = if seed % 2 == 1 && life == 1 { 5 } else { 1 };
            let (mut store, upto) = serve(set.disks(), who(host, 10 + life)).await.expect("takes over");
            assert_eq!(upto, c);
            if let Some(mut late) = old.take() {
                let store: &mut fusevol_mgr::store::Store<CrashDisk, NoLocks> = &mut late;
                store.commit(&commit_of(c + 1, 9, 999), || vec![Rec::Upto(0)]).await.expect_err("sealed");
            }
            for _ in 0..3 {
                c += 1;
                store.commit(&commit_of(c, 2, 1000), || vec![Rec::Upto(c)]).await.expect("commits");
                set.mark(MADE + c);
            }
            old = Some(store);
        }
    });
    judge_all(&set, &mut SeededRandom(seed), 6, c, 60)
}

/// From one copy to two and three, under commits.
fn growth(seed: u64) -> usize {
    let start: Vec<MemDisk> = pool(1, 2).into_iter().chain([MemDisk::new(DISK), MemDisk::new(2 * DISK)]).collect();
    let set = CrashSet::over(start);
    set.mark(MADE + 2);
    let last = 10;
    block_on(async {
        let mut disks = set.disks();
        let more = disks.split_off(1);
        let (mut store, _) = serve(disks, who(1, 3)).await.expect("serves");
        for (disk, no) in more.into_iter().zip(1..) {
            store.add_disk(new_disk(disk, no), false).await.expect("added");
        }
        for c in 3..=last {
            store.commit(&commit_of(c, 2, 1000), || vec![Rec::Upto(c)]).await.expect("commits");
            set.mark(MADE + c);
        }
        assert_eq!(store.copies().len(), 3);
    });
    judge_all(&set, &mut SeededRandom(seed), 6, last, 60)
}

/// A story, told from a seed and giving the number of states it was judged in; and from how many seeds.
type Run = (&'static str, fn(u64) -> usize, u64);

#[test]
fn every_answered_commit_survives_a_power_cut_at_any_moment() {
    let runs: [Run; 6] = [
        ("init", init_and_first_commits, 4),
        ("commits", many_commits, 3),
        ("switches", area_switches, 3),
        ("drops", a_dropped_copy, 6),
        ("takeovers", takeovers, 4),
        ("growth", growth, 2),
    ];
    let jobs: Vec<_> = runs.iter().flat_map(|(name, run, seeds)| (0..*seeds).map(move |s| (*name, *run, s))).collect();
    let (next, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, run, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let states = run(*seed);
                    println!("{name} {seed}: {states} states");
                    total.fetch_add(states, Ordering::Relaxed);
                }
            });
        }
    });
    let total = total.into_inner();
    println!("{total} states");
    assert!(total >= 20_000, "only {total} states");
}

#[test]
fn a_disk_that_lies_is_made_good_by_the_other_copy_and_named() {
    let set = CrashSet::over(pool(2, 1));
    set.mark(MADE + 1);
    let last = 12;
    block_on(async {
        let (mut store, _) = serve(set.disks(), who(1, 3)).await.expect("serves");
        for c in 2..=last {
            let size = if c % 3 == 0 { 300_000 } else { 500 };
            store.commit(&commit_of(c, 4, size), || vec![Rec::Upto(c)]).await.expect("commits");
            set.mark(MADE + c);
        }
    });
    let (mut a, mut b) = (SeededRandom(1), SeededRandom(2));
    let (mut count, mut named) = (0, 0);
    for state in set.lost(&mut a, 700).chain(set.misdirected(&mut b, 700)) {
        count += 1;
        let fault = state.fault.expect("a lying disk");
        judge(&state, state.acknowledged, last);
        let (seen, _) = block_on(look(state.disks.iter().map(MemDisk::fork).collect())).expect("readable");
        let area = seen.newest.layout().area(seen.newest.pointer.area).expect("an area").0;
        // What should lie in the log that counts, and does not, is named with its disk.
        let (from, to) = (fault.at.0.max(area), (fault.at.0 + fault.len as u64).min(area + seen.bytes));
        if from + PAGE_U64 <= to {
            named += 1;
            let name = format!("disk {}", fault.disk);
            assert!(seen.warnings.iter().any(|w| w.contains(&name)), "{}: {:?}", state.label, seen.warnings);
        }
    }
    assert!(count > 500 && named > 100, "{count} states, {named} in the log");
}

/// Polls `work` so many times; gives its result if it came to an end.
fn poll_times<T>(work: &mut Pin<Box<impl Future<Output = T> + ?Sized>>, times: usize) -> Option<T> {
    let mut cx = Context::from_waker(Waker::noop());
    (0..times).find_map(|_| match work.as_mut().poll(&mut cx) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    })
}

#[test]
fn a_manager_that_wakes_up_late_answers_nothing_that_is_lost() {
    // Frozen after each number of steps of a commit, small (an append) or large (a switch), and woken up after another
    // host has taken over and committed.
    let (mut answered, mut refused) = (0, 0);
    for size in [100, 300_000] {
        for frozen in 0..60 {
            let set = CrashSet::over(pool(2, 0));
            block_on(async {
                let (mut old, _) = serve(set.disks(), who(1, 3)).await.expect("serves");
                for c in 1..=2 {
                    old.commit(&commit_of(c, 4, size), || vec![Rec::Upto(c)]).await.expect("commits");
                }
                let records = commit_of(3, 4, size);
                let mut late = Box::pin(old.commit(&records, || vec![Rec::Upto(3)]));
                let early = poll_times(&mut late, frozen);
                let (mut new, upto) = serve(set.disks(), who(5, 4)).await.expect("takes over");
                assert!(upto >= 2);
                new.commit(&commit_of(upto + 1, 7, 50), || vec![Rec::Upto(upto + 1)]).await.expect("commits");
                let done = match early {
                    Some(done) => done,
                    None => late.await,
                };
                match done {
                    Ok(()) => assert!(upto == 3, "answered after {frozen} steps, and lost"),
                    Err(e) => assert_eq!(e.kind(), Kind::Lapsed),
                }
                *if upto == 3 { &mut answered } else { &mut refused } += 1;
                // Whatever the late one wrote: the new one's is what counts, and it goes on.
                new.commit(&commit_of(upto + 2, 1, 5), || vec![Rec::Upto(upto + 2)]).await.expect("goes on");
                assert_eq!(look(set.disks()).await.expect("whole").1, upto + 2);
            });
        }
    }
    assert!(answered > 10 && refused > 2, "{answered} found the late commit, {refused} did not");
}

#[test]
fn of_two_that_start_at_once_exactly_one_serves() {
    for seed in 0..150 {
        let mut random = SeededRandom(seed);
        let set = CrashSet::over(pool(2, 1));
        let door = NoLocks { polls: 400 };
        // Neither is on the host of the predecessor: no lock speaks for them.
        let start = |host: u8| {
            let disks: Vec<CrashDisk> = set.disks();
            Box::pin(async move {
                let (takeover, upto) = win(disks, who(host, host), door).await?;
                takeover.start(&[Rec::Upto(upto)]).await
            })
        };
        let (mut a, mut b) = (start(11), start(12));
        let (mut one, mut other) = (None, None);
        while one.is_none() || other.is_none() {
            match random.below(2) == 0 {
                true if one.is_none() => one = poll_times(&mut a, 1),
                false if other.is_none() => other = poll_times(&mut b, 1),
                _ => {}
            }
        }
        let mut serving = 0;
        for store in [one, other].into_iter().flatten() {
            let Ok(mut store) = store else { continue };
            let done = block_on(store.commit(&commit_of(2, 1, 5), || vec![Rec::Upto(2)]));
            serving += u64::from(done.is_ok());
        }
        assert_eq!(serving, 1, "seed {seed}");
        assert_eq!(block_on(look(set.disks())).expect("whole").1, 2, "seed {seed}");
    }
}
