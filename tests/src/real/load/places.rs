//! Where a load writes: three areas, each cut into units, each unit written by one thread only, so that the writes to any
//! sector have one order. Units of different threads lie beside each other: in the first area four threads share a block.

use super::sector::SECTOR;
use fusevol_shared::random::SeededRandom;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Bytes of the volume that a load writes: three areas.
pub const SPAN: u64 = 32 * MIB;
/// Sectors in it.
pub const SECTORS: u64 = SPAN / SECTOR as u64;

/// An area.
struct Area {
    start: u64,
    end: u64,
    /// Bytes of a unit.
    unit: u64,
    /// What writes are aligned to.
    grain: u64,
    /// Longest write.
    most: u64,
}

/// Parts of blocks; whole blocks and more; whole AUs, that discards give back.
const AREAS: [Area; 3] = [
    Area { start: 0, end: 8 * MIB, unit: 4 * KIB, grain: 512, most: 4 * KIB },
    Area { start: 8 * MIB, end: 16 * MIB, unit: 64 * KIB, grain: 4 * KIB, most: 64 * KIB },
    Area { start: 16 * MIB, end: SPAN, unit: MIB, grain: 4 * KIB, most: 64 * KIB },
];

/// What a thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Writes.
    Write,
    /// Punches a hole.
    Discard,
    /// Reads and compares.
    Read,
}

/// A run of sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Run {
    fn at(start: u64, len: u64) -> Self {
        Self { first: start / SECTOR as u64, count: len / SECTOR as u64 }
    }

    /// Bytes from the volume's start.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.first * SECTOR as u64
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.count * SECTOR as u64
    }

    /// Places in an array of all sectors.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        let at = |n: u64| usize::try_from(n).expect("a load's span is small");
        at(self.first)..at(self.first + self.count)
    }
}

/// The thread, of `threads`, that writes this sector.
#[must_use]
pub fn owner(sector: u64, threads: u64) -> u64 {
    let at = sector * SECTOR as u64;
    let area = AREAS.iter().find(|a| at < a.end).expect("a sector of the span");
    (at - area.start) / area.unit % threads
}

/// The next thing that `thread` of `threads` does, in one of its units.
#[must_use]
pub fn next(random: &mut SeededRandom, thread: u64, threads: u64) -> (Act, Run) {
    let area = &AREAS[[0, 1, 1, 2, 2, 2][usize::try_from(random.below(6)).expect("small")]];
    let units = (area.end - area.start) / area.unit;
    let unit = random.below(units / threads) * threads + thread;
    let start = area.start + unit * area.unit;
    let part = |random: &mut SeededRandom| {
        let len = area.grain * (1 + random.below(area.most / area.grain));
        Run::at(start + area.grain * random.below((area.unit - len) / area.grain + 1), len)
    };
    match random.below(32) {
        0 => (Act::Discard, Run::at(start, area.unit)),
        1 => (Act::Discard, part(random)),
        2 | 3 => (Act::Read, part(random)),
        _ => (Act::Write, part(random)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_one_writer() {
        let mut random = SeededRandom(1);
        for n in 0..20_000 {
            let thread = n % 4;
            let (_, run) = next(&mut random, thread, 4);
            assert!(run.first + run.count <= SECTORS && run.count > 0);
            for sector in run.first..run.first + run.count {
                assert_eq!(owner(sector, 4), thread, "{run:?}");
            }
        }
    }
}
