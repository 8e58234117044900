//! A volume of a tebibyte, mapped to its last block, is attached from the manager's real core: what its map costs in memory, and that it is
//! the right one. How long it takes with 16 TiB: `cargo run --release -p fusevol-tests --example huge_attach`.

use fusevol::control::Control;
use fusevol::volume::Mode;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::ids::SnapshotId;
use fusevol_shared::units::{AuSize, VolAu};
use fusevol_shared::wire::messages::CreateSnapshot;
use fusevol_tests::model::host::Host;
use fusevol_tests::model::huge::{Layout, mapped};
use fusevol_tests::model::run::{handles, print};
use fusevol_tests::model::run_local;

/// More than one part of a map, even of the plainest.
const AUS: u32 = 1 << 20;

async fn attach(layout: Layout) {
    let (manager, id, disks) = mapped(AUS, layout);
    let mut last = IoBuf::zeroed(4096);
    last.fill(9);
    let au = AuSize::DEFAULT.bytes();
    let end = layout.au(VolAu(AUS - 1), AUS).start(AuSize::DEFAULT).plus(au - 4096);
    disks[0].1.write(end, last.freeze()).await.expect("a memory disk does not fail");

    let host = Host::start(&manager, print(1), handles(&disks, |d| d)).await;
    let volume = host.attach(id, Mode::Write).await.expect("attached");
    let each = volume.map_bytes() as f64 / f64::from(AUS);
    assert!(each <= 24.0, "{layout:?}: {each} bytes an AU");
    let size = u64::from(AUS) * au;
    assert!(volume.read(size - 4096, 4096).await.expect("read").iter().all(|b| *b == 9), "{layout:?}: the last block lies elsewhere");
    assert_eq!(volume.written_bytes() == size, layout == Layout::Whole, "{layout:?}");
    host.detach(id).await.expect("given back");

    // Nobody writes: it is taken at once. The next writer has to preserve all that is written, the last block too.
    let call = CreateSnapshot { volume: id, id: SnapshotId([9; 16]), name: "s".into() };
    host.engine.control.call(call).await.expect("taken");
    let volume = host.attach(id, Mode::Write).await.expect("attached again");
    let each = volume.map_bytes() as f64 / f64::from(AUS);
    assert!(each <= 24.5, "{layout:?}: {each} bytes an AU with a snapshot");
    let mut new = IoBuf::zeroed(4096);
    new.fill(5);
    volume.write(size - 4096, new.freeze()).await.expect("written");
    assert_eq!(volume.counters().preserved_blocks, 1, "{layout:?}");
}

#[test]
fn a_volume_that_was_written_from_end_to_end() {
    run_local(attach(Layout::Whole));
}

#[test]
fn a_volume_whose_masks_and_places_are_all_different() {
    run_local(attach(Layout::Torn));
}
