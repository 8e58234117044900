//! The dirty marks of disks, and who hears of a failed flush.

use super::*;
use crate::path::lives::Stamp;
use std::sync::atomic::AtomicU64;

#[test]
fn marks_are_taken_once() {
    let d = Dirty::default();
    for no in [0, 63, 64, 65535] {
        d.mark(DiskNo(no), Stamp(u64::from(no) + 7));
    }
    d.mark(DiskNo(63), Stamp(3));
    d.mark(DiskNo(63), Stamp(99));
    assert_eq!(d.take(), [(0, 7), (63, 3), (64, 71), (65535, 65542)].map(|(no, at)| (DiskNo(no), Stamp(at))), "the oldest write counts");
    assert!(d.take().is_empty());
}

#[test]
fn a_disk_is_found_by_its_number_or_it_is_said_why_not() {
    let disks = Disks::new();
    disks.set_missing(DiskNo(7), "unplugged");
    disks.set_present(DiskNo(3), DiskId([3; 16]), Arc::new(fusevol_shared::disk::mem::MemDisk::new(4096)));
    assert_eq!(disks.get(DiskNo(3)).expect("present").id(), DiskId([3; 16]));
    let why = |no| disks.get(DiskNo(no)).err().expect("not there").to_string();
    assert!(why(7).contains("unplugged"));
    assert!([0, 5, 8, u16::MAX].into_iter().all(|no| why(no).contains("not known")));
    assert_eq!((disks.missing(), disks.present().len()), (vec![(DiskNo(7), "unplugged".into())], 1));
    disks.set_missing(DiskNo(3), "lost");
    assert_eq!((disks.missing().len(), disks.present().len()), (2, 0));
}

/// Each flush must cover all that was complete when it was marked. Here a write is a count, and a flush covers the count as it stands
/// once the marks are taken.
#[test]
fn no_mark_is_lost_between_writers_and_flushes() {
    const WRITES: u64 = 100_000;
    let (dirty, complete, ended) = (Dirty::default(), AtomicU64::new(0), AtomicU64::new(0));
    let mut covered = 0;
    let mut flush = || {
        if !dirty.take().is_empty() {
            covered = complete.load(Ordering::SeqCst);
        }
    };
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..WRITES {
                    complete.fetch_add(1, Ordering::SeqCst);
                    dirty.mark(DiskNo(9), Stamp::EVER);
                }
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        while ended.load(Ordering::SeqCst) < 3 {
            flush();
        }
    });
    flush();
    assert_eq!(covered, 3 * WRITES, "the last flush finds the mark of the last write, or an earlier one covered it");
}
