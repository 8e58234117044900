//! What a volume under load may hold, sector by sector.
//!
//! Of each sector the oracle knows the *least* version that must be there and the *later* ones that may be. An fsync moves
//! every write that was answered before it began into `least`; a discard is durable when it is answered (SEMANTICS.md).
//! What a reading found is what every later reading must find, too, unless it was written anew: after
//! [`Oracle::verify`] there is one version of each sector.

use super::places::{Act, Run, SECTORS, SPAN, owner};
use super::sector::{SECTOR, Stamp};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a reading.
const READ: usize = 1 << 20;
/// Complaints that are worth printing.
const COMPLAINTS: usize = 8;

/// Number of the write that a sector holds; 0 for zeros, whether never written or discarded.
pub type Version = u64;

/// A write or discard that was submitted.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where.
    pub run: Run,
    /// What it leaves there.
    pub version: Version,
    /// Write or discard.
    pub act: Act,
    /// On the load's own clock: before it was submitted.
    pub began: u64,
    /// After it was answered; `u64::MAX` while it is not.
    pub ended: u64,
}

/// What one thread of a load did, in order.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Everything that was submitted.
    pub entries: Vec<Entry>,
    /// So many of them were answered.
    pub acked: usize,
    /// So many of them were answered before an fsync that was answered.
    pub durable: usize,
    /// What ended the thread, if it was not told to stop.
    pub error: Option<String>,
    /// It has read what cannot be there.
    pub wrong: Option<String>,
}

/// What may be there.
#[derive(Clone, Debug)]
struct Sector {
    least: Version,
    later: Vec<Version>,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Oracle {
    pub(super) volume: u64,
    pub(super) threads: u64,
    /// The last life that has begun.
    pub(super) life: u32,
    /// The last version that was given out.
    pub(super) version: Version,
    sectors: Vec<Sector>,
    /// Bytes that were compared.
    pub verified: u64,
}

impl Oracle {
    /// Of a volume that was never written; `volume` tells it from others.
    #[must_use]
    pub fn new(volume: u64, threads: u64) -> Self {
        let sectors = vec![Sector { least: 0, later: Vec::new() }; Run { first: 0, count: SECTORS }.range().len()];
        Self { volume, threads, life: 0, version: 0, sectors, verified: 0 }
    }

    /// Takes a life over that was cut off: what was durable must be there, the rest may.
    pub(super) fn cut(&mut self, logs: &[Log]) {
        for log in logs {
            for (i, entry) in log.entries.iter().enumerate() {
                let durable = i < log.durable || (i < log.acked && entry.act == Act::Discard);
                for sector in &mut self.sectors[entry.run.range()] {
                    if durable {
                        *sector = Sector { least: entry.version, later: Vec::new() };
                    } else {
                        sector.later.push(entry.version);
                    }
                }
            }
        }
    }

    /// Takes over what was answered until now, as a mount shows it that was not cut off.
    pub(super) fn settle(&mut self, logs: &[Log]) {
        for entry in logs.iter().flat_map(|log| &log.entries[..log.acked]) {
            for sector in &mut self.sectors[entry.run.range()] {
                *sector = Sector { least: entry.version, later: Vec::new() };
            }
        }
    }

    /// The one version of each sector.
    ///
    /// # Panics
    /// Where there may be several: a life was cut off and nobody has looked since.
    pub(super) fn versions(&self) -> Vec<Version> {
        assert!(self.sectors.iter().all(|s| s.later.is_empty()), "after a cut the volume is verified first");
        self.sectors.iter().map(|s| s.least).collect()
    }

    /// Reads all that the load ever wrote, and demands that each sector holds what it may. From then on it must hold that.
    ///
    /// # Panics
    /// Where it does not, naming the first sectors.
    pub fn verify(&mut self, when: &str, image: &Path) {
        let found = self.read(image);
        let mut wrong = Vec::new();
        for (at, (sector, found)) in self.sectors.iter_mut().zip(found).enumerate() {
            match found {
                Ok(v) if v == sector.least || sector.later.contains(&v) => *sector = Sector { least: v, later: Vec::new() },
                Ok(v) => wrong.push(format!("sector {at} holds {v}; it must hold {} or one of {:?}", sector.least, sector.later)),
                Err(e) => wrong.push(format!("sector {at} {e}")),
            }
        }
        self.verified += SPAN;
        complain(when, &wrong);
    }

    /// The version in each sector of an image, or what is wrong with it by itself.
    pub(super) fn read(&self, image: &Path) -> Vec<Result<Version, String>> {
        let file = File::open(image).unwrap_or_else(|e| panic!("{} does not open: {e}", image.display()));
        let mut out = Vec::with_capacity(self.sectors.len());
        let mut buf = vec![0; READ];
        for at in (0..SPAN).step_by(READ) {
            file.read_exact_at(&mut buf, at).unwrap_or_else(|e| panic!("{} does not read at {at}: {e}", image.display()));
            for sector in buf.chunks_exact(SECTOR) {
                out.push(self.version_of(sector, out.len() as u64));
            }
        }
        out
    }

    /// The version in these bytes, read at `address`.
    pub(super) fn version_of(&self, sector: &[u8], address: u64) -> Result<Version, String> {
        let whose = |e: String| match (1..=self.version).find(|seq| Stamp::ends(sector, *seq, address)) {
            Some(seq) => format!("{e}; its end is that of write {seq}"),
            None => e,
        };
        let Some(stamp) = Stamp::get(sector).map_err(whose)? else { return Ok(0) };
        if stamp.volume != self.volume {
            return Err(format!("is another volume's: {stamp:?}"));
        }
        if stamp.address != address {
            return Err(format!("is misdirected: {stamp:?}"));
        }
        if u64::from(stamp.writer) != owner(address, self.threads) || stamp.life > self.life {
            return Err(format!("was written by nobody: {stamp:?}"));
        }
        Ok(stamp.seq)
    }
}

/// Fails with the first of these sentences.
pub(super) fn complain(when: &str, wrong: &[String]) {
    let first = wrong.iter().take(COMPLAINTS).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(wrong.is_empty(), "{when}: {} sectors are wrong:\n  {first}", wrong.len());
}
