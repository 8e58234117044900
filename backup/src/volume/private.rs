//! The real volumes: a private mount of the `fusevol` library, under this process's own session.

use super::{Image, OpenVolume, Snapshots};
use crate::format::damaged;
use crate::format::manifest::{SnapshotRef, VolumeRef};
use fusevol::private::{Kind as Shows, PrivateMount, VolumeInfo};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Name;
use fusevol_shared::wire::messages::SnapshotInfo;
use std::path::{Path, PathBuf};

/// Opens a private mount that holds snapshots only. `disks`: where to look for the pool's disks first.
///
/// # Errors
/// `Denied`, `Unreachable`, `NotFound` (a disk), of mounting.
pub fn open_snapshots(key: &Path, disks: &[String]) -> Result<Box<dyn Snapshots>> {
    Ok(Box::new(Reading(PrivateMount::open(key, disks, Shows::Snapshots)?)))
}

/// Opens a private mount of one volume, to be written.
///
/// # Errors
/// As [`open_snapshots`]; `NotFound` for the volume; `Busy` where it is attached for writing.
pub fn open_for_restore(key: &Path, disks: &[String], volume: &Name) -> Result<Box<dyn OpenVolume>> {
    let mount = PrivateMount::open(key, disks, Shows::Volume(volume.clone()))?;
    let info = info(&mount, volume)?;
    if !info.writer.is_empty() {
        let what = format!("volume '{volume}' is attached for writing by client '{}'", info.writer);
        return Err(Error::new(Kind::Busy, what).hint("a volume is restored while nobody has it attached"));
    }
    Ok(Box::new(Writing { mount, info }))
}

fn info(mount: &PrivateMount, volume: &Name) -> Result<VolumeInfo> {
    let missing = || Error::new(Kind::NotFound, format!("volume '{volume}': no such volume")).hint("see `fusevol ls`");
    mount.volumes()?.into_iter().find(|v| v.name == *volume).ok_or_else(missing)
}

struct Reading(PrivateMount);

impl Reading {
    fn image(&self, volume: &Name, snapshot: &SnapshotInfo) -> Result<Image> {
        let v = info(&self.0, volume)?;
        let name = Name::new(&snapshot.name).map_err(|e| damaged(e.to_string()))?;
        if snapshot.broken {
            let what = format!("snapshot '{volume}@{name}' is broken: it has lost blocks");
            return Err(Error::new(Kind::Damaged, what).hint("take a new one; a full pool breaks snapshots"));
        }
        Ok(Image {
            volume: VolumeRef { name: volume.to_string(), id: v.id },
            snapshot: SnapshotRef { name: name.to_string(), id: snapshot.id, epoch: snapshot.epoch.0, taken: snapshot.created },
            size: snapshot.size,
            block_size: u32::try_from(v.au_size.block_bytes()).map_err(|_| damaged("the pool's block size"))?,
            path: self.0.snapshot_path(volume, &name),
        })
    }
}

impl Snapshots for Reading {
    fn take(&self, volume: &Name, snapshot: &Name) -> Result<Image> {
        let taken = self.0.create_snapshot(volume, snapshot)?;
        self.image(volume, &taken)
    }

    fn find(&self, volume: &Name, snapshot: &Name) -> Result<Image> {
        let all = self.0.snapshots(volume)?;
        let missing = || {
            Error::new(Kind::NotFound, format!("snapshot '{volume}@{snapshot}': no such snapshot"))
                .hint(format!("without @{snapshot} a snapshot is taken for this backup"))
        };
        self.image(volume, all.iter().find(|s| s.name == snapshot.as_str()).ok_or_else(missing)?)
    }

    fn let_go(&self, volume: &Name, snapshot: &Name) -> Result<()> {
        match self.0.remove_snapshot(volume, snapshot) {
            // The kernel has not yet said that the file is closed: it is temporary, the end of the mount removes it.
            Err(e) if e.kind() == Kind::Busy => Ok(()),
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            other => other,
        }
    }

    fn end(self: Box<Self>) -> Result<()> {
        self.0.close()
    }
}

struct Writing {
    mount: PrivateMount,
    info: VolumeInfo,
}

impl OpenVolume for Writing {
    fn path(&self) -> PathBuf {
        self.mount.volume_path(&self.info.name)
    }

    fn size(&self) -> u64 {
        self.info.size
    }

    fn written(&self) -> u64 {
        self.info.written
    }

    fn end(self: Box<Self>) -> Result<()> {
        self.mount.close()
    }
}
