//! The power is cut under a real mount: client and manager are killed, the disks lose what was not flushed, and ext4 and
//! `SQLite` on the volume find what they were told is safe.

use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::file::{FileDisk, OpenMode};
use fusevol_shared::disk::{Disk, ring};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::DiskOff;
use fusevol_tests::real::crashfile::{CrashFiles, Loss};
use fusevol_tests::real::files::Files;
use fusevol_tests::real::ledger::Ledger;
use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::loopdev::LoopDevice;
use fusevol_tests::real::mount::{Mount, Mounted, Transport};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::rounds;
use fusevol_tests::real::run::tool;
use fusevol_tests::real::wait::{pause, until};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CUTS: u64 = 12;
const PATIENCE: Duration = Duration::from_secs(30);

/// A volume with ext4 on disks that lose what was not flushed.
struct Stand {
    // Dropped in this order: each lies on the next.
    files: Option<Mounted>,
    device: Option<LoopDevice>,
    mount: Option<Mount>,
    pool: Pool,
    disks: CrashFiles,
    key: PathBuf,
    lives: u64,
    loss: Loss,
}

impl Stand {
    fn new(seed: u64) -> Self {
        let disks = CrashFiles::new(&[1 << 30, 1 << 30], seed);
        let pool = Pool::on(disks.paths());
        pool.volume("db", "256M");
        let key = pool.client("host1", &[("db", "read,write")]);
        let mut stand = Self { files: None, device: None, mount: None, pool, disks, key, lives: 0, loss: Loss::default() };
        stand.up();
        let _said = tool("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0", &stand.device().to_string_lossy()]);
        stand.mount_files();
        stand
    }

    fn device(&self) -> &Path {
        self.device.as_ref().expect("it is attached").path()
    }

    fn dir(&self) -> PathBuf {
        self.pool.path().join("srv")
    }

    /// Volume and loop device.
    fn up(&mut self) {
        let mount = Mount::over(Transport::of_round(self.lives), &self.key, &self.pool.path().join("fv"));
        self.lives += 1;
        let image = mount.image("db");
        let open = || std::fs::OpenOptions::new().write(true).open(&image).ok();
        drop(until("the volume to be given to the next life", PATIENCE, open));
        self.device = Some(LoopDevice::new(&image, true));
        self.mount = Some(mount);
    }

    fn mount_files(&mut self) {
        self.files = Some(Mounted::new(&["-t", "ext4", "-o", "data=ordered"], self.device(), &self.dir()));
    }

    /// The power goes and comes back. `load` stops what runs on the files: it gets errors.
    fn cut(&mut self, load: impl FnOnce()) {
        let (pool, mount) = (&mut self.pool, self.mount.take().expect("it is mounted"));
        let (files, device) = (self.files.take(), self.device.take());
        let ((), loss) = self.disks.cut(|| {
            pool.kill();
            mount.kill();
            load();
            drop(files);
            drop(device);
        });
        self.loss += loss;
        self.pool.serve();
    }

    /// ext4 goes through its own log, and is clean then.
    fn back(&mut self) {
        self.up();
        self.mount_files();
        self.files = None;
        let _said = tool("e2fsck", &["-f", "-n", &self.device().to_string_lossy()]);
        self.mount_files();
    }

    fn end(mut self, what: &str) {
        self.files = None;
        self.device = None;
        self.mount.take().expect("it is mounted").umount();
        self.pool.adds_up();
        self.pool.check();
        let Loss { kept, lost, torn } = self.loss;
        println!("{what}; of the open writes {lost} were lost, {torn} torn, {kept} kept; {:?}", self.disks.asked());
        assert!(lost > 0 && self.disks.asked().flushes > 0, "nothing was at stake");
    }
}

/// > A power cut loses nothing that was acknowledged by fsync.
#[test]
fn ext4_is_clean_and_holds_every_synced_file() {
    let mut stand = Stand::new(31);
    let mut random = SeededRandom(32);
    let mut files = Files::new(&stand.dir());
    for cut in 0..rounds(CUTS) {
        let load = files.load(2);
        let enough = load.synced() + 4 + random.below(40);
        until("some files", PATIENCE, || (load.synced() >= enough).then_some(()));
        pause(Duration::from_millis(random.below(40)));
        stand.cut(|| files.wreck(load));
        stand.back();
        files.verify(&format!("after cut {cut}"));
    }
    let said = format!("{} cuts, {} synced files looked at", rounds(CUTS), files.verified());
    stand.end(&said);
}

/// `SQLite` in WAL mode, synced at each commit: every transaction that was acknowledged is there, and the file is whole.
#[test]
fn sqlite_loses_no_acknowledged_transaction() {
    let mut stand = Stand::new(41);
    let mut random = SeededRandom(42);
    let file = stand.dir().join("ledger.db");
    let mut acked = 0;
    for cut in 0..rounds(CUTS) {
        let ledger = Ledger::start(&file, acked);
        let enough = ledger.acked() + 5 + random.below(60);
        until("some transactions", PATIENCE, || (ledger.acked() >= enough).then_some(()));
        pause(Duration::from_millis(random.below(40)));
        stand.cut(|| acked = ledger.wreck());
        stand.back();
        let held = Ledger::verify(&file);
        assert!(held >= acked, "after cut {cut}: transaction {acked} was acknowledged, the last one there is {held}");
        acked = held;
    }
    stand.end(&format!("{} cuts, {acked} transactions", rounds(CUTS)));
}

/// The load that describes itself, cut off: what was synced is there, nothing is torn or elsewhere, and the snapshots that were
/// taken before a cut are the instants that they were.
#[test]
fn a_load_and_its_snapshots() {
    let disks = CrashFiles::new(&[1 << 30, 1 << 30], 51);
    let mut pool = Pool::on(disks.paths());
    pool.volume("db", "256M");
    let free = pool.space("total");
    let key = pool.client("host1", &[("db", "read,write,snapshot,backup")]);
    let mut random = SeededRandom(52);
    let mut oracle = Oracle::new(53, THREADS);
    let (mut loss, mut frames) = (Loss::default(), Vec::new());
    for cut in 0..=rounds(CUTS) {
        let mount = Mount::over(Transport::of_round(cut), &key, &pool.path().join("fv"));
        let image = mount.image("db");
        oracle.verify(&format!("after cut {cut}"), &image);
        drop(until("the volume to be given to the next life", PATIENCE, || std::fs::OpenOptions::new().write(true).open(&image).ok()));
        let load = Load::start(&image, oracle, random.next_u64());
        until("some load", PATIENCE, || (load.acked() >= 300).then_some(()));
        if cut.is_multiple_of(3) {
            let name = format!("s{cut}");
            frames.push(load.frame(&name, || {
                let _said = pool.mgr(&["snapshot", "create", &format!("db@{name}")]).ok();
            }));
        }
        pause(Duration::from_millis(random.below(300)));
        if cut == rounds(CUTS) {
            oracle = load.finish();
            mount.umount();
            break;
        }
        let (wreck, lost) = disks.cut(|| {
            mount.kill();
            pool.kill();
            load.wreck()
        });
        oracle = wreck;
        loss += lost;
        pool.serve();
    }
    let mount = Mount::new(&key, &pool.path().join("fv"));
    oracle.verify("at the end", &mount.image("db"));
    frames.iter().for_each(|frame| frame.verify(&oracle, &mount.snapshot("db", &frame.name)));
    mount.umount();
    println!("{} cuts, {} snapshots, {} MiB verified; {loss:?}; {:?}", rounds(CUTS), frames.len(), oracle.verified >> 20, disks.asked());
    assert!(loss.lost > 0 && loss.torn > 0, "nothing was at stake");
    pool.adds_up();
    pool.remove("db", free);
    pool.check();
}

/// What the disks of this proof stand on: a durable write arrives as one, through the ring, and a lock is held.
#[test]
fn a_durable_write_arrives_as_one() {
    let disks = CrashFiles::new(&[1 << 20], 5);
    let path = &disks.paths()[0];
    for round in 1..=8u8 {
        let disk = FileDisk::open(path, OpenMode::ReadWrite).expect("it opens");
        assert!(disk.is_direct());
        assert!(disk.try_lock(1 << 40).expect("it locks"));
        let other = FileDisk::open(path, OpenMode::ReadWrite).expect("it opens twice");
        assert!(other.lock_held_by_other(1 << 40).expect("it answers") && !other.try_lock(1 << 40).expect("it answers"));
        let (before, page) = (disks.asked(), IoBuf::copy_of(&[round; 4096]).freeze());
        ring::block_on(async {
            disk.write(DiskOff(4096), page.clone()).await.expect("it writes");
            disk.write_durable(DiskOff(0), page.clone()).await.expect("it writes");
            disk.write(DiskOff(8192), page.clone()).await.expect("it writes");
            disk.flush().await.expect("it flushes");
            disk.write(DiskOff(4096), page.clone()).await.expect("it writes");
        });
        let asked = disks.asked();
        assert_eq!((asked.writes - before.writes, asked.durable - before.durable, asked.flushes - before.flushes), (3, 1, 1));
        drop((disk, other));
        let ((), _) = disks.cut(|| ());
        let found = std::fs::read(path).expect("it reads");
        assert!(found[..4096].iter().chain(&found[8192..12288]).all(|b| *b == round), "what was durable is gone");
    }
}
