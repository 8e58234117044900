//! The manager is away for three leases. Nobody who writes notices.

use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::rounds;
use fusevol_tests::real::wait::{pause, timed, until};
use fusevol_tests::real::writer::Writer;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// 2 MiB of blocks that the snapshot needs: they are preserved while there is no manager.
const GRAINS: u64 = 512;
/// Where nothing was ever written.
const NEW: u64 = 64 << 20;
const MIB: u64 = 1 << 20;
/// Three leases of two seconds.
const AWAY: Duration = Duration::from_secs(6);
/// New places that are written meanwhile, one after the other.
const PLACES: u32 = 4;
/// Longest that a write or an fsync may take.
const STALL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// What the mount, and what the catalog says is written.
fn written(pool: &Pool, mount: &Mount) -> (u64, u64) {
    let here = mount.fusevol(&["status", "--json"]).ok().json();
    let there = pool.mgr(&["--json", "volume", "show", "db"]).ok().json();
    let number = |v: &serde_json::Value, all: &serde_json::Value| v.as_u64().unwrap_or_else(|| panic!("no number in {all}"));
    (number(&here["volumes"][0]["written"], &here), number(&there["volume"]["written"], &there))
}

/// A block in a new AU, written and synced.
fn new_place(image: &File, n: u64) -> io::Result<()> {
    image.write_all_at(&[u8::try_from(n % 250 + 1).expect("a byte"); 4096], NEW + n * MIB)?;
    image.sync_data()
}

/// > The manager may be down: mapped I/O, new space from the reserve, fsync and preserving go on, and on its return what the catalog lacks is folded.
#[test]
fn three_leases_without_a_manager() {
    let mut pool = Pool::new();
    pool.volume("db", "256M");
    let free = pool.space("total");
    let key = pool.client("host1", &[("db", "read,write,snapshot,backup")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let image = File::options().read(true).write(true).open(mount.image("db")).expect("it opens");
    let writer = Writer::start(&mount.image("db"), GRAINS, 17);
    let (mut slowest, mut places, mut slowest_new) = (Duration::ZERO, 0, Duration::ZERO);
    let mut snapshots = Vec::new();
    for round in 0..rounds(1) {
        let goal = writer.acked() + 4 * GRAINS;
        until("every grain to be written", PATIENCE, || (writer.acked() >= goal).then_some(()));
        let before = writer.acked();
        let _said = pool.mgr(&["snapshot", "create", &format!("db@s{round}")]).ok();
        snapshots.push((format!("s{round}"), before, writer.acked()));
        let _so_far = writer.slowest();
        pool.kill();
        let away = writer.acked();
        for _ in 0..PLACES {
            let (done, took) = timed(|| new_place(&image, places));
            done.unwrap_or_else(|e| panic!("new place {places} without a manager: {e}"));
            slowest_new = slowest_new.max(took);
            places += 1;
            pause(AWAY / PLACES);
            assert!(!writer.has_failed(), "the writer got an error without a manager");
        }
        slowest = slowest.max(writer.slowest());
        assert!(writer.acked() > away + GRAINS, "only {} writes in {AWAY:?}", writer.acked() - away);
        pool.serve();
    }
    assert!(slowest.max(slowest_new) < STALL, "a write took {slowest:?}, one to a new place {slowest_new:?}");
    println!("away for {AWAY:?}: slowest overwrite {slowest:?}, slowest first write with fsync {slowest_new:?}");
    let history = writer.finish();
    image.sync_data().expect("it syncs");
    until("what the catalog lacks to be folded", PATIENCE, || {
        let (here, there) = written(&pool, &mount);
        (here == there).then_some(())
    });
    for (name, before, after) in &snapshots {
        let k = history.prefix_of(&mount.snapshot("db", name), GRAINS);
        assert!((*before..=after + 1).contains(&k), "{name} holds {k} writes; {before} before it was asked for, {after} after");
    }
    drop(image);
    mount.umount();
    let again = Mount::new(&key, &pool.path().join("fv"));
    assert_eq!(history.prefix_of(&again.image("db"), GRAINS), history.len());
    let image = File::open(again.image("db")).expect("it opens");
    for n in 0..places {
        let mut found = [0; 4096];
        image.read_exact_at(&mut found, NEW + n * MIB).expect("it reads");
        assert!(found.iter().all(|b| u64::from(*b) == n % 250 + 1), "new place {n} is not as it was written");
    }
    drop(image);
    again.umount();
    pool.adds_up();
    pool.remove("db", free);
    pool.check();
}
