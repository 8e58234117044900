//! Each kind of damage is found, and named with the snapshots that it hurts.

use super::*;
use crate::format::index;
use crate::format::pack::{HEAD_BYTES, decode_rows};

struct Repo {
    store: CrashStore,
    first: Manifest,
    second: Manifest,
}

/// Two snapshots; the second has one chunk more.
fn two() -> Repo {
    let store = made();
    let mut bytes = image(21, 10, 0);
    SeededRandom(1).fill(&mut bytes[..CHUNK]);
    let first = save(&store, &bytes).expect("stored").manifest;
    SeededRandom(2).fill(&mut bytes[2 * CHUNK..3 * CHUNK]);
    let second = save(&store, &bytes).expect("stored").manifest;
    Repo { store, first, second }
}

fn paths(store: &CrashStore, under: &str) -> Vec<String> {
    store.files().into_keys().filter(|p| p.starts_with(under)).collect()
}

#[test]
fn nothing_is_wrong_with_what_is_right() {
    let r = two();
    let report = prove(&r.store);
    assert_eq!((report.snapshots, report.problems_found, report.unused_packs, report.unused_files), (2, 0, 0, 0));
    assert!(report.whole().is_ok() && report.read > 0);
}

#[test]
fn a_flipped_byte_anywhere_in_any_pack() {
    let r = two();
    let base = r.store.files();
    for path in paths(&r.store, "data/") {
        let size = base[&path].len();
        // Head, entries, list, end; every region, and some places of each.
        let places = (0..size).step_by(size / 40 + 1).chain([0, HEAD_BYTES - 1, HEAD_BYTES, size - 1, size - 16, size - 17]);
        for at in places {
            let store = CrashStore::with(base.clone());
            store.edit(&path, |b| b[at] ^= 0x10);
            let report = prove(&store);
            assert!(report.problems.iter().any(|p| p.what.contains(&path)), "{path} byte {at}: {:?}", report.problems);
            assert_eq!(report.whole().expect_err("damaged").kind().exit_code(), 1);
            // What is given out is right, or it is named as lost.
            for m in [&r.first, &r.second] {
                let (restored, got) = bring(&store, m).expect("goes on");
                let want = whole(&r.store, m);
                let hurt = report.problems.iter().any(|p| p.hurts.contains(&m.id.short()));
                assert_eq!(hurt, restored.whole().is_err(), "{path} byte {at}: {:?}", report.problems);
                for (i, (g, w)) in got.chunks(CHUNK).zip(want.chunks(CHUNK)).enumerate() {
                    let place = (i * CHUNK) as u64;
                    assert!(g == w || restored.lost.iter().any(|l| (l.at..l.at + l.length).contains(&place)), "wrong bytes in chunk {i}");
                }
            }
        }
    }
}

#[test]
fn only_the_snapshot_that_needs_it_is_hurt() {
    let r = two();
    let names = |m: &Manifest| vec![m.id.short()];
    let base = r.store.files();
    let mut hurt = Vec::new();
    for path in paths(&r.store, "data/") {
        let store = CrashStore::with(base.clone());
        store.edit(&path, |b| b.truncate(200));
        hurt.extend(prove(&store).problems.into_iter().map(|p| p.hurts));
    }
    assert!(hurt.contains(&names(&r.second)), "{hurt:?}");
    assert!(hurt.iter().any(|h| h.len() == 2), "{hurt:?}");
}

#[test]
fn a_pack_is_gone() {
    let r = two();
    for path in paths(&r.store, "data/") {
        let mut files = r.store.files();
        files.remove(&path);
        let store = CrashStore::with(files);
        let report = prove(&store);
        assert!(report.problems.iter().any(|p| p.what == path && p.why.contains("missing")), "{:?}", report.problems);
        assert!(report.problems.iter().any(|p| !p.hurts.is_empty()), "{:?}", report.problems);
        assert!([&r.first, &r.second].iter().any(|m| bring(&store, m).expect("goes on").0.whole().is_err()));
    }
}

#[test]
fn without_an_index_nothing_is_lost() {
    let r = two();
    let indexes = paths(&r.store, "index/");
    assert!(indexes.len() >= 2);
    let want = whole(&r.store, &r.second);
    // Damaged: said, and restored all the same. Gone: the packs' own lists serve.
    let damaged = CrashStore::with(r.store.files());
    indexes.iter().for_each(|i| damaged.edit(i, |b| b[200] ^= 1));
    let report = prove(&damaged);
    assert_eq!(report.problems_found, indexes.len() as u64);
    assert!(report.problems.iter().all(|p| p.hurts.is_empty()), "{:?}", report.problems);
    assert!(whole(&damaged, &r.second) == want);
    assert_eq!(save(&damaged, &want).expect("stored").manifest.stats.new_chunks, 0, "the packs' own lists are known");
    let mut files = r.store.files();
    indexes.iter().for_each(|i| drop(files.remove(i)));
    assert!(whole(&CrashStore::with(files), &r.second) == want);
}

#[test]
fn the_lists_in_the_packs_are_the_index() {
    let r = two();
    let repo = open(&r.store);
    for path in paths(&r.store, "index/") {
        for pack in index::decode(repo.config().id, &r.store.files()[&path]).expect("whole") {
            assert_eq!(repo.read_pack_list(pack.name).expect("whole"), pack);
            let mut bytes = Vec::new();
            pack.rows.iter().for_each(|row| row.encode(&mut bytes));
            assert_eq!(decode_rows(&bytes).expect("whole").0, pack.rows);
        }
    }
}

#[test]
fn a_damaged_manifest_hurts_itself_only() {
    let r = two();
    let path = format!("manifests/{}", r.second.id);
    r.store.edit(&path, |b| b[300] ^= 1);
    let report = prove(&r.store);
    assert_eq!((report.snapshots, report.problems_found), (1, 1));
    assert_eq!(report.problems[0].hurts, vec![r.second.id.short()]);
    let repo = open(&r.store);
    let (latest, bad) = repo.select("latest").expect("the other one");
    assert_eq!((latest.id, bad.len()), (r.first.id, 1));
    assert!(repo.select(&r.second.id.to_string()).expect_err("damaged").to_string().contains("checksum"));
    whole(&r.store, &r.first);
}

#[test]
fn of_a_chunk_that_is_there_twice_one_copy_serves() {
    let (a, b) = (made(), image(31, 6, 0));
    let m = save(&a, &b).expect("stored").manifest;
    // The same packs' contents under other names, as two backups at once leave them.
    let mut files = a.files();
    let without_index: std::collections::BTreeMap<_, _> =
        files.clone().into_iter().filter(|(p, _)| !p.starts_with("index/") && !p.starts_with("data/")).collect();
    let second = CrashStore::with(without_index);
    save(&second, &b).expect("stored");
    files.extend(second.files().into_iter().filter(|(p, _)| p.starts_with("index/") || p.starts_with("data/")));
    let both = CrashStore::with(files);
    for path in paths(&a, "data/") {
        both.edit(&path, |b| b[HEAD_BYTES + 5] ^= 1);
    }
    assert!(whole(&both, &m) == b);
    let report = prove(&both);
    assert!(report.problems_found > 0 && report.problems.iter().all(|p| p.hurts.is_empty()), "{:?}", report.problems);
}
