//! Copies of mirrored volumes on real network disks: one is lost for good under load, one is lost and comes back. (SEMANTICS.md, "Mirrors".)

use fusevol_tests::real::load::{Load, Oracle, SPAN, THREADS};
use fusevol_tests::real::mirrored::{Mirrored, PATIENCE, fill, filled, goes_on, number, out, shown, spread};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::rounds_of;
use fusevol_tests::real::wait::{timed, until};
use std::fs::{File, OpenOptions};
use std::time::Duration;

const DISK: u64 = 2 << 30;
/// The longest that an act may take because a copy is lost: the manager is asked, too, and it is given a while to find its own path again.
const STALL: Duration = Duration::from_secs(10);
/// Losses of one disk after the other, in the short form and the long one.
const LOSSES: (u64, u64) = (3, 30);

/// > A disk that fails under a mirrored volume is an error to nobody: it goes on with the other copies.
///
/// Its server is killed for good: for the client and the manager. Of three disks any may be the one, of two, either.
#[test]
fn a_disk_is_lost_for_good() {
    for (disks, lost) in [(3, 1), (2, 1), (2, 0)] {
        println!("disk {lost} of {disks}");
        let mut m = Mirrored::new(&vec![DISK; disks], "256M");
        let mount = m.mount("fv");
        spread(&mount);
        let mut load = Load::start(&mount.image("db"), Oracle::new(1, THREADS), 1);
        goes_on(&load, 200);
        let _earlier = load.slowest();
        m.servers[lost].kill();
        spread(&mount);
        goes_on(&load, 300);
        m.says("goes on without its copies");
        goes_on(&load, 300);
        let slowest = load.slowest();
        println!("the slowest act while disk {lost} of {disks} was lost: {slowest:?}");
        assert!(slowest < STALL, "{slowest:?}");
        load.verify("with one copy");
        let mut oracle = load.finish();
        mount.umount();
        // Nobody has it open, and it is not there still.
        let mount = m.mount("again");
        oracle.verify("mounted without the disk", &mount.image("db"));
        let load = Load::start(&mount.image("db"), oracle, 2);
        goes_on(&load, 200);
        // It is back: what it missed is copied, and all is well.
        m.servers[lost].start();
        m.whole();
        goes_on(&load, 100);
        let mut oracle = load.finish();
        oracle.verify("at the end", &mount.image("db"));
        mount.umount();
        println!("{} AUs have equal copies", m.check_copies());
    }
}

/// > A disk that fails under a mirrored volume is an error to nobody: it goes on with the other copies.
///
/// A reader finds it, beside a writer that has the volume open and does nothing.
#[test]
fn a_reader_finds_a_disk_dead() {
    const FILLED: u64 = 32;
    for lost in [0, 1] {
        let mut m = Mirrored::new(&[DISK; 2], "256M");
        let key = m.pool.client("host2", &[("db", "read")]);
        let mount = m.mount("fv");
        fill(&mount.image("db"), 0, FILLED);
        let writer = OpenOptions::new().write(true).open(mount.image("db")).expect("it opens");
        let reads = Mount::new(&key, &m.pool.path().join("reader"));
        let reader = File::open(reads.image("db")).expect("it opens");
        m.servers[lost].kill();
        let ((), took) = timed(|| filled(&reads.image("db"), 0, FILLED));
        println!("disk {lost} is dead, the writer does nothing: read after {took:?}");
        assert!(took < STALL, "{took:?}");
        drop((reader, writer));
        reads.umount();
        m.servers[lost].start();
        m.whole();
        mount.umount();
        println!("{} AUs have equal copies", m.check_copies());
    }
}

/// > A disk that comes back gets what its copies missed, and no more.
#[test]
fn a_disk_that_comes_back_gets_what_it_missed() {
    const FILLED: u64 = 512;
    let mut m = Mirrored::new(&[DISK; 2], "1G");
    let mount = m.mount("fill");
    fill(&mount.image("db"), 256 << 20, FILLED);
    mount.umount();
    let mut oracle = Oracle::new(2, THREADS);
    for round in 0..rounds_of(LOSSES.0, LOSSES.1) {
        let disk = usize::from(round % 2 == 0);
        // A mount of its own: it counts from nothing.
        let mount = m.mount(&format!("fv{round}"));
        let mut load = Load::in_place(&mount.image("db"), oracle, round + 1);
        goes_on(&load, 100);
        m.servers[disk].kill();
        until("the disk to be out", PATIENCE, || (out(&mount) == [disk as u64]).then_some(()));
        goes_on(&load, 200);
        m.servers[disk].start();
        let ((), took) = timed(|| {
            until("it to be back", PATIENCE, || (out(&mount).is_empty() && m.job().is_none()).then_some(()));
        });
        goes_on(&load, 100);
        load.verify("with both copies");
        let copies = shown(&mount);
        let (copied, equal) = (number(&copies, "copied"), number(&copies, "equal"));
        println!("round {round}: {copied} bytes copied, {equal} found equal, of {FILLED} MiB and {} MiB; back in {took:?}", SPAN >> 20);
        assert!(copied > 0, "it missed something");
        assert!(copied + equal < (FILLED << 20) / 2, "only its dirty regions are looked at: {copies}");
        oracle = load.finish();
        mount.umount();
    }
    let mount = m.mount("end");
    oracle.verify("at the end", &mount.image("db"));
    filled(&mount.image("db"), 256 << 20, FILLED);
    mount.umount();
    println!("{} AUs have equal copies", m.check_copies());
}
