//! What an administrator asks of the core, and what it answers: JSON over the manager's own socket.
//!
//! Sizes are bytes, times seconds (`Notice`: nanoseconds) since 1970 UTC.

mod views;

pub use views::{
    AccessView, AttachmentView, ClientView, DiskView, Finding, JobState, JobView, Level, Notice, PoolView, SessionState, SessionView,
    SnapshotView, SpaceView, StatusView, VolumeView,
};

use crate::catalog::record::Fencing;
use fusevol_shared::change::WhenFull;
use fusevol_shared::ids::{DiskId, KeyPrint};
use fusevol_shared::map::MapRun;
use fusevol_shared::units::{AuNo, VolAu};
use fusevol_shared::wire::rights::Rights;
use serde::{Deserialize, Serialize};

/// A verb.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum AdminRequest {
    /// The pool and its space.
    PoolShow,
    /// A setting of the pool.
    PoolSet {
        /// What must be before a lost client is succeeded.
        fencing: Fencing,
    },
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
    /// A new volume with several copies of all that it holds.
    VolumeCreateMirrored {
        /// Its name.
        name: String,
        /// Bytes.
        size: u64,
        /// Copies of each AU, on different disks: 1 to 3.
        copies: u8,
    },
    /// All volumes.
    VolumeList,
    /// Settings of a volume.
    VolumeSet {
        /// Its name.
        name: String,
        /// What its writer does when there is no space to preserve into.
        when_full: WhenFull,
    },
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
    /// The administrator's word that the client's lost sessions can write no more; answered when they are ended.
    ClientConfirmDead {
        /// Its name.
        name: String,
    },
    /// Lets a client in again that was fenced; answered when its agents have done so.
    ClientUnfence {
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
    /// How long legs may be out before their copies are made elsewhere.
    PoolRebuildAfter {
        /// Milliseconds.
        ms: u64,
    },
    /// Whether hosts are cut off by persistent reservations of the disks: for sessions that are opened from then on.
    PoolReservations {
        /// They are.
        on: bool,
    },
    /// What a disk is there for; what is not said stays.
    DiskSet {
        /// Its number, identity or path.
        disk: String,
        /// It holds copies only in place of those that are given up.
        spare: Option<bool>,
        /// What fails together has one name; an empty one is none.
        domain: Option<String>,
    },
    /// The administrator's word that what a disk holds is lost, or that it is not.
    DiskFail {
        /// Its number, identity or path.
        disk: String,
        /// Lost.
        failed: bool,
    },
    /// The volumes that lack copies.
    JobList,
    /// Steers one; what is not said stays. Answered by the job, if it is there.
    JobSet {
        /// Volume's name.
        volume: String,
        /// Nothing is copied now.
        paused: Option<bool>,
        /// Bytes a second at most; 0: no limit.
        limit: Option<u64>,
    },
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
    /// To `PoolShow`, `PoolSet`.
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
    /// To `JobList`, by volume; to `JobSet`.
    Jobs(Vec<JobView>),
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
