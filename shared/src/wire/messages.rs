//! Every message. A changed message bumps [`PROTOCOL`], and its doc says what changed.
//!
//! The list in [`requests!`] is the one place where a request gets its need and its object; the dispatcher, the
//! documentation and the matrix of denials are made from it.

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

pub use super::lock::{GetLock, HeldLock, LockState, LocksFreed, LocksTaken, RetakeLocks, SetLock};
pub use super::recovery::{LegFailed, LegOut, Recovery, RecoveryOrders};
use super::rights::{Need, Right, Rights};
pub use super::slots::{MoveSlot, SlotDisk};
pub use crate::change::Segment;
use crate::change::{Append, Journal, Places, WhenFull};
use crate::error::WireError;
use crate::ids::{
    BootId, DiskId, FenceToken, Generation, Life, MapVersion, PoolId, Seq, SessionId, SessionNo, SnapshotId, VolumeEpoch, VolumeId,
};
use crate::lock::{LockKind, Span};
use crate::map::MapRun;
use crate::map::packed::PackedRun;
use crate::units::{AuSize, DiskNo, VolAu};
use rkyv::{Archive, Deserialize, Serialize};

/// Version of the messages.
/// 1: the first.
/// 2: the writer binds out of a reserve (`Grant`) and journals its changes (`Fold`, `NewJournal`); `Bind`, `Report`, `Discard` and
/// `PreserveSpace` are gone; `Welcome` names the slots, `Attached` journal and reserve, `Hold` no segment any more.
/// 3: `MapPart` carries packed runs: equal masks side by side stand once.
/// 4: `CheckPath`; I/O through the manager, on data connections (`super::data`).
/// 5: locks of byte ranges (`SetLock`, `GetLock`, `RetakeLocks`, `LocksFreed`).
/// 6: mirrors (`LegOut`, `Recovery`, `LegFailed`; `Attached`, `SnapshotOpened` say which disks are out; `Grant` and `NewJournal` say which to avoid).
/// 7: `NewDisk`; `RecoveryOrders` names disks to be looked at.
/// 8: `MoveSlot`; `Welcome` says of each slot disk who opened the slot there.
pub const PROTOCOL: u16 = 8;
/// Most AUs in one `Grant`.
pub const AUS_PER_GRANT: u32 = 1024;
/// Most weight of the appends in one `Fold` (see `Entry::weight`): with 32 bytes each far below the frame limit.
pub const FOLD_WEIGHT: usize = 16_384;
/// Most weight of one append: it is folded whole.
pub const APPEND_WEIGHT: usize = 8192;

/// What a request speaks of, for the check of rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Object {
    /// Nothing but the session.
    None,
    /// A volume.
    Volume(VolumeId),
    /// A snapshot: the rights are those on its volume.
    Snapshot(SnapshotId),
}

macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
        #[rkyv(derive(Debug))]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
    };
}

/// A request with the reply it gets and the right it needs.
pub trait Call: Into<Request> {
    /// What answers it.
    type Reply: TryFrom<Reply, Error = Reply> + Send + 'static;
    /// Its name, for logs.
    const NAME: &'static str;
    /// What the asker must have.
    const NEED: Need;
}

macro_rules! requests {
    ($($name:ident ( $need:expr, |$m:ident| $object:expr ) -> $reply:ident, sample $sample:expr;)*) => {
        /// Any request.
        #[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
        #[rkyv(derive(Debug))]
        #[allow(missing_docs)]
        pub enum Request { $($name($name),)* }

        impl Request {
            /// What the asker must have.
            #[must_use]
            pub fn need(&self) -> Need { match self { $(Request::$name(_) => $need,)* } }
            /// What it speaks of.
            #[must_use]
            pub fn object(&self) -> Object { match self { $(Request::$name($m) => $object,)* } }
            /// Its name, for logs and tests.
            #[must_use]
            pub fn name(&self) -> &'static str { match self { $(Request::$name(_) => stringify!($name),)* } }
            /// One of each, speaking of this volume and snapshot: the rows of the matrix of denials.
            #[must_use]
            pub fn samples(volume: VolumeId, snapshot: SnapshotId) -> Vec<Request> { vec![$(Request::$name(($sample)(volume, snapshot)),)*] }
        }

        $(impl From<$name> for Request { fn from(m: $name) -> Self { Request::$name(m) } }
        impl Call for $name {
            type Reply = $reply;
            const NAME: &'static str = stringify!($name);
            const NEED: Need = $need;
        })*
    };
}

macro_rules! replies {
    ($($name:ident,)*) => {
        /// Any reply.
        #[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
        #[rkyv(derive(Debug))]
        #[allow(missing_docs)]
        pub enum Reply { $($name($name),)* }
        $(impl From<$name> for Reply { fn from(m: $name) -> Self { Reply::$name(m) } }
        impl TryFrom<Reply> for $name {
            type Error = Reply;
            fn try_from(r: Reply) -> Result<Self, Reply> { if let Reply::$name(m) = r { Ok(m) } else { Err(r) } }
        })*
    };
}

// ---- session ----

message!(/// Opens a session, or takes an open one up again on a new connection (`resume`).
    Hello {
    /// `PROTOCOL` of the client.
    protocol: u16,
    /// Chosen by the client at its start; never reused.
    session: SessionId,
    /// The client's boot, for byte locks on the same host.
    boot: BootId,
    /// Host name, for people.
    host: String,
    /// Program and version, for people.
    program: String,
    /// The session was open before; if the manager has ended it, the answer is `Lapsed`.
    resume: bool,
});
message!(/// A session stands.
    Welcome {
    /// The session's number: the byte locks on the disks are taken at it (FORMAT.md).
    session: SessionNo,
    /// The pool.
    pool: PoolId,
    /// Its name.
    pool_name: String,
    /// Its AU size.
    au_size: AuSize,
    /// The lease: counts from when the client *sent* `Hello` or `Renew`.
    lease_ms: u32,
    /// The manager's generation.
    generation: Generation,
    /// The pool's disks.
    disks: Vec<DiskInfo>,
    /// The disks that carry the session's slot: heartbeat and SEAL (FORMAT.md). The SEAL is clear there. Of use in the first welcome only: a session that
    /// stands hears of others by `MoveSlot`, and may have moved further than this says.
    slots: Vec<SlotDisk>,
    /// Number of the last `MoveSlot` that led there; 0 where there was none.
    moves: u64,
    /// The host is registered with each block device before the session uses it: it can be cut off there.
    reservations: bool,
});
message!(/// A disk of the pool, as the manager knows it.
    DiskInfo {
    /// Short number in maps.
    no: DiskNo,
    /// What its label must say.
    id: DiskId,
    /// Its size in AUs, the reserved ones included.
    aus: u32,
    /// Paths under which the manager knows it: hints only, labels decide.
    paths: Vec<String>,
});
message!(/// Extends the lease.
    Renew {});
message!(/// The lease is extended, counted from when `Renew` was sent.
    Renewed {});
message!(/// The session ends: everything is drained, nothing of it is in flight.
    Goodbye {});
message!(/// Done.
    Done {});

// ---- volumes ----

message!(/// The volumes on which this client has any right.
    ListVolumes {});
message!(/// Granted volumes only.
    Volumes {
    /// Sorted by name.
    volumes: Vec<VolumeInfo>,
});
message!(/// A volume, as a client may see it.
    VolumeInfo {
    /// Identity.
    id: VolumeId,
    /// Label.
    name: String,
    /// Bytes.
    size: u64,
    /// Bytes in written blocks, as far as the catalog knows.
    written: u64,
    /// Rights of the asker.
    rights: Rights,
    /// Client that has it attached for writing; empty if none.
    writer: String,
    /// Oldest first.
    snapshots: Vec<SnapshotInfo>,
});
message!(/// A snapshot.
    SnapshotInfo {
    /// Identity.
    id: SnapshotId,
    /// Label.
    name: String,
    /// The epoch that it closed: it holds the blocks as they were when this epoch ended.
    epoch: VolumeEpoch,
    /// Size of the volume then, bytes.
    size: u64,
    /// Bytes in blocks that were written then.
    written: u64,
    /// Seconds since 1970 UTC.
    created: u64,
    /// It has lost blocks and reads as an error.
    broken: bool,
});
message!(/// Attaches for writing, exclusively.
    AttachWrite {
    /// Which.
    volume: VolumeId,
});
message!(/// Attaches for reading.
    AttachRead {
    /// Which.
    volume: VolumeId,
});
message!(/// The attachment stands; the map follows by `GetMap`.
    Attached {
    /// Of this attachment.
    token: FenceToken,
    /// Bytes.
    size: u64,
    /// Current epoch.
    epoch: VolumeEpoch,
    /// Version of the map from which pushes go on.
    version: MapVersion,
    /// Snapshots that exist, oldest first: the writer preserves for them.
    snapshots: Vec<SnapshotInfo>,
    /// Where this attachment's preserve log begins; needed only where there are snapshots, and only by a writer.
    segment: Vec<Segment>,
    /// The writer's journal; none for a reader.
    journal: Vec<Journal>,
    /// Granted with the attachment; empty for a reader.
    reserve: Vec<Places>,
    /// Number of the next preserve segment.
    next_segment: u32,
    /// What the writer does when there is no space to preserve into.
    when_full: WhenFull,
    /// Copies that each AU should have.
    copies: u8,
    /// Disks whose legs of this volume miss writes: nothing is read from them or written to them.
    out: Vec<DiskNo>,
});
message!(/// The attachment ends; its I/O is drained and its masks are reported.
    Detach {
    /// Which.
    volume: VolumeId,
});
message!(/// A part of the live map.
    GetMap {
    /// Of which volume.
    volume: VolumeId,
    /// From which AU on.
    from: VolAu,
});
message!(/// A part of a map.
    MapPart {
    /// Ascending.
    runs: Vec<PackedRun>,
    /// Where to go on; none at the end.
    next: Option<VolAu>,
});
message!(/// A part of what the writer must preserve before it modifies it, counting no block as preserved yet: for each AU of the
    /// live map whose place a snapshot shares, the blocks that any such snapshot holds (as the `written` masks of the runs).
    GetNeed {
    /// Of which volume.
    volume: VolumeId,
    /// From which AU on.
    from: VolAu,
});
message!(/// Asks for space ahead of the writes, and gives back what is not needed. Asked twice under one number, it is done once.
    Grant {
    /// Which.
    volume: VolumeId,
    /// Of the attachment.
    token: FenceToken,
    /// Number of the grant within the attachment: 1, 2, ...
    no: u64,
    /// So many AUs; at most `AUS_PER_GRANT`. Fewer may come, none is `NoSpace`.
    want: u32,
    /// Places of the reserve that were never written to and never will be.
    back: Vec<Places>,
    /// Single places, for copies of AUs that lie on these disks: on none of them, nor in the failure domain of one. Otherwise (none is
    /// named) places with as many copies as the volume should have, or fewer where not as many disks are usable.
    apart: Vec<DiskNo>,
});
message!(/// What the reserve gets.
    Granted {
    /// In runs that lie side by side where that can be.
    places: Vec<Places>,
});
message!(/// Folds appends of the journal into the catalog, in order, each once. They are durable already.
    Fold {
    /// Which.
    volume: VolumeId,
    /// Of the attachment.
    token: FenceToken,
    /// Number of the append before the first of these. A gap is refused.
    prev: Seq,
    /// Consecutive. Their weights are `FOLD_WEIGHT` at most together, unless there is one only.
    appends: Vec<Append>,
});
message!(/// Folded.
    Folded {
    /// Up to and with this number.
    seq: Seq,
});
message!(/// A copy of the journal failed: closes it at its last number that counts, which is folded already, and asks for a fresh
    /// one. Asked twice, it is done once.
    NewJournal {
    /// Which.
    volume: VolumeId,
    /// Of the attachment.
    token: FenceToken,
    /// The journal that failed.
    failed: u32,
    /// Nothing above this number counts in it.
    closing: Seq,
    /// Disks that failed: the fresh one is not to lie there, where others have room.
    avoid: Vec<DiskNo>,
});
message!(/// The fresh journal.
    JournalGranted {
    /// Where it lies.
    journal: Journal,
});

// ---- snapshots ----

message!(/// Takes a snapshot. `id` is chosen by the asker: asked twice, it is taken once.
    CreateSnapshot {
    /// Of which volume.
    volume: VolumeId,
    /// Its identity.
    id: SnapshotId,
    /// Its name.
    name: String,
});
message!(/// The snapshot is durable.
    SnapshotTaken {
    /// It.
    snapshot: SnapshotInfo,
    /// How long writes were held, microseconds; 0 where nobody had the volume attached.
    held_us: u64,
});
message!(/// Removes a snapshot that nobody reads.
    RemoveSnapshot {
    /// Which.
    snapshot: SnapshotId,
});
message!(/// Opens a snapshot for reading; it cannot be removed until closed or the session is over.
    OpenSnapshot {
    /// Which.
    snapshot: SnapshotId,
});
message!(/// What a reader needs beside the map.
    SnapshotOpened {
    /// Its volume.
    volume: VolumeId,
    /// The snapshot.
    info: SnapshotInfo,
    /// Preserve segments that may hold blocks of it, in order of their number. The last one's successors are named on disk.
    segments: Vec<Segment>,
    /// Disks whose legs of this volume miss writes.
    out: Vec<DiskNo>,
});
message!(/// A part of the snapshot's frozen map, for who has the snapshot open.
    GetSnapshotMap {
    /// Of which.
    snapshot: SnapshotId,
    /// From which AU on.
    from: VolAu,
});
message!(/// The reader has drained and closed it.
    CloseSnapshot {
    /// Which.
    snapshot: SnapshotId,
});

// ---- paths ----

message!(/// The session has written this nonce into its slot on a disk, by the path that it wants to use: is it there?
    CheckPath {
    /// Which disk.
    disk: DiskNo,
    /// Random.
    nonce: u64,
});
message!(/// The manager has read it there, over its own path.
    PathChecked {});

message!(/// Which lives the manager's paths to the disks have now: a flush by one of them covers what a client wrote after it had heard of that life
    /// (PROTOCOL.md, P1).
    AskLives {});
message!(/// Those of its disks.
    Lives {
    /// Whose: a life is told from others by this and its number.
    generation: Generation,
    /// Each disk's.
    lives: Vec<(DiskNo, Life)>,
});

replies! { RecoveryOrders, PathChecked, Welcome, Renewed, Done, Volumes, Attached, MapPart, Granted, Folded, JournalGranted, SnapshotTaken, SnapshotOpened, LockState, LocksTaken, Lives, }

requests! {
    Hello(Need::Client, |_m| Object::None) -> Welcome, sample |_, _| Hello {
        protocol: PROTOCOL, session: SessionId([7; 16]), boot: BootId([7; 16]), host: "host".into(), program: "sample".into(), resume: false };
    Renew(Need::Session, |_m| Object::None) -> Renewed, sample |_, _| Renew {};
    Goodbye(Need::Session, |_m| Object::None) -> Done, sample |_, _| Goodbye {};
    ListVolumes(Need::Session, |_m| Object::None) -> Volumes, sample |_, _| ListVolumes {};
    AttachWrite(Need::On(Right::Write), |m| Object::Volume(m.volume)) -> Attached, sample |volume, _| AttachWrite { volume };
    AttachRead(Need::On(Right::Read), |m| Object::Volume(m.volume)) -> Attached, sample |volume, _| AttachRead { volume };
    Detach(Need::On(Right::Read), |m| Object::Volume(m.volume)) -> Done, sample |volume, _| Detach { volume };
    GetMap(Need::On(Right::Read), |m| Object::Volume(m.volume)) -> MapPart, sample |volume, _| GetMap { volume, from: VolAu(0) };
    GetNeed(Need::On(Right::Write), |m| Object::Volume(m.volume)) -> MapPart, sample |volume, _| GetNeed { volume, from: VolAu(0) };
    Grant(Need::On(Right::Write), |m| Object::Volume(m.volume)) -> Granted, sample |volume, _| Grant {
        volume, token: FenceToken(1), no: 1, want: 1, back: vec![], apart: vec![] };
    Fold(Need::On(Right::Write), |m| Object::Volume(m.volume)) -> Folded, sample |volume, _| Fold {
        volume, token: FenceToken(1), prev: Seq(0), appends: vec![] };
    NewJournal(Need::On(Right::Write), |m| Object::Volume(m.volume)) -> JournalGranted, sample |volume, _| NewJournal {
        volume, token: FenceToken(1), failed: 1, closing: Seq(0), avoid: vec![] };
    CreateSnapshot(Need::On(Right::Snapshot), |m| Object::Volume(m.volume)) -> SnapshotTaken, sample |volume, _| CreateSnapshot {
        volume, id: SnapshotId([9; 16]), name: "sample".into() };
    RemoveSnapshot(Need::On(Right::Snapshot), |m| Object::Snapshot(m.snapshot)) -> Done, sample |_, snapshot| RemoveSnapshot { snapshot };
    OpenSnapshot(Need::On(Right::Backup), |m| Object::Snapshot(m.snapshot)) -> SnapshotOpened, sample |_, snapshot| OpenSnapshot { snapshot };
    GetSnapshotMap(Need::On(Right::Backup), |m| Object::Snapshot(m.snapshot)) -> MapPart, sample |_, snapshot| GetSnapshotMap {
        snapshot, from: VolAu(0) };
    CheckPath(Need::Session, |_m| Object::None) -> PathChecked, sample |_, _| CheckPath { disk: DiskNo(0), nonce: 1 };
    CloseSnapshot(Need::On(Right::Backup), |m| Object::Snapshot(m.snapshot)) -> Done, sample |_, snapshot| CloseSnapshot { snapshot };
    SetLock(Need::On(Right::Read), |m| Object::Volume(m.volume)) -> LockState, sample |volume, _| SetLock {
        volume, owner: 1, span: Span::ALL, kind: Some(LockKind::Read), pid: 1, wait: false };
    GetLock(Need::On(Right::Read), |m| Object::Volume(m.volume)) -> LockState, sample |volume, _| GetLock {
        volume, owner: 1, span: Span::ALL, kind: LockKind::Read };
    RetakeLocks(Need::Session, |_m| Object::None) -> LocksTaken, sample |_, _| RetakeLocks { locks: vec![] };
    LegOut(Need::On(Right::Read), |m| Object::Volume(m.volume)) -> Done, sample |volume, _| LegOut {
        volume, token: FenceToken(1), disk: DiskNo(0), dirty: vec![], why: "sample".into() };
    Recovery(Need::On(Right::Write), |m| Object::Volume(m.volume)) -> RecoveryOrders, sample |volume, _| Recovery {
        volume, token: FenceToken(1), says: String::new() };
    AskLives(Need::Session, |_m| Object::None) -> Lives, sample |_, _| AskLives {};
}

// ---- pushes ----

message!(/// A disk joins the pool once all who live have answered that they know it.
    NewDisk {
    /// Which.
    disk: DiskInfo,
});
message!(/// Hold the writes of a volume for a snapshot: drain, flush, append everything and the flip, answer `Held`.
    /// From the answer on the writer goes on only in `epoch`, preserving; released or not (PROTOCOL.md, H1).
    Hold {
    /// Of which volume.
    volume: VolumeId,
    /// Of the attachment.
    token: FenceToken,
    /// The snapshot to be.
    snapshot: SnapshotId,
    /// The epoch that begins.
    epoch: VolumeEpoch,
    /// How long writes may be held, counted from the arrival of this push.
    deadline_ms: u32,
});
message!(/// The hold is over: the snapshot was taken, or dropped.
    Release {
    /// Of which volume.
    volume: VolumeId,
    /// Which snapshot.
    snapshot: SnapshotId,
    /// Taken or dropped.
    taken: bool,
});
message!(/// The map changed under a reader: answered when no read under the old map is in flight.
    MapChanged {
    /// Of which volume.
    volume: VolumeId,
    /// From now on.
    version: MapVersion,
    /// Replaced entries.
    runs: Vec<MapRun>,
    /// AUs that left the map.
    unmapped: Vec<VolAu>,
});
message!(/// A writer begins a preserve log: a reader answers once it will look there too.
    SegmentAdded {
    /// The snapshot that is read.
    snapshot: SnapshotId,
    /// The log's first segment.
    segment: Segment,
});
message!(/// Give the volume back: drain, report, answer; the attachment is over then.
    Recall {
    /// Which volume.
    volume: VolumeId,
    /// For people.
    reason: String,
});
message!(/// The list of granted volumes or snapshots has changed: ask again.
    VolumesChanged {});

/// Any push. Each is acknowledged once, by [`Ack`].
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
#[allow(missing_docs)]
pub enum Push {
    Hold(Hold),
    Release(Release),
    MapChanged(MapChanged),
    SegmentAdded(SegmentAdded),
    Recall(Recall),
    VolumesChanged(VolumesChanged),
    LocksFreed(LocksFreed),
    LegFailed(LegFailed),
    NewDisk(NewDisk),
    MoveSlot(MoveSlot),
}

/// Answer to a push.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum Ack {
    /// Done as asked.
    Done,
    /// To `Hold`: drained and flipped. The snapshot is taken by the fold of the append that has the flip.
    Held {
        /// Number of that append.
        seq: Seq,
        /// How long writes were held, microseconds.
        held_us: u64,
    },
    /// Not done; a hold is dropped then.
    Failed(WireError),
}

/// What a client sends.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum FromClient {
    /// Answered by a `Reply` with the same id.
    Request {
        /// Of this connection; ascending.
        id: u64,
        /// What is asked.
        request: Request,
    },
    /// Answers a push.
    Ack {
        /// The push.
        push: u64,
        /// The answer.
        ack: Ack,
    },
}

/// What a manager sends.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum FromManager {
    /// Answers a request.
    Reply {
        /// The request.
        id: u64,
        /// The answer.
        result: Result<Reply, WireError>,
    },
    /// Acknowledged by an `Ack` with the same number.
    Push {
        /// Of this session; ascending. One that was not acknowledged is sent again on the next connection.
        push: u64,
        /// What is said.
        body: Push,
    },
}
