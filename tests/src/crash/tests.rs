//! The crash disk itself: nothing that must survive is ever missing, and what may be missing is.

use super::*;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::units::{PAGE, PAGE_U64, SECTOR};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};

fn page(b: u8) -> IoBytes {
    IoBuf::copy_of(&[b; PAGE]).freeze()
}

fn at(page: u64) -> DiskOff {
    DiskOff(page * PAGE_U64)
}

/// First byte of each of the first `n` pages of each disk: whole-page states only.
fn firsts(state: &State, n: u64) -> Vec<u8> {
    state.disks.iter().flat_map(|d| (0..n).map(|p| d.peek(at(p), 1)[0])).collect()
}

#[test]
fn flushed_is_there_and_the_rest_may_be() {
    let set = CrashSet::new(1, 16 * PAGE_U64);
    let d = &set.disks()[0];
    block_on(async {
        d.write(at(0), page(1)).await.unwrap();
        d.flush().await.unwrap();
        set.mark(1);
        join_all([d.write(at(1), page(2)), d.write(at(2), page(3))]).await;
    });
    let mut by_mark: BTreeMap<u64, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for s in set.states(&mut SeededRandom(1), 4).filter(|s| s.label.mode != Mode::Tear) {
        by_mark.entry(s.acknowledged).or_default().insert(firsts(&s, 3));
    }
    assert_eq!(by_mark[&0], BTreeSet::from([vec![0, 0, 0], vec![1, 0, 0]]));
    assert_eq!(by_mark[&1], BTreeSet::from([vec![1, 0, 0], vec![1, 2, 0], vec![1, 0, 3], vec![1, 2, 3]]));
}

#[test]
fn a_flush_covers_what_completed_before_it_began_on_its_own_disk() {
    let set = CrashSet::new(2, 16 * PAGE_U64);
    let (a, b) = (&set.disks()[0], &set.disks()[1]);
    block_on(async {
        a.write(at(0), page(1)).await.unwrap();
        b.write(at(0), page(2)).await.unwrap();
        // The write of page 1 begins before the flush but completes after its begin.
        let (w, f) = futures_util::future::join(a.write(at(1), page(3)), a.flush()).await;
        w.and(f).unwrap();
        set.mark(1);
    });
    let after: BTreeSet<_> =
        set.states(&mut SeededRandom(1), 4).filter(|s| s.acknowledged == 1 && s.label.mode != Mode::Tear).map(|s| firsts(&s, 2)).collect();
    let expected = [[1, 0, 0, 0], [1, 3, 0, 0], [1, 0, 2, 0], [1, 3, 2, 0]];
    assert_eq!(after, expected.iter().map(|e| e.to_vec()).collect());
}

#[test]
fn a_durable_write_covers_older_open_ones() {
    let set = CrashSet::new(1, 16 * PAGE_U64);
    let d = &set.disks()[0];
    block_on(async {
        d.write(at(0), page(1)).await.unwrap();
        d.write_durable(at(0), page(2)).await.unwrap();
        set.mark(1);
    });
    let all: Vec<_> = set.states(&mut SeededRandom(3), 8).collect();
    assert!(all.iter().filter(|s| s.acknowledged == 1).all(|s| firsts(s, 1) == [2]));
    assert!(all.iter().any(|s| firsts(s, 1) == [1]));
}

#[test]
fn tears_are_by_sector() {
    let set = CrashSet::new(1, 16 * PAGE_U64);
    block_on(set.disks()[0].write(at(3), page(7))).unwrap();
    let mut torn = 0;
    for s in set.states(&mut SeededRandom(5), 50).filter(|s| s.label.mode == Mode::Tear) {
        let bytes = s.disks[0].peek(at(3), PAGE);
        assert!(bytes.chunks(SECTOR).all(|c| c.iter().all(|&b| b == c[0])), "{}", s.label);
        torn += usize::from(bytes.contains(&0) && bytes.contains(&7));
    }
    assert!(torn > 20, "{torn}");
}

#[test]
fn no_state_comes_twice_and_a_seed_reproduces() {
    let set = CrashSet::new(2, 64 * PAGE_U64);
    let mut random = SeededRandom(11);
    block_on(async {
        for n in 1..60_u8 {
            let d = &set.disks()[usize::from(n) % 2];
            join_all((0..3).map(|_| d.write(at(random.below(64)), page(n)))).await;
            if n % 3 == 0 {
                d.flush().await.unwrap();
                set.mark(u64::from(n));
            }
        }
    });
    let digest = |s: &State| {
        let content: Vec<_> = s.disks.iter().map(|d| blake3::hash(&d.content())).collect();
        (format!("{content:?}"), s.acknowledged)
    };
    let mut seed = SeededRandom(2);
    let mut states = set.states(&mut seed, 10);
    let all: Vec<_> = states.by_ref().collect();
    let distinct: BTreeSet<_> = all.iter().map(digest).collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(states.distinct_contents(), distinct.iter().map(|(c, _)| c).collect::<BTreeSet<_>>().len());
    assert!(all.len() > 1_500, "{}", all.len());
    let again: Vec<_> = set.states(&mut SeededRandom(2), 10).map(|s| s.label).collect();
    assert_eq!(all.into_iter().map(|s| s.label).collect::<Vec<_>>(), again);
    let full: Vec<_> = set.disks().iter().map(|d| d.live().content()).collect();
    let last = set.states(&mut SeededRandom(2), 1).any(|s| s.disks.iter().map(MemDisk::content).eq(full.iter().cloned()));
    assert!(last, "what the program saw at the end is one of the states");
}

#[test]
fn lies_are_one_at_a_time() {
    let set = CrashSet::new(1, 16 * PAGE_U64);
    let d = &set.disks()[0];
    block_on(async {
        for n in 0..4 {
            d.write(at(n), page(u8::try_from(n).unwrap() + 1)).await.unwrap();
        }
        d.flush().await.unwrap();
        set.mark(1);
    });
    let lost: BTreeSet<_> = set.lost(&mut SeededRandom(1), 100).filter(|s| s.acknowledged == 1).map(|s| firsts(&s, 4)).collect();
    assert_eq!(lost, [[0, 2, 3, 4], [1, 0, 3, 4], [1, 2, 0, 4], [1, 2, 3, 0]].iter().map(|e| e.to_vec()).collect());
    let mut elsewhere = 0;
    for s in set.misdirected(&mut SeededRandom(1), 100) {
        let fault = s.fault.unwrap();
        let landed = fault.landed.unwrap();
        let own = s.disks[0].peek(fault.at, 1)[0];
        let wrong = s.disks[0].peek(landed, 1)[0];
        let byte = u8::try_from(fault.at.0 / PAGE_U64).unwrap() + 1;
        assert!(landed == fault.at || own == 0, "{}", s.label);
        elsewhere += usize::from(wrong == byte && landed != fault.at);
    }
    assert!(elsewhere > 10, "{elsewhere}");
}

#[test]
fn goes_on_from_a_state() {
    let start = MemDisk::from_bytes(&[5; 2 * PAGE]);
    let set = CrashSet::over(vec![start.clone()]);
    block_on(set.disks()[0].write_durable(at(1), page(6))).unwrap();
    let states: BTreeSet<_> = set.states(&mut SeededRandom(1), 2).filter(|s| s.label.mode != Mode::Tear).map(|s| firsts(&s, 2)).collect();
    assert_eq!(states, BTreeSet::from([vec![5, 5], vec![5, 6]]));
    assert_eq!(start.peek(at(1), 1), [5]);
}
