//! Paths and disk servers that are lost under load: the client's alone, the manager's alone, a server that both use. (SEMANTICS.md, "Redirect", "NBD disks".)

use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::nbd::NbdServer;
use fusevol_tests::real::pool::{Pool, scratch};
use fusevol_tests::real::rounds_of;
use fusevol_tests::real::split::{DISKS, Split};
use fusevol_tests::real::wait::{pause, until};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Cuts of the path under load, in the short form and in the long one.
const CUTS: (u64, u64) = (20, 200);
/// Races of a late write.
const RACES: (u64, u64) = (30, 500);
/// Races of one session: what a write that did not return may hit is the session's until its end.
const OF_A_SESSION: u64 = 30;

fn goes_on(load: &Load, acts: u64) {
    let before = load.acked();
    until("the load to go on", PATIENCE, || {
        assert_eq!(load.errors(), Vec::<String>::new(), "nothing of it may fail");
        (load.acked() > before + acts).then_some(())
    });
}

fn state(mount: &Mount, disk: usize) -> String {
    let said = mount.fusevol(&["paths", "--json"]).ok().json();
    said["paths"][disk]["state"].as_str().expect("a word").to_owned()
}

fn wait_for(mount: &Mount, disk: usize, wanted: &str) {
    until(&format!("disk {disk} to be {wanted}"), PATIENCE, || (state(mount, disk) == wanted).then_some(()));
}

/// Tries the path now, not when its time has come. A server that has ended by itself is there again.
fn healed(mount: &Mount, s: &mut Split, disk: usize) {
    until(&format!("disk {disk} to be direct"), PATIENCE, || {
        (0..DISKS).for_each(|disk| s.revive(disk));
        let _said = mount.fusevol(&["paths", "restore", &disk.to_string()]).ok();
        (state(mount, disk) == "direct").then_some(())
    });
}

/// The `percent` percentile.
fn percentile(all: &mut [Duration], percent: usize) -> Duration {
    all.sort();
    all[(all.len() * percent).div_ceil(100).max(1) - 1]
}

/// > I/O to a disk whose path is lost goes through the manager; the application sees nothing of it but a pause.
#[test]
fn a_path_that_is_cut_again_and_again() {
    let mut s = Split::new(4 << 30, "", "");
    let mount = s.mount("fv");
    let mut load = Load::start(&mount.image("db"), Oracle::new(1, THREADS), 1);
    goes_on(&load, 100);
    let mut stalls = Vec::new();
    for cut in 0..rounds_of(CUTS.0, CUTS.1) {
        let disk = usize::from(cut % 2 == 1);
        let _earlier = load.slowest();
        // Every fifth time the server stands still; else its connections end.
        match cut % 5 {
            4 => s.pause(disk),
            _ => s.clients[disk].kill(),
        }
        wait_for(&mount, disk, "proxied");
        goes_on(&load, 200);
        stalls.push(load.slowest());
        match cut % 5 {
            4 => s.resume(disk),
            _ => s.start(disk),
        }
        healed(&mount, &mut s, disk);
        goes_on(&load, 100);
    }
    load.verify("after the last cut");
    println!(
        "{} cuts: the slowest act of each: p50 {:?}, p99 {:?}",
        stalls.len(),
        percentile(&mut stalls, 50),
        percentile(&mut stalls, 99)
    );
    let mut oracle = load.finish();
    oracle.verify("at the end", &mount.image("db"));
    mount.umount();
    s.pool.check();
}

/// > A write that a lost path has not answered is made again at another place: it may land when it likes, nobody reads it.
#[test]
fn a_late_write_races_with_a_newer_one() {
    let mut s = Split::new(8 << 30, "&stall-ms=400", "");
    let (races, mut oracle) = (rounds_of(RACES.0, RACES.1), Oracle::new(2, THREADS));
    let mut raced = 0;
    while raced < races {
        let mount = s.mount(&format!("fv{raced}"));
        let mut load = Load::start(&mount.image("db"), oracle, raced + 1);
        for _ in 0..OF_A_SESSION.min(races - raced) {
            let disk = usize::from(raced % 2 == 1);
            goes_on(&load, 20);
            s.pause(disk);
            wait_for(&mount, disk, "proxied");
            goes_on(&load, 100);
            s.resume(disk);
            healed(&mount, &mut s, disk);
            raced += 1;
            if raced.is_multiple_of(5) {
                load.verify(&format!("after race {raced}"));
            }
        }
        oracle = load.finish();
        oracle.verify("at the end of a session", &mount.image("db"));
        let moved = mount.log().matches("lies at").count();
        println!("{raced} races, {moved} allocation units moved in the last session");
        assert!(moved > 0, "no write was late: this proves nothing");
        mount.umount();
        // If something of it may still be on its way it has not said goodbye: once its lease is over its death is believed.
        for _ in 0..20 {
            if s.pool.mgr(&["client", "confirm-dead", "host1", "-y"]).code == 0 {
                break;
            }
            pause(Duration::from_millis(250));
        }
    }
    s.pool.adds_up();
    s.pool.check();
}

/// > The manager opens a lost path of its own again.
///
/// Its exports lose nothing with their server: it is also the client's server while that one's path is lost.
#[test]
fn the_managers_own_path() {
    let mut s = Split::new(4 << 30, "", "&write-through=1");
    let mount = s.mount("fv");
    let mut load = Load::start(&mount.image("db"), Oracle::new(3, THREADS), 3);
    goes_on(&load, 100);
    let back = |s: &Split, before: usize| {
        until("the manager to have its disk again", PATIENCE, || (s.pool.log().matches("is open again").count() > before).then_some(()));
    };
    for disk in (0..DISKS).chain(0..DISKS) {
        // Nobody but the manager needs it: a copy of the catalog fails, and comes back.
        let before = s.pool.log().matches("is open again").count();
        s.managers[disk].kill();
        goes_on(&load, 200);
        pause(Duration::from_secs(3));
        s.managers[disk].start();
        back(&s, before);
        // The client goes through it.
        let _said = mount.fusevol(&["paths", "fail", &disk.to_string()]).ok();
        wait_for(&mount, disk, "proxied");
        goes_on(&load, 100);
        let before = s.pool.log().matches("is open again").count();
        s.managers[disk].kill();
        pause(Duration::from_millis(700));
        s.managers[disk].start();
        back(&s, before);
        goes_on(&load, 100);
        healed(&mount, &mut s, disk);
        goes_on(&load, 100);
    }
    load.verify("after the last");
    let mut oracle = load.finish();
    oracle.verify("at the end", &mount.image("db"));
    mount.umount();
    assert!(s.pool.runs(), "the manager went on all the time");
    s.pool.check();
}

/// > An export whose address says `write-through=1` loses nothing with its server: what is answered is durable.
#[test]
fn a_server_that_both_use() {
    let dir = scratch();
    let mut servers: Vec<NbdServer> = (0..DISKS)
        .map(|n| {
            let file = dir.path().join(format!("d{n}.raw"));
            std::fs::File::create(&file).and_then(|f| f.set_len(2 << 30)).expect("an image");
            NbdServer::nbdkit(dir.path(), &format!("d{n}"), &["file", &file.to_string_lossy()])
        })
        .collect();
    let mut pool = Pool::on(servers.iter().map(|s| format!("{}&write-through=1", s.uri()).into()).collect());
    pool.volume("db", "256M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let mut load = Load::start(&mount.image("db"), Oracle::new(4, THREADS), 4);
    for round in 0..6 {
        goes_on(&load, 50);
        let server = &mut servers[round % 2];
        server.kill();
        pause(Duration::from_millis(300 * round as u64));
        server.start();
        goes_on(&load, 50);
    }
    load.verify("after the last");
    println!("a server that both use: the slowest act took {:?}", load.slowest());
    let mut oracle = load.finish();
    oracle.verify("at the end", &mount.image("db"));
    mount.umount();
    assert!(pool.runs(), "the manager went on all the time");
    pool.check();
}
