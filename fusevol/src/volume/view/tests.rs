//! The map as the data path reads it: pins, drains, legs, pairs that fit together.

use super::*;
use fusevol_shared::ids::LegGeneration;
use fusevol_shared::units::{AuNo, DiskNo};
use futures_util::FutureExt;
use std::sync::atomic::AtomicBool;

fn leg(au: u32) -> Leg {
    Leg::single(DiskAu { disk: DiskNo(3), au: AuNo(au) })
}

fn entry(au: u32, written: u64) -> MapEntry {
    MapEntry::new(&[leg(au)], BlockMask(written)).expect("one leg")
}

#[test]
fn counts_the_written_blocks() {
    let v = MapView::new(2000);
    v.set(VolAu(1999), &entry(1, 0b111));
    v.set(VolAu(2000), &entry(2, 1));
    let s = v.get(VolAu(1999)).expect("it was set");
    assert_eq!(v.add_written(&s, BlockMask(0b1100)), BlockMask(0b1000));
    assert_eq!(v.written_blocks(), 4, "what is past the end was left out");
    v.clear_written(&s, BlockMask(0b11));
    assert_eq!(v.written_blocks(), 2);
    v.set(VolAu(1999), &entry(3, 1));
    assert_eq!((v.written_blocks(), v.iter_from(VolAu(0)).count()), (1, 1));
    v.clear(VolAu(1999));
    assert_eq!((v.written_blocks(), v.next(VolAu(0)).is_none()), (0, true));
}

#[test]
fn an_au_says_what_it_was_given() {
    let v = MapView::new(600);
    let mut legs = [leg(9), leg(u32::MAX), leg(0)];
    (legs[0].state, legs[1].generation, legs[2].at.disk) = (LegState::Stale, LegGeneration(7), DiskNo(u16::MAX));
    for n in 1..=3 {
        let au = VolAu(510 + n);
        v.set_fresh(au, &MapEntry::new(&legs[..n as usize], BlockMask(1 << 63 | 1)).expect("up to three legs"));
        let s = v.get(au).expect("it was set");
        assert_eq!(s.legs().collect::<Vec<_>>(), legs[..n as usize]);
        assert_eq!(s.source(&OutSet::default()), legs[if n == 1 { 0 } else { 1 }].at, "a stale leg only where there is no other");
        assert!(s.is_fresh());
        s.add_changed(BlockMask(6));
        assert_eq!((s.take_changed(), s.take_changed()), (BlockMask(6), BlockMask::NONE));
        s.freeze();
        assert_eq!((s.is_fresh(), s.need()), (false, BlockMask(1 << 63 | 1)));
        s.preserved(BlockMask(1));
        assert_eq!(s.need(), BlockMask(1 << 63));
        v.clear(au);
        v.set(au, &entry(4, 0));
        let s = v.get(au).expect("it was set again");
        assert_eq!((s.need(), s.legs().count(), s.is_fresh()), (BlockMask::NONE, 1, false), "a new life");
    }
}

#[test]
fn a_drain_waits_for_the_readers_from_before_alone() {
    let v = MapView::new(2048);
    v.set(VolAu(0), &entry(5, 1));
    let pin = v.pin(VolAu(0)).expect("mapped");
    v.clear(VolAu(0));
    assert!(v.pin(VolAu(0)).is_none());
    let mut other = Box::pin(v.drain([VolAu(1)]));
    assert!((&mut other).now_or_never().is_some(), "nobody reads that one");
    let mut drain = Box::pin(v.drain([VolAu(0)]));
    assert!((&mut drain).now_or_never().is_none());
    v.set(VolAu(0), &entry(6, 1));
    let later = v.pin(VolAu(0)).expect("mapped again");
    assert!((&mut drain).now_or_never().is_none());
    drop(pin);
    // One that came in the midst may be waited for, too; one that comes when the second counter is waited for is not.
    assert!((&mut drain).now_or_never().is_none());
    let _last = v.pin(VolAu(0)).expect("mapped again");
    drop(later);
    assert!((&mut drain).now_or_never().is_some());
}

/// Readers on several threads, and an AU that leaves, comes back elsewhere, and leaves again: what a pin shows belongs together, and after a
/// drain nobody reads under what was before.
#[test]
fn place_and_mask_fit_together_under_threads() {
    let v = MapView::new(1);
    let of = |n: u32| entry(n, u64::from(n));
    let (end, oldest) = (AtomicBool::new(false), std::sync::atomic::AtomicU32::new(0));
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                while !end.load(Ordering::SeqCst) {
                    let from = oldest.load(Ordering::SeqCst);
                    let Some(pin) = v.pin(VolAu(0)) else { continue };
                    let place = pin.source(&OutSet::default()).au.0;
                    assert!(place >= from, "{place} was drained before {from}");
                    assert_eq!(pin.written().0 & !u64::from(place), 0, "blocks of another life");
                    std::thread::yield_now();
                    assert!(place >= oldest.load(Ordering::SeqCst), "drained while it was read");
                }
            });
        }
        for n in 1..3000 {
            v.set(VolAu(0), &of(n));
            if n % 3 == 0 {
                v.clear(VolAu(0));
                fusevol_shared::disk::ring::block_on(v.drain([VolAu(0)]));
                oldest.store(n + 1, Ordering::SeqCst);
            }
        }
        end.store(true, Ordering::SeqCst);
    });
}

/// The same of an AU that is read at its second leg, which stands beside: it moves elsewhere while it is read.
#[test]
fn a_second_leg_and_mask_fit_together_under_threads() {
    let v = MapView::new(1);
    let of = |n: u32| {
        let mut legs = [leg(0), leg(n)];
        legs[0].state = LegState::Stale;
        MapEntry::new(&legs, BlockMask(u64::from(n))).expect("two legs")
    };
    v.set(VolAu(0), &of(1));
    let end = AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                while !end.load(Ordering::SeqCst) {
                    let pin = v.pin(VolAu(0)).expect("it never leaves");
                    std::thread::yield_now();
                    let place = pin.source(&OutSet::default()).au.0;
                    assert_eq!(pin.written().0 & !u64::from(place), 0, "blocks that are not written at {place}");
                }
            });
        }
        for n in 2..4_000 {
            v.set(VolAu(0), &of(n));
            fusevol_shared::disk::ring::block_on(v.drain([VolAu(0)]));
        }
        end.store(true, Ordering::SeqCst);
    });
}

#[test]
fn an_au_costs_no_more_than_it_must() {
    let aus = 512 * 64;
    let v = MapView::new(aus);
    (0..aus).for_each(|au| v.set(VolAu(au), &entry(au, u64::MAX)));
    let each = |v: &MapView| v.bytes() as f64 / f64::from(aus);
    assert!(each(&v) < 17.0, "{}", each(&v));
    v.iter_from(VolAu(0)).for_each(|(_, s)| s.freeze());
    assert!(each(&v) < 25.0, "{}", each(&v));
}
