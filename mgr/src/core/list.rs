//! What a client sees of the pool: the volumes on which it has any right.

use super::Core;
use crate::catalog::{Snapshot, Volume};
use fusevol_shared::ids::{ClientId, VolumeId};
use fusevol_shared::wire::messages::{Reply, SnapshotInfo, VolumeInfo, Volumes};

impl Core {
    pub(super) fn list_volumes(&self, client: ClientId) -> Reply {
        let mut volumes: Vec<VolumeInfo> = self
            .catalog
            .volumes()
            .filter(|v| !self.catalog.rights(v.entry.id, client).is_empty())
            .map(|v| self.volume_info(v, client))
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Reply::Volumes(Volumes { volumes })
    }

    fn volume_info(&self, v: &Volume, client: ClientId) -> VolumeInfo {
        let writer = self.catalog.writer(v.entry.id).and_then(|a| self.catalog.session(a.session));
        VolumeInfo {
            id: v.entry.id,
            name: v.entry.name.to_string(),
            size: v.entry.size,
            written: self.written(v.map.written_blocks()),
            rights: self.catalog.rights(v.entry.id, client),
            writer: writer.and_then(|s| self.catalog.client(s.client)).map_or_else(String::new, |c| c.name.to_string()),
            snapshots: self.snapshot_infos(v.entry.id),
        }
    }

    /// A volume's snapshots, oldest first.
    pub(super) fn snapshot_infos(&self, volume: VolumeId) -> Vec<SnapshotInfo> {
        self.catalog.snapshots_of(volume).into_iter().map(|s| self.snapshot_info(s)).collect()
    }

    pub(super) fn snapshot_info(&self, s: &Snapshot) -> SnapshotInfo {
        SnapshotInfo {
            id: s.entry.id,
            name: s.entry.name.to_string(),
            epoch: s.entry.epoch,
            size: s.entry.size,
            written: self.written(s.map.written_blocks()),
            created: s.entry.created,
            broken: s.entry.broken,
        }
    }

    /// Blocks in bytes.
    pub(super) fn written(&self, blocks: u64) -> u64 {
        blocks * self.catalog.au_size().block_bytes()
    }

    /// The lists of those who may see this volume have changed.
    pub(super) fn list_changed(&mut self, volume: VolumeId) {
        let clients: Vec<ClientId> = self.catalog.access().filter(|(v, _, _)| *v == volume).map(|(_, c, _)| c).collect();
        for c in clients {
            self.list_of_changed(c);
        }
    }

    /// The list of this client has changed.
    pub(super) fn list_of_changed(&mut self, client: ClientId) {
        for s in self.catalog.sessions().filter(|s| s.client == client) {
            if let Some(l) = self.lives.get_mut(&s.no) {
                l.volumes_changed = true;
            }
        }
    }
}
