//! The dirty marks of disks, and who hears of a failed flush.

use super::*;

#[test]
fn marks_are_taken_once() {
    let d = Dirty::default();
    for no in [0, 63, 64, 65535] {
        d.mark(DiskNo(no));
    }
    assert_eq!(d.take(), [0, 63, 64, 65535].map(DiskNo));
    assert!(d.take().is_empty());
}
