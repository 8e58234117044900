//! Places join and come apart again; what cannot be is refused.

use super::*;
use crate::units::DiskNo;

fn at(disk: u16, au: u32) -> DiskAu {
    DiskAu { disk: DiskNo(disk), au: AuNo(au) }
}

#[test]
fn neighbours_join_and_come_apart() {
    let each = [vec![at(0, 5), at(1, 9)], vec![at(0, 6), at(1, 10)], vec![at(0, 7), at(1, 12)], vec![at(2, 1)]];
    let runs = Places::join(each.iter().map(Vec::as_slice));
    assert_eq!(runs.iter().map(|p| p.count).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(runs.iter().flat_map(Places::each).collect::<Vec<_>>(), each);
    assert_eq!(runs[0].get(2), None);
}

#[test]
fn what_overflows_does_not_fit() {
    assert!(Places { legs: vec![at(0, u32::MAX)], count: 1 }.fits());
    assert!(!Places { legs: vec![at(0, u32::MAX)], count: 2 }.fits());
    assert!(!Places { legs: vec![], count: 1 }.fits() && !Places { legs: vec![at(0, 1)], count: 0 }.fits());
    assert_eq!(Places { legs: vec![at(0, u32::MAX)], count: 2 }.each().count(), 1);
}

#[test]
fn regions_cover_the_volume_without_a_gap() {
    assert_eq!((VolAu(63).region(), VolAu(64).region()), (Region(0), Region(1)));
    assert_eq!(Region(1).aus(), 64..128);
    assert!(Region(u32::MAX).aus().end >= Region(u32::MAX).aus().start);
}
