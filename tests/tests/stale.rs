//! When the volume engine says that pages which the kernel may have of a volume are stale.

use fusevol::stale::{Stale, What, Whose};
use fusevol::volume::Mode;
use fusevol_shared::disk::Answer;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::fault::{Fault, FaultDisk, Ops, Rule};
use fusevol_tests::model::host::Host;
use fusevol_tests::model::run::{handles, pool, print};
use fusevol_tests::model::run_local;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const AU: u64 = 256 << 10;
/// What was said is carried out within this time.
const SOON: Duration = Duration::from_secs(20);
/// What was not said is not heard of in this time.
const QUIET: Duration = Duration::from_millis(100);

fn heard(stale: Arc<Stale>) -> Receiver<What> {
    let (tell, told) = channel();
    // Who heard enough lets go of the other end.
    std::thread::spawn(move || stale.serve(|what| drop(tell.send(what))));
    told
}

/// What a failed flush may have lost reads as never written, so no page may say otherwise; nor may one after the attachment has ended.
#[test]
fn a_failed_flush_and_the_end_of_an_attachment_make_pages_stale() {
    run_local(async {
        let (manager, id, disks) = pool(1, 64, 16 * AU);
        let disks = handles(&disks, FaultDisk::new);
        let faults: Vec<_> = disks.iter().map(|(_, d)| d.faults()).collect();
        let host = Host::start(&manager, print(1), disks).await;
        let told = heard(host.stale());
        let volume = host.attach(id, Mode::Write).await.expect("attached");
        let mut data = IoBuf::zeroed(4096);
        data.fill(7);
        let data = data.freeze();
        volume.write(0, data.clone()).await.expect("written");
        volume.flush().await.expect("flushed");
        assert!(told.recv_timeout(QUIET).is_err(), "nothing has happened yet");

        let this = || What::These(BTreeSet::from([Whose::Volume(id)]));
        volume.write(AU, data).await.expect("written");
        for f in &faults {
            f.add(Rule::on(Ops::FLUSH, Fault::Fail(libc::EIO, Answer::NotReturned)));
        }
        volume.flush().await.expect_err("it fails");
        faults.iter().for_each(fusevol_shared::disk::fault::Faults::clear);
        assert_eq!(told.recv_timeout(SOON), Ok(this()));
        let (read, buf) = volume.read_into(AU, 4096, IoBuf::zeroed(4096)).await;
        assert_eq!((read.expect("it reads"), buf.iter().all(|b| *b == 0)), (4096, true), "it counts as never written");

        drop(volume);
        host.detach(id).await.expect("detached");
        assert_eq!(told.recv_timeout(SOON), Ok(this()));
        host.stale().end();
    });
}
