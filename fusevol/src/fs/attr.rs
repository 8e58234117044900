//! What `stat` says of each node.

use super::nodes::{Node, Nodes};
use crate::session::Session;
use crate::session::granted::List;
use fuser::{FileAttr, FileType, INodeNo};
use fusevol_shared::wire::messages::{SnapshotInfo, VolumeInfo};
use fusevol_shared::wire::rights::Right;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is the same for all nodes of a mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    /// Nanoseconds since 1970 UTC at which it was mounted.
    pub(super) mounted: u64,
    /// Owner of everything.
    pub(super) uid: u32,
    /// Group of everything.
    pub(super) gid: u32,
    /// Bytes in a block of a volume.
    pub(super) block: u32,
}

impl Base {
    fn attr(self, ino: u64, kind: FileType, perm: u16, size: u64, written: u64, changed: u64) -> FileAttr {
        let time = time(changed);
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: written.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: self.block,
            flags: 0,
        }
    }

    pub(super) fn folder(self, ino: u64) -> FileAttr {
        self.attr(ino, FileType::Directory, if ino == super::nodes::ROOT { 0o700 } else { 0o500 }, 0, 0, self.mounted)
    }

    /// A volume: what is attached here knows better than the list.
    pub(super) fn volume(self, session: &Session, ino: u64, info: &VolumeInfo) -> FileAttr {
        let perm = if info.rights.has(Right::Write) { 0o600 } else { 0o400 };
        let (mut size, mut written, mut changed) = (info.size, info.written, self.mounted);
        if let Ok(file) = session.volume(info.id) {
            changed = file.changed().unwrap_or(changed);
            if let Some(v) = file.attached().filter(|v| !v.is_closed()) {
                (size, written) = (v.size(), v.written_bytes());
            }
        }
        self.attr(ino, FileType::RegularFile, perm, size, written, changed)
    }

    pub(super) fn snapshot(self, ino: u64, info: &SnapshotInfo) -> FileAttr {
        self.attr(ino, FileType::RegularFile, 0o400, info.size, info.written, info.created.saturating_mul(1_000_000_000))
    }

    /// Of any node; `None` where its object is not there (any more).
    pub(super) fn of(self, session: &Session, list: &List, ino: u64, node: Node) -> Option<FileAttr> {
        match node {
            Node::Root | Node::Snapshots => Some(self.folder(ino)),
            Node::Volume(id) => list.volume(id).map(|v| self.volume(session, ino, v)),
            Node::Snapshot(id) => list.snapshot(id).map(|(_, s)| self.snapshot(ino, s)),
        }
    }
}

fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// What a mount shows of all that the client may see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shows {
    /// Volumes and snapshots.
    All,
    /// Snapshots only.
    Snapshots,
    /// One volume only, by name.
    Volume(String),
}

impl Shows {
    pub(super) fn volume(&self, v: &VolumeInfo) -> bool {
        v.rights.has(Right::Read)
            && match self {
                Shows::All => true,
                Shows::Snapshots => false,
                Shows::Volume(name) => *name == v.name,
            }
    }

    pub(super) fn snapshots_of(&self, v: &VolumeInfo) -> bool {
        v.rights.has(Right::Backup) && !matches!(self, Shows::Volume(_))
    }

    pub(super) fn folder(&self) -> bool {
        !matches!(self, Shows::Volume(_))
    }

    /// Everything that is shown, in the order of the list.
    pub(super) fn nodes(&self, list: &List) -> Vec<Node> {
        let volumes = list.volumes.iter().filter(|v| self.volume(v)).map(|v| Node::Volume(v.id));
        let snapshots = list.volumes.iter().filter(|v| self.snapshots_of(v)).flat_map(|v| v.snapshots.iter().map(|s| Node::Snapshot(s.id)));
        volumes.chain(snapshots).collect()
    }

    /// The entries of a folder: name and node, without `.` and `..`.
    pub(super) fn entries(&self, list: &List, folder: Node) -> Vec<(String, Node)> {
        match folder {
            Node::Root => {
                let volumes = list.volumes.iter().filter(|v| self.volume(v)).map(|v| (format!("{}.img", v.name), Node::Volume(v.id)));
                let folder = self.folder().then(|| (SNAPSHOTS_NAME.to_owned(), Node::Snapshots));
                folder.into_iter().chain(volumes).collect()
            }
            Node::Snapshots => {
                let of = |v: &VolumeInfo| {
                    let name = v.name.clone();
                    v.snapshots.iter().map(move |s| (format!("{name}@{}.img", s.name), Node::Snapshot(s.id))).collect::<Vec<_>>()
                };
                list.volumes.iter().filter(|v| self.snapshots_of(v)).flat_map(of).collect()
            }
            Node::Volume(_) | Node::Snapshot(_) => Vec::new(),
        }
    }

    /// The node of this name in a folder.
    pub(super) fn lookup(&self, list: &List, folder: Node, name: &str) -> Option<Node> {
        match folder {
            Node::Root if name == SNAPSHOTS_NAME => self.folder().then_some(Node::Snapshots),
            Node::Root => list.named(name.strip_suffix(".img")?).filter(|v| self.volume(v)).map(|v| Node::Volume(v.id)),
            Node::Snapshots => {
                let (volume, snapshot) = name.strip_suffix(".img")?.split_once('@')?;
                list.snapshot_named(volume, snapshot).filter(|(v, _)| self.snapshots_of(v)).map(|(_, s)| Node::Snapshot(s.id))
            }
            Node::Volume(_) | Node::Snapshot(_) => None,
        }
    }

    /// Tells the table of inode numbers what there is.
    pub(super) fn keep(&self, list: &List, nodes: &Nodes) {
        nodes.listed(self.nodes(list).into_iter());
    }
}

/// Name of the folder of snapshots.
pub(super) const SNAPSHOTS_NAME: &str = ".snapshots";
