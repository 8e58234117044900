//! A writer's journal, preserve segment and slot on memory disks, as they should be and otherwise.

use super::super::world::{S, T, V, World, au, bound, preserve};
use super::*;
use fusevol_shared::change::Entry;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::ids::{Generation, Seq, VolumeEpoch};
use fusevol_shared::units::{DiskNo, PAGE};

fn look_at(w: &World) -> Findings {
    block_on(look(&w.catalog, super::super::world::POOL, &w.io()))
}

#[test]
fn a_pool_in_order_is_clean_and_counted() {
    let w = World::new();
    let found = look_at(&w);
    assert_eq!((&found.violations, &found.flaws, &found.notes), (&vec![], &vec![], &vec![]));
    assert_eq!((found.sessions, found.journals, found.reserve_aus, found.segments), (1, 1, 9, 0));
    for disk in 0..2 {
        w.write(disk, &[bound(1, 0, 50), bound(2, 1, 51)]);
    }
    let found = look_at(&w);
    assert_eq!((&found.violations, &found.flaws), (&vec![], &vec![]));
    assert_eq!((found.unfolded, found.reserve_aus, found.notes.len()), (2, 7, 1));
}

#[test]
fn a_journal_that_does_not_fit_is_a_violation() {
    let w = World::new();
    (0..2).for_each(|d| drop(w.write(d, &[bound(1, 0, 50), bound(2, 1, 50)])));
    let said = look_at(&w).violations;
    assert!(said.len() == 1 && said[0].contains("volume 'db'") && said[0].contains("reserve twice"), "{said:?}");
}

#[test]
fn a_damaged_copy_is_a_flaw_and_two_are_a_violation() {
    let w = World::new();
    let appends = [bound(1, 0, 50), bound(2, 1, 51), bound(3, 2, 52)];
    let starts = w.write(0, &appends);
    w.write(1, &appends);
    w.disks[0].2.poke(starts[1].plus(200), &[0xee; 8]);
    let found = look_at(&w);
    assert!(found.violations.is_empty() && found.flaws.len() == 1 && found.flaws[0].contains("disk 0"), "{found:?}");
    w.disks[1].2.poke(starts[1].plus(200), &[0xee; 8]);
    let found = look_at(&w);
    assert!(found.violations.len() == 1 && found.violations[0].contains("damaged"), "{found:?}");
}

#[test]
fn slots_are_read_and_a_lost_seal_is_a_violation() {
    let mut w = World::new();
    w.slot(true);
    let found = look_at(&w);
    assert!(
        found.violations.is_empty() && found.notes.len() == 2 && found.notes[0].contains("sealed"),
        "sealed, not written down yet: {found:?}"
    );
    w.catalog.apply(&Record::SessionSealed { no: S }).expect("fits");
    assert!(look_at(&w).violations.is_empty());
    w.slot(false);
    let said = look_at(&w).violations;
    assert!(said.len() == 1 && said[0].contains("session 0 is sealed by the catalog"), "{said:?}");
}

#[test]
fn a_slot_that_moves_is_looked_at_on_both_sets() {
    let mut w = World::new();
    w.slot(false);
    let place = |disk: u16, opened| SlotDisk { disk: DiskNo(disk), opened: Generation(opened) };
    w.catalog.apply(&Record::SlotMoves { no: S, next: vec![place(1, 3)] }).expect("fits");
    assert!(look_at(&w).notes.iter().all(|n| !n.contains("cannot go on")));
    w.slot_on(0, true);
    w.catalog.apply(&Record::SessionSealed { no: S }).expect("fits");
    let said = look_at(&w).violations;
    assert!(said.len() == 1 && said[0].contains("session 0 is sealed by the catalog"), "by the set that is next: {said:?}");
    w.slot_on(1, true);
    assert!(look_at(&w).violations.is_empty());
}

#[test]
fn segments_are_walked_and_their_chain_is_the_journals() {
    let w = World::new();
    let next = w.catalog.volume(V).expect("there").entry.next_segment;
    let segment = Segment { no: next, epoch: VolumeEpoch(0), token: T, session: S, legs: vec![au(0, 50)] };
    let began = Append { seq: Seq(1), entries: vec![Entry::Segment(segment)] };
    (0..2).for_each(|d| drop(w.write(d, std::slice::from_ref(&began))));
    let start = preserve(&w, 50, next, None);
    let found = look_at(&w);
    assert_eq!((found.segments, found.preserved_records, &found.violations), (1, 0, &vec![]), "the last record is in doubt");
    preserve(&w, 50, next, Some((next + 1, 51)));
    let said = look_at(&w).violations;
    assert!(said.len() == 1 && said[0].contains("neither catalog nor journal"), "{said:?}");
    w.disks[0].2.poke(start.plus(PAGE as u64), &[8]);
    assert!(look_at(&w).violations.iter().any(|v| v.contains("do not match their checksums")));
}
