//! How long the attach of a volume of 16 TiB takes that is mapped to its last block, and what its map costs in memory; from the manager's
//! real core in the same thread, so that both sides' work counts. The goal is for `Whole`; the others say how it degrades.
//!
//! `cargo run --release -p fusevol-tests --example huge_attach [TiB]`

use fusevol::volume::Mode;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_tests::model::host::Host;
use fusevol_tests::model::huge::{Layout, mapped};
use fusevol_tests::model::run::{handles, print};
use fusevol_tests::model::run_local;

/// Bytes of memory that the process has (`proc_pid_statm(5)`: the second field, in pages).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux says it");
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|p| p.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size() as u64
}

fn main() {
    let tib: u32 = std::env::args().nth(1).map_or(16, |a| a.parse().expect("TiB, a number"));
    let aus = tib.checked_shl(20).filter(|a| *a > 0).expect("at most 4095 TiB");
    for layout in [Layout::Whole, Layout::Masks, Layout::Torn] {
        run_local(async {
            let (manager, id, disks) = mapped(aus, layout);
            let host = Host::start(&manager, print(1), handles(&disks, |d| d)).await;
            for round in 1..=3 {
                let (before, began) = (resident(), SystemClock.now());
                let volume = host.attach(id, Mode::Read).await.expect("attached");
                let took = SystemClock.now().since(began);
                let each = |bytes: u64| bytes as f64 / f64::from(aus);
                println!(
                    "{layout:?}, round {round}: {aus} AUs attached in {:.3} s; {:.2} bytes an AU in the map, {:.2} of the process",
                    took.as_secs_f64(),
                    each(volume.map_bytes() as u64),
                    each(resident().saturating_sub(before)),
                );
                drop(volume);
                host.detach(id).await.expect("given back");
            }
        });
    }
}
