//! Marks, and that the goals name works that are there.

use super::super::work::Work;
use super::*;

#[test]
fn marks() {
    let goal = goal("randread-qd1", RAW, 0.85);
    assert_eq!(goal.mark(Some(0.85)), Mark::Met);
    assert_eq!(goal.mark(Some(0.8499)), Mark::Missed);
    assert_eq!(goal.mark(None), Mark::Unknown);
}

#[test]
fn goals_are_of_works() {
    for goal in GOALS {
        let work = Work::named(goal.work).expect("a goal names a work");
        match goal.against {
            Against::Own => assert!(work.base.and_then(Work::named).is_some(), "{} has no base", work.name),
            Against::Target(t) => assert!(work.is_of(t), "{} is not done by {t:?}", work.name),
        }
    }
}
