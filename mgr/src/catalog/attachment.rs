//! A session on a volume, as the catalog keeps it.

use super::fresh::Fresh;
use super::record::{AttachmentEntry, Mode};
use super::reserve::Reserve;
use fusevol_shared::change::{Journal, Places, Region};
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, VolumeEpoch, VolumeId};
use std::collections::BTreeSet;

/// An attachment; [`AttachmentEntry`] is the same in a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// Which volume.
    pub volume: VolumeId,
    /// Whose.
    pub session: SessionNo,
    /// Its number.
    pub token: FenceToken,
    /// Writer or reader.
    pub mode: Mode,
    /// Last append that is folded.
    pub folded: Seq,
    /// The epoch before the writer's.
    pub flipped: VolumeEpoch,
    /// The writer's journal.
    pub journal: Option<Journal>,
    /// What was folded when that was granted.
    pub began: Seq,
    /// Number of the last grant.
    pub grant: u64,
    /// What it gave.
    pub granted: Vec<Places>,
    /// Granted and not bound yet, as far as is folded.
    pub reserve: Reserve,
    /// Regions of AUs that were bound since the last flip, of a volume with several copies: a binding is a mark, so where the
    /// writer dies their copies may differ.
    pub bound: BTreeSet<Region>,
    /// Bound and not at rest yet, as far as is folded.
    pub fresh: Fresh,
}

impl Attachment {
    pub(super) fn new(e: &AttachmentEntry, reserve: Reserve) -> Self {
        Self {
            volume: e.volume,
            session: e.session,
            token: e.token,
            mode: e.mode,
            folded: e.folded,
            flipped: e.flipped,
            journal: e.journal.clone(),
            began: e.began,
            grant: e.grant,
            granted: e.granted.clone(),
            reserve,
            bound: BTreeSet::new(),
            fresh: Fresh::default(),
        }
    }

    pub(super) fn entry(&self) -> AttachmentEntry {
        AttachmentEntry {
            volume: self.volume,
            session: self.session,
            token: self.token,
            mode: self.mode,
            folded: self.folded,
            flipped: self.flipped,
            journal: self.journal.clone(),
            began: self.began,
            grant: self.grant,
            granted: self.granted.clone(),
            reserve: self.reserve.runs(),
        }
    }

    /// Whether it writes.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.mode == Mode::Write
    }

    /// The epoch in which the writer is, as far as is folded.
    #[must_use]
    pub fn epoch(&self) -> VolumeEpoch {
        VolumeEpoch(self.flipped.0.saturating_add(1))
    }
}
