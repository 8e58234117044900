//! Opens without `O_DIRECT`: what the kernel keeps, and that it is never old.

use fusevol_tests::real::mount::{Mount, Transport};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::run::run;
use rustix::fs::{Mode, OFlags, open};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const MIB: usize = 1 << 20;

fn opened(image: &Path, flags: OFlags) -> File {
    File::from(open(image, flags, Mode::empty()).expect("it opens"))
}

/// Whether the kernel keeps the first page of the file. (Not by `fincore`: it opens the file, which drops them.)
#[allow(unsafe_code)]
fn kept(file: &File) -> bool {
    let mut page = 0_u8;
    // SAFETY: a page of the file, mapped and unmapped here and not touched; the call writes one byte to the place given.
    unsafe {
        let at = mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, file, 0).expect("it maps");
        assert_eq!(libc::mincore(at, 4096, &raw mut page), 0);
        munmap(at, 4096).expect("it unmaps");
    }
    page & 1 == 1
}

/// The byte at `at`, read in a page-aligned buffer.
fn read(file: &File, at: usize) -> u8 {
    let mut buf = fusevol_shared::disk::buf::IoBuf::zeroed(4096);
    file.read_exact_at(&mut buf, at as u64).expect("it reads");
    buf[0]
}

fn write(file: &File, at: usize, byte: u8) {
    let buf = fusevol_shared::disk::buf::IoBuf::copy_of(&[byte; 4096]);
    file.write_all_at(&buf, at as u64).expect("it writes");
}

fn through_the_page_cache(transport: Transport) {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let other = pool.client("host2", &[("db", "read,write")]);
    let mount = Mount::over(transport, &key, &pool.path().join("fv"));
    let image = mount.image("db");
    {
        let direct = opened(&image, OFlags::RDWR | OFlags::DIRECT);
        write(&direct, 0, 1);
        assert_eq!((read(&direct, 0), kept(&direct)), (1, false), "nothing is kept of it");
        let cached = opened(&image, OFlags::RDWR);
        assert_eq!((read(&cached, 0), kept(&cached)), (1, true));
        write(&direct, 0, 2);
        assert_eq!(read(&cached, 0), 2, "what the other handle wrote");
        write(&cached, 0, 3);
        assert_eq!(read(&direct, 0), 3, "it went through at once");
        let punched = run(Command::new("fallocate").args(["-p", "-o", "0", "-l", "1048576"]).arg(&image));
        drop(punched.ok());
        assert_eq!((read(&cached, 0), read(&direct, 0)), (0, 0));
        write(&cached, MIB, 4);
    }
    // Given back here and written elsewhere: what was kept is not read again.
    {
        let elsewhere = Mount::over(transport, &other, &pool.path().join("other"));
        let image = elsewhere.image("db");
        let open_there = || open(&image, OFlags::RDWR, Mode::empty()).ok();
        let file =
            File::from(fusevol_tests::real::wait::until("the volume to be given back", std::time::Duration::from_secs(20), open_there));
        assert_eq!(read(&file, MIB), 4);
        write(&file, MIB, 5);
        file.sync_all().expect("a flush");
        drop(file);
        elsewhere.umount();
    }
    let again = opened(&image, OFlags::RDWR);
    assert_eq!(read(&again, MIB), 5);
    drop(again);
    mount.umount();
    pool.check();
}

// One after the other: a program that another test starts has this one's files for a moment.
#[test]
fn what_is_kept_is_never_old() {
    through_the_page_cache(Transport::Uring);
    through_the_page_cache(Transport::Classic);
    mapped_pages_are_written();
}

/// > `mmap`: shared and private, reading and writing; `msync` writes.
fn mapped_pages_are_written() {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let image = mount.image("db");
    for flags in [OFlags::RDWR, OFlags::RDWR | OFlags::DIRECT] {
        let (file, direct) = (opened(&image, flags), opened(&image, OFlags::RDWR | OFlags::DIRECT));
        write(&direct, 0, 6);
        mapped(&file, |page| {
            assert_eq!(page[0], 6);
            page[0] = 7;
        });
        assert_eq!(read(&direct, 0), 7, "{flags:?}");
    }
    mount.umount();
    pool.check();
}

/// Maps the first page, shared, and syncs it after `with`.
#[allow(unsafe_code)]
fn mapped(file: &File, with: impl FnOnce(&mut [u8])) {
    // SAFETY: a page of the file that nobody truncates, mapped and unmapped here, seen through one slice.
    unsafe {
        let at = mmap(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0).expect("it maps");
        with(std::slice::from_raw_parts_mut(at.cast(), 4096));
        msync(at, 4096, MsyncFlags::SYNC).expect("it syncs");
        munmap(at, 4096).expect("it unmaps");
    }
}
