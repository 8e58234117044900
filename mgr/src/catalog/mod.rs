//! What the manager knows: the fold of a log of [`record`]s.
//!
//! [`Catalog::apply`] is pure and deterministic: the same records give the same state, here, in the offline check and after a
//! restart. A record that does not fit is an error and changes nothing. [`Catalog::dump`] gives a shorter log of the same state.
//!
//! Who owns an AU (rule: exactly one of these, [`prove`] shows it):
//! ```text
//! free -> reserve of a writer -> a volume (its live map and its snapshots share it) -> limbo -> free
//!                  '-----------> a preserve segment of a volume -----------------------------> free
//! free -> journal of a writer -> quarantine of its session (where the journal failed) -------> free
//! free -> the manager's copier -> a volume; a leg that a preserve segment has lost stays its own (a husk) until it is dropped
//! ```
//! A takeover without a fence: free -> taking -> a volume, or a preserve segment; what its old writer could still write goes to quarantine, by limbo where
//! readers have it, and is *kept* besides while a snapshot is open that was opened before.
//! An AU to which something was written that was not answered (*late*) goes to the quarantine of that session where it would be free.
//! An AU that left every map stays in limbo until each session that may still read it has answered. What a session may still write (reserves,
//! journals, quarantine) stays until it is proven drained.

pub mod alloc;
mod apply_base;
mod apply_copy;
mod apply_fold;
mod apply_grant;
mod apply_mirror;
mod apply_pool;
mod apply_session;
mod apply_snapshot;
mod apply_takeover;
mod attachment;
mod dump;
mod fits;
pub mod fresh;
mod prove;
mod query;
pub mod record;
pub mod reserve;
pub mod space;
#[cfg(test)]
mod tests;

pub use apply_copy::Copying;
pub use apply_fold::touched;
pub use apply_grant::RESERVE_MAX;
pub use attachment::Attachment;
pub use fits::JOURNAL_COPIES;
pub use prove::{Violation, prove};

use apply_session::Beginning;
use apply_takeover::Kept;
pub use apply_takeover::TAKEOVER_MAX;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{ClientId, FenceToken, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::map::VolumeMap;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::name::Name;
use fusevol_shared::units::{DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::Segment;
use fusevol_shared::wire::rights::Rights;
use record::{ClientEntry, DiskEntry, Fencing, LimboEntry, PoolEntry, QuarantineEntry, Record, SessionEntry, SnapshotEntry, VolumeEntry};
use reserve::Reserve;
use space::Space;
use std::collections::{BTreeMap, BTreeSet};

/// A disk of the pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    /// What is known of it.
    pub entry: DiskEntry,
    /// Which of its AUs are taken.
    pub space: Space,
    /// Holds copies only in place of those that are given up.
    pub spare: bool,
    /// What fails together has one name.
    pub domain: Option<Name>,
    /// The administrator's word that what it holds is lost.
    pub failed: bool,
}

/// A volume.
#[derive(Clone, PartialEq, Debug)]
pub struct Volume {
    /// What is known of it.
    pub entry: VolumeEntry,
    /// Its live map.
    pub map: VolumeMap,
    /// Its preserve segments, by number.
    pub segments: BTreeMap<u32, Segment>,
    /// What changed in each epoch after the oldest snapshot's: a superset.
    pub changed: BTreeMap<VolumeEpoch, BTreeMap<VolAu, BlockMask>>,
    /// Disks whose legs of this volume miss writes, ascending: not read, not written.
    pub out: Vec<DiskNo>,
    /// Places that were legs of a preserve segment: its own until it is dropped, and nobody reads them.
    pub husks: BTreeMap<u32, Vec<DiskAu>>,
    /// Its copies are not made now.
    pub paused: bool,
    /// Bytes a second at most when they are; 0: no limit.
    pub limit: u64,
}

/// A snapshot.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// What is known of it.
    pub entry: SnapshotEntry,
    /// Its frozen map.
    pub map: VolumeMap,
}

/// Numbers that are handed out next.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Of sessions.
    pub session: SessionNo,
    /// Of attachments.
    pub token: FenceToken,
    /// Of limbo entries.
    pub limbo: u64,
    /// Of quarantine entries.
    pub quarantine: u64,
}

/// The state.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Catalog {
    pool: Option<PoolEntry>,
    sealed: Vec<u8>,
    addresses: Vec<String>,
    disks: BTreeMap<DiskNo, Disk>,
    volumes: BTreeMap<VolumeId, Volume>,
    snapshots: BTreeMap<SnapshotId, Snapshot>,
    clients: BTreeMap<ClientId, ClientEntry>,
    access: BTreeMap<(VolumeId, ClientId), Rights>,
    sessions: BTreeMap<SessionNo, SessionEntry>,
    attachments: BTreeMap<FenceToken, Attachment>,
    opens: BTreeSet<(SnapshotId, SessionNo)>,
    limbo: BTreeMap<u64, LimboEntry>,
    quarantine: BTreeMap<u64, QuarantineEntry>,
    /// AUs that belong to somebody, and that a session may still write besides: they go to its quarantine where they would be free.
    late: BTreeMap<DiskAu, SessionNo>,
    /// Where a takeover copies to, by the attachment that it ends.
    taking: BTreeMap<FenceToken, Reserve>,
    /// Places that open snapshots may still read, though no map names them.
    kept: BTreeMap<u64, Kept>,
    counters: Counters,
    fencing: Fencing,
    /// Where a manager's copier may still write.
    copying: BTreeMap<DiskAu, Copying>,
    /// How long legs may be out before their copies are made elsewhere, milliseconds, if that was set.
    rebuild_after: Option<u64>,
    /// Sessions from this one on register with the disks.
    reservations: Option<SessionNo>,
}

/// A record that does not fit.
fn unfit(what: impl Into<String>) -> Error {
    Error::new(Kind::Damaged, what)
}

/// `Ok` where `holds`.
fn must(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(unfit(what)) }
}

impl Catalog {
    /// Folds records in, from nothing: what a log says.
    ///
    /// # Errors
    /// `Damaged` at the first record that does not fit, saying which.
    pub fn fold<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self> {
        let mut catalog = Self::default();
        for (i, r) in records.into_iter().enumerate() {
            catalog.apply(r).map_err(|e| e.within(format!("record {i} of the catalog")))?;
        }
        Ok(catalog)
    }

    /// Folds one record in.
    ///
    /// # Errors
    /// `Damaged` where it does not fit; nothing is changed then.
    pub fn apply(&mut self, record: &Record) -> Result<()> {
        if self.pool.is_none() && !matches!(record, Record::PoolCreated(_)) {
            return Err(unfit("a record stands before the one that begins the pool"));
        }
        match record {
            Record::PoolCreated(entry) => self.pool_created(entry),
            Record::AuthoritySet { sealed } => self.authority_set(sealed),
            Record::ListenSet { addresses } => self.listen_set(addresses),
            Record::DiskAdded(entry) => self.disk_added(entry),
            Record::DiskPaths { disk, paths } => self.disk_paths(*disk, paths),
            Record::VolumeCreated { id, name, size, legs, created } => self.volume_created(*id, name, *size, *legs, *created),
            Record::VolumeRemoved { id } => self.volume_removed(*id),
            Record::ClientAdded { id, name, print, created } => {
                self.client_added(&ClientEntry { id: *id, name: name.clone(), print: *print, created: *created, revoked: false })
            }
            Record::ClientRevoked { id } => self.client_revoked(*id),
            Record::ClientRemoved { id } => self.client_removed(*id),
            Record::AccessSet { volume, client, rights } => self.access_set(*volume, *client, *rights),
            Record::SessionOpened(entry) => self.session_opened(entry),
            Record::SessionReopened { no, generation } => self.session_reopened(*no, *generation),
            Record::SessionSealed { no } => self.session_sealed(*no),
            Record::SlotMoves { no, next } => self.slot_moves(*no, next),
            Record::SlotMoved { no, moves } => self.slot_moved(*no, *moves),
            Record::SessionEnded { no, closed } => self.session_ended(*no, closed),
            Record::Attached { volume, session, token, mode, segment, journal, reserve } => self.volume_attached(&Beginning {
                volume: *volume,
                session: *session,
                token: *token,
                mode: *mode,
                segment: segment.as_ref(),
                journal: journal.as_ref(),
                reserve,
            }),
            Record::Detached { token } => self.detached(*token),
            Record::Granted { token, no, places, back } => self.granted(*token, *no, places, back),
            Record::Folded { token, prev, appends, limbo, waits } => self.folded(*token, *prev, appends, *limbo, waits),
            Record::LeftDirty { token, regions } => self.left_dirty(*token, regions),
            Record::JournalReplaced { token, closing, journal } => self.journal_replaced(*token, *closing, journal),
            Record::EpochBegun { volume, epoch, snapshot } => self.epoch_begun(*volume, *epoch, snapshot),
            Record::HoldDropped { volume } => self.hold_dropped(*volume),
            Record::WhenFullSet { volume, when_full } => self.when_full_set(*volume, *when_full),
            Record::SnapshotTaken { id, volume, name, epoch, created } => self.snapshot_taken(*id, *volume, name, *epoch, *created),
            Record::SnapshotRemoved { id, limbo, waits } => self.snapshot_removed(*id, *limbo, waits),
            Record::SnapshotOpened { id, session } => self.snapshot_opened(*id, *session),
            Record::SnapshotClosed { id, session } => self.snapshot_closed(*id, *session),
            Record::SegmentsDropped { volume, nos } => self.segments_dropped(*volume, nos),
            Record::LimboAnswered { no, session } => self.limbo_answered(*no, *session),
            Record::LimboFreed { no } => self.limbo_freed(*no),
            Record::Base(base) => self.base(base),
            Record::FencingSet { fencing } => {
                self.fencing = *fencing;
                Ok(())
            }
            Record::LegsOut { volume, disk, dirty } => self.legs_out(*volume, *disk, dirty),
            Record::LegsBack { volume, disk } => self.legs_back(*volume, *disk),
            Record::DiskSet { disk, spare, domain } => self.disk_set(*disk, *spare, domain.as_ref()),
            Record::DiskFailed { disk, failed } => self.disk_failed(*disk, *failed),
            Record::RebuildAfterSet { ms } => {
                self.rebuild_after = Some(*ms);
                Ok(())
            }
            Record::ReservationsSet { from } => {
                self.reservations = *from;
                Ok(())
            }
            Record::JobSet { volume, paused, limit } => self.job_set(*volume, *paused, *limit),
            Record::CopyBegun { generation, fresh, targets } => self.copy_begun(*generation, fresh, targets),
            Record::Copied { volume, copies, limbo, waits } => self.copied(*volume, copies, *limbo, waits),
            Record::CopyEnded { places } => self.copy_ended(places),
            Record::SegmentPlaced { volume, no, legs } => self.segment_placed(*volume, *no, legs),
            Record::TargetsLost { places } => self.targets_lost(places),
            Record::TakeoverGranted { token, places } => self.takeover_granted(*token, places),
            Record::TakeoverDropped { token, generation } => self.takeover_dropped(*token, *generation),
            Record::TakenOver(t) => self.taken_over(t),
        }
    }

    /// Looks at the catalog as it would be if these places, which are free, were taken: for choosing further ones.
    pub fn as_if_taken<T>(&mut self, places: &[DiskAu], look: impl FnOnce(&Self) -> T) -> T {
        self.take(places.iter().copied());
        let seen = look(self);
        self.release(places.iter().copied());
        seen
    }

    /// Takes places that were checked to be free.
    fn take(&mut self, places: impl IntoIterator<Item = DiskAu>) {
        for p in places {
            let taken = self.disks.get_mut(&p.disk).is_some_and(|d| d.space.take(p.au));
            assert!(taken, "an AU is taken twice: {p}");
        }
    }

    /// Gives places back that an owner had.
    fn release(&mut self, places: impl IntoIterator<Item = DiskAu>) {
        let mut late: BTreeMap<SessionNo, Vec<DiskAu>> = BTreeMap::new();
        for p in places {
            if let Some(c) = self.copying.get_mut(&p) {
                // The manager's copier has something under way there: free when that has ended.
                c.target = None;
                continue;
            }
            if let Some(session) = self.late.remove(&p) {
                late.entry(session).or_default().push(p);
                continue;
            }
            if let Some(k) = self.kept.values_mut().find(|k| k.places.contains(&p)) {
                k.freed.insert(p);
                continue;
            }
            let released = self.disks.get_mut(&p.disk).is_some_and(|d| d.space.release(p.au));
            assert!(released, "an AU is freed twice: {p}");
        }
        for (session, places) in late {
            self.quarantined(session, places);
        }
    }

    /// Places that have no other owner are in quarantine for a session.
    fn quarantined(&mut self, session: SessionNo, places: Vec<DiskAu>) {
        if places.is_empty() {
            return;
        }
        let no = self.counters.quarantine;
        self.quarantine.insert(no, QuarantineEntry { no, session, places });
        self.counters.quarantine = no + 1;
    }
}
