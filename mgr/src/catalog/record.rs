//! The records whose fold is the catalog.
//!
//! Each carries everything that `apply` needs: places are explicit, so are numbers and times; `apply` chooses nothing.
//! A record that is not understood, or that does not fit the state, is an error and changes nothing.
//! What each record means stands in FORMAT.md.

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

use fusevol_shared::change::{Append, Journal, Places, Region, RegionRun, WhenFull};
use fusevol_shared::ids::{
    BootId, ClientId, DiskId, FenceToken, Generation, KeyPrint, MapVersion, PoolId, Seq, SessionId, SessionNo, SnapshotId, VolumeEpoch,
    VolumeId,
};
use fusevol_shared::map::{AuMask, MapRun};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuNo, AuSize, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::{Segment, SlotDisk};
use fusevol_shared::wire::rights::Rights;
use fusevol_shared::wire::slots::Slots;
use rkyv::{Archive, Deserialize, Serialize};

/// How a session has a volume attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One writer at most.
    Write,
    /// Any number.
    Read,
}

/// The pool.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct PoolEntry {
    /// Identity.
    pub id: PoolId,
    /// Label.
    pub name: Name,
    /// Of all disks.
    pub au_size: AuSize,
    /// Lease of a session, milliseconds.
    pub lease_ms: u32,
    /// Seconds since 1970 UTC.
    pub created: u64,
}

/// What must be before somebody else gets what a lost client could still write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
#[serde(rename_all = "kebab-case")]
pub enum Fencing {
    /// A fence, a byte lock that is free, or an administrator's word.
    Required,
    /// A fence where an agent knows the client; else what the lease and the SEAL allow.
    #[default]
    Best,
    /// No agent is asked.
    LeaseOnly,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct DiskEntry {
    /// Short number; the next one of the pool.
    pub no: DiskNo,
    /// What its label says.
    pub id: DiskId,
    /// Its size, the reserved AUs included.
    pub aus: u32,
    /// First AU that may hold data.
    pub first_data: AuNo,
    /// One past the last AU that may hold data.
    pub end_data: AuNo,
    /// Paths under which it was seen: hints.
    pub paths: Vec<String>,
}

/// A client: one key.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct ClientEntry {
    /// Identity.
    pub id: ClientId,
    /// Label.
    pub name: Name,
    /// Its key.
    pub print: KeyPrint,
    /// Seconds since 1970 UTC.
    pub created: u64,
    /// Never served again.
    pub revoked: bool,
}

/// A session: one life of one client process.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct SessionEntry {
    /// Short number, never reused; its slot is that of no other session in the catalog.
    pub no: SessionNo,
    /// Chosen by the client.
    pub id: SessionId,
    /// Whose.
    pub client: ClientId,
    /// Boot of its host, for byte locks.
    pub boot: BootId,
    /// Host name, for people.
    pub host: String,
    /// Program and version, for people.
    pub program: String,
    /// Seconds since 1970 UTC.
    pub opened: u64,
    /// The disks that carry its slot: the first usable ones of the pool when it was opened, and what came of that.
    pub slots: Slots,
    /// Of the manager that opened it.
    pub generation: Generation,
    /// Its SEAL is set on the disks: it is never taken up again.
    pub sealed: bool,
}

/// An attachment: a session on a volume.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct AttachmentEntry {
    /// Which volume.
    pub volume: VolumeId,
    /// Whose.
    pub session: SessionNo,
    /// The next one of the pool.
    pub token: FenceToken,
    /// Writer or reader.
    pub mode: Mode,
    /// Last append of the journal that is folded; 0 before the first.
    pub folded: Seq,
    /// The epoch before the one in which it writes, as far as is folded: its preserve segments are of this one or of a later one.
    pub flipped: VolumeEpoch,
    /// The writer's journal; none for a reader.
    pub journal: Option<Journal>,
    /// What was folded when that journal was granted.
    pub began: Seq,
    /// Number of the last grant; 0 before the first.
    pub grant: u64,
    /// What it gave.
    pub granted: Vec<Places>,
    /// Granted and not bound yet, as far as is folded; ascending.
    pub reserve: Vec<Places>,
}

/// A snapshot that is to be taken.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct SnapshotToBe {
    /// Its identity.
    pub id: SnapshotId,
    /// Its name.
    pub name: Name,
    /// Seconds since 1970 UTC.
    pub created: u64,
}

/// A volume without its map.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct VolumeEntry {
    /// Identity.
    pub id: VolumeId,
    /// Label.
    pub name: Name,
    /// Bytes.
    pub size: u64,
    /// Replicas of each AU.
    pub legs: u8,
    /// Seconds since 1970 UTC.
    pub created: u64,
    /// Current epoch; starts at 1.
    pub epoch: VolumeEpoch,
    /// Version of the map.
    pub version: MapVersion,
    /// Number of the next preserve segment.
    pub next_segment: u32,
    /// The snapshot that the fold of the current epoch's flip takes.
    pub pending: Option<SnapshotToBe>,
    /// What its writer does when there is no space to preserve into.
    pub when_full: WhenFull,
}

/// A snapshot without its map.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct SnapshotEntry {
    /// Identity.
    pub id: SnapshotId,
    /// Of which volume.
    pub volume: VolumeId,
    /// Label, unique within the volume.
    pub name: Name,
    /// The epoch that it closed.
    pub epoch: VolumeEpoch,
    /// Size of the volume then, bytes.
    pub size: u64,
    /// Seconds since 1970 UTC.
    pub created: u64,
    /// It has lost blocks.
    pub broken: bool,
}

/// AUs that left a map, and who may still read or write them.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct LimboEntry {
    /// The next one of the pool.
    pub no: u64,
    /// Whose they were.
    pub volume: VolumeId,
    /// AUs of the volume that lay there, ascending, to be told to readers.
    pub aus: Vec<VolAu>,
    /// The places.
    pub places: Vec<DiskAu>,
    /// Sessions that have not answered yet, ascending.
    pub waits: Vec<SessionNo>,
}

/// Places that a session has no right to any more, and could still write.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct QuarantineEntry {
    /// The next one of the pool.
    pub no: u64,
    /// Who could write there, until it is proven drained.
    pub session: SessionNo,
    /// The places.
    pub places: Vec<DiskAu>,
}

/// Whose map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum MapOf {
    /// A volume's live map.
    Volume(VolumeId),
    /// A snapshot's frozen map.
    Snapshot(SnapshotId),
}

/// One change of what the manager knows.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum Record {
    /// The pool begins. The first record of all.
    PoolCreated(PoolEntry),
    /// The authority's key, sealed: opaque here.
    AuthoritySet { sealed: Vec<u8> },
    /// Addresses of managers, as clients should try them.
    ListenSet { addresses: Vec<String> },
    /// A disk joins the pool.
    DiskAdded(DiskEntry),
    /// The paths under which a disk was seen.
    DiskPaths { disk: DiskNo, paths: Vec<String> },
    /// A volume begins, without space.
    VolumeCreated { id: VolumeId, name: Name, size: u64, legs: u8, created: u64 },
    /// A volume that nobody holds and that has no snapshot ends; its AUs are free.
    VolumeRemoved { id: VolumeId },
    /// A client is known.
    ClientAdded { id: ClientId, name: Name, print: KeyPrint, created: u64 },
    /// A client is served no more.
    ClientRevoked { id: ClientId },
    /// A client without sessions is forgotten, with its access.
    ClientRemoved { id: ClientId },
    /// These are the rights of a client on a volume; none at all ends the entry.
    AccessSet { volume: VolumeId, client: ClientId, rights: Rights },
    /// A session begins.
    SessionOpened(SessionEntry),
    /// A session's slot was opened again under another manager, before it was told that it is open.
    SessionReopened { no: SessionNo, generation: Generation },
    /// A session's slot is sealed on the disks that `slots` names then.
    SessionSealed { no: SessionNo },
    /// A session is over and proven drained: its attachments, open snapshots and waits go with it; what it could still write is free. Each of
    /// its write attachments is folded up to its closing number.
    SessionEnded { no: SessionNo, closed: Vec<(FenceToken, Seq)> },
    /// A session has a volume, once. A writer gets a journal, a first reserve, and where snapshots are its first preserve segment.
    Attached {
        volume: VolumeId,
        session: SessionNo,
        token: FenceToken,
        mode: Mode,
        segment: Option<Segment>,
        journal: Option<Journal>,
        reserve: Vec<Places>,
    },
    /// An attachment is over and drained, and all of it is folded.
    Detached { token: FenceToken },
    /// The reserve of a writer gets `places`, and gives `back`.
    Granted { token: FenceToken, no: u64, places: Vec<Places>, back: Vec<Places> },
    /// Appends of a writer's journal, of which `prev` is the last folded one. AUs that leave every map wait in limbo number `limbo` for `waits`.
    Folded { token: FenceToken, prev: Seq, appends: Vec<Append>, limbo: u64, waits: Vec<SessionNo> },
    /// These regions were dirty when the journal of a dead writer ended: all that they hold counts as changed in its epoch.
    LeftDirty { token: FenceToken, regions: Vec<Region> },
    /// A writer's journal is closed at this number, which is folded, and goes on elsewhere; the former places are in quarantine.
    JournalReplaced { token: FenceToken, closing: Seq, journal: Journal },
    /// A hold begins: `epoch` is current from now on. The fold of its flip takes the snapshot. The number of the epoch is used up, taken or dropped.
    EpochBegun { volume: VolumeId, epoch: VolumeEpoch, snapshot: SnapshotToBe },
    /// The snapshot that was to be is not taken.
    HoldDropped { volume: VolumeId },
    /// What the writer of a volume does when there is no space to preserve into.
    WhenFullSet { volume: VolumeId, when_full: WhenFull },
    /// The map of a volume that nobody writes is frozen as a snapshot that closed `epoch`; the next one begins.
    SnapshotTaken { id: SnapshotId, volume: VolumeId, name: Name, epoch: VolumeEpoch, created: u64 },
    /// A snapshot that nobody has open ends; AUs that nothing else shares wait in limbo number `limbo` for `waits`.
    SnapshotRemoved { id: SnapshotId, limbo: u64, waits: Vec<SessionNo> },
    /// A session reads a snapshot.
    SnapshotOpened { id: SnapshotId, session: SessionNo },
    /// It has drained and closed it.
    SnapshotClosed { id: SnapshotId, session: SessionNo },
    /// Segments that serve no snapshot and that nobody writes are free.
    SegmentsDropped { volume: VolumeId, nos: Vec<u32> },
    /// A holder has drained what names these places.
    LimboAnswered { no: u64, session: SessionNo },
    /// Everybody has answered: the places are free.
    LimboFreed { no: u64 },
    /// Part of a checkpoint.
    Base(Base),
    /// What must be before a lost client is succeeded.
    FencingSet { fencing: Fencing },
    /// The legs of a volume on this disk miss writes from now on; in these regions they may have missed some already.
    LegsOut { volume: VolumeId, disk: DiskNo, dirty: Vec<RegionRun> },
    /// They do not any more. What they missed is said by their states. Nobody writes the volume: a writer says it in its journal.
    LegsBack { volume: VolumeId, disk: DiskNo },
    /// What a disk is there for, and with what it fails together.
    DiskSet { disk: DiskNo, spare: bool, domain: Option<Name> },
    /// The administrator's word that what a disk holds is lost, or that it is not.
    DiskFailed { disk: DiskNo, failed: bool },
    /// How long legs may be out before their copies are made elsewhere, milliseconds.
    RebuildAfterSet { ms: u64 },
    /// How the copies of a volume are made: not now; bytes a second at most, 0 for no limit.
    JobSet { volume: VolumeId, paused: bool, limit: u64 },
    /// The manager of this generation is about to write to these places: `fresh` ones that were free, and stale legs in their places.
    CopyBegun { generation: Generation, fresh: Vec<DiskAu>, targets: Vec<CopyTarget> },
    /// AUs of a volume that nobody writes have these copies from now on, all equal. Places that they have no more wait in limbo number `limbo`.
    Copied { volume: VolumeId, copies: Vec<Copied>, limbo: u64, waits: Vec<SessionNo> },
    /// Nothing is under way to these places any more; those that nobody has are free.
    CopyEnded { places: Vec<DiskAu> },
    /// A former manager may still write to these stale legs: they belong to nothing any more, and are given to nobody.
    TargetsLost { places: Vec<DiskAu> },
    /// The manager has these free places, to copy there what the writer of this attachment, whose session is sealed, could still write.
    TakeoverGranted { token: FenceToken, places: Vec<Places> },
    /// A takeover of this attachment was not carried to its end, and a copy may still land: what it had is the copier's of this generation.
    TakeoverDropped { token: FenceToken, generation: Generation },
    /// The attachment is over, without a proof that its writer is: see [`Takeover`].
    TakenOver(Takeover),
    /// A preserve segment in which nobody writes any more has these copies from now on, all with the same content. What it has no more stays its
    /// own: its readers may still read there.
    SegmentPlaced { volume: VolumeId, no: u32, legs: Vec<DiskAu> },
    /// Hosts of sessions with this number and above register with the disks before they use them; `None`: they do not.
    ReservationsSet { from: Option<SessionNo> },
    /// The slot of a session is open on these disks, too: it may use them from now on, and a SEAL counts only when it stands on a majority of both sets.
    SlotMoves { no: SessionNo, next: Vec<SlotDisk> },
    /// It uses them, by its own word: the former ones are its slot no more.
    SlotMoved { no: SessionNo, moves: u64 },
}

/// A stale leg that is brought up to date in its place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct CopyTarget {
    /// Of which volume.
    pub volume: VolumeId,
    /// Of which AU.
    pub au: VolAu,
    /// The leg.
    pub at: DiskAu,
}

/// Copies of an AU.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Copied {
    /// Which.
    pub au: VolAu,
    /// Its name: the live map and the snapshots may have others there.
    pub name: DiskAu,
    /// All of them.
    pub legs: Vec<DiskAu>,
}

/// Whatever the writer of an attachment could still write lies elsewhere from now on, for the volume and all its snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Takeover {
    /// The attachment that ends.
    pub token: FenceToken,
    /// The last append of its journal that counts: the last folded one.
    pub closing: Seq,
    /// AUs of the live map at their new places, with their masks as they are. A snapshot that shares the former place shares the new one.
    pub moves: Vec<MapRun>,
    /// Segments that carry on what the preserve log has of those places, and what stood in segments that end. One to which others lead has its number still.
    pub segments: Vec<Segment>,
    /// Segments of the attachment to which its writer could still write.
    pub ended: Vec<u32>,
    /// The former places wait in this limbo for the readers of the live map; after that they are in quarantine for the session.
    pub limbo: u64,
    /// Those readers.
    pub waits: Vec<SessionNo>,
}

/// Places that sessions may still read under the map of a snapshot that they had opened before a takeover.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct KeptEntry {
    /// A number of quarantine.
    pub no: u64,
    /// Who has what open.
    pub opens: Vec<(SnapshotId, SessionNo)>,
    /// Which places.
    pub places: Vec<DiskAu>,
    /// Those of them that would be free otherwise; ascending.
    pub freed: Vec<DiskAu>,
}

/// What a checkpoint says beside the records that serve it unchanged.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum Base {
    /// A client, with its state.
    Client(ClientEntry),
    /// A session; not the next one.
    Session(SessionEntry),
    /// A volume, with its counters.
    Volume(VolumeEntry),
    /// A snapshot.
    Snapshot(SnapshotEntry),
    /// A part of a map; places that the volume has already are shared.
    Map { of: MapOf, runs: Vec<MapRun> },
    /// An attachment.
    Attachment(AttachmentEntry),
    /// A preserve segment.
    Segment { volume: VolumeId, segment: Segment },
    /// What changed in an epoch; a part of it.
    Changed { volume: VolumeId, epoch: VolumeEpoch, masks: Vec<AuMask> },
    /// AUs in limbo.
    Limbo(LimboEntry),
    /// AUs in quarantine.
    Quarantine(QuarantineEntry),
    /// AUs that belong to somebody, and that a session may still write besides.
    Late { session: SessionNo, places: Vec<DiskAu> },
    /// The counters; the last part.
    Counters { session: SessionNo, token: FenceToken, limbo: u64, quarantine: u64 },
    /// Disks whose legs of a volume miss writes, ascending.
    Out { volume: VolumeId, disks: Vec<DiskNo> },
    /// Places that were legs of a preserve segment, and are given to nobody before it is dropped.
    Husks { volume: VolumeId, no: u32, places: Vec<DiskAu> },
    /// Regions of AUs that were bound under an attachment since its last flip; a part of them.
    Bound { token: FenceToken, regions: Vec<Region> },
    /// Places to which a manager may still write, that nobody else has; and legs that it is bringing up to date.
    Copying { generation: Generation, own: Vec<DiskAu>, targets: Vec<CopyTarget> },
    /// AUs that were bound under an attachment and have not come to rest: a bit each, by region.
    Fresh { token: FenceToken, regions: Vec<(Region, u64)> },
    /// What a takeover of this attachment has to copy to.
    Taking { token: FenceToken, places: Vec<Places> },
    /// Places that open snapshots may still read.
    Kept(KeptEntry),
}
