//! A pool that is full while a snapshot still needs blocks: by default the snapshot breaks, and everybody is told; where the
//! volume says so, its writer stops instead.

use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::pool::{Options, Pool};
use fusevol_tests::real::wait::until;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 16 << 10;
/// Bytes that are written before the snapshot, and overwritten after it.
const DATA: u64 = 48 * MIB;
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const PATIENCE: Duration = Duration::from_secs(60);

/// A full pool, and a volume with a snapshot `db@s1` of [`DATA`] bytes of 1.
struct Stand {
    image: File,
    fill: File,
    mount: Mount,
    pool: Pool,
}

impl Stand {
    fn new(settings: &[&str]) -> Self {
        let pool = Pool::with(&Options { disks: &[256 * MIB], listen: &[], lease: 2 });
        pool.volume("db", "64M");
        pool.volume("fill", "1G");
        if !settings.is_empty() {
            let _said = pool.mgr(&[&["volume", "set", "db"], settings].concat()).ok();
        }
        let key = pool.client("host1", &[("db", "read,write,snapshot,backup"), ("fill", "read,write")]);
        let mount = Mount::new(&key, &pool.path().join("fv"));
        let open = |name: &str| File::options().read(true).write(true).open(mount.image(name)).expect("it opens");
        let (image, fill) = (open("db"), open("fill"));
        for at in (0..DATA).step_by(1 << 20) {
            image.write_all_at(&[1; 1 << 20], at).expect("there is space");
        }
        image.sync_data().expect("it syncs");
        let _said = pool.mgr(&["snapshot", "create", "db@s1"]).ok();
        let full = (0..1024).find_map(|n| fill.write_all_at(&[7; 1 << 20], n * MIB).err());
        assert_eq!(full.and_then(|e| e.raw_os_error()), Some(libc::ENOSPC), "the pool never was full");
        Self { image, fill, mount, pool }
    }

    /// Writes 2 into a part of every block from `from` on; the place of the first that fails.
    fn overwrite(&self, from: u64) -> Result<(), (u64, io::Error)> {
        (from..DATA).step_by(16 << 10).try_for_each(|at| self.image.write_all_at(&[2; 4096], at).map_err(|e| (at, e)))
    }

    /// Bytes of the snapshot, until one cannot be read.
    fn snapshot(&self) -> io::Result<Vec<u8>> {
        let file = File::open(self.mount.snapshot("db", "s1"))?;
        let mut out = vec![0; usize::try_from(DATA).expect("small")];
        file.read_exact_at(&mut out, 0).map(|()| out)
    }

    fn live_is(&self, overwritten: u64) {
        let mut block = vec![0; usize::try_from(BLOCK).expect("small")];
        for at in (0..DATA).step_by(16 << 10) {
            self.image.read_exact_at(&mut block, at).expect("it reads");
            let want = if at < overwritten { 2 } else { 1 };
            assert!(block[..4096].iter().all(|b| *b == want) && block[4096..].iter().all(|b| *b == 1), "the live volume is wrong at {at}");
        }
    }

    fn end(self) {
        let Self { image, fill, mount, mut pool } = self;
        drop((image, fill));
        mount.umount();
        pool.adds_up();
        pool.remove_snapshot("db@s1");
        pool.check();
    }
}

/// > A pool without space to preserve into breaks the snapshot, visibly, and never the writer; or stops the writer where the volume says so.
#[test]
fn the_snapshot_breaks_and_not_the_writer() {
    let stand = Stand::new(&[]);
    if let Err((at, e)) = stand.overwrite(0) {
        panic!("the writer got an error at {at}: {e}");
    }
    stand.image.sync_data().expect("it syncs");
    stand.live_is(DATA);
    let told = || (stand.pool.mgr(&["--json", "snapshot", "ls", "db"]).ok().json()["snapshots"][0]["broken"] == true).then_some(());
    until("the catalog to know that the snapshot is broken", PATIENCE, told);
    let broken = stand.snapshot().expect_err("it must not read").raw_os_error();
    assert_eq!(broken, Some(libc::EIO));
    let _said = stand.pool.mgr(&["status"]).ok().says("db@s1").says("broken");
    let _said = stand.pool.mgr(&["events"]).ok().says("snapshot-broken");
    stand.end();
}

/// With `--when-full stop-writer` the snapshot stays exact, and the writer goes on once there is space again.
#[test]
fn the_writer_stops_and_not_the_snapshot() {
    let stand = Stand::new(&["--when-full", "stop-writer"]);
    let (stopped, e) = stand.overwrite(0).expect_err("there is no space to preserve into");
    assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
    let exact = |when: &str| {
        let found = stand.snapshot().unwrap_or_else(|e| panic!("{when}: the snapshot does not read: {e}"));
        assert!(found.iter().all(|b| *b == 1), "{when}: the snapshot is not as it was");
    };
    exact("when the writer has stopped");
    stand.live_is(stopped);
    fallocate(&stand.fill, PUNCH, 0, 128 * MIB).expect("it discards");
    let goes_on = || stand.image.write_all_at(&[2; 4096], stopped).ok();
    until("the writer to go on", PATIENCE, goes_on);
    if let Err((at, e)) = stand.overwrite(stopped) {
        panic!("there is space again, and the writer got an error at {at}: {e}");
    }
    stand.live_is(DATA);
    exact("after the writer went on");
    stand.end();
}
