//! Written bits on their way to the manager: taken, reported, put back, lost, forgotten.

use super::*;

fn m(au: u32, blocks: u64) -> AuMask {
    AuMask { au: VolAu(au), blocks: BlockMask(blocks) }
}

#[test]
fn only_what_was_complete_before_the_flush_is_reported() {
    let marks = Marks::default();
    assert!(marks.add(0, || vec![m(1, 1)]));
    assert!(marks.take());
    assert!(marks.add(0, || vec![m(1, 2)]), "completes while the flush runs");
    assert_eq!(marks.page(9), [m(1, 1)]);
    marks.reported(&marks.page(9));
    assert_eq!(marks.unreported(VolAu(1)), BlockMask(2));
}

#[test]
fn a_failed_report_goes_back_and_a_failed_flush_loses() {
    let marks = Marks::default();
    assert!(marks.add(0, || vec![m(1, 1), m(2, 1)]));
    assert!(marks.take());
    marks.put_back();
    assert!(marks.take());
    marks.lose(|x| x.au == VolAu(1));
    assert!(!marks.add(0, || vec![m(1, 1)]), "who planned before the loss plans again");
    assert!(marks.take());
    assert_eq!(marks.page(9), [m(2, 1)]);
}

#[test]
fn a_discarded_block_is_not_reported() {
    let marks = Marks::default();
    assert!(marks.add(0, || vec![m(1, 3)]));
    assert!(marks.take());
    marks.forget(m(1, 1));
    assert_eq!(marks.page(9), [m(1, 2)]);
}
