//! What a flush asks of the disks: only those that its own volume has written, and once for all who ask meanwhile.

use fusevol::volume::{Mode, Volume};
use fusevol_mgr::core::{AdminReply, AdminRequest};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::ids::{DiskId, VolumeId};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::rights::{Right, Rights};
use fusevol_tests::model::host::Host;
use fusevol_tests::model::manager::{Link, Manager};
use fusevol_tests::model::run::{handles, pool, print};
use fusevol_tests::model::run_local;
use fusevol_tests::model::timed::{Asked, TimedDisk, Times};
use futures_util::future::join_all;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const AU: u64 = 256 << 10;

fn data(byte: u8) -> IoBytes {
    let mut b = IoBuf::zeroed(4096);
    b.fill(byte);
    b.freeze()
}

struct Bench {
    manager: Arc<Manager>,
    host: std::rc::Rc<Host<TimedDisk>>,
    volume: Arc<Volume<TimedDisk, Link>>,
    asked: Vec<Arc<Asked>>,
}

impl Bench {
    async fn new() -> Self {
        let (manager, id, disks) = pool(1, 64, 16 * AU);
        let times = Times { durable: Duration::from_micros(200), ..Times::default() };
        let disks: Vec<(DiskId, Arc<TimedDisk>)> = handles(&disks, |d| TimedDisk::new(d, times));
        let asked = disks.iter().map(|(_, d)| d.asked()).collect();
        let host = Host::start(&manager, print(1), disks).await;
        // Nobody tends it: what comes to rest by itself is flushed, too.
        let volume = Volume::attach(&host.engine, id, Mode::Write).await.expect("attached");
        Self { manager, host, volume, asked }
    }

    fn flushes(&self) -> Vec<u64> {
        self.asked.iter().map(|a| a.flushes.load(Ordering::Relaxed)).collect()
    }

    async fn second_volume(&self) -> VolumeId {
        let made = self.manager.admin(AdminRequest::VolumeCreate { name: "other".into(), size: 16 * AU }).expect("a volume is made");
        let AdminReply::Volume(volume) = made else { panic!("{made:?}") };
        let rights = Right::ALL.into_iter().fold(Rights::NONE, Rights::with);
        let grant = AdminRequest::AccessGrant { volume: "other".into(), client: "host1".into(), rights };
        self.manager.admin(grant).expect("rights are granted");
        volume.id
    }
}

/// Writes AU after AU until one lies on the disk; gives the first byte of that.
async fn byte_on(volume: &Volume<TimedDisk, Link>, disk: DiskNo) -> u64 {
    for au in 0..16 {
        volume.write(au * AU, data(1)).await.expect("written");
        if let Some(e) = volume.extents().iter().find(|e| e.at.disk == disk) {
            return e.offset;
        }
    }
    panic!("16 AUs, and none on disk {disk}");
}

#[test]
fn only_disks_that_were_written_are_flushed() {
    run_local(async {
        let b = Bench::new().await;
        let (on0, on1) = (byte_on(&b.volume, DiskNo(0)).await, byte_on(&b.volume, DiskNo(1)).await);
        b.volume.flush().await.expect("flushed");
        let before = b.flushes();
        assert!(before.iter().all(|n| *n > 0), "both were written");
        for (at, no) in [(on0, 0), (on1, 1)] {
            let before = b.flushes();
            b.volume.write(at, data(2)).await.expect("written");
            b.volume.flush().await.expect("flushed");
            b.volume.flush().await.expect("nothing is left to flush");
            let more: Vec<u64> = b.flushes().iter().zip(&before).map(|(a, b)| a - b).collect();
            assert_eq!(more, (0..2).map(|n| u64::from(n == no)).collect::<Vec<_>>());
        }
    });
}

#[test]
fn what_another_volume_wrote_is_not_flushed() {
    run_local(async {
        let b = Bench::new().await;
        let id = b.second_volume().await;
        let other = Volume::attach(&b.host.engine, id, Mode::Write).await.expect("attached");
        let (mine, its) = (byte_on(&b.volume, DiskNo(0)).await, byte_on(&other, DiskNo(1)).await);
        b.volume.flush().await.expect("flushed");
        other.flush().await.expect("flushed");
        b.volume.write(mine, data(2)).await.expect("written");
        other.write(its, data(2)).await.expect("written");
        let before = b.flushes();
        b.volume.flush().await.expect("flushed");
        assert_eq!(b.flushes(), [before[0] + 1, before[1]]);
        other.flush().await.expect("flushed");
        assert_eq!(b.flushes(), [before[0] + 1, before[1] + 1], "its marks were left to it");
    });
}

/// While writes go on, so that every round finds something to flush.
#[test]
fn callers_at_once_share_rounds() {
    run_local(async {
        let b = Bench::new().await;
        let at = byte_on(&b.volume, DiskNo(0)).await;
        b.volume.flush().await.expect("flushed");
        let (before, ended) = (b.flushes(), Cell::new(false));
        let writing = async {
            while !ended.get() {
                b.volume.write(at, data(3)).await.expect("written");
                tokio::task::yield_now().await;
            }
        };
        let flushing = async {
            b.volume.write(at, data(2)).await.expect("written");
            join_all((0..32).map(|_| b.volume.flush())).await.into_iter().for_each(|done| done.expect("flushed"));
            ended.set(true);
        };
        futures_util::future::join(writing, flushing).await;
        let rounds = b.flushes()[0] - before[0];
        assert!((1..=3).contains(&rounds), "{rounds} rounds for 32 callers");
    });
}
