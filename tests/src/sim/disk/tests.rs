//! The simulated disk: what lands when, what a cut leaves, and when a lock is free.

use super::super::exec::{Exec, Stuck, turn};
use super::super::sched::Sched;
use super::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const SIZE: u64 = 1 << 20;

fn world(seed: u64) -> (Exec, Medium) {
    let sched = Sched::new(seed, false);
    let medium = Medium::new(sched.clone(), 0, &MemDisk::new(SIZE));
    (Exec::new(sched), medium)
}

fn bytes(b: u8, pages: usize) -> IoBytes {
    IoBuf::copy_of(&vec![b; pages * PAGE]).freeze()
}

fn run(exec: &Exec, work: impl Future<Output = ()> + 'static) {
    exec.run(1_000_000, work).expect("it ends");
}

/// Several writers and a reader; gives the digest.
fn busy(seed: u64) -> (u64, u64) {
    let (exec, medium) = world(seed);
    let e = exec.clone();
    let m = medium.clone();
    run(&exec, async move {
        let mut tasks = Vec::new();
        for n in 0..4u8 {
            let p = e.sched().process("writer");
            let (disk, e2) = (m.open(p, Boot(1)), e.clone());
            tasks.push(e.spawn(p, async move {
                for i in 0..20u64 {
                    disk.write(DiskOff(i % 5 * PAGE_U64), bytes(n, 1)).await.expect("written");
                    if i % 7 == 0 {
                        disk.flush().await.expect("flushed");
                    }
                    e2.sched().sleep(p, Duration::from_micros(300)).await;
                    turn().await;
                }
            }));
        }
        for t in tasks {
            t.await;
        }
    });
    exec.sched().digest()
}

#[test]
fn the_same_seed_is_the_same_world() {
    assert_eq!(busy(7), busy(7));
    assert_ne!(busy(7), busy(8));
}

#[test]
fn what_is_flushed_survives_a_cut_and_the_rest_may() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let (exec, medium) = world(seed);
        let m = medium.clone();
        let p = exec.sched().process("writer");
        let disk = m.open(p, Boot(1));
        run(&exec, async move {
            disk.write(DiskOff(0), bytes(1, 1)).await.expect("written");
            disk.flush().await.expect("flushed");
            disk.write(DiskOff(0), bytes(2, 1)).await.expect("written");
            disk.write(DiskOff(PAGE_U64), bytes(3, 2)).await.expect("written");
            disk.write_durable(DiskOff(PAGE_U64), bytes(4, 1)).await.expect("written");
            m.power_cut();
        });
        let image = medium.image().content();
        assert!(image[..PAGE].iter().all(|b| *b == 1 || *b == 2), "flushed, then perhaps overwritten");
        assert!(image[PAGE..2 * PAGE].iter().all(|b| *b == 4), "a durable write is not covered by what it covered");
        match (image[0..PAGE].iter().all(|b| *b == 1), image[0..PAGE].iter().all(|b| *b == 2)) {
            (true, _) => lost += 1,
            (_, true) => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 10 && lost > 10 && torn > 10, "{kept} {lost} {torn}");
}

/// K1: a killed process's write lands after its death; its lock is held until then.
#[test]
fn a_lock_is_free_only_when_the_last_request_has_landed() {
    let (mut late, mut torn, mut never, mut held) = (0, 0, 0, 0);
    for seed in 0..300 {
        let (exec, medium) = world(seed);
        let (e, m) = (exec.clone(), medium.clone());
        let seen: Rc<Cell<(u32, u32)>> = Rc::default();
        let out = seen.clone();
        run(&exec, async move {
            let p = e.sched().process("victim");
            let disk = m.open(p, Boot(1));
            assert!(disk.try_lock(9));
            assert!(!m.open(e.sched().process("other"), Boot(1)).try_lock(9), "one has it");
            assert!(m.open(e.sched().process("abroad"), Boot(2)).try_lock(9), "another host sees nothing of it");
            e.spawn(p, async move { disk.write(DiskOff(0), bytes(5, 2)).await });
            turn().await;
            turn().await;
            turn().await;
            e.kill(p);
            m.orphan(p);
            let mut waited = 0;
            while m.locked(Boot(1), 9) {
                assert_eq!(m.in_flight(p), 1);
                waited += 1;
                e.sleep(Duration::from_millis(1)).await;
            }
            let image = m.image().content();
            let landed = u32::try_from(image.iter().filter(|b| **b == 5).count()).expect("small");
            e.sleep(Duration::from_secs(60)).await;
            assert!(m.image().content() == image, "nothing lands once the lock is free");
            out.set((waited, landed));
        });
        let (waited, landed) = seen.get();
        held += u32::from(waited > 1);
        match usize::try_from(landed).expect("small") {
            0 => never += 1,
            n if n == 2 * PAGE => late += 1,
            _ => torn += 1,
        }
    }
    assert!(late > 20 && torn > 20 && never > 10 && held > 20, "{late} {torn} {never} {held}");
}

#[test]
fn what_a_frozen_process_asked_may_land_after_it_is_thawed() {
    let mut late = 0;
    for seed in 0..60 {
        let (exec, medium) = world(seed);
        let (e, m) = (exec.clone(), medium.clone());
        let seen = Rc::new(Cell::new(false));
        let out = seen.clone();
        run(&exec, async move {
            let p = e.sched().process("frozen");
            let disk = m.open(p, Boot(1));
            let done = e.spawn(p, async move { disk.write(DiskOff(0), bytes(5, 1)).await });
            turn().await;
            turn().await;
            e.sched().freeze(p, true);
            m.hold(p);
            let before = e.sched().local(p);
            e.sleep(Duration::from_secs(30)).await;
            assert_eq!(e.sched().local(p), before, "its clock stands");
            assert!(!done.done());
            out.set(m.image().peek(DiskOff(0), 1) == [0]);
            m.release(p);
            e.thaw(p);
            done.await.expect("written in the end");
            assert_eq!(m.image().peek(DiskOff(0), 1), [5]);
            assert!(e.sched().local(p) - before < 5_000_000_000);
        });
        late += u32::from(seen.get());
    }
    assert!(late > 10, "{late}");
}

#[test]
fn a_world_that_hangs_is_a_failure() {
    let (exec, _) = world(1);
    assert_eq!(exec.run(1000, std::future::pending::<()>()).expect_err("nothing can go on"), Stuck::Hang);
    let (exec, _) = world(1);
    let forever = async {
        loop {
            turn().await;
        }
    };
    assert_eq!(exec.run(1000, forever).expect_err("too long"), Stuck::Steps);
}

#[test]
fn errors_and_lies_come_by_the_dice_where_they_may() {
    let (exec, medium) = world(3);
    let m = medium.clone();
    let p = exec.sched().process("writer");
    medium.set_faults(Faults { dead: false, write: 2, read: 2, flush: 2, within: 0..SIZE / 2, lost: 3, astray: 3, lies: SIZE / 2..SIZE });
    run(&exec, async move {
        let disk = m.open(p, Boot(1));
        let (mut failed, mut lied) = (0, 0);
        for _ in 0..60 {
            failed += u32::from(disk.write(DiskOff(0), bytes(1, 1)).await.is_err_and(|e| e.answer == Answer::Answered));
            let at = DiskOff(SIZE / 2);
            m.state().live.poke(at, &[0; PAGE]);
            disk.write_durable(at, bytes(2, 1)).await.expect("a lie is no error");
            lied += u32::from(m.image().peek(at, 1) != [2]);
        }
        assert!((15..45).contains(&failed) && (15..50).contains(&lied), "{failed} {lied}");
    });
}
