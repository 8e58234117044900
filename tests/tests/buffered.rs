//! Opens with and without `O_DIRECT`: what goes through the page cache, and that it is never stale. Over both transports.
//!
//! Whether a page is in the cache is seen by stopping the mount's process: what the kernel gives then it has.

use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::pool::{Options, Pool};
use fusevol_tests::real::run::{run, test_tool};
use fusevol_tests::real::stopped::Stopped;
use fusevol_tests::real::wait::until;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PAGE: usize = 4096;
const PAGE_U64: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(20);
/// What the kernel has it gives within this time; what it has not it does not give in less than it takes to look.
const SOON: Duration = Duration::from_millis(500);
const TRANSPORTS: [&str; 2] = ["transport=auto", "transport=classic"];

fn open(path: &Path, write: bool, direct: bool) -> Arc<File> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    Arc::new(OpenOptions::new().read(true).write(write).custom_flags(flags).open(path).expect("it opens"))
}

/// A page of memory that is aligned as `O_DIRECT` wants it, within a larger piece.
fn aligned<T>(fill: u64, act: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut memory = vec![0; 2 * PAGE];
    let skip = memory.as_ptr().align_offset(PAGE);
    let page = &mut memory[skip..skip + PAGE];
    page.copy_from_slice(&fill.to_le_bytes().repeat(PAGE / 8));
    act(page)
}

fn write(file: &File, page: u64, value: u64) -> io::Result<()> {
    aligned(value, |b| file.write_all_at(b, page * PAGE_U64))
}

/// The value that fills a page.
fn read(file: &File, page: u64) -> io::Result<u64> {
    aligned(u64::MAX, |b| {
        file.read_exact_at(b, page * PAGE_U64)?;
        let value = u64::from_le_bytes(b[..8].try_into().expect("8 bytes"));
        assert!(b.chunks_exact(8).all(|w| w == &b[..8]), "page {page} is torn");
        Ok(value)
    })
}

/// The same by a thread of its own: it may have to wait.
fn reading(file: &Arc<File>, page: u64) -> Receiver<io::Result<u64>> {
    let (file, (tell, told)) = (file.clone(), channel());
    std::thread::spawn(move || tell.send(read(&file, page)));
    told
}

fn on_both(test: impl Fn(&str)) {
    TRANSPORTS.into_iter().for_each(test);
}

fn stand(transport: &str, rights: &str) -> (Pool, Mount) {
    // A process that stands still for a moment keeps its lease.
    let pool = Pool::with(&Options { disks: &[2 << 30, 2 << 30], listen: &[], lease: 10 });
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", rights)]);
    let mount = Mount::with(&key, &pool.path().join("fv"), None, &["-o", transport]);
    (pool, mount)
}

/// > Without `O_DIRECT` a volume that is written on this host is read and written through the page cache; with it, past the page cache; and each open sees at once what any other has written, discarded or emptied.
#[test]
fn buffered_and_direct_opens_see_each_other() {
    on_both(|transport| {
        let (mut pool, mount) = stand(transport, "read,write");
        let image = mount.image("db");
        let (direct, buffered) = (open(&image, true, true), open(&image, true, false));
        for n in 1..200 {
            let page = n % 7;
            write(&buffered, page, 2 * n).expect("it writes");
            assert_eq!(read(&direct, page).expect("it reads"), 2 * n, "{transport}: the page was kept back");
            write(&direct, page, 2 * n + 1).expect("it writes");
            assert_eq!(read(&buffered, page).expect("it reads"), 2 * n + 1, "{transport}: the page is stale");
        }
        // Neither is a write that only touches a part of a page.
        buffered.write_all_at(b"part", 100 * PAGE_U64 + 10).expect("it writes");
        let mut part = [0; 6];
        open(&image, false, true);
        buffered.read_exact_at(&mut part, 100 * PAGE_U64 + 9).expect("it reads");
        assert_eq!(&part, b"\0part\0");

        write(&buffered, 1, 77).expect("it writes");
        let stopped = Stopped::new(mount.pid());
        assert_eq!(reading(&buffered, 1).recv_timeout(PATIENCE).expect("the kernel has it").expect("it reads"), 77);
        let waits = reading(&direct, 1);
        assert!(waits.recv_timeout(SOON).is_err(), "{transport}: O_DIRECT was answered without the mount");
        drop(stopped);
        assert_eq!(waits.recv_timeout(PATIENCE).expect("it goes on").expect("it reads"), 77);

        // A discard by another open, and the open that empties.
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&*direct, punch, PAGE_U64, PAGE_U64).expect("it discards");
        assert_eq!(read(&buffered, 1).expect("it reads"), 0);
        write(&buffered, 9, 78).expect("it writes");
        assert_eq!(read(&buffered, 9).expect("it reads"), 78);
        drop(OpenOptions::new().write(true).truncate(true).open(&image).expect("it opens"));
        assert_eq!(read(&buffered, 9).expect("it reads"), 0, "{transport}: O_TRUNC has left a page");
        drop((direct, buffered));
        mount.umount();
        pool.check();
    });
}

/// What was read while it was written past the page cache is not old afterwards.
#[test]
fn a_page_that_is_read_while_it_is_written_directly_is_not_old_afterwards() {
    on_both(|transport| {
        let (mut pool, mount) = stand(transport, "read,write");
        let image = mount.image("db");
        let (direct, buffered) = (open(&image, true, true), open(&image, true, false));
        let (stop, last) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let least = last.load(Ordering::SeqCst);
                        let seen = read(&buffered, 3).expect("it reads");
                        assert!(seen >= least, "{transport}: it held {least} before {seen} was read");
                    }
                });
            }
            for n in 1..3000 {
                write(&direct, 3, n).expect("it writes");
                last.store(n, Ordering::SeqCst);
            }
            stop.store(true, Ordering::SeqCst);
        });
        assert_eq!(read(&buffered, 3).expect("it reads"), 2999);
        drop((direct, buffered));
        mount.umount();
        pool.check();
    });
}

/// > What another host has written since a volume was given back is what the next open sees, and who only reads a volume keeps no page of it.
#[test]
fn no_page_outlives_its_attachment() {
    on_both(|transport| {
        let (mut pool, here) = stand(transport, "read,write");
        let other = pool.client("host2", &[("db", "read,write")]);
        let there = Mount::with(&other, &pool.path().join("there"), None, &["-o", transport]);
        for n in 1..6 {
            let mounts = if n % 2 == 0 { [&here, &there] } else { [&there, &here] };
            let opened = || OpenOptions::new().read(true).write(true).open(mounts[0].image("db")).ok();
            let file = until("the volume to be given over", PATIENCE, opened);
            assert_eq!(read(&file, 5).expect("it reads"), n - 1, "{transport}: what the other host wrote is not seen");
            write(&file, 5, n).and_then(|()| file.sync_all()).expect("it writes");
            assert_eq!(read(&file, 5).expect("it reads"), n);
            // Beside it a reader elsewhere: it sees each flush in a while, so it keeps nothing.
            let reader = open(&mounts[1].image("db"), false, false);
            until("the reader to see it", PATIENCE, || (read(&reader, 5).ok() == Some(n)).then_some(()));
            write(&file, 5, 100 + n).and_then(|()| file.sync_all()).expect("it writes");
            until("the reader to see that, too", PATIENCE, || (read(&reader, 5).ok() == Some(100 + n)).then_some(()));
            write(&file, 5, n).and_then(|()| file.sync_all()).expect("it writes");
        }
        here.umount();
        there.umount();
        pool.check();
    });
}

/// > When the session of a mount ends, pages that the kernel has kept of its volumes and snapshots are not given any more.
#[test]
fn pages_end_with_the_session() {
    on_both(|transport| {
        let (pool, mount) = stand(transport, "read,write,snapshot,backup");
        let buffered = open(&mount.image("db"), true, false);
        write(&buffered, 2, 5).and_then(|()| buffered.sync_all()).expect("it writes");
        let _said = pool.mgr(&["snapshot", "create", "db@s1"]).ok();
        let frozen = until("the snapshot to appear", PATIENCE, || File::open(mount.snapshot("db", "s1")).ok());
        assert_eq!((read(&buffered, 2).expect("it reads"), read(&frozen, 2).expect("it reads")), (5, 5));
        let _said = pool.mgr(&["client", "revoke", "host1", "-y"]).ok();
        for file in [&*buffered, &frozen] {
            until("reading to fail", PATIENCE, || read(file, 2).is_err().then_some(()));
        }
        drop((buffered, frozen));
        mount.umount();
    });
}

/// > Pages of a snapshot are kept by the kernel from one open to the next: its bytes never change.
#[test]
fn pages_of_a_snapshot_are_kept() {
    on_both(|transport| {
        let (mut pool, mount) = stand(transport, "read,write,snapshot,backup");
        let volume = open(&mount.image("db"), true, false);
        write(&volume, 2, 5).and_then(|()| volume.sync_all()).expect("it writes");
        let _said = pool.mgr(&["snapshot", "create", "db@s1"]).ok();
        let path = mount.snapshot("db", "s1");
        let frozen = until("the snapshot to appear", PATIENCE, || File::open(&path).ok());
        assert_eq!(read(&frozen, 2).expect("it reads"), 5);
        drop(frozen);
        write(&volume, 2, 6).and_then(|()| volume.sync_all()).expect("it writes");
        let (again, direct) = (open(&path, false, false), open(&path, false, true));
        let stopped = Stopped::new(mount.pid());
        let kept = reading(&again, 2).recv_timeout(4 * SOON);
        let waits = reading(&direct, 2);
        assert!(waits.recv_timeout(SOON).is_err(), "{transport}: O_DIRECT was answered without the mount");
        drop(stopped);
        assert_eq!(kept.expect("the kernel has it").expect("it reads"), 5);
        assert_eq!(waits.recv_timeout(PATIENCE).expect("it goes on").expect("it reads"), 5);
        drop((volume, again, direct));
        mount.umount();
        pool.check();
    });
}

/// Random reads, writes and punches, mapped ones among them, each compared with what must be there; the file is written back from
/// the mappings by msync and by their end.
const FSX: &str = "
flen = 33554432
blockmode = true
[opsize]
max = 131072
[weights]
read = 10.0
write = 10.0
punch_hole = 2.0
fsync = 1.0
fdatasync = 1.0
invalidate = 1.0
mapread = 5.0
mapwrite = 5.0
truncate = 0.0
";

/// > Shared mappings for writing work, and agree with `read`, `write` and discards; what they wrote is on the disks after `msync` or `fsync`.
#[test]
fn mappings_are_written_back() {
    on_both(|transport| {
        let (mut pool, mount) = stand(transport, "read,write");
        let config = pool.path().join("fsx.toml");
        fs::write(&config, FSX).expect("a scratch file");
        let image = mount.image("db");
        for seed in ["11", "12"] {
            let mut fsx = Command::new(test_tool("fsx"));
            fsx.arg("-f").arg(&config).args(["-N", "3000", "-S", seed, "-P"]).arg(pool.path()).arg(&image);
            let _said = run(&mut fsx).ok();
        }
        // Another program's mapping, and what stands on the disks after it.
        let args = ["--name=mapped", "--rw=randwrite", "--bs=4k", "--size=8M", "--ioengine=mmap", "--fsync=16", "--verify=crc32c"];
        let mut fio = Command::new("fio");
        fio.args(args).args(["--verify_state_save=0", "--output-format=terse"]).arg(format!("--filename={}", image.display()));
        let _said = run(&mut fio).ok();
        let held = open(&image, true, true);
        fio.args(["--verify_only", "--direct=1", "--ioengine=psync"]);
        let _said = run(&mut fio).ok();
        drop(held);
        mount.umount();
        pool.check();
    });
}
