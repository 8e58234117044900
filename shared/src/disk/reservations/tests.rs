//! Who writes to a disk after a host was cut off; and what files and exports say.

use super::model::Target;
use super::*;
use crate::disk::file::OpenMode;
use std::fs::File;

const POOL: PoolId = PoolId([1; 16]);

fn key(host: u8) -> HostKey {
    HostKey::of(POOL, BootId([host; 16]))
}

#[test]
fn who_is_cut_off_writes_no_more_and_the_others_do() {
    let disk = Target::default();
    for host in [1, 2] {
        disk.seen_by(host.into()).register(key(host)).expect("registered");
    }
    assert!(disk.accepts(1) && disk.accepts(2) && disk.accepts(3), "nothing is reserved before somebody is cut off");
    let manager = disk.seen_by(9);
    cut_off(&manager, key(9), key(1)).expect("cut off");
    assert!(!disk.accepts(1) && disk.accepts(2) && disk.accepts(9));
    assert!(!disk.accepts(3), "who has not registered does not write either");
    cut_off(&manager, key(9), key(1)).expect("it is cut off already");
    cut_off(&disk.seen_by(8), key(8), key(2)).expect("by the next manager on another host");
    assert!(!disk.accepts(2) && disk.accepts(9));
    disk.seen_by(1).register(key(1)).expect("registered again");
    assert!(disk.accepts(1));
}

#[test]
fn keys_tell_boots_and_pools_apart() {
    assert_ne!(key(1), key(2));
    assert_ne!(key(1), HostKey::of(PoolId([2; 16]), BootId([1; 16])));
    assert_eq!(key(1), key(1));
}

#[test]
fn a_file_knows_no_reservations() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("disk");
    File::create(&path).and_then(|f| f.set_len(1 << 20)).expect("a file");
    let disk = FileDisk::open(&path, OpenMode::ReadWrite).expect("opened");
    assert_eq!(cut_off(&disk, key(9), key(1)), Err(NotReserved::Unknown));
}

#[test]
fn what_the_kernel_says_is_told_apart() {
    let said = |errno| refusal(&io::Error::from_raw_os_error(errno));
    assert_eq!(said(libc::EOPNOTSUPP), NotReserved::Unknown);
    assert_eq!(said(libc::EBADE), NotReserved::Conflict);
    assert!(matches!(said(libc::EIO), NotReserved::Failed(_)));
}
