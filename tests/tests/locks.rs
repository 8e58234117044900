//! Byte-range locks: random processes on several hosts against the real core; real mounts, real programs.

use fusevol_tests::model::{lockers, run_local};
use fusevol_tests::real::locker::{Holder, flock_once, qemu_once};
use fusevol_tests::real::mount::{Mount, Transport};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::wait::{pause, timed, until};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// > No two processes hold locks that conflict, on whichever hosts of the pool they are, whatever dies.
#[test]
fn random_processes_never_hold_what_conflicts() {
    let mut all = lockers::Seen::default();
    for seed in 0..60 {
        let seen = run_local(lockers::run(seed, 6000));
        all.had += seen.had;
        all.refused += seen.refused;
        all.restarts += seen.restarts;
        all.deaths += seen.deaths;
    }
    println!("{all:?}");
    assert!(all.had > 5000 && all.refused > 2000 && all.restarts > 200 && all.deaths > 100, "{all:?}");
}

/// Two clients with a mount each, of one volume.
struct Two {
    pool: Pool,
    one: Mount,
    other: Mount,
}

impl Two {
    fn new() -> Self {
        let pool = Pool::new();
        pool.volume("vm", "64M");
        let keys = ["host1", "host2"].map(|n| pool.client(n, &[("vm", "read,write")]));
        let one = Mount::over(Transport::Uring, &keys[0], &pool.path().join("one"));
        let other = Mount::over(Transport::Classic, &keys[1], &pool.path().join("other"));
        Self { pool, one, other }
    }

    fn images(&self) -> (PathBuf, PathBuf) {
        (self.one.image("vm"), self.other.image("vm"))
    }

    fn end(self) {
        let Self { mut pool, one, other } = self;
        one.umount();
        other.umount();
        pool.check();
    }
}

const SOON: Duration = Duration::from_secs(30);

/// > Two QEMUs on two hosts that open one volume: the second is refused, before and after the manager was killed, until the first has closed it.
#[test]
fn the_second_qemu_is_refused_on_another_host() {
    let mut two = Two::new();
    let (one, other) = two.images();
    let first = Holder::qemu(&one).expect("the first gets it");
    let refused = || qemu_once(&other).code(1).says("Failed to get").says("Is another process using the image");
    let _said = refused();
    let _said = qemu_once(&one).code(1).says("lock");
    let said = Holder::qemu(&one).err().expect("on the same mount, too");
    assert!(said.contains("Failed to get"), "{said}");
    assert!(Holder::qemu(&other).is_err(), "for writing it is not even opened");
    two.pool.kill();
    two.pool.serve();
    let _said = refused();
    first.end();
    until("the second to get it", SOON, || (qemu_once(&other).code == 0).then_some(()));
    // The other way round: who reads is not to be written under.
    let reader = Holder::reader(&other);
    let said = Holder::qemu(&one).err().expect("refused");
    assert!(said.contains("Failed to get"), "{said}");
    let _said = qemu_once(&one).ok();
    reader.end();
    let second = until("the writer to get it", SOON, || Holder::qemu(&one).ok());
    let _said = refused();
    second.kill();
    until("the lock of a killed one to go", SOON, || (qemu_once(&other).code == 0).then_some(()));
    two.end();
}

/// > A lock goes with its holder: when the file is closed, the process or its host's mount is killed.
#[test]
fn locks_go_with_who_held_them() {
    let two = Two::new();
    let (one, other) = two.images();
    let first = Holder::flock(&one, "-x");
    assert!(!flock_once(&other, "-s") && !flock_once(&one, "-s"));
    first.kill();
    until("the lock of a killed process to go", SOON, || flock_once(&other, "-x").then_some(()));
    let shared = Holder::flock(&one, "-s");
    assert!(flock_once(&other, "-s") && !flock_once(&other, "-x"));
    shared.end();

    // POSIX locks: any close of the file by the process takes them.
    let open = |path: &Path| OpenOptions::new().read(true).write(false).open(path).expect("opened");
    let (a, b) = (open(&one), open(&other));
    fcntl_lock(&a, FlockOperation::NonBlockingLockShared).expect("had");
    let write = OpenOptions::new().read(true).write(true).open(&other).expect("opened");
    assert_eq!(fcntl_lock(&write, FlockOperation::NonBlockingLockExclusive), Err(Errno::AGAIN), "another mount, another owner");
    fcntl_lock(&b, FlockOperation::NonBlockingLockShared).expect("beside it");
    drop(open(&one));
    fcntl_lock(&write, FlockOperation::NonBlockingLockExclusive).expect("the other was dropped by the close");
    drop((a, b, write));

    let Two { pool, one: mount, other } = two;
    let holder = Holder::flock(&mount.image("vm"), "-x");
    assert!(!flock_once(&other.image("vm"), "-x"));
    mount.kill();
    until("the lock of a dead mount to go", SOON, || flock_once(&other.image("vm"), "-x").then_some(()));
    holder.kill();
    other.umount();
    drop(pool);
}

/// > Who waits for a lock gets it when it is given back, on any host, and can be killed while it waits.
#[test]
fn who_waits_gets_it_or_may_be_killed() {
    let two = Two::new();
    let (one, other) = two.images();
    // More of them than the mount has loops: they keep none.
    let first = Holder::flock(&one, "-x");
    let mut waiting: Vec<Holder> = (0..24).map(|n| Holder::waiting(if n % 2 == 0 { &one } else { &other })).collect();
    pause(Duration::from_millis(500));
    assert!(waiting.iter_mut().all(|w| w.ended().is_none()));
    std::fs::metadata(&one).and_then(|_| std::fs::metadata(&other)).expect("the mounts serve others");
    waiting.drain(..8).for_each(Holder::kill);
    let ((), took) = timed(|| {
        first.end();
        for w in &mut waiting {
            until("each to have had it", SOON, || w.ended());
        }
    });
    println!("16 that waited had it one after the other within {took:?}");
    two.end();
}

/// > While no manager serves, what is locked stays locked, an unlock works, and what is to be had from others waits.
#[test]
fn without_a_manager() {
    let mut two = Two::new();
    let (one, other) = two.images();
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let read = |path: &Path| OpenOptions::new().read(true).open(path).expect("opened");
    let (a, b) = (open(&one), read(&other));
    fcntl_lock(&a, FlockOperation::NonBlockingLockExclusive).expect("had");
    two.pool.kill();
    pause(Duration::from_millis(300));
    let (again, took) = timed(|| fcntl_lock(&a, FlockOperation::NonBlockingLockExclusive));
    assert!(again.is_ok() && took < Duration::from_secs(1), "had already: {again:?} after {took:?}");
    let (less, took) = timed(|| fcntl_lock(&a, FlockOperation::NonBlockingLockShared));
    assert!(less.is_ok() && took < Duration::from_secs(1), "less: {less:?} after {took:?}");
    let asked = std::thread::spawn(move || (fcntl_lock(&b, FlockOperation::NonBlockingLockShared), b));
    pause(Duration::from_secs(1));
    assert!(!asked.is_finished(), "nobody may give it");
    two.pool.serve();
    let (had, b) = asked.join().expect("no panic");
    assert_eq!(had, Ok(()), "the new manager knows of the lock that became a shared one");
    fcntl_lock(&a, FlockOperation::Unlock).expect("unlocked");
    drop((a, b));
    two.end();
}
