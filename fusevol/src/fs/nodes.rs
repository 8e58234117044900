//! Inode numbers: which number names which object, for as long as the kernel may ask by it.
//!
//! An object (volume, snapshot) keeps its number while it is listed or while the kernel still holds lookups of it; a
//! number is never given to another object in the life of a mount. So a stale number is `ENOENT`, never another volume.
//!
//! Invariant: `number` and `object` are inverse to each other.

use fusevol_shared::ids::{SnapshotId, VolumeId};
use std::collections::HashMap;
use std::sync::Mutex;

/// The folder of the mount itself.
pub const ROOT: u64 = 1;
/// The folder of snapshots.
pub const SNAPSHOTS: u64 = 2;
const FIRST: u64 = 16;

/// What an inode number names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Node {
    /// The folder of the mount itself.
    Root,
    /// `.snapshots`.
    Snapshots,
    /// A live volume.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

#[derive(Debug)]
struct Entry {
    node: Node,
    lookups: u64,
    listed: bool,
}

#[derive(Debug, Default)]
struct Table {
    object: HashMap<u64, Entry>,
    number: HashMap<Node, u64>,
    given: u64,
}

/// All numbers of a mount.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<Table>);

impl Nodes {
    /// What `ino` names; `None` where it names nothing (any more).
    #[must_use]
    pub fn node(&self, ino: u64) -> Option<Node> {
        match ino {
            ROOT => Some(Node::Root),
            SNAPSHOTS => Some(Node::Snapshots),
            _ => self.table().object.get(&ino).map(|e| e.node),
        }
    }

    /// The number of `node`, which gets one if it has none. For listings, which count no lookup.
    pub fn number(&self, node: Node) -> u64 {
        self.table().number(node)
    }

    /// The number of `node`, if the kernel can know it.
    #[must_use]
    pub fn known(&self, node: Node) -> Option<u64> {
        self.table().number.get(&node).copied()
    }

    /// The numbers of all files that the kernel can know.
    #[must_use]
    pub fn files(&self) -> Vec<u64> {
        self.table().object.keys().copied().collect()
    }

    /// The number of `node`, with one more lookup by the kernel counted on it.
    pub fn looked_up(&self, node: Node) -> u64 {
        let mut t = self.table();
        let ino = t.number(node);
        if let Some(e) = t.object.get_mut(&ino) {
            e.lookups += 1;
        }
        ino
    }

    /// The kernel has dropped `n` lookups.
    pub fn forget(&self, ino: u64, n: u64) {
        let mut t = self.table();
        if let Some(e) = t.object.get_mut(&ino) {
            e.lookups = e.lookups.saturating_sub(n);
            if e.lookups == 0 && !e.listed {
                t.remove(ino);
            }
        }
    }

    /// These objects exist now, and no others: numbers that nobody can ask by any more are dropped.
    pub fn listed(&self, now: impl Iterator<Item = Node>) {
        let mut t = self.table();
        t.object.values_mut().for_each(|e| e.listed = false);
        for node in now {
            let ino = t.number(node);
            if let Some(e) = t.object.get_mut(&ino) {
                e.listed = true;
            }
        }
        let gone: Vec<u64> = t.object.iter().filter(|(_, e)| !e.listed && e.lookups == 0).map(|(i, _)| *i).collect();
        gone.into_iter().for_each(|ino| t.remove(ino));
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Table {
    fn number(&mut self, node: Node) -> u64 {
        match node {
            Node::Root => return ROOT,
            Node::Snapshots => return SNAPSHOTS,
            Node::Volume(_) | Node::Snapshot(_) => {}
        }
        if let Some(ino) = self.number.get(&node) {
            return *ino;
        }
        let ino = FIRST + self.given;
        self.given += 1;
        self.number.insert(node, ino);
        self.object.insert(ino, Entry { node, lookups: 0, listed: true });
        ino
    }

    fn remove(&mut self, ino: u64) {
        if let Some(e) = self.object.remove(&ino) {
            self.number.remove(&e.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vol(n: u8) -> Node {
        Node::Volume(VolumeId([n; 16]))
    }

    #[test]
    fn a_number_stays_and_is_never_given_again() {
        let nodes = Nodes::default();
        nodes.listed([vol(1), vol(2)].into_iter());
        let (a, b) = (nodes.looked_up(vol(1)), nodes.number(vol(2)));
        assert_ne!(a, b);
        assert_eq!((nodes.number(vol(1)), nodes.node(a)), (a, Some(vol(1))));
        nodes.listed([vol(3)].into_iter());
        assert_eq!(nodes.node(a), Some(vol(1)), "the kernel still knows it");
        assert_eq!(nodes.node(b), None, "nobody knows it");
        nodes.forget(a, 1);
        assert_eq!(nodes.node(a), None);
        nodes.listed([vol(1), vol(3)].into_iter());
        let again = nodes.number(vol(1));
        assert!(again != a && again != b);
        assert_eq!((nodes.known(vol(1)), nodes.known(vol(2)), nodes.files().len()), (Some(again), None, 2));
    }

    #[test]
    fn folders_have_fixed_numbers() {
        let nodes = Nodes::default();
        assert_eq!((nodes.looked_up(Node::Root), nodes.looked_up(Node::Snapshots)), (ROOT, SNAPSHOTS));
        assert_eq!((nodes.node(ROOT), nodes.node(SNAPSHOTS), nodes.node(3)), (Some(Node::Root), Some(Node::Snapshots), None));
        nodes.forget(ROOT, 7);
        assert_eq!(nodes.node(ROOT), Some(Node::Root));
    }

    #[test]
    fn a_forget_of_more_than_was_looked_up_is_harmless() {
        let nodes = Nodes::default();
        let a = nodes.looked_up(vol(1));
        nodes.forget(a, u64::MAX);
        assert_eq!(nodes.node(a), Some(vol(1)), "still listed");
        nodes.forget(9999, 1);
    }
}
