//! The records whose fold is the catalog.
//!
//! Each carries everything that `apply` needs: places are explicit, so are numbers and times; `apply` chooses nothing.
//! A record that is not understood, or that does not fit the state, is an error and changes nothing.
//! What each record means stands in FORMAT.md.

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

use fusevol_shared::ids::{
    BootId, ClientId, DiskId, FenceToken, KeyPrint, MapVersion, PoolId, Seq, SessionId, SessionNo, SnapshotId, VolumeEpoch, VolumeId,
};
use fusevol_shared::map::{AuMask, MapRun};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuNo, AuSize, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::Segment;
use fusevol_shared::wire::rights::Rights;
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
    /// Short number; the next one of the pool.
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
}

/// An attachment: a session on a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
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
    /// Last applied change; 0 before the first.
    pub last: Seq,
    /// Epoch of the last snapshot that this writer answered a hold for: it writes in no segment of an older epoch. 0 before the first.
    pub flipped: VolumeEpoch,
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

/// A preserve segment and the request that it answered.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct SegmentEntry {
    /// The segment.
    pub segment: Segment,
    /// The `PreserveSpace` that it answered; none where it came with an attachment or a hold.
    pub seq: Option<Seq>,
}

/// AUs that left a map, and who may still read or write them.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct LimboEntry {
    /// The next one of the pool.
    pub no: u64,
    /// Whose they were.
    pub volume: VolumeId,
    /// AUs of the volume that lay there (none for preserve segments), to be told to readers.
    pub aus: Vec<VolAu>,
    /// The places.
    pub places: Vec<DiskAu>,
    /// Sessions that have not answered yet, ascending.
    pub waits: Vec<SessionNo>,
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
    /// A session is over and drained: its attachments, open snapshots and waits go with it.
    SessionEnded { no: SessionNo },
    /// A session has a volume, once. A writer gets its first preserve segment where snapshots are.
    Attached { volume: VolumeId, session: SessionNo, token: FenceToken, mode: Mode, segment: Option<Segment> },
    /// An attachment is over and drained.
    Detached { token: FenceToken },
    /// AUs got space.
    Bound { token: FenceToken, seq: Seq, runs: Vec<MapRun> },
    /// Blocks were written.
    Reported { token: FenceToken, seq: Seq, written: Vec<AuMask> },
    /// Blocks read as zeros; `unmapped` left the map. Those of them that no snapshot shares wait in limbo number `limbo` for `waits`.
    Discarded { token: FenceToken, seq: Seq, cleared: Vec<AuMask>, unmapped: Vec<VolAu>, limbo: u64, waits: Vec<SessionNo> },
    /// The writer asked for its next preserve segment.
    SegmentGranted { token: FenceToken, seq: Seq, segment: Segment },
    /// A hold begins: `epoch` is current from now on, its first preserve segment is granted. The number of the epoch is used up, taken or dropped.
    EpochBegun { volume: VolumeId, epoch: VolumeEpoch, segment: Segment },
    /// The map is frozen as a snapshot that closed `epoch`. Without a writer the next epoch begins here.
    SnapshotTaken { id: SnapshotId, volume: VolumeId, name: Name, epoch: VolumeEpoch, created: u64 },
    /// A snapshot that nobody has open ends; AUs that nothing else shares wait in limbo number `limbo` for `waits`.
    SnapshotRemoved { id: SnapshotId, limbo: u64, waits: Vec<SessionNo> },
    /// A session reads a snapshot.
    SnapshotOpened { id: SnapshotId, session: SessionNo },
    /// It has drained and closed it.
    SnapshotClosed { id: SnapshotId, session: SessionNo },
    /// A snapshot has lost blocks.
    SnapshotBroken { id: SnapshotId },
    /// Segments that serve no snapshot and that nobody writes are free.
    SegmentsDropped { volume: VolumeId, nos: Vec<u32> },
    /// A holder has drained what names these places.
    LimboAnswered { no: u64, session: SessionNo },
    /// Everybody has answered: the places are free.
    LimboFreed { no: u64 },
    /// Part of a checkpoint.
    Base(Base),
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
    Segment { volume: VolumeId, entry: SegmentEntry },
    /// AUs in limbo.
    Limbo(LimboEntry),
    /// The counters; the last part.
    Counters { session: SessionNo, token: FenceToken, limbo: u64 },
}
