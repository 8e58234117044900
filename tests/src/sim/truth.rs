//! What a volume may hold: for each sector the values that a read may give, after all that was answered, failed, or cut off.
//!
//! Every operation has a number within its volume; a sector carries volume, place, number and a pattern, so that one read tells stale,
//! torn, foreign and never written apart. Zeros are a value too: of what was never written, and of discards.
//!
//! For a sector: `base` is what it may hold durably before all of `ops`; `ops` are the operations on it, in order. One that was *answered*
//! hides all before it, until its attachment dies; then each of them may be what survived. A good flush makes the last answered before it the base.
//! A read, where nothing is under way, decides: what was read once is read again.
//!
//! The caller sees to it that no two operations on one sector overlap in time.

use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes of a sector: the grain of all operations here.
pub const SECTOR: usize = 512;

const MAGIC: u64 = 0x6675_7365_7369_6d00;
const NEVER: u64 = u64::MAX;

/// Values that a sector may have, by the number of the operation that wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Set {
    first: u32,
    rest: Vec<u32>,
}

impl Set {
    fn one(n: u32) -> Self {
        Self { first: n, rest: Vec::new() }
    }

    fn has(&self, mut f: impl FnMut(u32) -> bool) -> bool {
        f(self.first) || self.rest.iter().any(|n| f(*n))
    }

    fn add(&mut self, n: u32) {
        if !self.has(|m| m == n) {
            self.rest.push(n);
        }
    }

    fn each(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(self.first).chain(self.rest.iter().copied())
    }
}

#[derive(Clone, Debug)]
struct Op {
    n: u32,
    /// When it was answered.
    answered: u64,
    /// A flush after it makes it durable.
    flushes: bool,
}

#[derive(Clone, Debug)]
struct Sector {
    base: Set,
    ops: Vec<Op>,
}

impl Sector {
    /// What a read may give now.
    fn live(&self) -> Set {
        match self.ops.iter().rposition(|o| o.answered != NEVER) {
            Some(i) => {
                let mut set = Set::one(self.ops[i].n);
                self.ops[i + 1..].iter().for_each(|o| set.add(o.n));
                set
            }
            None => {
                let mut set = self.base.clone();
                self.ops.iter().for_each(|o| set.add(o.n));
                set
            }
        }
    }
}

/// A frozen volume.
#[derive(Clone)]
pub struct Image {
    sectors: Vec<Set>,
}

/// One volume.
pub struct Truth {
    volume: u64,
    sectors: Vec<Sector>,
    /// Whether operation `n` made zeros.
    zeros: Vec<bool>,
    /// Sectors with operations.
    touched: BTreeSet<usize>,
    tick: u64,
}

/// An operation that is under way.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Its number.
    pub n: u32,
    /// Its sectors.
    pub sectors: Range<usize>,
}

/// What a sector is found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Zeros,
    Of(u32),
}

impl Truth {
    /// An empty volume of so many bytes; `volume` goes into its sectors.
    #[must_use]
    pub fn new(volume: u64, bytes: u64) -> Self {
        let n = usize::try_from(bytes).expect("a small volume") / SECTOR;
        let sector = Sector { base: Set::one(0), ops: Vec::new() };
        Self { volume, sectors: vec![sector; n], zeros: vec![true], touched: BTreeSet::new(), tick: 0 }
    }

    /// Its sectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sectors.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }

    /// An operation is about to be asked for: a write, or one that makes zeros.
    pub fn begin(&mut self, sectors: Range<usize>, zeros: bool) -> Begun {
        let n = u32::try_from(self.zeros.len()).expect("few operations");
        self.zeros.push(zeros);
        for s in sectors.clone() {
            self.sectors[s].ops.push(Op { n, answered: NEVER, flushes: true });
        }
        self.touched.extend(sectors.clone());
        Begun { n, sectors }
    }

    /// What a write puts there.
    #[must_use]
    pub fn bytes(&self, begun: &Begun) -> Vec<u8> {
        let mut out = Vec::with_capacity(begun.sectors.len() * SECTOR);
        for s in begun.sectors.clone() {
            out.extend_from_slice(&pattern(self.volume, s, begun.n));
        }
        out
    }

    /// It was answered, and well.
    pub fn answered(&mut self, begun: &Begun) {
        self.tick += 1;
        for s in begun.sectors.clone() {
            if let Some(o) = self.sectors[s].ops.iter_mut().find(|o| o.n == begun.n) {
                (o.answered, o.flushes) = (self.tick, true);
            }
        }
    }

    /// A flush begins.
    pub fn flush_begun(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// It was answered, and well.
    pub fn flushed(&mut self, begun: u64) {
        let sectors = &mut self.sectors;
        self.touched.retain(|s| {
            let sector = &mut sectors[*s];
            if let Some(i) = sector.ops.iter().rposition(|o| o.answered < begun && o.flushes) {
                sector.base = Set::one(sector.ops[i].n);
                // What stands before it is over; what a read has shown since says the same.
                let shown = sector.ops[i + 1..].iter().any(|o| o.answered != NEVER);
                sector.ops.drain(..if shown { i } else { i + 1 });
            }
            !sector.ops.is_empty()
        });
    }

    /// It failed: what was answered since the last may be lost.
    pub fn flush_failed(&mut self) {
        self.crashed();
    }

    /// The attachment under which all this was asked is dead: each may have survived, or not.
    pub fn crashed(&mut self) {
        for s in &self.touched {
            for o in &mut self.sectors[*s].ops {
                (o.answered, o.flushes) = (NEVER, false);
            }
        }
    }

    /// The volume as it is frozen now.
    #[must_use]
    pub fn image(&self) -> Image {
        Image { sectors: self.sectors.iter().map(Sector::live).collect() }
    }

    /// What it may be after a crash now.
    #[must_use]
    pub fn crash_image(&self) -> Image {
        let may = |s: &Sector| {
            let mut set = s.base.clone();
            s.ops.iter().for_each(|o| set.add(o.n));
            set
        };
        Image { sectors: self.sectors.iter().map(may).collect() }
    }

    /// Takes what was read from sector `from` on; where nothing is under way (`settled`) it stays so.
    ///
    /// # Errors
    /// What a sector is, and what it may be.
    pub fn read(&mut self, from: usize, bytes: &[u8], settled: bool) -> Result<(), String> {
        for (i, chunk) in bytes.chunks(SECTOR).enumerate() {
            let s = from + i;
            let live = self.sectors[s].live();
            let n = self.judge(s, chunk, &live).map_err(|e| format!("{e}; operations: {:?}", self.sectors[s]))?;
            if settled && !live.rest.is_empty() {
                self.tick += 1;
                let (tick, sector) = (self.tick, &mut self.sectors[s]);
                let was: Vec<u32> = sector.ops.iter().map(|o| o.n).collect();
                was.into_iter().for_each(|n| sector.base.add(n));
                sector.ops = vec![Op { n, answered: tick, flushes: false }];
                self.touched.insert(s);
            }
        }
        Ok(())
    }

    /// The same for an image: it never changes.
    ///
    /// # Errors
    /// As [`Truth::read`].
    pub fn read_image(&self, image: &mut Image, from: usize, bytes: &[u8]) -> Result<(), String> {
        for (i, chunk) in bytes.chunks(SECTOR).enumerate() {
            let n = self.judge(from + i, chunk, &image.sectors[from + i])?;
            image.sectors[from + i] = Set::one(n);
        }
        Ok(())
    }

    /// These bytes are zeros, or what some operation on this volume put there, whole.
    ///
    /// # Errors
    /// What a sector is.
    pub fn plausible(&self, from: usize, bytes: &[u8]) -> Result<(), String> {
        for (i, chunk) in bytes.chunks(SECTOR).enumerate() {
            match self.parse(from + i, chunk).map_err(|e| format!("sector {}: {e}", from + i))? {
                Found::Of(n) if n as usize >= self.zeros.len() => {
                    return Err(format!("sector {}: operation {n} was never begun", from + i));
                }
                Found::Zeros | Found::Of(_) => {}
            }
        }
        Ok(())
    }

    fn judge(&self, s: usize, chunk: &[u8], may: &Set) -> Result<u32, String> {
        let found = self.parse(s, chunk).map_err(|what| format!("volume {} sector {s}: {what}; it may be {may:?}", self.volume))?;
        let fits = |n: u32| match found {
            Found::Zeros => self.zeros[n as usize],
            Found::Of(m) => n == m,
        };
        // The last that fits: of several that made zeros any will do.
        let fit = may.each().filter(|n| fits(*n)).last();
        fit.ok_or_else(|| format!("volume {} sector {s} is {found:?}, and may be {may:?}", self.volume))
    }

    fn parse(&self, s: usize, chunk: &[u8]) -> Result<Found, String> {
        if chunk == &[0; SECTOR][..chunk.len()] {
            return Ok(Found::Zeros);
        }
        let word = |i: usize| u64::from_le_bytes(chunk[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        if word(0) != MAGIC {
            return Err(format!("bytes that no volume wrote: {:x?}", &chunk[..32]));
        }
        let (volume, sector, n) = (word(1), word(2), word(3));
        if (volume, sector) != (self.volume, s as u64) {
            return Err(format!("foreign: volume {volume} sector {sector} operation {n}"));
        }
        let n = u32::try_from(n).map_err(|_| "no number".to_owned())?;
        if *chunk != pattern(self.volume, s, n) {
            return Err(format!("a torn sector of operation {n}"));
        }
        Ok(Found::Of(n))
    }
}

fn pattern(volume: u64, s: usize, n: u32) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let mut x = (volume << 48) ^ ((s as u64) << 24) ^ u64::from(n);
    for (i, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = match i {
            0 => MAGIC,
            1 => volume,
            2 => s as u64,
            3 => u64::from(n),
            _ => {
                x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                x
            }
        }
        .to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(t: &mut Truth, sectors: Range<usize>) -> (Begun, Vec<u8>) {
        let b = t.begin(sectors, false);
        let bytes = t.bytes(&b);
        (b, bytes)
    }

    #[test]
    fn what_is_answered_is_read_and_what_is_flushed_survives() {
        let mut t = Truth::new(1, 4096);
        let (a, one) = put(&mut t, 0..2);
        t.answered(&a);
        t.read(0, &one, true).expect("just written");
        assert!(t.read(0, &[0; SECTOR], true).is_err(), "answered, so no longer zeros");
        let f = t.flush_begun();
        let (b, two) = put(&mut t, 0..1);
        t.answered(&b);
        t.flushed(f);
        t.crashed();
        assert!(t.read(0, &[0; SECTOR], false).is_err(), "flushed: gone for ever");
        t.read(0, &one[..SECTOR], false).expect("the flushed one");
        t.read(0, &two, true).expect("or the later one");
        assert!(t.read(0, &one[..SECTOR], false).is_err(), "read once, read again");
        let z = t.begin(0..8, true);
        t.answered(&z);
        t.read(0, &[0; 4096], true).expect("discarded");
    }

    #[test]
    fn torn_foreign_and_misplaced_sectors_are_told_apart() {
        let mut t = Truth::new(1, 4096);
        let (a, one) = put(&mut t, 0..2);
        t.answered(&a);
        let mut torn = one[..SECTOR].to_vec();
        torn[300] ^= 1;
        assert!(t.read(0, &torn, false).expect_err("torn").contains("torn"));
        assert!(t.read(0, &one[SECTOR..], false).expect_err("elsewhere").contains("foreign"));
        let mut other = Truth::new(2, 4096);
        let (_, foreign) = put(&mut other, 0..1);
        assert!(t.read(0, &foreign, false).expect_err("another's").contains("foreign"));
    }

    #[test]
    fn an_image_holds_what_was_live_and_never_changes() {
        let mut t = Truth::new(1, 4096);
        let (a, one) = put(&mut t, 0..1);
        t.answered(&a);
        let (_, two) = put(&mut t, 0..1);
        let mut image = t.image();
        let (c, three) = put(&mut t, 0..1);
        t.answered(&c);
        assert!(t.read_image(&mut image, 0, &three).is_err());
        t.read_image(&mut image, 0, &two).expect("it was under way");
        assert!(t.read_image(&mut image, 0, &one).is_err(), "read once");
    }
}
