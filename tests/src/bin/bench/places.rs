//! Lists of places for fio's replay: every block of an area once, in random order.

use super::fio::Lists;
use super::work::{BLOCK, FSYNC_EVERY, SMALL};
use anyhow::{Context, Result};
use fusevol_shared::random::SeededRandom;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The name that stands in the lists; fio is told which file is meant.
const NAME: &str = "/area";

/// The starts of the blocks of an area of `size` bytes, shuffled (Fisher and Yates).
#[must_use]
pub fn shuffled(size: u64, seed: u64) -> Vec<u64> {
    let mut places: Vec<u64> = (0..size / BLOCK).map(|b| b * BLOCK).collect();
    let mut random = SeededRandom(seed);
    for left in (1..places.len()).rev() {
        let other = usize::try_from(random.below(left as u64 + 1)).expect("below a length");
        places.swap(left, other);
    }
    places
}

/// Both lists, in `dir`.
///
/// # Errors
/// Where they cannot be written.
pub fn write(dir: &Path, size: u64, seed: u64) -> Result<Lists> {
    let places = shuffled(size, seed);
    let lists = Lists { writes: dir.join("writes.list"), fsyncs: dir.join("fsyncs.list") };
    for (path, fsync) in [(&lists.writes, false), (&lists.fsyncs, true)] {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        list(BufWriter::new(file), &places, fsync).with_context(|| path.display().to_string())?;
    }
    Ok(lists)
}

/// The text, as fio's documentation has it ("trace file format v2").
fn list(mut out: impl Write, places: &[u64], fsync: bool) -> std::io::Result<()> {
    writeln!(out, "fio version 2 iolog\n{NAME} add\n{NAME} open")?;
    for (n, place) in (1..).zip(places) {
        writeln!(out, "{NAME} write {place} {SMALL}")?;
        if fsync && n % FSYNC_EVERY == 0 {
            writeln!(out, "{NAME} sync 0 0")?;
        }
    }
    writeln!(out, "{NAME} close")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_once_and_not_in_order() {
        let places = shuffled(64 << 20, 7);
        assert!(!places.is_sorted());
        assert_ne!(places, shuffled(64 << 20, 8));
        let mut sorted = places;
        sorted.sort_unstable();
        let all: Vec<u64> = (0..4096).map(|b| b * BLOCK).collect();
        assert_eq!(sorted, all);
    }

    #[test]
    fn an_fsync_after_so_many_writes() {
        let places = shuffled(512 * BLOCK, 1);
        let text = |fsync| {
            let mut out = Vec::new();
            list(&mut out, &places, fsync).expect("it is memory");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(text(true).lines().filter(|l| l.ends_with(" sync 0 0")).count(), 2);
        assert_eq!(text(true).lines().position(|l| l.ends_with(" sync 0 0")), Some(3 + 256));
        assert_eq!(text(false).lines().count(), 3 + 512 + 1);
    }
}
