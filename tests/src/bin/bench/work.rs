//! The works that are measured, as data: what each one asks of fio, who does it, and which place it is given.
//!
//! Works by a list ([`Places::List`]) write 4 KiB at the start of every 16 KiB block of the area, in random order, each block
//! once: fio's own `--blockalign` repeats places and is not used. The same list runs over new places, over written ones, and
//! over written ones after a snapshot, so that the three differ in nothing but the state of the place.

use super::target::TargetKind;

/// What a block of a volume takes, and the distance of the places of a list.
pub const BLOCK: u64 = 16 << 10;
/// A write of a list, bytes.
pub const SMALL: u64 = 4 << 10;
/// Writes between two fsyncs, where a work has them.
pub const FSYNC_EVERY: u64 = 256;

/// Where the requests go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Places {
    /// As fio chooses: `--rw=`, and bytes of a request.
    Fio(&'static str, &'static str),
    /// A list of places, each once; with an fsync every [`FSYNC_EVERY`] writes or without.
    List {
        /// With fsyncs.
        fsync: bool,
    },
}

/// What the area holds before each measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// All of it written.
    Written,
    /// Nothing was ever written: a new volume, a new qcow2 file.
    New,
    /// All of it written, then a snapshot.
    Snapshot,
}

/// A work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// As `--only` and the JSON have it.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Requests under way.
    pub depth: u32,
    /// Where they go.
    pub places: Places,
    /// What is there before.
    pub state: State,
    /// Reads or writes are counted.
    pub reads: bool,
    /// In MiB/s rather than IOPS.
    pub stream: bool,
    /// The work that this one is compared with, on the same target.
    pub base: Option<&'static str>,
}

const fn plain(name: &'static str, title: &'static str, depth: u32, rw: &'static str, bs: &'static str, reads: bool, stream: bool) -> Work {
    Work { name, title, depth, places: Places::Fio(rw, bs), state: State::Written, reads, stream, base: None }
}

const fn listed(name: &'static str, title: &'static str, fsync: bool, state: State, base: Option<&'static str>) -> Work {
    Work { name, title, depth: 32, places: Places::List { fsync }, state, reads: false, stream: false, base }
}

/// All of them, in the order of the table.
pub const WORKS: [Work; 10] = [
    plain("randread-qd1", "4 KiB random read, depth 1", 1, "randread", "4k", true, false),
    plain("randwrite-qd1", "4 KiB random write, depth 1", 1, "randwrite", "4k", false, false),
    plain("randread-qd32", "4 KiB random read, depth 32", 32, "randread", "4k", true, false),
    plain("randwrite-qd32", "4 KiB random write, depth 32", 32, "randwrite", "4k", false, false),
    plain("seqread", "1 MiB sequential read, depth 8", 8, "read", "1m", true, true),
    plain("seqwrite", "1 MiB sequential write, depth 8", 8, "write", "1m", false, true),
    listed("overwrite-fsync", "4 KiB overwrites, depth 32, fsync every 256", true, State::Written, None),
    listed("newplaces", "4 KiB to new places, depth 32, fsync every 256", true, State::New, Some("overwrite-fsync")),
    listed("overwrite", "4 KiB overwrites, depth 32", false, State::Written, None),
    listed("aftersnap", "4 KiB first writes after a snapshot, depth 32", false, State::Snapshot, Some("overwrite")),
];

impl Work {
    /// The work of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        WORKS.iter().find(|w| w.name == name)
    }

    /// Whether `target` does it. What is thin or has snapshots does all; the others only what they are compared in.
    #[must_use]
    pub fn is_of(&self, target: TargetKind) -> bool {
        matches!(self.places, Places::Fio(..)) || target.is_thin()
    }

    /// The unit of its rate.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        if self.stream { "MiB/s" } else { "IOPS" }
    }
}
