//! The manager is killed under load, again and again.

use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::run::run;
use fusevol_tests::real::wait::{pause, timed, until};
use fusevol_tests::real::writer::Writer;
use std::process::Command;
use std::time::Duration;

const KILLS: u32 = 10;
const GRAINS: u64 = 2048;

/// > The manager may be killed at any time: I/O to mapped blocks goes on, nothing acknowledged is lost, and the next manager serves from the disks.
#[test]
fn killed_ten_times_under_load() {
    let mut pool = Pool::new();
    pool.volume("db", "1G");
    pool.volume("fresh", "4G");
    let key = pool.client("host1", &[("db", "read,write"), ("fresh", "read,write")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));

    // One load overwrites what is mapped; the other needs the manager for every step.
    let mapped = Writer::start(&mount.image("db"), GRAINS, 3);
    until("every grain to be written", Duration::from_secs(60), || (mapped.acked() > 8 * GRAINS).then_some(()));
    let image = mount.image("fresh");
    let fio = std::thread::spawn(move || {
        let mut fio = Command::new("fio");
        fio.arg("--name=fresh").arg(format!("--filename={}", image.display()));
        fio.args(["--direct=1", "--size=1G", "--rw=randwrite", "--bs=64k", "--ioengine=io_uring", "--iodepth=4", "--fsync=16"]);
        run(fio.args(["--rate=24M", "--verify=crc32c", "--do_verify=1", "--verify_state_save=0"]))
    });
    let mut slowest = Duration::ZERO;
    for kill in 0..KILLS {
        pause(Duration::from_millis(300));
        pool.kill();
        let acked = mapped.acked();
        until(&format!("mapped I/O to go on after kill {kill}"), Duration::from_secs(30), || (mapped.acked() > acked + 20).then_some(()));
        let ((), took) = timed(|| pool.serve());
        slowest = slowest.max(took);
    }
    println!("kill to serving, slowest of {KILLS}: {slowest:?}");
    let _said = fio.join().expect("fio ran").ok();
    let history = mapped.finish();
    assert_eq!(history.prefix_of(&mount.image("db"), GRAINS), history.len());
    mount.umount();
    pool.check();
}

/// A second manager on the same disks is refused while the first lives.
#[test]
fn a_second_manager_is_refused() {
    let pool = Pool::new();
    let _said = pool.mgr(&["serve"]).code(5).says("hint:");
    let _said = pool.mgr(&["volume", "ls"]).ok();
}
