//! A cut or a failure at every operation: old snapshots always restore, what is left is garbage, and the next backup works.

use super::*;
use crate::store::crash::{Left, after_cut};
use fusevol_shared::error::Kind;

const LEFT: [Left; 5] = [Left::Nothing, Left::All, Left::Some(1), Left::Some(2), Left::Some(3)];

/// After a cut at any operation of a backup, snapshots that were there restore, the new one is whole or not there, a
/// check finds no damage, and the backup can be made again.
#[test]
fn a_cut_anywhere_in_a_backup() {
    let store = made();
    let (one, two) = (image(11, 12, 1), image(12, 12, 1));
    let first = save(&store, &one).expect("stored").manifest;
    let (base, done) = (store.files(), store.ops().len());
    let second = save(&store, &two).expect("stored").manifest;
    let ops = store.ops().split_off(done);
    assert!(ops.len() > 20, "{} operations", ops.len());
    let mut states = 0;
    for cut in 0..=ops.len() {
        for left in LEFT {
            states += 1;
            let after = CrashStore::with(after_cut(&base, &ops[..cut], left));
            let report = prove(&after);
            assert_eq!(report.problems, vec![], "cut at {cut}, {left:?}");
            let (manifests, bad) = open(&after).manifests().expect("lists");
            assert!(bad.is_empty() && manifests.contains(&first), "cut at {cut}, {left:?}: {bad:?}");
            assert!(cut < ops.len() || manifests.contains(&second), "answered, so it is there");
            for m in &manifests {
                let want = if m.id == first.id { &one } else { &two };
                assert!(whole(&after, m) == *want, "cut at {cut}, {left:?}");
            }
            let again = save(&after, &two).expect("stored").manifest;
            assert!(whole(&after, &again) == two, "cut at {cut}, {left:?}");
        }
    }
    assert!(states > 100, "{states} states");
}

#[test]
fn a_cut_anywhere_in_init() {
    let ops = made().ops();
    for cut in 0..=ops.len() {
        for left in LEFT {
            let after = CrashStore::with(after_cut(&Default::default(), &ops[..cut], left));
            match Repository::open(Box::new(after.clone()), LockMode::Shared) {
                Ok(_) => {}
                Err(e) => {
                    assert_eq!(e.kind(), Kind::RepoMissing, "cut at {cut}, {left:?}: {e}");
                    assert!(cut < ops.len(), "answered, so it is there");
                    Repository::init(Box::new(after), CHUNK_SIZE, 0, Box::new(SeededRandom(8))).expect("made again");
                }
            }
        }
    }
}

/// A medium that fails at any operation makes the backup fail, not hang, and damages nothing.
#[test]
fn a_failure_anywhere_in_a_backup() {
    let store = made();
    let (one, two) = (image(11, 12, 1), image(12, 12, 1));
    let first = save(&store, &one).expect("stored").manifest;
    let (base, done) = (store.files(), store.ops().len());
    save(&store, &two).expect("stored");
    let count = store.ops().len() - done;
    for n in 0..count {
        let after = CrashStore::with(base.clone());
        after.fail_at(n);
        let result = save(&after, &two);
        // The order of operations differs a little between runs, their number does not.
        assert!(result.is_err(), "operation {n} of {count} failed, the backup did not");
        assert_eq!(prove(&after).problems, vec![], "operation {n}");
        assert!(whole(&after, &first) == one);
    }
}
