//! Real files and, where the machine gives one, a loop device.

use super::*;
use crate::disk::ring::block_on;
use crate::units::PAGE_U64;
use futures_util::future::join_all;
use std::fs::File;
use std::process::{Command, Stdio};

fn temp_disk(pages: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    File::create(&path).unwrap().set_len(pages * PAGE_U64).unwrap();
    (dir, path)
}

fn pattern(seed: u8, pages: usize) -> IoBytes {
    let mut b = IoBuf::zeroed(pages * PAGE);
    b.iter_mut().enumerate().for_each(|(i, x)| *x = seed.wrapping_add(u8::try_from(i % 241).unwrap()));
    b.freeze()
}

#[test]
fn what_was_written_is_read() {
    let (_dir, path) = temp_disk(600);
    let disk = FileDisk::open(&path, OpenMode::ReadWrite).unwrap();
    assert_eq!((disk.size(), disk.kind()), (600 * PAGE_U64, FileKind::Plain));
    block_on(async {
        let writes = (0..300_u64).map(|i| {
            let data = pattern(u8::try_from(i % 256).unwrap(), 2);
            let (disk, at) = (&disk, DiskOff(i * 2 * PAGE_U64));
            async move { if i % 10 == 0 { disk.write_durable(at, data).await } else { disk.write(at, data).await } }
        });
        join_all(writes).await.into_iter().for_each(|r| r.unwrap());
        disk.flush().await.unwrap();
        let (result, whole) = disk.read(DiskOff(0), IoBuf::zeroed(600 * PAGE)).await;
        result.unwrap();
        for i in 0..300 {
            assert!(whole[i * 2 * PAGE..][..2 * PAGE] == pattern(u8::try_from(i % 256).unwrap(), 2)[..], "write {i}");
        }
    });
    assert_eq!(std::fs::read(&path).unwrap()[..2 * PAGE], pattern(0, 2)[..]);
}

#[test]
fn a_piece_of_a_split_buffer_is_read_in_place() {
    let (_dir, path) = temp_disk(4);
    let disk = FileDisk::open(&path, OpenMode::ReadWrite).unwrap();
    block_on(async {
        disk.write(DiskOff(PAGE_U64), pattern(9, 2)).await.unwrap();
        let mut head = IoBuf::zeroed(3 * PAGE);
        head.fill(1);
        let first = head.split_to(PAGE);
        let (result, rest) = disk.read(DiskOff(PAGE_U64), head).await;
        result.unwrap();
        let mut whole = first;
        whole.rejoin(rest).unwrap();
        assert!(whole[..PAGE].iter().all(|&b| b == 1) && whole[PAGE..] == pattern(9, 2)[..]);
    });
}

#[test]
fn refuses_what_lies_outside() {
    let (_dir, path) = temp_disk(2);
    let disk = FileDisk::open(&path, OpenMode::ReadWrite).unwrap();
    let e = block_on(disk.write(DiskOff(2 * PAGE_U64), pattern(0, 1))).unwrap_err();
    assert_eq!((e.errno, e.answer), (libc::EINVAL, Answer::Answered));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * PAGE_U64, "a file never grows by a write");
}

#[test]
fn a_file_that_was_cut_short_is_an_error() {
    let (_dir, path) = temp_disk(4);
    let disk = FileDisk::open(&path, OpenMode::Read).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(2 * PAGE_U64).unwrap();
    let e = block_on(disk.read(DiskOff(0), IoBuf::zeroed(4 * PAGE))).0.unwrap_err();
    assert_eq!((e.errno, e.answer), (libc::EIO, Answer::Answered), "{e}");
}

#[test]
fn opens_files_and_block_devices_only() {
    let dir = tempfile::tempdir().unwrap();
    let missing = FileDisk::open(dir.path().join("none"), OpenMode::Read).unwrap_err();
    assert_eq!(missing.errno, libc::ENOENT);
    for path in [dir.path(), Path::new("/dev/null")] {
        assert_eq!(FileDisk::open(path, OpenMode::Read).unwrap_err().errno, libc::ENOTBLK, "{}", path.display());
    }
    let (_dir, path) = temp_disk(1);
    let disk = FileDisk::open(&path, OpenMode::Read).unwrap();
    assert_eq!(block_on(disk.write(DiskOff(0), pattern(0, 1))).unwrap_err().errno, libc::EBADF);
}

#[test]
fn two_names_of_one_file_have_one_identity() {
    let (dir, path) = temp_disk(1);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let (a, b) = (FileDisk::open(&path, OpenMode::Read).unwrap(), FileDisk::open(&link, OpenMode::Read).unwrap());
    assert_eq!(a.identity(), b.identity());
    let (_other, elsewhere) = temp_disk(1);
    assert_ne!(a.identity(), FileDisk::open(elsewhere, OpenMode::Read).unwrap().identity());
}

#[test]
fn locks_are_by_open_and_by_byte() {
    let (_dir, path) = temp_disk(1);
    let open = || FileDisk::open(&path, OpenMode::ReadWrite).unwrap();
    let (a, b, base) = (open(), open(), 1_u64 << 62);
    assert!(a.try_lock(base).unwrap() && a.try_lock(base).unwrap(), "one's own lock is no hindrance");
    assert!(!a.lock_held_by_other(base).unwrap());
    assert!(b.lock_held_by_other(base).unwrap() && !b.try_lock(base).unwrap());
    assert!(a.try_lock_shared(base + 2).unwrap() && b.try_lock_shared(base + 2).unwrap(), "shared by both");
    assert!(a.lock_held_by_other(base + 2).unwrap() && !a.try_lock(base + 2).unwrap());
    assert!(b.try_lock(base + 1).unwrap() && a.lock_held_by_other(base + 1).unwrap());
    assert!(FileDisk::open(&path, OpenMode::Read).unwrap().lock_held_by_other(base).unwrap());
    drop(a);
    assert!(!b.lock_held_by_other(base).unwrap() && b.try_lock(base).unwrap());
    assert_eq!(b.try_lock(u64::MAX).unwrap_err().errno, libc::EINVAL);
}

#[test]
fn a_lock_outlives_its_disk_while_a_request_is_in_flight() {
    let (_dir, path) = temp_disk(64);
    let (a, b) = (FileDisk::open(&path, OpenMode::ReadWrite).unwrap(), FileDisk::open(&path, OpenMode::ReadWrite).unwrap());
    assert!(a.try_lock(7).unwrap());
    let fd = a.fd.clone(); // as a slot of the ring holds it
    drop(a);
    assert!(b.lock_held_by_other(7).unwrap());
    drop(fd);
    assert!(!b.lock_held_by_other(7).unwrap());
}

#[test]
fn what_is_an_answer() {
    let block = |e| answer_of(FileKind::Block, e);
    for e in [libc::EIO, libc::ENOLINK, libc::ETIMEDOUT, libc::ENODEV, libc::ENXIO, libc::ECANCELED, 4000] {
        assert_eq!((block(e), answer_of(FileKind::Plain, e)), (Answer::NotReturned, Answer::Answered), "errno {e}");
    }
    for e in [libc::ENODATA, libc::EREMOTEIO, libc::EBADE, libc::ENOSPC, libc::EINVAL, libc::EROFS] {
        assert_eq!(block(e), Answer::Answered, "errno {e}");
    }
}

/// A loop device over a file; detached when dropped.
pub(in crate::disk) struct Loop(pub PathBuf);

impl Loop {
    /// `None` where this machine gives no loop device (no root, no module).
    pub fn attach(file: &Path) -> Option<Self> {
        let out = Command::new("losetup").arg("--find").arg("--show").arg(file).stderr(Stdio::null()).output().ok()?;
        let name = String::from_utf8(out.stdout).ok()?;
        (out.status.success() && !name.trim().is_empty()).then(|| Self(PathBuf::from(name.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let (_dir, path) = temp_disk(256);
    let Some(device) = Loop::attach(&path) else {
        eprintln!("no loop device here: the block device is not tried");
        return;
    };
    let disk = FileDisk::open(&device.0, OpenMode::ReadWrite).unwrap();
    assert_eq!((disk.size(), disk.kind(), disk.is_direct()), (256 * PAGE_U64, FileKind::Block, true));
    assert!(matches!(disk.identity(), Identity::Block(_)));
    assert!(disk.try_lock(1 << 62).unwrap());
    block_on(async {
        disk.write(DiskOff(PAGE_U64), pattern(1, 3)).await.unwrap();
        disk.write_durable(DiskOff(100 * PAGE_U64), pattern(2, 1)).await.unwrap();
        disk.flush().await.unwrap();
        let (result, back) = disk.read(DiskOff(PAGE_U64), IoBuf::zeroed(3 * PAGE)).await;
        result.unwrap();
        assert!(back[..] == pattern(1, 3)[..]);
    });
    drop(disk);
    let file = std::fs::read(&path).unwrap();
    assert!(file[100 * PAGE..101 * PAGE] == pattern(2, 1)[..]);
}
