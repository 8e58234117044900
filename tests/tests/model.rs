//! Volumes against a byte array: random operations from seeds (`model::run`). A seed that ever failed stays in the list.

use fusevol::control::Control;
use fusevol::volume::{Mode, Volume};
use fusevol_mgr::core::{AdminReply, AdminRequest};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{DiskId, SnapshotId};
use fusevol_shared::random::{Random, SeededRandom};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{AuSize, DiskOff};
use fusevol_shared::wire::messages::CreateSnapshot;
use fusevol_shared::wire::rights::{Right, Rights};
use fusevol_tests::model::host::Host;
use fusevol_tests::model::manager::{Link, Manager};
use fusevol_tests::model::run::{World, handles, pool, print};
use fusevol_tests::model::run_local;
use fusevol_tests::model::slow::SlowDisk;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

/// SEMANTICS: "What was written is read back, from the live volume and from every snapshot, until it is overwritten."
#[test]
fn random_operations_equal_the_byte_array() {
    for seed in 1..=24 {
        eprintln!("seed {seed}");
        run_local(async { World::new(seed).await.run(250).await });
    }
}

/// SEMANTICS: "A snapshot that is read while its volume is written reads as at its instant."
/// Four writers and a reader of each snapshot take turns in the midst of every I/O. Fails if the reader looks at the list
/// of preserved blocks before it reads the live place.
#[test]
fn a_snapshot_read_beside_its_writers_is_frozen() {
    for seed in 1..=12 {
        eprintln!("seed {seed}");
        run_local(beside(seed));
    }
}

/// Whether one of these stories fails.
fn some_fails(seeds: std::ops::Range<u64>, story: impl Fn(u64)) -> bool {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let failed = seeds.into_iter().any(|seed| catch_unwind(AssertUnwindSafe(|| story(seed))).is_err());
    std::panic::set_hook(hook);
    failed
}

/// PROTOCOL, S1: the live place first, then the list.
#[test]
fn without_s1_a_snapshot_shows_what_was_written_after_it() {
    assert!(without(Tag::S1, || some_fails(1..13, |seed| run_local(beside(seed)))));
}

/// What is read around one page that is written in space that somebody had filled with sevens.
async fn around_a_first_write() -> Vec<u8> {
    const AU: u64 = 1 << 20;
    let ids = [DiskId([11; 16])];
    let manager = Manager::new(1, AuSize::DEFAULT, &ids.map(|id| (id, 24)));
    let disks = ids.map(|id| (id, MemDisk::new(24 * AU))).to_vec();
    let rights = Right::ALL.into_iter().fold(Rights::NONE, Rights::with);
    manager.admin(AdminRequest::ClientAdd { name: "host1".into(), print: print(1) }).expect("added");
    let made = manager.admin(AdminRequest::VolumeCreate { name: "vol".into(), size: 8 * AU }).expect("made");
    let AdminReply::Volume(made) = made else { panic!("another reply") };
    manager.admin(AdminRequest::AccessGrant { volume: "vol".into(), client: "host1".into(), rights }).expect("granted");
    // The disk is full of somebody's data, wherever the next volume's space comes from.
    disks[0].1.poke(DiskOff(0), &vec![7; usize::try_from(24 * AU).expect("small")]);
    let host = Host::start(&manager, print(1), handles(&disks, |d| d)).await;
    let volume = host.attach(made.id, Mode::Write).await.expect("attached");
    volume.write(4096, IoBuf::zeroed(4096).freeze()).await.expect("written");
    let block = usize::try_from(volume.block_size()).expect("small");
    volume.read(0, block).await.expect("read").to_vec()
}

/// PROTOCOL, W1: the first write to a block writes the whole block.
#[test]
fn a_first_write_shows_nothing_of_what_lay_there() {
    assert!(run_local(around_a_first_write()).iter().all(|b| *b == 0));
    assert!(without(Tag::W1, || run_local(around_a_first_write())).contains(&7));
}

const SIZE: usize = 12 * (256 << 10);

struct Beside {
    volume: Arc<Volume<SlowDisk, Link>>,
    live: Rc<RefCell<Vec<u8>>>,
    writing: Cell<u32>,
}

fn range(random: &mut SeededRandom) -> (usize, usize) {
    let n = |x: u64| usize::try_from(x).expect("small");
    let off = n(random.below(SIZE as u64));
    let most = [700, 4096, 30_000, 300_000][n(random.below(4))];
    let len = 1 + n(random.below(most));
    let off = if random.below(2) == 0 { off / 4096 * 4096 } else { off };
    (off, len.min(SIZE - off))
}

async fn write(b: Rc<Beside>, seed: u64) {
    let mut random = SeededRandom(seed);
    for _ in 0..80 {
        let (off, len) = range(&mut random);
        match random.below(10) {
            0 => {
                b.volume.discard(off as u64, len as u64).await.expect("discard");
                b.live.borrow_mut()[off..off + len].fill(0);
            }
            1 => b.volume.flush().await.expect("flush"),
            _ => {
                let mut data = IoBuf::zeroed(len);
                random.fill(&mut data);
                let copy = data.to_vec();
                b.volume.write(off as u64, data.freeze()).await.expect("write");
                b.live.borrow_mut()[off..off + len].copy_from_slice(&copy);
            }
        }
    }
    b.writing.set(b.writing.get() - 1);
}

async fn beside(seed: u64) {
    let (manager, id, disks) = pool(seed, 300, SIZE as u64);
    let writer = Host::start(&manager, print(1), handles(&disks, |d| SlowDisk::new(d, seed))).await;
    let other = Host::start(&manager, print(2), handles(&disks, |d| SlowDisk::new(d, seed + 1000))).await;
    let volume = writer.attach(id, Mode::Write).await.expect("attached");
    let b = Rc::new(Beside { volume, live: Rc::new(RefCell::new(vec![0; SIZE])), writing: Cell::new(4) });
    let frozen: Rc<RefCell<BTreeMap<SnapshotId, Vec<u8>>>> = Rc::default();
    let (live, images) = (b.live.clone(), frozen.clone());
    writer.on_held(move |hold| drop(images.borrow_mut().insert(hold.snapshot, live.borrow().clone())));
    let mut tasks: Vec<_> = (0..4).map(|n| tokio::task::spawn_local(write(b.clone(), seed * 100 + n))).collect();
    let mut random = SeededRandom(seed);
    for n in 0..3 {
        for _ in 0..random.below(2000) {
            tokio::task::yield_now().await;
        }
        let snapshot = SnapshotId(random.id());
        let call = CreateSnapshot { volume: id, id: snapshot, name: format!("s{n}") };
        other.engine.control.call(call).await.expect("a snapshot is taken");
        let image = frozen.borrow()[&snapshot].clone();
        let (b, other, mut random) = (b.clone(), other.clone(), SeededRandom(seed + n));
        tasks.push(tokio::task::spawn_local(async move {
            let reader = other.open(snapshot).await.expect("opened");
            while b.writing.get() > 0 {
                let (off, len) = range(&mut random);
                let got = reader.read(off as u64, len).await.expect("read of a snapshot");
                let bad = (0..len).find(|i| got[*i] != image[off + i]);
                assert_eq!(bad, None, "read of {len} bytes at {off}: the first that differs");
            }
            assert!(reader.read(0, SIZE).await.expect("all of it")[..] == image[..], "the snapshot at the end");
        }));
    }
    for t in tasks {
        t.await.expect("no task fails");
    }
    assert!(b.volume.read(0, SIZE).await.expect("read")[..] == b.live.borrow()[..], "the live volume at the end");
    assert_eq!(manager.prove(), Vec::<String>::new());
}

/// SEMANTICS: "A full pool is an error to the writer who needs space, and to nobody else; once space is free again writing goes on."
#[test]
fn a_full_pool_is_an_error_until_space_is_freed() {
    const AU: u64 = 256 << 10;
    run_local(async {
        let (manager, id, disks) = pool(1, 16, 30 * AU);
        let writer = Host::start(&manager, print(1), handles(&disks, |d| d)).await;
        let volume = writer.attach(id, Mode::Write).await.expect("attached");
        let data = |n: u8| {
            let mut b = IoBuf::zeroed(4096);
            b.fill(n);
            b.freeze()
        };
        let mut full = None;
        for n in 0..30 {
            match volume.write(n * AU, data(7)).await {
                Ok(()) => {}
                Err(e) => {
                    assert_eq!(e.kind(), Kind::NoSpace, "{e}");
                    full = Some(n);
                    break;
                }
            }
        }
        let full = full.expect("the pool is smaller than the volume");
        // Of 22 AUs the journal has 4, and 4 are kept for snapshots.
        assert!(full >= 14, "only what is kept is left, not what was asked for ahead: {full}");
        volume.write(0, data(8)).await.expect("what has space is written");
        volume.flush().await.expect("flush");
        volume.discard(AU, AU).await.expect("discard");
        volume.write(full * AU, data(9)).await.expect("there is space again");
        assert_eq!(volume.write((full + 1) * AU, data(9)).await.expect_err("full again").kind(), Kind::NoSpace);
        assert_eq!((volume.read(AU, 1).await.expect("read")[0], volume.read(full * AU, 1).await.expect("read")[0]), (0, 9));
        assert_eq!(manager.prove(), Vec::<String>::new());
    });
}
