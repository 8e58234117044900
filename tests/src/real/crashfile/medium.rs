//! The content of one disk with a volatile write cache, in memory, in pages that were ever written.
//!
//! A write is seen at once. It is durable for certain once a flush that began after its answer is done; a durable write
//! is so by itself. Everything else is *open*: a power cut leaves each of these writes whole, in part (any of its 512-byte
//! sectors) or not at all, in the order in which they were made.
//!
//! Invariant: `now` is `durable` with all open writes over it, in order.

use fusevol_shared::random::SeededRandom;
use std::collections::HashMap;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// What a power cut did to the open writes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Loss {
    /// They are there.
    pub kept: u64,
    /// They are gone.
    pub lost: u64,
    /// They are there in part.
    pub torn: u64,
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.lost += other.lost;
        self.torn += other.torn;
    }
}

#[derive(Debug)]
struct Open {
    no: u64,
    at: u64,
    data: Vec<u8>,
    /// It was answered: a flush that begins now covers it.
    answered: bool,
    /// It is durable, but lies over an open one.
    durable: bool,
}

impl Open {
    fn meets(&self, at: u64, len: usize) -> bool {
        self.at < at + len as u64 && at < self.at + self.data.len() as u64
    }
}

/// Pages by number; what is not there is zeros.
#[derive(Clone, Debug, Default)]
struct Pages(HashMap<u64, Box<[u8; PAGE]>>);

impl Pages {
    fn write(&mut self, mut at: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let within = usize::try_from(at % PAGE as u64).expect("less than a page");
            let n = data.len().min(PAGE - within);
            let page = self.0.entry(at / PAGE as u64).or_insert_with(|| Box::new([0; PAGE]));
            page[within..within + n].copy_from_slice(&data[..n]);
            (at, data) = (at + n as u64, &data[n..]);
        }
    }

    fn read(&self, mut at: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let within = usize::try_from(at % PAGE as u64).expect("less than a page");
            let n = out.len().min(PAGE - within);
            let (head, rest) = out.split_at_mut(n);
            match self.0.get(&(at / PAGE as u64)) {
                Some(page) => head.copy_from_slice(&page[within..within + n]),
                None => head.fill(0),
            }
            (at, out) = (at + n as u64, rest);
        }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Medium {
    now: Pages,
    durable: Pages,
    open: Vec<Open>,
    next: u64,
}

impl Medium {
    /// Writes; the number is for [`Medium::answered`].
    pub fn write(&mut self, at: u64, data: &[u8]) -> u64 {
        self.next += 1;
        self.now.write(at, data);
        self.open.push(Open { no: self.next, at, data: data.to_vec(), answered: false, durable: false });
        self.next
    }

    /// Writes, and it stays.
    pub fn write_durable(&mut self, at: u64, data: &[u8]) {
        self.next += 1;
        self.now.write(at, data);
        if self.open.iter().any(|w| w.meets(at, data.len())) {
            self.open.push(Open { no: self.next, at, data: data.to_vec(), answered: true, durable: true });
        } else {
            self.durable.write(at, data);
        }
    }

    /// The writer of this write learns that it is done.
    pub fn answered(&mut self, no: u64) {
        if let Ok(i) = self.open.binary_search_by_key(&no, |w| w.no) {
            self.open[i].answered = true;
        }
    }

    /// Everything that was answered stays.
    pub fn flush(&mut self) {
        let durable = &mut self.durable;
        self.open.retain(|w| {
            if w.answered {
                durable.write(w.at, &w.data);
            }
            !w.answered
        });
    }

    /// Reads what is there now.
    pub fn read(&self, at: u64, out: &mut [u8]) {
        self.now.read(at, out);
    }

    /// The power is cut: what is open is left as the random numbers say.
    pub fn cut(&mut self, random: &mut SeededRandom) -> Loss {
        let mut loss = Loss::default();
        for w in std::mem::take(&mut self.open) {
            match random.below(8) {
                0..4 if !w.durable => loss.lost += 1,
                4..6 if !w.durable => {
                    loss.torn += 1;
                    for (i, sector) in w.data.chunks(SECTOR).enumerate() {
                        if random.below(2) == 0 {
                            self.durable.write(w.at + (i * SECTOR) as u64, sector);
                        }
                    }
                }
                _ => {
                    loss.kept += 1;
                    self.durable.write(w.at, &w.data);
                }
            }
        }
        self.now = self.durable.clone();
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(medium: &Medium, at: u64) -> u8 {
        let mut out = [0xEE];
        medium.read(at, &mut out);
        out[0]
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_may_go() {
        let (mut some_lost, mut some_kept) = (false, false);
        for seed in 0..32 {
            let mut medium = Medium::default();
            let first = medium.write(100, &[1; 5000]);
            medium.answered(first);
            medium.flush();
            let unanswered = medium.write(8192, &[2; 512]);
            medium.flush();
            medium.answered(unanswered);
            let answered = medium.write(16384, &[3; 512]);
            medium.answered(answered);
            medium.write_durable(16384, &[4; 512]);
            assert_eq!((byte(&medium, 100), byte(&medium, 8192), byte(&medium, 16384)), (1, 2, 4));
            let loss = medium.cut(&mut SeededRandom(seed));
            assert_eq!(loss.kept + loss.lost + loss.torn, 3);
            assert_eq!((byte(&medium, 100), byte(&medium, 5099), byte(&medium, 5100), byte(&medium, 16384)), (1, 1, 0, 4));
            some_lost |= byte(&medium, 8192) == 0;
            some_kept |= byte(&medium, 8192) == 2;
        }
        assert!(some_lost && some_kept);
    }
}
