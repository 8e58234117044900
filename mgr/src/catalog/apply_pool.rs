//! Records of the pool, its disks, volumes, clients and access.

use super::record::{ClientEntry, DiskEntry, PoolEntry, VolumeEntry};
use super::space::Space;
use super::{Catalog, Disk, Volume, must, unfit};
use fusevol_shared::change::WhenFull;
use fusevol_shared::error::Result;
use fusevol_shared::ids::{ClientId, MapVersion, VolumeEpoch, VolumeId};
use fusevol_shared::map::{COPIES_MAX, VolumeMap};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuSize, DiskNo, SECTOR};
use fusevol_shared::wire::rights::Rights;
use std::collections::BTreeMap;

/// Most bytes of a sealed authority, of all its parts.
const SEALED_MAX: usize = 64 * 1024;
/// Most paths or addresses in a list, and most bytes of one.
const TEXTS_MAX: usize = 64;
const TEXT_MAX: usize = 4096;

pub(super) fn name_fits(name: &Name) -> Result<()> {
    must(Name::is_valid(name.as_str()), "a name is not one")
}

fn texts_fit(texts: &[String]) -> Result<()> {
    must(texts.len() <= TEXTS_MAX && texts.iter().all(|t| t.len() <= TEXT_MAX), "a list of paths or addresses is too long")
}

impl Catalog {
    pub(super) fn pool_created(&mut self, entry: &PoolEntry) -> Result<()> {
        must(self.pool.is_none(), "the pool begins twice")?;
        name_fits(&entry.name)?;
        must(AuSize::from_log2(entry.au_size.log2()).is_some(), "the AU size of the pool is none")?;
        must(entry.lease_ms > 0, "the pool has no lease")?;
        self.pool = Some(entry.clone());
        Ok(())
    }

    pub(super) fn authority_set(&mut self, sealed: &[u8]) -> Result<()> {
        must(sealed.len() <= SEALED_MAX, "the sealed authority is too long")?;
        self.sealed = sealed.to_vec();
        Ok(())
    }

    pub(super) fn listen_set(&mut self, addresses: &[String]) -> Result<()> {
        texts_fit(addresses)?;
        self.addresses = addresses.to_vec();
        Ok(())
    }

    pub(super) fn disk_added(&mut self, entry: &DiskEntry) -> Result<()> {
        let next = self.disks.last_key_value().map_or(Some(0), |(no, _)| no.0.checked_add(1));
        must(next == Some(entry.no.0), "a disk has a number that is not the next")?;
        must(self.disks.values().all(|d| d.entry.id != entry.id), "a disk joins twice")?;
        must(entry.first_data < entry.end_data && entry.end_data.0 <= entry.aus, "a disk's data range is none")?;
        texts_fit(&entry.paths)?;
        self.disks.insert(
            entry.no,
            Disk { entry: entry.clone(), space: Space::new(entry.first_data, entry.end_data), spare: false, domain: None, failed: false },
        );
        Ok(())
    }

    pub(super) fn disk_paths(&mut self, no: DiskNo, paths: &[String]) -> Result<()> {
        texts_fit(paths)?;
        let disk = self.disks.get_mut(&no).ok_or_else(|| unfit("paths of a disk that is not there"))?;
        disk.entry.paths = paths.to_vec();
        Ok(())
    }

    pub(super) fn disk_set(&mut self, no: DiskNo, spare: bool, domain: Option<&Name>) -> Result<()> {
        domain.map_or(Ok(()), name_fits)?;
        let disk = self.disks.get_mut(&no).ok_or_else(|| unfit("a setting of a disk that is not there"))?;
        (disk.spare, disk.domain) = (spare, domain.cloned());
        Ok(())
    }

    pub(super) fn disk_failed(&mut self, no: DiskNo, failed: bool) -> Result<()> {
        let disk = self.disks.get_mut(&no).ok_or_else(|| unfit("a disk fails that is not there"))?;
        must(disk.failed != failed, "a disk fails twice, or is well twice")?;
        disk.failed = failed;
        Ok(())
    }

    pub(super) fn job_set(&mut self, id: VolumeId, paused: bool, limit: u64) -> Result<()> {
        let v = self.volumes.get_mut(&id).ok_or_else(|| unfit("a setting of no volume"))?;
        (v.paused, v.limit) = (paused, limit);
        Ok(())
    }

    pub(super) fn volume_created(&mut self, id: VolumeId, name: &Name, size: u64, legs: u8, created: u64) -> Result<()> {
        let entry = VolumeEntry {
            id,
            name: name.clone(),
            size,
            legs,
            created,
            epoch: VolumeEpoch(1),
            version: MapVersion(1),
            next_segment: 1,
            pending: None,
            when_full: WhenFull::default(),
        };
        self.volume_loaded(&entry)
    }

    pub(super) fn volume_loaded(&mut self, entry: &VolumeEntry) -> Result<()> {
        name_fits(&entry.name)?;
        must(!self.volumes.contains_key(&entry.id), "a volume begins twice")?;
        must(self.volume_named(entry.name.as_str()).is_none(), "two volumes have one name")?;
        must(entry.size > 0 && entry.size.is_multiple_of(SECTOR as u64), "a volume's size is none")?;
        must(self.au_size().aus_for(entry.size).is_some(), "a volume has more AUs than can be")?;
        must((1..=COPIES_MAX).contains(&usize::from(entry.legs)), "a volume has no legs, or too many")?;
        must(entry.epoch.0 > 0 && entry.next_segment > 0, "a volume's counters are none")?;
        must(entry.pending.as_ref().is_none_or(|p| self.pending_of(p.id).is_none()), "a snapshot is taken twice")?;
        let (segments, changed, husks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (entry, map) = (entry.clone(), VolumeMap::default());
        self.volumes.insert(entry.id, Volume { entry, map, segments, changed, out: Vec::new(), husks, paused: false, limit: 0 });
        Ok(())
    }

    pub(super) fn when_full_set(&mut self, id: VolumeId, when_full: WhenFull) -> Result<()> {
        let volume = self.volumes.get_mut(&id).ok_or_else(|| unfit("a setting of no volume"))?;
        volume.entry.when_full = when_full;
        Ok(())
    }

    pub(super) fn volume_removed(&mut self, id: VolumeId) -> Result<()> {
        must(self.attached(id).next().is_none(), "a volume that is attached ends")?;
        must(self.snapshots_of(id).is_empty(), "a volume that has snapshots ends")?;
        let volume = self.volumes.remove(&id).ok_or_else(|| unfit("a volume that is not there ends"))?;
        self.release(Self::places(volume.map.iter().map(|(_, e)| e).collect::<Vec<_>>().iter()));
        self.release(volume.segments.values().flat_map(|s| s.legs.clone()));
        self.release(volume.husks.into_values().flatten());
        self.access.retain(|(v, _), _| *v != id);
        Ok(())
    }

    pub(super) fn client_added(&mut self, entry: &ClientEntry) -> Result<()> {
        name_fits(&entry.name)?;
        must(!self.clients.contains_key(&entry.id), "a client is added twice")?;
        must(self.client_named(entry.name.as_str()).is_none(), "two clients have one name")?;
        must(self.client_of(&entry.print).is_none(), "two clients have one key")?;
        self.clients.insert(entry.id, entry.clone());
        Ok(())
    }

    pub(super) fn client_revoked(&mut self, id: ClientId) -> Result<()> {
        let client = self.clients.get_mut(&id).filter(|c| !c.revoked).ok_or_else(|| unfit("a client that is not served is revoked"))?;
        client.revoked = true;
        Ok(())
    }

    pub(super) fn client_removed(&mut self, id: ClientId) -> Result<()> {
        must(self.sessions.values().all(|s| s.client != id), "a client that has sessions is removed")?;
        must(self.clients.remove(&id).is_some(), "a client that is not there is removed")?;
        self.access.retain(|(_, c), _| *c != id);
        Ok(())
    }

    pub(super) fn access_set(&mut self, volume: VolumeId, client: ClientId, rights: Rights) -> Result<()> {
        must(self.volumes.contains_key(&volume) && self.clients.contains_key(&client), "access of, or to, nothing")?;
        if rights.is_empty() {
            must(self.access.remove(&(volume, client)).is_some(), "access that is not there is taken away")
        } else {
            self.access.insert((volume, client), rights);
            Ok(())
        }
    }
}
