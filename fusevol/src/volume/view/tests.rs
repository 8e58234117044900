//! The map as the data path reads it: pins, retirement, and draining.

use super::*;
use fusevol_shared::units::{AuNo, DiskNo};
use futures_util::FutureExt;

fn slot(au: u32, written: u64) -> Arc<Slot> {
    let legs = [Leg::single(DiskAu { disk: DiskNo(0), au: AuNo(au) })];
    Arc::new(Slot::new(&MapEntry::new(&legs, BlockMask(written)).expect("one leg"), BlockMask::NONE))
}

#[test]
fn counts_the_written_blocks() {
    let v = MapView::new(2000);
    v.set(VolAu(1999), Some(slot(1, 0b111)));
    assert!(v.set(VolAu(2000), Some(slot(2, 1))).is_none(), "past the end");
    let s = v.get(VolAu(1999)).expect("it was set");
    assert_eq!(v.add_written(&s, BlockMask(0b1100)), BlockMask(0b1000));
    assert_eq!(v.written_blocks(), 4);
    v.clear_written(&s, BlockMask(0b11));
    assert_eq!(v.written_blocks(), 2);
    v.set(VolAu(1999), Some(slot(3, 1)));
    assert_eq!((v.written_blocks(), v.iter_from(VolAu(0)).count()), (1, 1));
}

#[test]
fn a_retired_slot_drains_when_its_last_reader_is_done() {
    let v = MapView::new(1);
    v.set(VolAu(0), Some(slot(5, 1)));
    let pin = v.pin(VolAu(0)).expect("mapped");
    let old = [v.set(VolAu(0), None).expect("it was there")];
    assert!(v.pin(VolAu(0)).is_none());
    let mut drain = Box::pin(v.drain(&old));
    assert!((&mut drain).now_or_never().is_none());
    drop(pin);
    assert!((&mut drain).now_or_never().is_some());
}
