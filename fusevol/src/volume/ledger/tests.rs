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
