//! What administrators are shown, as JSON.

use crate::catalog::record::{Fencing, Mode};
use fusevol_shared::change::WhenFull;
use fusevol_shared::ids::{ClientId, DiskId, FenceToken, Generation, PoolId, Seq, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::rights::Rights;
use serde::{Deserialize, Serialize};

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
    /// Granted to writers, not bound yet as far as is folded.
    pub reserve: u64,
    /// In the writers' journals.
    pub journals: u64,
    /// What lost sessions could still write, and have no right to any more.
    pub quarantine: u64,
    /// In maps, live and snapshots. With those above it makes up `total`.
    pub mapped: u64,
    /// Sum of the volumes' sizes.
    pub promised: u64,
    /// Of what is free, kept from volumes, for snapshots.
    pub kept: u64,
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
    /// What must be before a lost client is succeeded.
    pub fencing: Fencing,
    /// Hosts are cut off by persistent reservations.
    pub reservations: bool,
    /// How long legs may be out before their copies are made elsewhere, milliseconds.
    pub rebuild_after_ms: u64,
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
    /// It holds copies only in place of those that are given up.
    pub spare: bool,
    /// What fails together has one name.
    pub domain: Option<Name>,
    /// Given up by an administrator.
    pub failed: bool,
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
    /// Bytes of its reserve.
    pub reserve: u64,
    /// Where its journal lies: the halves of each copy, as `disk:au`.
    pub journal: Vec<String>,
    /// Last append that is folded.
    pub folded: Seq,
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
    /// Copies that each AU should have.
    pub legs: u8,
    /// Disks whose copies miss writes.
    pub out: Vec<DiskNo>,
    /// AUs that lack copies, as counted last.
    pub lacking: u64,
    /// When it was made.
    pub created: u64,
    /// Who has it.
    pub attached: Vec<AttachmentView>,
    /// Oldest first.
    pub snapshots: Vec<SnapshotView>,
    /// Bytes in its preserve segments.
    pub preserve: u64,
    /// What its writer does when there is no space to preserve into.
    pub when_full: WhenFull,
    /// What the asker should know: rounded, more than the pool holds.
    pub notes: Vec<String>,
}

/// How a job is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It cannot go on now.
    Waiting,
    /// Copies are made.
    Running,
    /// By an administrator.
    Paused,
}

/// The recovery of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JobView {
    /// Volume's name.
    pub volume: Name,
    /// The volume.
    pub id: VolumeId,
    /// How it is.
    pub state: JobState,
    /// Why it waits; empty where it does not.
    pub why: String,
    /// Who copies.
    pub by: String,
    /// AUs that lack copies.
    pub todo: u64,
    /// AUs of the volume and its snapshots.
    pub total: u64,
    /// Of those that lack copies, AUs that only snapshots have: they are copied when nobody writes the volume.
    pub frozen: u64,
    /// Bytes a second.
    pub rate: u64,
    /// Seconds that are left, at that rate.
    pub eta: Option<u64>,
    /// Bytes a second at most; 0: no limit.
    pub limit: u64,
    /// AUs of which no copy can be read.
    pub holes: u64,
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
    /// Its slot is sealed: it is never taken up again; not proven drained.
    Sealed,
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
