//! Copies of real mirrored volumes that find no room: a disk dies while the pool is full. (SEMANTICS.md, "Mirrors".)

use fusevol_tests::real::load::{Load, Oracle, SPAN, THREADS};
use fusevol_tests::real::mirrored::{Mirrored, PATIENCE, fill, filled, goes_on};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::wait::until;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;
/// Of two disks that are filled.
const DISK: u64 = 384 * MIB;
/// MiB of `db`, beside the load's part.
const FILLED: u64 = 64;

/// A pool of two disks that is full, with a volume `db`.
fn full_pool() -> Mirrored {
    let m = Mirrored::new(&[DISK; 2], "192M");
    let _said = m.pool.mgr(&["volume", "create", "filler", "--size", "1G", "--mirror", "2"]).ok();
    let _said = m.pool.mgr(&["access", "grant", "filler", "host1", "read,write"]).ok();
    m
}

/// Writes until the pool is full.
fn full(image: &Path) {
    let file = OpenOptions::new().write(true).open(image).expect("it opens");
    let full = (0..1024).find_map(|n| file.write_all_at(&[7; 1 << 20], n * MIB).err());
    assert_eq!(full.and_then(|e| e.raw_os_error()), Some(libc::ENOSPC), "the pool never was full");
    file.sync_all().expect("it syncs");
}

/// A disk dies; its copies wait for room, and everybody says so.
fn waits_for_room(m: &mut Mirrored) {
    m.servers[1].kill();
    let _said = m.pool.mgr(&["disk", "fail", "1"]).ok();
    let job = until("the job to wait for room", PATIENCE, || {
        m.job().filter(|j| j["state"] == "waiting" && j["why"].as_str().is_some_and(|w| w.contains("room")))
    });
    println!("{job}");
    m.says("and waits: no other disk has room");
    let _said = m.pool.mgr(&["status"]).says("no other disk has room").says("disk add DISK --spare");
    assert!(m.todo() >= FILLED, "all of them are lacking");
}

/// All volumes get their copies.
fn all_whole(m: &Mirrored) {
    m.whole();
    m.says("volume 'db' has all its copies");
    let _said = m.pool.mgr(&["job", "wait", "filler", "--timeout", "60"]).ok();
}

/// The other one of the first two dies: what was copied is all there is. Then all copies are equal.
fn is_all_there(m: &mut Mirrored, mount: Mount, verify: impl FnOnce(&Path)) {
    m.servers[0].kill();
    verify(&mount.image("db"));
    filled(&mount.image("db"), SPAN, FILLED);
    m.servers[0].start();
    m.whole();
    mount.umount();
    // Only to be looked at: what is on it counts for nothing.
    m.servers[1].start();
    println!("{} AUs have equal copies", m.check_copies());
}

/// > Copies for which the pool has no room are waited for, which `job show`, `status` and `events` say, and made once a disk is added.
///
/// The client goes on all the while, hears of the disk, and makes them.
#[test]
fn a_disk_is_added_under_a_client() {
    let mut m = full_pool();
    let mount = m.mount("fv");
    let image = mount.image("db");
    fill(&image, SPAN, FILLED);
    let mut load = Load::in_place(&image, Oracle::new(1, THREADS), 1);
    goes_on(&load, 2000);
    full(&mount.image("filler"));
    waits_for_room(&mut m);
    goes_on(&load, 200);

    let disk = m.another(2 * DISK);
    let _said = m.pool.mgr(&["disk", "add", &disk]).ok();
    all_whole(&m);
    let paths = mount.fusevol(&["paths", "--json"]).ok().json();
    assert_eq!(paths["paths"].as_array().map(Vec::len), Some(3), "{paths}");
    until("the new disk to be reached directly", PATIENCE, || {
        (mount.fusevol(&["paths", "--json"]).ok().json()["paths"][2]["state"] == "direct").then_some(())
    });
    goes_on(&load, 200);
    load.verify("with copies on the new disk");
    let mut oracle = load.finish();
    is_all_there(&mut m, mount, |db| oracle.verify("from the new disk", db));
}

/// The same with a spare disk and nobody attached: new data keeps off it, the manager's copies do not.
#[test]
fn a_spare_disk_is_added() {
    let mut m = full_pool();
    let mount = m.mount("fv");
    fill(&mount.image("db"), SPAN, FILLED);
    full(&mount.image("filler"));
    mount.umount();
    waits_for_room(&mut m);
    let disk = m.another(2 * DISK);
    let _said = m.pool.mgr(&["disk", "add", &disk, "--spare"]).ok();
    all_whole(&m);
    let mount = m.mount("again");
    is_all_there(&mut m, mount, |_| {});
}
