//! A recall comes by push, beside the reads that are under way: none of them takes an AU that was given back for one that was never written.

use fusevol::lease::{IO_TIMEOUT, Lease};
use fusevol::volume::{Engine, Mode, Volume};
use fusevol_shared::clock::{BootTime, SystemClock};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::Kind;
use fusevol_tests::model::host::Host;
use fusevol_tests::model::run::{handles, pool, print};
use fusevol_tests::model::run_local;
use futures_util::FutureExt;
use std::sync::Arc;

/// The read passes its first look at the attachment, waits for its lease, and goes on when the map is gone.
#[test]
fn a_read_that_a_recall_overtakes_is_refused() {
    run_local(async {
        let (manager, id, disks) = pool(1, 300, 1 << 20);
        let host = Host::start(&manager, print(1), handles(&disks, |d| d)).await;
        let writer = host.attach(id, Mode::Write).await.expect("attached");
        let mut data = IoBuf::zeroed(4096);
        data.fill(7);
        writer.write(0, data.freeze()).await.expect("written");
        host.detach(id).await.expect("given back");

        let lease = Arc::new(Lease::new(Arc::new(SystemClock), IO_TIMEOUT));
        let engine = Engine { lease: lease.clone(), ..host.engine.clone() };
        let reader = Volume::attach(&engine, id, Mode::Read).await.expect("attached");
        let mut read = Box::pin(reader.read(0, 4096));
        let mut into = Box::pin(reader.read_into(0, 4096, IoBuf::zeroed(8192)));
        assert!((&mut read).now_or_never().is_none() && (&mut into).now_or_never().is_none(), "the lease is not valid yet");
        reader.detach().await.expect("recalled");
        lease.extend(BootTime(u64::MAX));
        assert_eq!(read.await.expect_err("not zeros").kind(), Kind::Lapsed);
        let (result, buf) = into.await;
        assert_eq!((result.expect_err("not zeros").kind(), buf.len()), (Kind::Lapsed, 8192), "the buffer comes back whole");
    });
}
