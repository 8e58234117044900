//! Disks of real mirrored volumes that come back as something else: as another disk of the pool, as an older copy of themselves. (SEMANTICS.md, "Mirrors".)

use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::mirrored::{Mirrored, PATIENCE, goes_on, out, spread};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::run::tool;
use fusevol_tests::real::wait::{pause, until};
use std::fs::{metadata, rename};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DISK: u64 = 2 << 30;
/// What would be taken back has been by then.
const A_WHILE: Duration = Duration::from_secs(3);
/// Two leases: what is older than that is known on any disk.
const MARKED: Duration = Duration::from_secs(4);

fn swap(a: &Path, b: &Path) {
    let between = a.with_extension("between");
    rename(a, &between).and_then(|()| rename(b, a)).and_then(|()| rename(&between, b)).expect("they are files of one folder");
}

fn written(image: &Path) -> SystemTime {
    metadata(image).and_then(|m| m.modified()).expect("it is there")
}

/// How often `events` says this.
fn times(m: &Mirrored, what: &str) -> usize {
    m.pool.mgr(&["events"]).ok().out.matches(what).count()
}

/// Waits until `status` names the disk as not used, for this reason.
fn refused(m: &Mirrored, disk: usize, why: &str) {
    let said = format!("disk {disk} is back, and is not used: {why}");
    until(&format!("'{said}'"), PATIENCE, || m.pool.mgr(&["status"]).ok().out.contains(&said).then_some(()));
    m.says(&said);
}

/// Waits until all disks are used, and all copies are there.
fn all_back(m: &Mirrored, mount: &Mount) {
    until("all to be back", PATIENCE, || (out(mount).is_empty() && m.job().is_none()).then_some(()));
    let said = m.pool.mgr(&["status"]).ok().out;
    assert!(!said.contains("is not used") && !said.contains("is missing"), "{said}");
}

/// All is there, also after the next mount, and all copies are equal.
fn all_there(m: &mut Mirrored, mount: Mount, load: Load) {
    let mut load = load;
    load.verify("with all copies");
    let mut oracle = load.finish();
    mount.umount();
    let mount = m.mount("again");
    oracle.verify("mounted again", &mount.image("db"));
    mount.umount();
    println!("{} AUs have equal copies", m.check_copies());
}

/// The disk's server dies, and its image is copied; then it is back, and the copies go on. Gives the copy.
fn copied_and_back(m: &mut Mirrored, mount: &Mount, load: &Load, disk: usize) -> PathBuf {
    let (image, old) = (m.image(disk), m.image(disk).with_extension("old"));
    spread(mount);
    m.servers[disk].kill();
    let _said = tool("cp", &["--sparse=always".as_ref(), image.as_os_str(), old.as_os_str()]);
    spread(mount);
    until("the disk to be out", PATIENCE, || (out(mount) == [disk as u64]).then_some(()));
    m.servers[disk].start();
    all_back(m, mount);
    m.says(&format!("disk {disk} is back, and is used again"));
    goes_on(load, 400);
    old
}

/// The server is started with the other image.
fn exchange(m: &mut Mirrored, disk: usize, other: &Path) {
    m.servers[disk].kill();
    swap(&m.image(disk), other);
    m.servers[disk].start();
}

/// > A disk that comes back as another one is not used: nothing of it is read, and nothing is written there.
///
/// Under load one comes back as a copy of another one that is there, too. Then two come back with each other's images. (Nobody has the volume open meanwhile:
/// the test starts programs, and each of them closes what it inherits, which would wait for the disks.) Later they come back with their own.
#[test]
fn two_disks_come_back_as_each_other() {
    let mut m = Mirrored::new(&[DISK; 4], "256M");
    let mount = m.mount("fv");
    spread(&mount);
    let mut load = Load::start(&mount.image("db"), Oracle::new(1, THREADS), 1);
    goes_on(&load, 200);
    let (a, b) = (m.image(2), m.image(3));
    m.servers[3].kill();
    spread(&mount);
    until("the disk to be out", PATIENCE, || (out(&mount) == [3]).then_some(()));
    let twin = a.with_extension("twin");
    let _said = tool("cp", &["--sparse=always".as_ref(), a.as_os_str(), twin.as_os_str()]);
    swap(&b, &twin);
    m.servers[3].start();
    refused(&m, 3, "not disk");
    let before = written(&b);
    goes_on(&load, 200);
    pause(A_WHILE);
    assert_eq!((out(&mount), written(&b)), (vec![3], before), "it is not taken back");
    load.verify("beside a copy of another disk");
    let oracle = load.finish();

    m.servers[2].kill();
    m.servers[3].kill();
    swap(&b, &twin);
    swap(&a, &b);
    let before = (written(&a), written(&b));
    m.servers[2].start();
    m.servers[3].start();
    for disk in [2, 3] {
        refused(&m, disk, "not disk");
    }
    pause(A_WHILE);
    m.servers[2].kill();
    m.servers[3].kill();
    assert_eq!((written(&a), written(&b)), before, "something was written there");
    swap(&a, &b);
    m.servers[2].start();
    m.servers[3].start();
    for disk in [2, 3] {
        m.says(&format!("disk {disk} is back, and is used again"));
    }
    let load = Load::start(&mount.image("db"), oracle, 2);
    goes_on(&load, 100);
    all_back(&m, &mount);
    goes_on(&load, 100);
    all_there(&mut m, mount, load);
}

/// > A disk that comes back as an older copy of itself is not used, and that is said.
///
/// Its server is started with an image from before its last return; the disk is given up, and another one takes the copies.
#[test]
fn an_older_copy_of_a_disk_is_given_up() {
    let mut m = Mirrored::new(&[DISK; 2], "256M");
    let mount = m.mount("fv");
    let mut load = Load::in_place(&mount.image("db"), Oracle::new(2, THREADS), 1);
    goes_on(&load, 200);
    let old = copied_and_back(&mut m, &mount, &load, 1);
    exchange(&mut m, 1, &old);
    refused(&m, 1, "it is an older copy of itself");
    goes_on(&load, 200);
    pause(A_WHILE);
    load.verify("beside the older copy");
    assert_eq!(out(&mount), [1], "it stays out");
    assert_eq!(times(&m, "disk 1 is back, and is not used"), 1, "said once");
    let disk = m.another(DISK);
    let _said = m.pool.mgr(&["disk", "add", &disk]).ok();
    let _said = m.pool.mgr(&["disk", "fail", "1"]).ok();
    m.whole();
    goes_on(&load, 100);
    load.verify("with all copies");
    // The offline check wants the pool's disks as they are.
    m.servers[1].kill();
    swap(&m.image(1), &old);
    m.servers[1].start();
    all_there(&mut m, mount, load);
}

/// > A disk that comes back as an older copy of itself is not used, and that is said.
///
/// The disk carries no copy of the catalog. The manager is killed meanwhile, and its successor knows it, too. Once the right image is there it comes back.
#[test]
fn an_older_copy_of_a_disk_without_the_catalog_is_known_to_the_next_manager_too() {
    let mut m = Mirrored::new(&[DISK; 4], "256M");
    let mount = m.mount("fv");
    let mut load = Load::in_place(&mount.image("db"), Oracle::new(3, THREADS), 1);
    goes_on(&load, 200);
    let old = copied_and_back(&mut m, &mount, &load, 3);
    pause(MARKED);
    exchange(&mut m, 3, &old);
    refused(&m, 3, "it is an older copy of itself: it shows mark");
    goes_on(&load, 200);
    load.verify("beside the older copy");
    m.pool.kill();
    m.pool.serve();
    refused(&m, 3, "it is an older copy of itself: it shows mark");
    goes_on(&load, 200);
    pause(A_WHILE);
    assert_eq!(out(&mount), [3], "it stays out");
    load.verify("beside the older copy, with the next manager");
    exchange(&mut m, 3, &old);
    all_back(&m, &mount);
    m.says("disk 3 is back, and is used again");
    goes_on(&load, 100);
    all_there(&mut m, mount, load);
}

/// > A disk that comes back as an older copy of itself is not used, and that is said.
///
/// The image is put back while no manager runs.
#[test]
fn an_older_copy_that_was_put_there_while_no_manager_ran_is_not_used() {
    let mut m = Mirrored::new(&[DISK; 4], "256M");
    let mount = m.mount("fv");
    let mut load = Load::in_place(&mount.image("db"), Oracle::new(4, THREADS), 1);
    goes_on(&load, 200);
    let old = copied_and_back(&mut m, &mount, &load, 3);
    pause(MARKED);
    m.pool.stop();
    exchange(&mut m, 3, &old);
    m.pool.serve();
    refused(&m, 3, "it is an older copy of itself: it shows mark");
    goes_on(&load, 200);
    pause(A_WHILE);
    assert_eq!(out(&mount), [3], "it is out");
    load.verify("beside the older copy");
    exchange(&mut m, 3, &old);
    all_back(&m, &mount);
    all_there(&mut m, mount, load);
}
