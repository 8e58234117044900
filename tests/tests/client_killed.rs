//! The client is killed under load; what an fsync has covered is there afterwards.

use fusevol_tests::real::mount::{Mount, Transport};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::wait::until;
use fusevol_tests::real::writer::Writer;
use std::time::Duration;

const GRAINS: u64 = 2048;

/// > Data acknowledged by fsync survives `kill -9` of the client, the manager, or both.
#[test]
fn fsynced_data_survives_kills() {
    let mut pool = Pool::new();
    pool.volume("db", "1G");
    let key = pool.client("host1", &[("db", "read,write")]);
    let fv = pool.path().join("fv");
    let image = fv.join("db.img");
    let mut history = None;
    for round in 0..6u64 {
        let mount = Mount::over(Transport::of_round(round), &key, &fv);
        if let Some((wrote, synced)) = history.take() {
            let wrote: fusevol_tests::real::writer::History = wrote;
            wrote.survived(&image, GRAINS, synced);
            std::fs::OpenOptions::new().write(true).open(&image).map(drop).expect("it is given to the next life of the client");
            let punch = ["--punch-hole", "--offset", "0", "--length", "8388608"];
            let _said = fusevol_tests::real::run::run(std::process::Command::new("fallocate").args(punch).arg(&image)).ok();
        }
        let writer = Writer::start(&image, GRAINS, round);
        until("some load", Duration::from_secs(30), || (writer.acked() > 200 + 150 * round).then_some(()));
        if round % 3 == 2 {
            pool.kill();
        }
        mount.kill();
        history = Some(writer.wreck());
        if round % 3 == 2 {
            pool.serve();
        }
    }
    let mount = Mount::new(&key, &fv);
    let (wrote, synced) = history.expect("there were rounds");
    wrote.survived(&image, GRAINS, synced);
    assert!(synced > 0);
    mount.umount();
    pool.check();
}
