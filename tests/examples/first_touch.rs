//! How fast a volume takes 4 KiB writes to places that it touches for the first time: never written, or written before a snapshot. In one process,
//! on disks in memory that take 100 us for a read or write and 1 ms for a durable write or flush. For comparison: what is written already.
//!
//! `cargo run -p fusevol-tests --example first_touch`

use fusevol::control::Control;
use fusevol::volume::{Mode, Volume};
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::ids::SnapshotId;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::wire::messages::CreateSnapshot;
use fusevol_tests::model::host::Host;
use fusevol_tests::model::manager::Link;
use fusevol_tests::model::run::{handles, pool, print};
use fusevol_tests::model::run_local;
use fusevol_tests::model::timed::{TimedDisk, Times};
use futures_util::future::join_all;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

const AU: u64 = 256 << 10;
const BLOCK: u64 = 4096;
const AUS: u64 = 256;

fn data(byte: u8) -> IoBytes {
    let mut b = IoBuf::zeroed(4096);
    b.fill(byte);
    b.freeze()
}

/// Each block once, in an order that the seed decides, `depth` at a time, with a flush after every `fsync`.
async fn write_all(volume: &Arc<Volume<TimedDisk, Link>>, seed: u64, depth: usize, fsync: u64) -> f64 {
    let mut order: Vec<u64> = (0..AUS * AU / BLOCK).collect();
    let mut random = SeededRandom(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, usize::try_from(random.below(i as u64 + 1)).expect("small"));
    }
    let (next, bytes) = (Cell::new(0), data(1));
    let began = SystemClock.now();
    let worker = async || {
        while let Some(block) = order.get(next.get()) {
            next.set(next.get() + 1);
            let mine = next.get() as u64;
            volume.write(block * BLOCK, bytes.clone()).await.expect("written");
            if mine.is_multiple_of(fsync) {
                volume.flush().await.expect("flushed");
            }
        }
    };
    join_all((0..depth).map(|_| worker())).await;
    volume.flush().await.expect("flushed");
    order.len() as f64 / SystemClock.now().since(began).as_secs_f64()
}

fn main() {
    let times = Times { read: Duration::from_micros(100), write: Duration::from_micros(100), durable: Duration::from_millis(1) };
    for depth in [1, 32, 128] {
        run_local(async {
            let (manager, id, disks) = pool(1, 4096, AUS * AU);
            let writer = Host::start(&manager, print(1), handles(&disks, |d| TimedDisk::new(d, times))).await;
            let other = Host::start(&manager, print(2), handles(&disks, |d| TimedDisk::new(d, times))).await;
            let volume = writer.attach(id, Mode::Write).await.expect("attached");
            let new = write_all(&volume, 1, depth, 256).await;
            let mapped = write_all(&volume, 2, depth, 256).await;
            let call = CreateSnapshot { volume: id, id: SnapshotId([9; 16]), name: "s".into() };
            other.engine.control.call(call).await.expect("taken");
            let preserved = write_all(&volume, 3, depth, 256).await;
            let counted = volume.counters();
            println!(
                "depth {depth:>3}: new {new:>8.0}/s   written {mapped:>8.0}/s   first after a snapshot {preserved:>8.0}/s   ({} appends, {} waits for a grant)",
                counted.appends, counted.grant_waits
            );
        });
    }
}
