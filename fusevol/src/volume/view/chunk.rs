//! The words of 512 AUs side by side.
//!
//! What stands beside the first word of an AU (other legs, generations) is not changed while that word may lead a reader to it: there are two
//! sides, the first word says which one it means, and a new entry is laid to the other. So a word and its legs are of one entry as
//! long as not two entries come within one pin: who replaces entries that are read drains between.

use fusevol_shared::ids::LegGeneration;
use fusevol_shared::map::{LEGS_MAX, Leg, LegState, MapEntry};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{AuNo, DiskAu, DiskNo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// AUs in a chunk.
pub const CHUNK: u32 = 512;
const LEN: usize = CHUNK as usize;

/// Where one leg lies, in one word: AU in bits 0..32, disk in 32..48, then flags. The first leg's word also says what the AU has besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word(u64);

impl Word {
    /// Bound under this attachment in this epoch.
    pub const FRESH: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;
    const STALE: u64 = 1 << 61;
    /// The leg is given up.
    const GONE: u64 = 1 << 58;
    /// Some leg has another generation than zero.
    const GENERATIONS: u64 = 1 << 60;
    /// What stands beside is on the second side.
    const SIDE: u64 = 1 << 59;
    const COUNT: u32 = 56;

    fn of(leg: &Leg) -> u64 {
        let state = match leg.state {
            LegState::InSync => 0,
            LegState::Stale => Self::STALE,
            LegState::Gone => Self::GONE,
        };
        u64::from(leg.at.au.0) | u64::from(leg.at.disk.0) << 32 | state | Self::PRESENT
    }

    /// The AU has space.
    pub fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// It was bound under this attachment in this epoch.
    pub fn is_fresh(self) -> bool {
        self.0 & Self::FRESH != 0
    }

    /// Both say the same but for freshness.
    pub fn same_place(self, other: Self) -> bool {
        self.0 | Self::FRESH == other.0 | Self::FRESH
    }

    /// Both are of one entry: the same but for freshness and state.
    fn same_entry(self, other: Self) -> bool {
        let but = Self::FRESH | Self::STALE;
        self.0 | but == other.0 | but
    }

    /// Whether the leg may be read.
    pub fn state(self) -> LegState {
        match self.0 & (Self::STALE | Self::GONE) {
            0 => LegState::InSync,
            Self::STALE => LegState::Stale,
            _ => LegState::Gone,
        }
    }

    /// Where the leg lies.
    #[allow(clippy::cast_possible_truncation)] // each field has its bits
    pub fn place(self) -> DiskAu {
        DiskAu { disk: DiskNo((self.0 >> 32) as u16), au: AuNo(self.0 as u32) }
    }

    /// How many legs the AU has.
    pub fn legs(self) -> usize {
        (self.0 >> Self::COUNT & 0b11) as usize + 1
    }

    fn side(self) -> usize {
        usize::from(self.0 & Self::SIDE != 0)
    }
}

type Words = Box<[AtomicU64; LEN]>;

fn words() -> Words {
    Box::new([const { AtomicU64::new(0) }; LEN])
}

/// The legs behind the first, and all generations, of one side.
struct More {
    legs: [[AtomicU64; LEGS_MAX - 1]; LEN],
    generations: [[AtomicU32; LEGS_MAX]; LEN],
}

/// The words of 512 AUs.
pub struct Chunk {
    /// The first leg of each.
    pub first: [AtomicU64; LEN],
    /// Which blocks are written.
    pub written: [AtomicU64; LEN],
    need: OnceLock<Words>,
    changed: OnceLock<Words>,
    more: [OnceLock<Box<More>>; 2],
}

impl Chunk {
    /// No AU has space.
    pub fn new() -> Box<Self> {
        Box::new(Self {
            first: [const { AtomicU64::new(0) }; LEN],
            written: [const { AtomicU64::new(0) }; LEN],
            need: OnceLock::new(),
            changed: OnceLock::new(),
            more: [const { OnceLock::new() }; 2],
        })
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let masks = [&self.need, &self.changed].into_iter().filter(|w| w.get().is_some()).count() * size_of::<[u64; LEN]>();
        let more = self.more.iter().filter(|m| m.get().is_some()).count() * size_of::<More>();
        size_of::<Self>() + masks + more
    }

    /// The word of an AU's first leg.
    pub fn word(&self, at: usize) -> Word {
        Word(self.first[at].load(Ordering::SeqCst))
    }

    /// What snapshots need of each AU.
    pub fn need(&self) -> &[AtomicU64; LEN] {
        self.need.get_or_init(words)
    }

    /// The same, if anything was ever needed here.
    pub fn need_if_any(&self) -> Option<&[AtomicU64; LEN]> {
        self.need.get().map(|w| &**w)
    }

    /// What changed of each AU.
    pub fn changed(&self) -> &[AtomicU64; LEN] {
        self.changed.get_or_init(words)
    }

    /// The same, if anything ever changed here.
    pub fn changed_if_any(&self) -> Option<&[AtomicU64; LEN]> {
        self.changed.get().map(|w| &**w)
    }

    fn more(&self, side: usize) -> &More {
        self.more[side].get_or_init(|| {
            Box::new(More {
                legs: [const { [const { AtomicU64::new(0) }; LEGS_MAX - 1] }; LEN],
                generations: [const { [const { AtomicU32::new(0) }; LEGS_MAX] }; LEN],
            })
        })
    }

    /// The leg that this word is of.
    pub fn leg(&self, at: usize, first: Word) -> Leg {
        self.whole(at, first, 0, first)
    }

    /// The legs behind the first.
    pub fn more_legs(&self, at: usize, first: Word) -> impl Iterator<Item = Leg> {
        (1..first.legs()).map(move |n| self.whole(at, first, n, Word(self.more(first.side()).legs[at][n - 1].load(Ordering::SeqCst))))
    }

    fn whole(&self, at: usize, first: Word, n: usize, word: Word) -> Leg {
        let has = first.0 & Word::GENERATIONS != 0;
        let generation = LegGeneration(if has { self.more(first.side()).generations[at][n].load(Ordering::SeqCst) } else { 0 });
        Leg { at: word.place(), generation, state: word.state() }
    }

    /// Puts an entry in the place of the one before, in the order that readers rely on; gives the mask before.
    pub fn put(&self, at: usize, entry: &MapEntry, fresh: bool) -> BlockMask {
        let legs = entry.legs();
        let before = BlockMask(self.written[at].fetch_and(entry.written.0, Ordering::SeqCst));
        if self.need.get().is_some() || self.changed.get().is_some() {
            self.forget(at);
        }
        let side = 1 - self.word(at).side();
        let generations = legs.iter().any(|l| l.generation != LegGeneration(0));
        for (n, leg) in legs.iter().enumerate().filter(|(n, _)| *n > 0 || generations) {
            let more = self.more(side);
            more.generations[at][n].store(leg.generation.0, Ordering::SeqCst);
            if n > 0 {
                more.legs[at][n - 1].store(Word::of(leg), Ordering::SeqCst);
            }
        }
        let flag = |on, bit| if on { bit } else { 0 };
        let flags = flag(fresh, Word::FRESH) | flag(generations, Word::GENERATIONS) | flag(side == 1, Word::SIDE);
        let about = flags | ((legs.len() as u64 - 1) << Word::COUNT);
        self.first[at].store(Word::of(&legs[0]) | about, Ordering::SeqCst);
        self.written[at].store(entry.written.0, Ordering::SeqCst);
        before
    }

    /// Leg `n` of the entry that `first` is of misses writes from now on; nothing where the AU has another entry by now.
    pub fn set_stale(&self, at: usize, first: Word, n: usize) {
        if n > 0 {
            self.more(first.side()).legs[at][n - 1].fetch_or(Word::STALE, Ordering::SeqCst);
            return;
        }
        let set = |w: u64| first.same_entry(Word(w)).then_some(w | Word::STALE);
        // It is another entry where this fails.
        let _ = self.first[at].fetch_update(Ordering::SeqCst, Ordering::SeqCst, set);
    }

    /// Takes an AU out; gives its mask before.
    pub fn clear(&self, at: usize) -> BlockMask {
        let before = BlockMask(self.written[at].swap(0, Ordering::SeqCst));
        // The side stays known: the next entry goes to the other one.
        self.first[at].fetch_and(Word::SIDE, Ordering::SeqCst);
        self.forget(at);
        before
    }

    fn forget(&self, at: usize) {
        for masks in [&self.need, &self.changed] {
            if let Some(words) = masks.get() {
                words[at].store(0, Ordering::SeqCst);
            }
        }
    }
}
