//! What an administrator asks of the core, and what it answers: JSON over the manager's own socket.
//!
//! Sizes are bytes, times seconds (`Notice`: nanoseconds) since 1970 UTC.

use crate::catalog::record::Mode;
use fusevol_shared::ids::{ClientId, DiskId, FenceToken, Generation, KeyPrint, PoolId, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::map::MapRun;
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuNo, AuSize, DiskNo, VolAu};
use fusevol_shared::wire::rights::Rights;
use serde::{Deserialize, Serialize};

/// A verb.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum AdminRequest {
    /// The pool and its space.
    PoolShow,
    /// A disk that is probed and labelled already joins. Asked twice for the same disk, it joins once.
    DiskAdd {
        /// As labelled.
        id: DiskId,
        /// Its size.
        aus: u32,
        /// First data AU of its layout.
        first_data: AuNo,
        /// One past the last data AU of its layout.
        end_data: AuNo,
        /// Where it was found.
        paths: Vec<String>,
    },
    /// A disk was found under these paths.
    DiskPaths {
        /// Which.
        id: DiskId,
        /// All of them.
        paths: Vec<String>,
    },
    /// The disks.
    DiskList,
    /// A new volume.
    VolumeCreate {
        /// Its name.
        name: String,
        /// Bytes.
        size: u64,
    },
    /// All volumes.
    VolumeList,
    /// One volume with its attachments and snapshots.
    VolumeShow {
        /// Its name.
        name: String,
    },
    /// Removes a volume that nobody holds and that has no snapshots.
    VolumeRemove {
        /// Its name.
        name: String,
    },
    /// A part of a map.
    VolumeMap {
        /// Volume's name.
        name: String,
        /// Of this snapshot instead of the live map.
        snapshot: Option<String>,
        /// From which AU on.
        from: VolAu,
    },
    /// Takes a snapshot; answered when it is durable.
    SnapshotCreate {
        /// Volume's name.
        volume: String,
        /// Its name.
        name: String,
    },
    /// Snapshots, of one volume or of all.
    SnapshotList {
        /// Volume's name.
        volume: Option<String>,
    },
    /// Removes a snapshot that nobody reads.
    SnapshotRemove {
        /// Volume's name.
        volume: String,
        /// Its name.
        name: String,
    },
    /// A new client; its key was made by the authority.
    ClientAdd {
        /// Its name.
        name: String,
        /// Its key.
        print: KeyPrint,
    },
    /// All clients with their sessions.
    ClientList,
    /// Forgets a client that has no session.
    ClientRemove {
        /// Its name.
        name: String,
    },
    /// Serves a client no more; what it holds is recalled.
    ClientRevoke {
        /// Its name.
        name: String,
    },
    /// The administrator's word that the client's lost sessions can write no more.
    ClientConfirmDead {
        /// Its name.
        name: String,
    },
    /// Adds rights.
    AccessGrant {
        /// Volume's name.
        volume: String,
        /// Client's name.
        client: String,
        /// Added to those that it has.
        rights: Rights,
    },
    /// Takes rights away; attachments that need them are recalled.
    AccessRevoke {
        /// Volume's name.
        volume: String,
        /// Client's name.
        client: String,
        /// Which; all where none is said.
        rights: Option<Rights>,
    },
    /// Access lists, of all or of one volume or client.
    AccessList {
        /// Volume's name.
        volume: Option<String>,
        /// Client's name.
        client: Option<String>,
    },
    /// The state of everything, with what to do.
    Status,
    /// What happened.
    Events {
        /// Those with a higher number.
        after: u64,
        /// At most so many, the newest.
        limit: u32,
    },
    /// The opaque sealed key of the authority and the addresses, for key files.
    AuthorityShow,
    /// Replaces the addresses that key files carry.
    ListenSet {
        /// All of them.
        addresses: Vec<String>,
    },
}

/// Its answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
pub enum AdminReply {
    /// Done, nothing more to say.
    Done,
    /// To `PoolShow`.
    Pool(PoolView),
    /// To `DiskAdd`, `DiskPaths`.
    Disk(DiskView),
    /// To `DiskList`, by number.
    Disks(Vec<DiskView>),
    /// To `VolumeCreate` (with notes), `VolumeShow`.
    Volume(VolumeView),
    /// To `VolumeList`, by name.
    Volumes(Vec<VolumeView>),
    /// To `VolumeMap`.
    Map {
        /// Ascending.
        runs: Vec<MapRun>,
        /// Where to go on.
        next: Option<VolAu>,
    },
    /// To `SnapshotCreate`.
    Snapshot(SnapshotView),
    /// To `SnapshotList`, by volume and age.
    Snapshots(Vec<SnapshotView>),
    /// To `ClientAdd`.
    Client(ClientView),
    /// To `ClientList`, by name.
    Clients(Vec<ClientView>),
    /// To `AccessList`, `AccessGrant`, `AccessRevoke`.
    Access(Vec<AccessView>),
    /// To `Status`.
    Status(StatusView),
    /// To `Events`, oldest first.
    Events(Vec<Notice>),
    /// To `AuthorityShow`.
    Authority {
        /// As it was handed over.
        sealed: Vec<u8>,
        /// Of managers.
        addresses: Vec<String>,
    },
}

/// Space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SpaceView {
    /// Data AUs.
    pub total: u64,
    /// Free.
    pub free: u64,
    /// Waiting to be free until every holder has answered.
    pub limbo: u64,
    /// In preserve segments.
    pub preserve: u64,
    /// In maps, live and snapshots.
    pub mapped: u64,
    /// Sum of the volumes' sizes.
    pub promised: u64,
    /// Kept from volumes, for snapshots.
    pub reserve: u64,
}

/// The pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolView {
    /// Identity.
    pub id: PoolId,
    /// Name.
    pub name: Name,
    /// Bytes.
    pub au_size: u64,
    /// The same, as the label has it.
    pub au: AuSize,
    /// Of this manager.
    pub generation: Generation,
    /// Milliseconds.
    pub lease_ms: u32,
    /// When it was made.
    pub created: u64,
    /// Of all disks.
    pub space: SpaceView,
    /// How many.
    pub disks: usize,
    /// How many.
    pub volumes: usize,
    /// How many.
    pub snapshots: usize,
    /// How many.
    pub clients: usize,
    /// How many.
    pub sessions: usize,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskView {
    /// Short number.
    pub no: DiskNo,
    /// As labelled.
    pub id: DiskId,
    /// AUs in all.
    pub aus: u32,
    /// Bytes in all.
    pub size: u64,
    /// Bytes that may hold data.
    pub data: u64,
    /// Bytes free.
    pub free: u64,
    /// Where it was seen.
    pub paths: Vec<String>,
}

/// An attachment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttachmentView {
    /// Client's name.
    pub client: Name,
    /// Its host.
    pub host: String,
    /// Its session.
    pub session: SessionNo,
    /// Its token.
    pub token: FenceToken,
    /// Writer or reader.
    pub mode: Mode,
    /// Of its session.
    pub state: SessionState,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeView {
    /// Identity.
    pub id: VolumeId,
    /// Name.
    pub name: Name,
    /// Bytes.
    pub size: u64,
    /// Bytes that have space.
    pub allocated: u64,
    /// Bytes in written blocks.
    pub written: u64,
    /// Current epoch.
    pub epoch: VolumeEpoch,
    /// Replicas.
    pub legs: u8,
    /// When it was made.
    pub created: u64,
    /// Who has it.
    pub attached: Vec<AttachmentView>,
    /// Oldest first.
    pub snapshots: Vec<SnapshotView>,
    /// Bytes in its preserve segments.
    pub preserve: u64,
    /// What the asker should know: rounded, more than the pool holds.
    pub notes: Vec<String>,
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Identity.
    pub id: SnapshotId,
    /// Its volume.
    pub volume: Name,
    /// Name.
    pub name: Name,
    /// The epoch that it closed.
    pub epoch: VolumeEpoch,
    /// Bytes.
    pub size: u64,
    /// Bytes in written blocks.
    pub written: u64,
    /// Bytes of AUs that it alone keeps.
    pub own: u64,
    /// When it was taken.
    pub created: u64,
    /// It has lost blocks.
    pub broken: bool,
    /// Sessions that have it open.
    pub open: Vec<SessionNo>,
    /// How long writes were held for it, microseconds; known to the manager that took it.
    pub held_us: Option<u64>,
}

/// How a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// Connected, lease valid.
    Live,
    /// Not connected, lease valid.
    Away,
    /// Lease over, not proven drained.
    Lapsed,
}

/// A session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionView {
    /// Number.
    pub no: SessionNo,
    /// Its host.
    pub host: String,
    /// Its program.
    pub program: String,
    /// When it was opened.
    pub opened: u64,
    /// How it is.
    pub state: SessionState,
    /// Volumes attached and snapshots open.
    pub holds: Vec<String>,
}

/// A client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientView {
    /// Identity.
    pub id: ClientId,
    /// Name.
    pub name: Name,
    /// Its key, hexadecimal.
    pub key: String,
    /// When it was added.
    pub created: u64,
    /// Served no more.
    pub revoked: bool,
    /// Its sessions.
    pub sessions: Vec<SessionView>,
}

/// One entry of an access list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccessView {
    /// Volume.
    pub volume: Name,
    /// Client.
    pub client: Name,
    /// Its rights.
    pub rights: Rights,
}

/// How bad something is; the order is that of monitoring plugins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Will be a problem.
    Warning,
    /// Is a problem.
    Critical,
}

/// One thing to know, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What.
    pub text: String,
    /// A line to copy; empty where nothing is to do.
    pub action: String,
}

/// The state of everything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// The worst of the findings.
    pub level: Level,
    /// The pool.
    pub pool: PoolView,
    /// Its disks.
    pub disks: Vec<DiskView>,
    /// Its volumes, by name.
    pub volumes: Vec<VolumeView>,
    /// Clients that have sessions.
    pub clients: Vec<ClientView>,
    /// The worst first.
    pub findings: Vec<Finding>,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// Ascending within one life of the manager.
    pub no: u64,
    /// Nanoseconds since 1970 UTC.
    pub wall: u64,
    /// How bad.
    pub level: Level,
    /// Kind, one word: `session-opened`.
    pub what: String,
    /// A sentence.
    pub text: String,
}
