//! Networks that are cut under load: to one address of the manager, to all of them, to the disks, to everything.
//!
//! The client is a host of its own (a network namespace) with three cables: two to addresses of the manager, one to the disks, which are exports of
//! a server of its own beside the manager's: both serve the same files.

use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::nbd::NbdServer;
use fusevol_tests::real::netns::{Cable, Netns};
use fusevol_tests::real::pool::{Pool, free_port, scratch};
use fusevol_tests::real::wait::{pause, timed, until};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// A pool, and a client's host.
struct World {
    pool: Pool,
    /// The manager's way to the disks.
    _manager: Vec<NbdServer>,
    /// The client's.
    exports: Vec<NbdServer>,
    /// To the first and second address of the manager, and to the disks.
    first: Cable,
    second: Cable,
    san: Cable,
    host: Netns,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (dir, host) = (scratch(), Netns::new());
        let (first, second, san) = (host.cable(), host.cable(), host.cable());
        let image = |n: usize| dir.path().join(format!("d{n}.raw"));
        let file = |n: usize| {
            File::create(image(n)).and_then(|f| f.set_len(1 << 30)).expect("an image");
            image(n).to_string_lossy().into_owned()
        };
        let files = [file(0), file(1)];
        let manager: Vec<_> = (0..2).map(|n| NbdServer::nbdkit_tcp(dir.path(), &format!("m{n}"), &["file", &files[n]])).collect();
        let trigger = format!("error-file={}", dir.path().join("bad").display());
        let export = |n: usize| {
            let args = ["--filter=error", "file", &files[n], "error=EIO", "error-rate=100%", &trigger];
            NbdServer::nbdkit_at(san.here(), dir.path(), &format!("c{n}"), &args, "?insecure=1")
        };
        let exports = vec![export(0), export(1)];
        let listen: Vec<String> = [first.here(), second.here(), "127.0.0.1"].map(|a| format!("{a}:{}", free_port())).into();
        let pool = Pool::listening(manager.iter().map(|s| PathBuf::from(s.uri())).collect(), &listen);
        Self { pool, _manager: manager, exports, first, second, san, host, dir }
    }

    /// Mounts on the client's host.
    fn mount(&self, key: &Path, options: &str) -> Mount {
        let mut args = vec!["-o", options];
        self.exports.iter().for_each(|s| args.extend(["--disk", s.uri()]));
        Mount::with(key, &self.pool.path().join("client"), Some(&self.host), &args)
    }

    /// Mounts on the manager's.
    fn mount_here(&self, key: &Path) -> Mount {
        Mount::new(key, &self.pool.path().join("here"))
    }

    /// All I/O of the client's exports fails, or not any more.
    fn spoil(&self, bad: bool) {
        let file = self.dir.path().join("bad");
        if bad { std::fs::write(file, "").expect("a file") } else { std::fs::remove_file(file).expect("it is ours") }
    }
}

/// What `fusevol paths` says: the state of each.
fn states(mount: &Mount) -> Vec<String> {
    let said = mount.fusevol(&["paths", "--json"]).ok().json();
    said["paths"].as_array().expect("a list").iter().map(|p| p["state"].as_str().expect("a word").to_owned()).collect()
}

fn all_are(mount: &Mount, state: &str) -> Duration {
    timed(|| until(&format!("all paths to be {state}"), PATIENCE, || states(mount).iter().all(|s| s == state).then_some(()))).1
}

/// A load on a volume that was written a while, so that it has what it needs.
fn load(image: &Path) -> Load {
    begun(Load::start(image, Oracle::new(7, THREADS), 11))
}

fn begun(load: Load) -> Load {
    goes_on(&load, 500);
    let _so_far = load.slowest();
    load
}

/// Waits until `more` acts were answered, with no error.
fn goes_on(load: &Load, more: u64) {
    let goal = load.acked() + more;
    until("the load to go on", PATIENCE, || {
        assert_eq!(load.error(), None, "nobody sees an error");
        (load.acked() >= goal).then_some(())
    });
}

/// Where the mount says that it is connected.
fn at(mount: &Mount) -> String {
    mount.fusevol(&["status", "--json"]).ok().out
}

fn events(pool: &Pool) -> String {
    pool.mgr(&["events"]).ok().out
}

/// > The manager may have several addresses: where the first one is cut off, clients go on over another, and their I/O does not stop.
#[test]
fn the_first_address_is_cut() {
    let mut w = World::new();
    w.pool.volume("db", "64M");
    let key = w.pool.client("host1", &[("db", "read,write")]);
    let mount = w.mount(&key, "transport=auto");
    assert!(at(&mount).contains(&format!("{}:", w.first.here())), "{}", at(&mount));
    let mut load = load(&mount.image("db"));
    w.first.cut();
    let ((), took) = timed(|| {
        until("the second address to be used", PATIENCE, || at(&mount).contains(&format!("{}:", w.second.here())).then_some(()));
    });
    goes_on(&load, 500);
    println!("first address cut: connected over the second after {took:?}; longest act {:?}", load.slowest());
    // A new client does not wait for the address that is cut.
    let (other, took) = timed(|| {
        let args: Vec<_> = w.exports.iter().flat_map(|s| ["--disk", s.uri()]).collect();
        Mount::with(&key, &w.pool.path().join("other"), Some(&w.host), &args)
    });
    println!("a new mount with the first address cut: {took:?}");
    other.umount();
    w.first.heal();
    // The same for I/O through the manager, and back to the first address.
    ["0", "1"].into_iter().for_each(|disk| drop(mount.fusevol(&["paths", "fail", disk]).ok()));
    all_are(&mount, "proxied");
    goes_on(&load, 50);
    let _so_far = load.slowest();
    w.second.cut();
    until("the first address to be used", PATIENCE, || at(&mount).contains(&format!("{}:", w.first.here())).then_some(()));
    goes_on(&load, 200);
    println!("the address that I/O through the manager goes by is cut: longest act {:?}", load.slowest());
    ["0", "1"].into_iter().for_each(|disk| drop(mount.fusevol(&["paths", "restore", disk]).ok()));
    all_are(&mount, "direct");
    load.verify("after both addresses were cut, one after the other");
    let _oracle = load.finish();
    mount.umount();
    w.pool.check();
}

/// > While no manager is reached clients keep their lease by the disks, and their I/O goes on; what the manager must have back it asks for, and gets, by way of the disks.
#[test]
fn all_of_the_managers_network_is_cut() {
    let mut w = World::new();
    w.pool.volume("db", "64M");
    w.pool.volume("log", "64M");
    let key = w.pool.client("host1", &[("db", "read,write"), ("log", "read")]);
    let other = w.pool.client("host2", &[("db", "read,write"), ("log", "read,write")]);
    let mount = w.mount(&key, "transport=auto");
    let here = w.mount_here(&other);
    let writes = |n: u8| {
        let file = OpenOptions::new().write(true).open(here.image("log")).expect("it opens");
        (0..4).for_each(|au| file.write_all_at(&vec![n; 4096], au * MIB).expect("it writes"));
        file.sync_all().expect("it syncs");
        file
    };
    let file = writes(5);
    let reader = File::open(mount.image("log")).expect("it opens");
    let mut back = [0; 4096];
    until("the reader to see what was flushed", PATIENCE, || {
        reader.read_exact_at(&mut back, MIB).expect("it reads");
        (back == [5; 4096]).then_some(())
    });

    // New space is the manager's to give; what it has granted ahead is enough for a load that gives none back.
    let load = begun(Load::in_place(&mount.image("db"), Oracle::new(7, THREADS), 11));
    w.first.cut();
    w.second.cut();
    let cut = load.acked();
    for _ in 0..4 {
        pause(LEASE);
        goes_on(&load, 50);
    }
    println!("no manager for {:?}: {} acts, the longest {:?}", 4 * LEASE, load.acked() - cut, load.slowest());

    // What a reader must drop: the place of an AU that was discarded is free once it has answered.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE, MIB, MIB)
        .expect("discarded");
    let ((), took) = timed(|| {
        until("the reader to be asked", PATIENCE, || events(&w.pool).contains("is asked through the disks").then_some(()));
        until("the reader to drop its map", PATIENCE, || (w.pool.space("limbo") == 0).then_some(()));
    });
    println!("a reader's map dropped by way of the disks: {took:?}");
    reader.read_exact_at(&mut back, MIB).expect("it reads");
    assert_eq!(back, [0; 4096], "the reader has the new map");

    // What a writer must give back.
    let _said = w.pool.mgr(&["access", "revoke", "db", "host1"]).ok();
    let (db, took) =
        timed(|| until("the volume to be given back", PATIENCE, || OpenOptions::new().write(true).open(here.image("db")).ok()));
    println!("a volume recalled and attached by another: {took:?}");
    let said = events(&w.pool);
    assert!(said.contains("has answered through the disks") && !said.contains("sealed"), "{said}");
    let mut oracle = load.wreck();
    oracle.verify("all that was answered is there", &here.image("db"));
    w.first.heal();
    w.second.heal();
    let addresses = [w.first.here(), w.second.here()].map(|a| format!("{a}:"));
    until("the client to be back", PATIENCE, || addresses.iter().any(|a| at(&mount).contains(a)).then_some(()));
    drop((db, file, reader));
    mount.umount();
    here.umount();
    w.pool.check();
}

/// > When a client loses its disks while it reaches the manager, all of its I/O goes through the manager, without an error; when they are back, it goes to them again.
#[test]
fn the_disks_are_cut() {
    let mut w = World::new();
    w.pool.volume("db", "64M");
    let key = w.pool.client("host1", &[("db", "read,write")]);
    let mount = w.mount(&key, "transport=auto");
    let mut load = load(&mount.image("db"));

    // Each request is answered with an error.
    w.spoil(true);
    let proxied = all_are(&mount, "proxied");
    goes_on(&load, 100);
    println!("errors of the disks: all proxied after {proxied:?}, longest act {:?}", load.slowest());
    w.spoil(false);
    println!("errors over: direct after {:?}, longest act {:?}", all_are(&mount, "direct"), load.slowest());
    goes_on(&load, 100);
    load.verify("after errors of the disks");

    // Nothing is answered.
    w.san.cut();
    let proxied = all_are(&mount, "proxied");
    goes_on(&load, 100);
    pause(LEASE);
    goes_on(&load, 100);
    println!("disks cut: all proxied after {proxied:?}, longest act {:?}", load.slowest());
    w.san.heal();
    println!("disks healed: direct after {:?}, longest act {:?}", all_are(&mount, "direct"), load.slowest());
    goes_on(&load, 100);
    load.verify("after the disks were cut");
    let _oracle = load.finish();
    mount.umount();
    w.pool.check();
}

/// > A client that reaches neither manager nor disks submits and acknowledges nothing once its lease is over; after the time-out (`-o io_timeout`) its I/O fails. When it is back, what was acknowledged is there.
#[test]
fn everything_is_cut() {
    let mut w = World::new();
    w.pool.volume("db", "64M");
    let key = w.pool.client("host1", &[("db", "read,write")]);
    let mount = w.mount(&key, "io_timeout=3");
    // Open all the while: what was not answered is made good once the disks are back.
    let kept = OpenOptions::new().write(true).open(mount.image("db")).expect("it opens");
    let load = load(&mount.image("db"));
    [&w.first, &w.second, &w.san].into_iter().for_each(Cable::cut);
    // The lease counts from when the last renewal was sent, before the cut.
    pause(LEASE);
    let over = load.acked();
    let ((), took) = timed(|| until("the I/O to fail", PATIENCE, || load.error().map(drop)));
    println!("everything cut: failed {:?} after the cut; {}", LEASE + took, load.error().expect("it has"));
    assert_eq!(load.acked(), over, "nothing is acknowledged once the lease is over");
    [&w.first, &w.second, &w.san].into_iter().for_each(Cable::heal);
    let (mut oracle, ended) = timed(|| load.wreck());
    println!("the other threads have ended after {ended:?}");
    let ((), back) = timed(|| until("the volume to be readable", PATIENCE, || std::fs::read(mount.image("db")).ok().map(drop)));
    println!("healed: readable after {back:?}, direct after {:?} more", all_are(&mount, "direct"));
    oracle.verify("after everything was cut", &mount.image("db"));
    let mut load = Load::start(&mount.image("db"), oracle, 12);
    goes_on(&load, 500);
    load.verify("when everything is back");
    let _oracle = load.finish();
    kept.sync_all().expect("it syncs");
    drop(kept);
    mount.umount();
    w.pool.check();
}

/// > A mount that does not find one of the disks begins all the same: that disk's I/O goes through the manager until it is found.
#[test]
fn a_disk_is_not_there_at_the_beginning() {
    let mut w = World::new();
    w.pool.volume("db", "64M");
    let key = w.pool.client("host1", &[("db", "read,write")]);
    w.exports[1].kill();
    let mount = w.mount(&key, "transport=auto");
    assert_eq!(states(&mount), ["direct", "proxied"]);
    let mut load = load(&mount.image("db"));
    w.exports[1].start();
    println!("a disk that was not there: direct {:?} after it came", all_are(&mount, "direct"));
    goes_on(&load, 100);
    load.verify("with the disk that was not there");
    let _oracle = load.finish();
    mount.umount();
    w.pool.check();
}
