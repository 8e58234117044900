//! What goes in comes out.

use super::*;
use crate::pipeline::restore::stream;
use crate::pipeline::sink::FileSink;
use crate::pipeline::source::FileSource;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_sparse_image(seed: u64, chunks in 0usize..40, tail in 0usize..CHUNK) {
        let (store, image) = (made(), image(seed, chunks, tail));
        let m = save(&store, &image).expect("stored").manifest;
        prop_assert_eq!(m.size, image.len() as u64);
        prop_assert!(whole(&store, &m) == image);
        prop_assert_eq!(prove(&store).problems, vec![]);
        let mut out = Vec::new();
        let repo = open(&store);
        let cancel = Cancel::default();
        let job = crate::pipeline::restore::Job { repo: &repo, manifest: &m, workers: 3, progress: &Silent, cancel: &cancel };
        stream(&job, &mut out).expect("streams");
        prop_assert!(out == image);
    }
}

#[test]
fn an_empty_image_and_one_hole() {
    for size in [0, 1, CHUNK, 5 * CHUNK + 1] {
        let store = made();
        let stored = save(&store, &vec![0; size]).expect("stored").manifest;
        assert_eq!((stored.table, stored.stats.stored, stored.stats.chunks), (None, 0, 0));
        assert_eq!(whole(&store, &stored), vec![0; size]);
        assert_eq!(store.files().keys().filter(|p| p.starts_with("data/")).count(), 0, "no pack for nothing");
    }
}

#[test]
fn what_is_known_is_not_stored_again() {
    let store = made();
    let mut bytes = image(3, 30, 100);
    bytes[..CHUNK].fill(7);
    bytes.copy_within(0..CHUNK, 4 * CHUNK);
    let first = save(&store, &bytes).expect("stored").manifest;
    assert!(first.stats.new_chunks < first.stats.chunks, "a chunk that is there twice is stored once: {:?}", first.stats);
    let packs = |s: &CrashStore| s.files().keys().filter(|p| p.starts_with("data/")).count();
    let before = packs(&store);
    let second = save(&store, &bytes).expect("stored").manifest;
    assert_eq!((second.stats.new_chunks, second.stats.stored, packs(&store)), (0, 0, before));
    assert_eq!((second.table, second.previous), (first.table, Some(first.id)));
    bytes[9 * CHUNK + 5] ^= 1;
    let third = save(&store, &bytes).expect("stored").manifest;
    assert_eq!((third.stats.new_chunks, third.stats.new_bytes), (1, CHUNK as u64));
    for (m, want) in [(&first, None), (&third, Some(&bytes))] {
        let got = whole(&store, m);
        assert!(want.is_none_or(|w| *w == got));
    }
}

#[test]
fn noise_is_stored_as_it_is_and_text_smaller() {
    let store = made();
    let mut noise = vec![0; 4 * CHUNK];
    SeededRandom(5).fill(&mut noise);
    assert!(save(&store, &noise).expect("stored").manifest.stats.stored >= 4 * CHUNK as u64);
    let text: Vec<u8> = (0..4 * CHUNK).map(|i| b"the same words again and again "[i % 31]).collect();
    assert!(save(&store, &text).expect("stored").manifest.stats.stored < CHUNK as u64);
}

#[test]
fn a_table_of_several_levels() {
    use crate::format::node::Shape;
    assert_eq!(Shape::of(8 << 40, 1 << 20), Shape { chunks: 8 << 20, root_level: 2 });
    // 1100 chunks need two levels; the sparse source has data in three places only.
    let store = made();
    let mut bytes = vec![0; 1100 * CHUNK + 17];
    for at in [5, 1030 * CHUNK, 1100 * CHUNK + 16] {
        bytes[at] = 1;
    }
    let m = save(&store, &bytes).expect("stored").manifest;
    assert_eq!((m.stats.chunks, m.stats.read), (3, 2 * CHUNK as u64 + 17));
    assert!(whole(&store, &m) == bytes);
}

#[test]
fn two_backups_at_once() {
    let store = made();
    let images: Vec<_> = (0..4).map(|i| image(i % 2, 20, 9)).collect();
    let manifests: Vec<_> = std::thread::scope(|s| {
        let runs: Vec<_> = images.iter().map(|i| s.spawn(|| save(&store, i).expect("stored").manifest)).collect();
        runs.into_iter().map(|r| r.join().expect("ends")).collect()
    });
    for (m, i) in manifests.iter().zip(&images) {
        assert!(whole(&store, m) == *i);
    }
    assert_eq!(prove(&store).problems, vec![]);
}

#[test]
fn an_interrupt_leaves_garbage_only() {
    struct Slow(Mem, Cancel);
    impl Source for Slow {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
            self.0.next_data(from)
        }
        fn read(&self, at: u64, buf: &mut [u8], len: usize) -> Result<()> {
            if at > 8 * CHUNK as u64 {
                self.1.flag().store(true, Ordering::Relaxed);
            }
            self.0.read(at, buf, len)
        }
    }
    let (store, cancel) = (made(), Cancel::default());
    let mut noise = vec![0; 40 * CHUNK];
    SeededRandom(5).fill(&mut noise);
    let e = save_source(&store, &Slow(Mem(noise), cancel.clone()), &cancel).expect_err("interrupted");
    assert_eq!(e.kind().exit_code(), 130);
    let report = prove(&store);
    assert_eq!((report.snapshots, report.problems_found, report.unused_packs), (0, 0, report.packs));
}

#[test]
fn files_with_holes_come_back_with_holes() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let file = std::fs::File::create(&from).expect("made");
    file.set_len(9 << 20).expect("sized");
    file.write_all_at(&[7; 10_000], 3 << 20).expect("written");
    file.write_all_at(&[8; 100], (9 << 20) - 100).expect("written");
    let store = made();
    let source = FileSource::open(&from).expect("opens");
    let m = save_source(&store, &source, &Cancel::default()).expect("stored").manifest;
    assert!(m.stats.read <= 3 * CHUNK as u64, "holes are not read: {:?}", m.stats);
    let repo = open(&store);
    let target = std::fs::File::create(&to).expect("made");
    target.set_len(m.size).expect("sized");
    let sink = FileSink::new(target, "to".into(), 4096);
    let cancel = Cancel::default();
    let job = crate::pipeline::restore::Job { repo: &repo, manifest: &m, workers: 2, progress: &Silent, cancel: &cancel };
    restore(&job, &sink).expect("restores");
    sink.sync().expect("durable");
    assert!(std::fs::read(&from).expect("read") == std::fs::read(&to).expect("read"));
    let blocks = |p: &std::path::Path| p.metadata().expect("there").blocks();
    assert!(blocks(&to) <= blocks(&from), "{} blocks, {} before", blocks(&to), blocks(&from));
    let back = FileSource::open(&to).expect("opens");
    let extents = |s: &FileSource| {
        let (mut at, mut all) = (0, Vec::new());
        while let Some(r) = s.next_data(at).expect("seeks") {
            at = r.end;
            all.push(r);
        }
        all
    };
    assert_eq!(extents(&back), extents(&source));
}
