//! Written bits and bindings on their way to the journal: taken, appended, put back, lost, discarded.

use super::*;
use fusevol_shared::units::{AuNo, DiskNo};

fn m(au: u32, blocks: u64) -> AuMask {
    AuMask { au: VolAu(au), blocks: BlockMask(blocks) }
}

fn place(au: u32) -> Vec<DiskAu> {
    vec![DiskAu { disk: DiskNo(0), au: AuNo(au) }]
}

fn bind(ledger: &Ledger, au: u32, plain: bool) {
    ledger.bind(VolAu(au), plain, || Ok::<_, ()>(Some(place(au + 100)))).expect("there is a place");
}

#[test]
fn only_what_was_complete_before_the_flush_is_journaled() {
    let ledger = Ledger::default();
    bind(&ledger, 1, false);
    assert!(ledger.add(0, || vec![m(1, 1)]));
    ledger.take();
    assert!(ledger.add(0, || vec![m(1, 2)]), "completes while the flush runs");
    let page = ledger.page(9);
    assert_eq!((page.written.as_slice(), page.bound.as_slice()), ([m(1, 1)].as_slice(), [(VolAu(1), place(101))].as_slice()));
    ledger.appended(&page);
    assert_eq!(ledger.unsaid(VolAu(1)), BlockMask(2));
    ledger.take();
    let page = ledger.page(9);
    assert!(page.bound.is_empty(), "bound once");
}

#[test]
fn a_binding_waits_for_data_unless_it_is_plain() {
    let ledger = Ledger::default();
    bind(&ledger, 1, false);
    bind(&ledger, 2, true);
    ledger.take();
    assert_eq!(ledger.page(9).bound, [(VolAu(2), place(102))]);
    assert!(ledger.page(9).is_empty());
    ledger.bind(VolAu(1), true, || Ok::<_, ()>(None)).expect("it is bound");
    assert_eq!(ledger.page(9).bound, [(VolAu(1), place(101))], "space was asked for");
}

#[test]
fn a_failed_append_goes_back_and_a_failed_flush_loses() {
    let ledger = Ledger::default();
    bind(&ledger, 2, false);
    assert!(ledger.add(0, || vec![m(1, 1), m(2, 1)]));
    ledger.take();
    let page = ledger.page(9);
    ledger.put_back(page);
    ledger.take();
    ledger.lose(|x| x.au == VolAu(1));
    assert!(!ledger.add(0, || vec![m(1, 1)]), "who planned before the loss plans again");
    ledger.take();
    let page = ledger.page(9);
    assert_eq!((page.written.as_slice(), page.bound.len()), ([m(2, 1)].as_slice(), 1));
}

#[test]
fn a_discard_follows_the_binding_and_ends_the_bits() {
    let ledger = Ledger::default();
    bind(&ledger, 1, false);
    assert!(ledger.add(0, || vec![m(1, 3)]));
    ledger.take();
    let entries = ledger.discard(vec![m(1, 1)]);
    assert!(matches!(&entries[..], [Entry::Bound { .. }, Entry::Discarded { cleared }] if *cleared == [m(1, 1)]));
    let page = ledger.page(9);
    assert_eq!((page.written.as_slice(), page.bound.len()), ([m(1, 2)].as_slice(), 0));
}

#[test]
fn who_planned_before_or_within_a_loss_is_told() {
    let ledger = Ledger::default();
    let before = ledger.losses();
    assert!(ledger.unchanged(before));
    assert!(ledger.add(before, || vec![m(1, 1)]));
    ledger.take();
    let mut within = None;
    ledger.lose(|_| {
        within = Some(ledger.losses());
        assert!(!ledger.unchanged(before), "the number changes before the first bit does");
        true
    });
    let within = within.expect("one bit was lost");
    assert!(!ledger.unchanged(within) && !ledger.add(within, Vec::new) && !ledger.unchanged(before));
    assert!(ledger.unchanged(ledger.losses()));
}

/// Writers overwrite a block while flushes take its bit away and write it anew: whoever is told that nothing changed had found the bit set, and
/// finds it set still or the loss came after.
#[test]
fn an_overwrite_beside_losses_never_counts_on_a_bit_that_was_gone() {
    use std::sync::atomic::AtomicBool;
    let (ledger, bit, cleared, stop) = (Ledger::default(), AtomicBool::new(true), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let losses = ledger.losses();
                    let before = cleared.load(Ordering::SeqCst);
                    let planned = bit.load(Ordering::SeqCst);
                    let between = cleared.load(Ordering::SeqCst);
                    if planned && ledger.unchanged(losses) {
                        assert_eq!(before, between, "the bit was taken away within the plan, and nobody said so");
                    }
                }
            });
        }
        for _ in 0..20_000 {
            assert!(ledger.add(ledger.losses(), || {
                bit.store(true, Ordering::SeqCst);
                vec![m(1, 1)]
            }));
            ledger.take();
            ledger.lose(|_| {
                bit.store(false, Ordering::SeqCst);
                cleared.fetch_add(1, Ordering::SeqCst);
                true
            });
        }
        stop.store(true, Ordering::SeqCst);
    });
}
