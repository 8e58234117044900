//! What a takeover asks of the disks, and what comes back. One errand of a session is under way at a time.

use super::JournalRef;
use fusevol_shared::change::Segment;
use fusevol_shared::error::WireError;
use fusevol_shared::format::journal::Tail;
use fusevol_shared::ids::{FenceToken, Seq, VolumeEpoch, VolumeId};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::DiskAu;
use std::collections::BTreeSet;

/// One AU that is copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyAu {
    /// Its replicas in sync, in the order in which they are tried.
    pub from: Vec<DiskAu>,
    /// Its new replicas: all of them are written.
    pub to: Vec<DiskAu>,
    /// Which blocks.
    pub blocks: BlockMask,
}

/// A preserved block as it lies in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptBlock {
    /// Epoch, number and record of its segment: in this order the first of a block counts.
    pub epoch: VolumeEpoch,
    /// See above.
    pub segment: u32,
    /// See above.
    pub seq: Seq,
    /// Replicas of the segment.
    pub legs: Vec<DiskAu>,
    /// Byte of the segment at which it begins.
    pub pos: u64,
    /// The place that it was preserved for.
    pub at: DiskAu,
    /// The block of that.
    pub block: u32,
    /// CRC-32C of its bytes.
    pub crc: u32,
}

/// How a preserve log ends.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LogEnd {
    /// Segments of the attachment to which its writer could still write: no page says that they are closed. Ascending.
    pub ended: Vec<u32>,
    /// Those of them that the page of another segment names: who reads the log comes to them.
    pub named: Vec<u32>,
    /// What stands in those, and in others of the places that were asked for.
    pub blocks: Vec<KeptBlock>,
}

/// A segment that is laid down: one record if it has blocks, and where it is named, its successor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Laid {
    /// The segment.
    pub segment: Segment,
    /// Its blocks, each for the place under which it is found from now on.
    pub blocks: Vec<(KeptBlock, DiskAu)>,
    /// The segment that is laid down after it.
    pub next: Option<Segment>,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Errand {
    /// The journal is read to its end.
    Journal(JournalRef),
    /// Blocks are copied, and flushed where they were copied to.
    Copy(Vec<CopyAu>),
    /// The preserve log is read.
    Log {
        /// Of which volume.
        volume: VolumeId,
        /// The attachment whose open segments end.
        token: FenceToken,
        /// All segments of the volume.
        segments: Vec<Segment>,
        /// Places of which the records are wanted, wherever they stand.
        places: BTreeSet<DiskAu>,
    },
    /// A segment is laid down, durable.
    Lay {
        /// Of which volume.
        volume: VolumeId,
        /// What.
        laid: Laid,
    },
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// How the journal ends.
    Journal(Result<Tail, WireError>),
    /// All of it is copied.
    Copied(Result<(), WireError>),
    /// How the log ends.
    Log(Result<LogEnd, WireError>),
    /// It is durable on every leg.
    Laid(Result<(), WireError>),
    /// Of a copy, or a segment: a write has failed that may still land. Where it was to lie nothing may lie.
    Late(WireError),
}

impl Errand {
    /// The outcome of one that was not done.
    #[must_use]
    pub fn not_done(&self, why: WireError) -> Outcome {
        match self {
            Errand::Journal(_) => Outcome::Journal(Err(why)),
            Errand::Copy(_) => Outcome::Copied(Err(why)),
            Errand::Log { .. } => Outcome::Log(Err(why)),
            Errand::Lay { .. } => Outcome::Laid(Err(why)),
        }
    }
}
