//! Medians and ratios of numbers that a person can check.

use super::*;

#[test]
fn the_middle_one() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[7.0]), Some(7.0));
    assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
    assert_eq!(spread(&[]), None);
}

#[test]
fn ratios_are_of_the_same_round() {
    // The machine is half as fast in round 2: the ratio stays.
    let raw = [(1, 100.0), (2, 50.0), (3, 100.0)];
    assert_eq!(ratio(&[(1, 80.0), (2, 40.0), (3, 90.0)], &raw), Some(0.8));
    assert_eq!(ratio(&[(3, 90.0), (4, 1.0)], &raw), Some(0.9));
    assert_eq!(ratio(&[(4, 1.0)], &raw), None);
    assert_eq!(ratio(&[(1, 1.0)], &[(1, 0.0)]), None);
}
