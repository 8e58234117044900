//! I/O goes through the manager while a path is lost, and comes back by itself.

use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::mount::{Mount, Transport};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::wait::until;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const BLOCK: usize = 4096;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("it opens")
}

/// State of each path, and the bytes that went through the manager.
fn paths(mount: &Mount) -> Vec<(String, u64)> {
    let said = mount.fusevol(&["paths", "--json"]).ok().json();
    let all = said["paths"].as_array().expect("a list").clone();
    all.iter().map(|p| (p["state"].as_str().expect("a word").to_owned(), p["redirected"].as_u64().expect("a number"))).collect()
}

fn wait_for(mount: &Mount, disk: usize, state: &str) {
    until(&format!("the path to be {state}"), PATIENCE, || (paths(mount)[disk].0 == state).then_some(()));
}

/// > `fusevol paths fail DISK` lets the path to a disk count as failed: its I/O goes through the manager, the application sees nothing of it; `restore` brings it back.
#[test]
fn the_drill() {
    for transport in [Transport::Uring, Transport::Classic] {
        let mut pool = Pool::new();
        pool.volume("db", "1G");
        let key = pool.client("host1", &[("db", "read,write,snapshot,backup")]);
        let mount = Mount::over(transport, &key, &pool.path().join("fv"));
        let image = open(&mount.image("db"));
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|threads| {
            let writer = threads.spawn(|| {
                // Each round overwrites places that are known and one that is new, and reads one of an earlier round.
                let at = |n: u64| (n * 7919) % 16_000 * BLOCK as u64;
                while !stop.load(Ordering::SeqCst) {
                    let n = rounds.load(Ordering::SeqCst) + 1;
                    image.write_all_at(&n.to_le_bytes().repeat(BLOCK / 8), at(n)).expect("it writes");
                    image.write_all_at(&n.to_le_bytes().repeat(BLOCK / 8), 0).expect("it overwrites");
                    if n % 16 == 0 {
                        image.sync_all().expect("it flushes");
                        let (earlier, mut back) = (n - n % 7, [0; 8]);
                        image.read_exact_at(&mut back, at(earlier)).expect("it reads");
                        assert_eq!(u64::from_le_bytes(back), earlier, "round {n}");
                    }
                    rounds.store(n, Ordering::SeqCst);
                }
            });
            let goes_on = || {
                let before = rounds.load(Ordering::SeqCst);
                until("the load to go on", PATIENCE, || (rounds.load(Ordering::SeqCst) > before + 20).then_some(()));
            };
            goes_on();
            for disk in ["0", "1", "0"] {
                let no: usize = disk.parse().expect("a number");
                let _said = mount.fusevol(&["paths", "fail", disk]).ok();
                wait_for(&mount, no, "proxied");
                goes_on();
                let _said = mount.fusevol(&["status"]).ok().says("proxied for").says("failed by fusevol paths fail");
                let _said = mount.fusevol(&["status", "--check"]).code(1);
                let _said = mount.fusevol(&["paths", "restore", disk]).ok();
                wait_for(&mount, no, "direct");
                goes_on();
            }
            for disk in ["0", "1"] {
                let _said = mount.fusevol(&["paths", "fail", disk]).ok();
            }
            goes_on();
            let _said = pool.mgr(&["snapshot", "create", "db@s1"]).ok();
            goes_on();
            for disk in ["0", "1"] {
                let _said = mount.fusevol(&["paths", "restore", disk]).ok();
            }
            stop.store(true, Ordering::SeqCst);
            writer.join().expect("no I/O failed");
        });
        assert!(paths(&mount).iter().map(|(_, bytes)| bytes).sum::<u64>() > 0, "something went through the manager");
        let _said = mount.fusevol(&["paths", "fail", "7"]).code(4).says("no disk 7");
        drop(image);
        mount.umount();
        pool.check();
    }
}

/// > A manager that follows a killed one on the same host, where every disk knows byte locks, knows that nothing of its clients' I/O is under way: it is asked again, at the same place.
#[test]
fn the_manager_is_killed_while_it_is_asked() {
    let mut pool = Pool::new();
    pool.volume("db", "256M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let mut load = Load::start(&mount.image("db"), Oracle::new(5, THREADS), 5);
    for disk in ["0", "1"] {
        let _said = mount.fusevol(&["paths", "fail", disk]).ok();
    }
    for disk in 0..2 {
        wait_for(&mount, disk, "proxied");
    }
    let goes_on = |load: &Load| {
        let before = load.acked();
        until("the load to go on", PATIENCE, || {
            assert_eq!(load.error(), None);
            (load.acked() > before + 50).then_some(())
        });
    };
    for _ in 0..8 {
        goes_on(&load);
        pool.kill();
        pool.serve();
    }
    goes_on(&load);
    load.verify("after the last kill");
    let mut oracle = load.finish();
    oracle.verify("at the end", &mount.image("db"));
    assert_eq!(mount.log().matches("lies at").count(), 0, "nothing had to be moved");
    mount.umount();
    pool.adds_up();
    pool.check();
}
