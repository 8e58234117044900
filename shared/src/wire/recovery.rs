//! Messages of mirrored volumes: a leg that failed, and the way back to as many copies as there should be (PROTOCOL.md, R2, B1).

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

use crate::change::RegionRun;
use crate::ids::{FenceToken, VolumeId};
use crate::units::DiskNo;
use rkyv::{Archive, Deserialize, Serialize};

/// Most runs of regions in one [`LegOut`].
pub const DIRTY_RUNS: usize = 16_384;
/// Most bytes of what a copier has to say.
pub const SAYS_MAX: usize = 512;

macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
        #[rkyv(derive(Debug))]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
    };
}

message!(/// The legs of a volume on a disk have failed, directly and through the manager: from the answer on the volume is written without
    /// them. Answered once that is durable and every holder of the map reads them no more. Asked twice, it is done once. A reader may ask, too, where
    /// nobody writes.
    LegOut {
    /// Which volume.
    volume: VolumeId,
    /// Of the attachment.
    token: FenceToken,
    /// The disk.
    disk: DiskNo,
    /// Regions in which it may miss writes: the dirty ones, and those of which AUs were bound in this epoch. Ascending, at most `DIRTY_RUNS`.
    dirty: Vec<RegionRun>,
    /// For people.
    why: String,
});
message!(/// How far the copier of a volume is; asked about once a second while there is something to copy.
    Recovery {
    /// Which volume.
    volume: VolumeId,
    /// Of the attachment.
    token: FenceToken,
    /// What keeps it from going on, for people; empty where nothing does.
    says: String,
});
message!(/// What the copier may do.
    RecoveryOrders {
    /// Disks whose legs are given up: they are to get other places.
    given_up: Vec<DiskNo>,
    /// AUs that do not have all their copies, as far as is folded.
    todo: u64,
    /// Nothing is to be copied now.
    paused: bool,
    /// Bytes a second at most; 0: no limit.
    limit: u64,
    /// Copies of each AU.
    copies: u8,
    /// Disks that a reader of the volume does not reach: it is for the writer to look whether they answer.
    look_at: Vec<DiskNo>,
});
message!(/// Legs of a volume on a disk miss writes from now on: answered once nothing is read there any more. Its snapshots' legs too.
    LegFailed {
    /// Which volume.
    volume: VolumeId,
    /// The disk.
    disk: DiskNo,
});
