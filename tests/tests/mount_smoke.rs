//! What a volume file does, call by call, through the real mount; and the mount's own verbs. (SEMANTICS.md, "Volume files".)

use fusevol_tests::real::mount::{Mount, Transport};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::run::{program, run};
use fusevol_tests::real::stopped::Stopped;
use fusevol_tests::real::wait::until;
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom, fallocate, ftruncate, open, seek};
use rustix::io::{Errno, pread, pwrite};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BLOCK: u64 = 16 << 10;
const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 << 20;
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

fn rw(path: &Path) -> OwnedFd {
    open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("it opens for writing")
}

fn at(fd: &OwnedFd, off: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xEE; len];
    let n = pread(fd, &mut buf, off).expect("it reads");
    buf.truncate(n);
    buf
}

fn one(pool: &Pool, rights: &str) -> PathBuf {
    pool.volume("db", "64M");
    pool.client("host1", &[("db", rights)])
}

/// > A volume file keeps its size: bytes past the end are never written, and opening with `O_TRUNC` empties it without shortening it.
#[test]
fn a_volume_file_call_by_call() {
    call_by_call(Transport::Uring);
}

#[test]
fn a_volume_file_call_by_call_over_classic() {
    call_by_call(Transport::Classic);
}

fn call_by_call(transport: Transport) {
    let mut pool = Pool::new();
    let key = one(&pool, "read,write");
    let mount = Mount::over(transport, &key, &pool.path().join("fv"));
    let image = mount.image("db");
    let fd = rw(&image);
    let blocks = || fs::metadata(&image).expect("it is there").blocks() * 512;

    // Unaligned bytes into a hole; the rest of the block is zeros.
    assert_eq!(pwrite(&fd, b"hello", 5 * BLOCK + 100), Ok(5));
    assert_eq!(at(&fd, 5 * BLOCK + 98, 9), b"\0\0hello\0\0");
    assert_eq!((blocks(), fs::metadata(&image).expect("it is there").blksize()), (BLOCK, BLOCK));
    assert_eq!(rustix::fs::fstatvfs(&fd).expect("it answers").f_bsize, BLOCK);
    assert_eq!(seek(&fd, SeekFrom::Data(0)), Ok(5 * BLOCK));
    assert_eq!(seek(&fd, SeekFrom::Hole(5 * BLOCK)), Ok(6 * BLOCK));
    assert_eq!(seek(&fd, SeekFrom::Data(6 * BLOCK)), Err(Errno::NXIO));
    assert_eq!(seek(&fd, SeekFrom::Hole(SIZE)), Err(Errno::NXIO));

    // Discard, zero range, allocate.
    assert_eq!(pwrite(&fd, &vec![b'x'; 2 << 20], MIB), Ok(2 << 20));
    assert_eq!(blocks(), 2 * MIB + BLOCK);
    assert_eq!(fallocate(&fd, PUNCH, MIB, MIB), Ok(()));
    assert_eq!((at(&fd, MIB, 4), at(&fd, 2 * MIB, 4)), (vec![0; 4], b"xxxx".to_vec()));
    assert_eq!(blocks(), MIB + BLOCK);
    assert_eq!(fallocate(&fd, FallocateFlags::ZERO_RANGE, 2 * MIB + 1000, 3 * BLOCK), Ok(()));
    assert_eq!(at(&fd, 2 * MIB + 999, 2), b"x\0");
    assert_eq!(fallocate(&fd, FallocateFlags::empty(), 10 * MIB, 4 * MIB), Ok(()));
    assert_eq!(at(&fd, 10 * MIB, 8), [0; 8]);
    assert_eq!(fallocate(&fd, FallocateFlags::KEEP_SIZE, SIZE, 4096), Ok(()));
    assert_eq!(fallocate(&fd, FallocateFlags::empty(), SIZE, 4096), Err(Errno::FBIG));

    // The end.
    assert_eq!(pwrite(&fd, &[1; 8192], SIZE - 4096), Ok(4096));
    assert_eq!(pwrite(&fd, &[1], SIZE), Err(Errno::FBIG));
    assert_eq!(at(&fd, SIZE - 4096, 8192).len(), 4096);
    assert!(at(&fd, SIZE, 10).is_empty());
    assert_eq!(ftruncate(&fd, SIZE), Ok(()));
    assert_eq!(ftruncate(&fd, 4096), Err(Errno::PERM));

    // Names are the manager's matter.
    let dir = mount.path();
    let refused = |r: std::io::Result<()>| assert_eq!(r.map_err(|e| e.raw_os_error()), Err(Some(libc::EPERM)));
    refused(fs::create_dir(dir.join("x")));
    refused(fs::write(dir.join("new.img"), b""));
    refused(fs::remove_file(&image));
    refused(fs::rename(&image, dir.join("y.img")));
    refused(fs::set_permissions(&image, fs::Permissions::from_mode(0o644)));
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).expect("what it is");
    let readonly = fs::create_dir(dir.join(".snapshots/x")).map_err(|e| e.raw_os_error());
    assert_eq!(readonly, Err(Some(libc::EROFS)));
    drop(fd);

    let truncated = open(&image, OFlags::WRONLY | OFlags::TRUNC, Mode::empty()).expect("it opens");
    assert_eq!((fs::metadata(&image).expect("it is there").len(), blocks()), (SIZE, 0));
    drop(truncated);
    mount.umount();
    pool.check();
}

/// > What was written and synced is there after the mount's process was killed, and `fusevol mount` replaces the dead mount.
#[test]
fn a_dead_mount_is_replaced() {
    let mut pool = Pool::new();
    let key = one(&pool, "read,write");
    let dir = pool.path().join("fv");
    let fusevol = |args: &[&str]| run(Command::new(program("fusevol")).args(args).arg(&dir));
    let key = key.to_string_lossy().into_owned();
    let mount = ["--json", "mount", "--key", &key];
    let said = fusevol(&mount).ok().json();
    let pid = i32::try_from(said["pid"].as_i64().expect("a pid")).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    let image = dir.join("db.img");
    fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .and_then(|f| f.write_all_at(b"kept", MIB).and_then(|()| f.sync_data()))
        .expect("it writes");
    let _said = fusevol(&mount).code(5).says("mounted already");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
    until("the mount to be dead", Duration::from_secs(20), || fs::metadata(&image).is_err().then_some(()));
    let _said = fusevol(&mount).ok();
    let mut back = [0; 4];
    fs::File::open(&image).and_then(|f| f.read_exact_at(&mut back, MIB)).expect("it reads");
    assert_eq!(&back, b"kept");
    // In use: refused, and said by whom.
    let held = rw(&image);
    let _said = fusevol(&["umount"]).code(5).says(&format!("pid {}", std::process::id()));
    drop(held);
    let _said = fusevol(&["umount"]).ok();
    let _said = fusevol(&["umount"]).code(4);
    pool.check();
}

/// > A volume is written by one host at a time: another one gets `EBUSY`, and its log names the holder.
#[test]
fn one_writing_host() {
    let mut pool = Pool::new();
    let key = one(&pool, "read,write");
    let other = pool.client("host2", &[("db", "read,write")]);
    let (a, b) = (Mount::new(&key, &pool.path().join("a")), Mount::new(&other, &pool.path().join("b")));
    let held = rw(&a.image("db"));
    assert_eq!(open(b.image("db"), OFlags::RDWR, Mode::empty()).err(), Some(Errno::BUSY));
    assert!(b.log().contains("host1"), "{}", b.log());
    // Reading is beside writing, and sees what was synced.
    pwrite(&held, b"seen", 0).and_then(|_| rustix::fs::fsync(&held)).expect("it writes");
    let reader = open(b.image("db"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("it opens for reading");
    until("the reader to see it", Duration::from_secs(20), || (at(&reader, 0, 4) == b"seen").then_some(()));
    drop(held);
    drop(reader);
    let taken = || open(b.image("db"), OFlags::RDWR, Mode::empty()).ok();
    drop(until("the volume to be given back", Duration::from_secs(20), taken));
    a.umount();
    b.umount();
    pool.check();
}

/// > With the reserve used up and no manager, a write to new space waits, and fails when the time-out has passed; when the manager is back it goes on.
#[test]
fn without_a_manager_new_space_ends_and_comes_back() {
    let mut pool = Pool::new();
    pool.volume("db", "1G");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = Mount::with(&key, &pool.path().join("fv"), None, &["-o", "io_timeout=1"]);
    let fd = rw(&mount.image("db"));
    pwrite(&fd, &[7; 4096], 0).and_then(|_| rustix::fs::fsync(&fd)).expect("it writes");
    pool.kill();
    let first = |au: u64| pwrite(&fd, &[9; 4096], au * MIB);
    let (ended, errno) = (1..1024).find_map(|au| first(au).err().map(|e| (au, e))).expect("a reserve is not without end");
    assert!(ended > 1 && matches!(errno, Errno::IO | Errno::TIMEDOUT), "AU {ended}: {errno}");
    // What has its place is written on, and is durable.
    pwrite(&fd, &[8; 4096], 0).and_then(|_| rustix::fs::fsync(&fd)).expect("mapped I/O goes on");
    assert_ne!(mount.fusevol(&["status", "--check"]).code, 0);
    pool.serve();
    until("new space to come back", Duration::from_secs(30), || first(ended).ok());
    rustix::fs::fsync(&fd).expect("it syncs");
    let _said = mount.fusevol(&["status", "--check"]).code(0);
    drop(fd);
    mount.umount();
    pool.check();
}

/// A snapshot reads the bytes of its instant while the volume is written on, and its list of modified blocks is exact.
#[test]
fn a_snapshot_beside_the_writer() {
    let mut pool = Pool::new();
    let key = one(&pool, "read,write,snapshot,backup");
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let fd = rw(&mount.image("db"));
    pwrite(&fd, &vec![1; 4 << 20], 0).expect("it writes");
    let _said = pool.mgr(&["snapshot", "create", "db@s1"]).ok();
    pwrite(&fd, &[2; 100], 3 * BLOCK + 5).and_then(|_| pwrite(&fd, &[2; 4096], 8 * MIB)).expect("it writes on");
    rustix::fs::fsync(&fd).expect("what is written for the first time is known elsewhere once it is flushed");
    let path = mount.snapshot("db", "s1");
    let frozen =
        until("the snapshot to appear", Duration::from_secs(20), || open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok());
    let seen = at(&frozen, 0, 4 << 20);
    assert!(seen.len() == 4 << 20 && seen.iter().all(|b| *b == 1), "the snapshot is not as it was");
    assert_eq!(at(&frozen, 8 * MIB, 4096), vec![0; 4096]);
    assert_eq!(seek(&frozen, SeekFrom::Hole(0)), Ok(4 * MIB));
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o400);
    assert_eq!(open(&path, OFlags::RDWR, Mode::empty()).err(), Some(Errno::ROFS));
    let modified = mount.fusevol(&["map", "db@s1", "--modified", "--json"]).ok().json();
    let extents: Vec<_> =
        modified["extents"].as_array().expect("a list").iter().map(|e| (e["start"].as_u64(), e["length"].as_u64())).collect();
    assert_eq!(extents, [(Some(3 * BLOCK), Some(BLOCK)), (Some(8 * MIB), Some(BLOCK))]);
    let _said = pool.mgr(&["snapshot", "rm", "db@s1", "-y"]).code(5);
    drop(frozen);
    let removed = || (pool.mgr(&["snapshot", "rm", "db@s1", "-y"]).code == 0).then_some(());
    until("the snapshot to be removed", Duration::from_secs(20), removed);
    drop(fd);
    mount.umount();
    pool.check();
}

/// > A revoked client's volumes fail at once, and its mount says why.
#[test]
fn revoked_in_the_middle() {
    let pool = Pool::new();
    let key = one(&pool, "read,write");
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let fd = rw(&mount.image("db"));
    pwrite(&fd, &[7; 4096], 0).expect("it writes");
    let _said = pool.mgr(&["client", "revoke", "host1", "-y"]).ok();
    until("I/O to fail", Duration::from_secs(20), || pwrite(&fd, &[8; 4096], 0).err().filter(|e| *e == Errno::IO));
    let state = || (mount.fusevol(&["status", "--json"]).ok().json()["state"] == "over").then_some(());
    until("the session to be over", Duration::from_secs(20), state);
    drop(fd);
    let dir = pool.path().join("other");
    let _said = run(Command::new(program("fusevol")).args(["mount", "--key"]).arg(&key).arg(&dir)).code(6).says("hint:");
    mount.umount();
}

/// > A mount that hangs keeps no other one of the host from being asked.
#[test]
fn a_hung_mount_is_passed_over() {
    let pool = Pool::new();
    let key = one(&pool, "read,write");
    let (hung, other) = (Mount::new(&key, &pool.path().join("hung")), Mount::new(&key, &pool.path().join("other")));
    let stopped = Stopped::new(hung.pid());
    let listed = other.fusevol(&["ls", "--json"]);
    drop(stopped);
    assert_eq!(listed.ok().json()["volumes"][0]["name"], "db");
    other.umount();
    hung.umount();
}
