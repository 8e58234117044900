//! A client whose slot disks are lost one after the other, of a pool of real network disks: it goes on, and it can still be succeeded.
//! (SEMANTICS.md, "Mirrors".)

use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::mirrored::{Mirrored, PATIENCE, goes_on};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::wait::{timed, until};
use std::fs::OpenOptions;
use std::time::Duration;

const DISK: u64 = 2 << 30;
/// The longest that whoever wants the volume of a dead client waits, in a pool with leases of two seconds.
const SUCCEEDED: Duration = Duration::from_secs(30);

/// A disk is lost; the client goes on, its slot lies on these disks now. It is given up, and the volume gets all its copies without it.
fn loses(m: &mut Mirrored, load: &Load, disk: usize, slots: &str) {
    m.servers[disk].kill();
    m.says(&format!("lies on disks {slots} now"));
    let _said = m.pool.mgr(&["disk", "fail", &disk.to_string()]).ok();
    goes_on(load, 200);
    m.whole();
    println!("disk {disk} is lost: the slot lies on disks {slots}");
}

/// It is well after all, and carries the slot again, beside others.
fn is_back(m: &mut Mirrored, load: &Load, disk: usize, slots: &str) {
    m.servers[disk].start();
    let _said = m.pool.mgr(&["disk", "fail", &disk.to_string(), "--clear"]).ok();
    m.says(&format!("lies on disks {slots} now"));
    goes_on(load, 100);
    m.whole();
}

/// > A client whose slot disks are lost one after the other goes on as long as its data has copies elsewhere, and can be succeeded all the while.
///
/// Of four disks the first two are lost, one of them comes back, a third one is lost; then a disk and the client die together.
#[test]
fn slot_disks_are_lost_one_after_the_other_and_the_client_is_succeeded() {
    let mut m = Mirrored::new(&[DISK; 4], "256M");
    let other = m.pool.client("host2", &[("db", "read,write")]);
    let mount = m.mount("fv");
    let mut load = Load::in_place(&mount.image("db"), Oracle::new(1, THREADS), 1);
    goes_on(&load, 200);
    loses(&mut m, &load, 0, "1, 2, 3");
    loses(&mut m, &load, 1, "2, 3");
    load.verify("without the first two disks of the slot");
    is_back(&mut m, &load, 0, "0, 2, 3");
    loses(&mut m, &load, 2, "0, 3");
    let slowest = load.slowest();
    println!("the slowest act of all: {slowest:?}");

    is_back(&mut m, &load, 1, "0, 1, 3");
    m.servers[3].kill();
    mount.kill();
    let mut oracle = load.wreck();
    for n in [0, 1] {
        // Servers end with their clients; the two that are lost stay so.
        m.servers[n].revive();
    }
    let next = Mount::new(&other, &m.pool.path().join("next"));
    let (file, took) =
        timed(|| until("the volume to be taken over", PATIENCE, || OpenOptions::new().read(true).write(true).open(next.image("db")).ok()));
    println!("succeeded with two disks lost after {took:?}");
    assert!(took < SUCCEEDED, "{took:?}");
    oracle.verify("after the takeover", &next.image("db"));
    drop(file);
    let load = Load::in_place(&next.image("db"), oracle, 2);
    goes_on(&load, 200);
    for n in [2, 3] {
        m.servers[n].start();
    }
    let _said = m.pool.mgr(&["disk", "fail", "2", "--clear"]).ok();
    m.whole();
    let mut oracle = load.finish();
    oracle.verify("with all disks", &next.image("db"));
    next.umount();
    println!("{} AUs have equal copies", m.check_copies());
}
