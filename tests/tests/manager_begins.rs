//! A manager that begins while a disk of its pool is missing: it serves without it and takes it up again; without a quorum of the catalog it refuses.
//! (SEMANTICS.md, "Mirrors".)

use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::mirrored::{Mirrored, goes_on, spread};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::wait::{timed, until};
use std::time::Duration;

const DISK: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// What `status` finds of missing disks.
fn missing(m: &Mirrored) -> Vec<String> {
    let said = m.pool.mgr(&["--json", "status"]).ok().json();
    let findings = said["status"]["findings"].as_array().expect("a list").clone();
    let texts = findings.iter().map(|f| f["text"].as_str().expect("a text").to_owned());
    texts.filter(|t| t.contains("is missing")).collect()
}

/// > A manager begins while disks of its pool are missing, if it sees a quorum of those that hold the catalog; else it refuses, and names them.
///
/// The disk's server dies under load, then the manager, which begins again without the disk.
#[test]
fn a_manager_begins_while_a_disk_is_missing() {
    let mut m = Mirrored::new(&[DISK; 3], "256M");
    let mount = m.mount("fv");
    spread(&mount);
    let mut load = Load::start(&mount.image("db"), Oracle::new(1, THREADS), 1);
    goes_on(&load, 100);
    m.servers[1].kill();
    spread(&mount);
    goes_on(&load, 100);
    m.says("goes on without its copies");
    m.pool.kill();
    let ((), took) = timed(|| m.pool.serve());
    println!("it serves without the disk after {took:?}");
    m.says("disk-missing");
    let found = missing(&m);
    assert!(found.len() == 1 && found[0].contains("disk 1 is missing"), "{found:?}");
    assert_eq!(m.pool.mgr(&["--json", "disk", "ls"]).ok().json()["disks"].as_array().map(Vec::len), Some(3));
    goes_on(&load, 200);
    load.verify("without the disk");
    // Who mounts now hears of all disks, and waits for none.
    let key = m.pool.client("host2", &[("db", "read")]);
    let reader = Mount::new(&key, &m.pool.path().join("reader"));
    reader.umount();

    m.servers[1].start();
    let ((), took) = timed(|| {
        until("the disk to be found", PATIENCE, || missing(&m).is_empty().then_some(()));
        m.whole();
    });
    println!("all copies are there again after {took:?}");
    goes_on(&load, 100);
    load.verify("with all copies");
    // Now the volume can do without the other one.
    m.servers[0].kill();
    goes_on(&load, 100);
    m.servers[0].start();
    m.whole();
    let mut oracle = load.finish();
    oracle.verify("at the end", &mount.image("db"));
    mount.umount();
    println!("{} AUs have equal copies", m.check_copies());
}

/// > A manager begins while disks of its pool are missing, if it sees a quorum of those that hold the catalog; else it refuses, and names them.
#[test]
fn without_a_quorum_of_the_catalog_it_refuses_and_says_which_disks_are_missing() {
    let mut m = Mirrored::new(&[DISK; 3], "256M");
    m.pool.stop();
    m.servers[0].kill();
    m.servers[2].kill();
    let refused = m.pool.mgr(&["serve"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    let said = format!("{}{}", refused.out, refused.err);
    for lost in [0, 2] {
        assert!(said.contains(m.servers[lost].uri()), "{said}");
    }
    assert!(!said.contains(m.servers[1].uri()) && said.contains("1 of 3 catalog disks") && said.contains("hint:"), "{said}");
    // Two of three are a quorum; what is offline says what it has not seen.
    m.servers[0].start();
    let report = m.pool.mgr(&["check"]);
    assert!(report.code != 0 && format!("{}{}", report.out, report.err).contains("disk 2"), "{report:?}");
    m.pool.serve();
    assert!(missing(&m).iter().all(|t| t.contains("disk 2 is missing")) && missing(&m).len() == 1);
    m.pool.stop();
    m.servers[2].start();
    m.pool.check();
}
