//! The volumes and snapshots that this client may see, as the manager listed them last.
//!
//! The list is asked for at the start, when the manager says that it has changed, and when somebody looks who needs it
//! newer. Invariant: one asks at a time; who finds another asking takes the list that is there.

use crate::link::{Link, Phase};
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::name::Target;
use fusevol_shared::wire::messages::{ListVolumes, SnapshotInfo, VolumeInfo};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// How long a look at a folder waits for a newer list.
const PATIENCE: Duration = Duration::from_secs(1);

/// The volumes, at one time.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Sorted by name.
    pub volumes: Vec<VolumeInfo>,
    /// When it was asked for.
    pub at: BootTime,
}

/// The list and who renews it.
#[derive(Default)]
pub struct Granted {
    list: RwLock<Arc<List>>,
    asking: Mutex<()>,
}

impl List {
    /// By identity.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<&VolumeInfo> {
        self.volumes.iter().find(|v| v.id == id)
    }

    /// By name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&VolumeInfo> {
        self.volumes.iter().find(|v| v.name == name)
    }

    /// A snapshot and its volume, by identity.
    #[must_use]
    pub fn snapshot(&self, id: SnapshotId) -> Option<(&VolumeInfo, &SnapshotInfo)> {
        self.volumes.iter().find_map(|v| v.snapshots.iter().find(|s| s.id == id).map(|s| (v, s)))
    }

    /// A snapshot and its volume, by name.
    #[must_use]
    pub fn snapshot_named(&self, volume: &str, snapshot: &str) -> Option<(&VolumeInfo, &SnapshotInfo)> {
        let v = self.named(volume)?;
        v.snapshots.iter().find(|s| s.name == snapshot).map(|s| (v, s))
    }

    /// The volume that a user has named.
    ///
    /// # Errors
    /// `NotFound`: there is none, or none of this client's.
    pub fn volume_of(&self, target: &Target) -> Result<&VolumeInfo> {
        self.named(target.volume.as_str()).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no volume '{}' here", target.volume))
                .hint("fusevol ls shows the volumes granted to this client")
        })
    }

    /// The snapshot that a user has named.
    ///
    /// # Errors
    /// `NotFound`; `Refused` where none was named.
    pub fn snapshot_of(&self, target: &Target) -> Result<(&VolumeInfo, &SnapshotInfo)> {
        let volume = self.volume_of(target)?;
        let name = target.snapshot.as_ref().ok_or_else(|| Error::new(Kind::Refused, "no snapshot is named").hint("write VOL@SNAP"))?;
        let found = volume.snapshots.iter().find(|s| s.name == name.as_str());
        found.map(|s| (volume, s)).ok_or_else(|| Error::new(Kind::NotFound, format!("volume '{}' has no snapshot '{name}'", volume.name)))
    }
}

impl Granted {
    /// The list as it is.
    #[must_use]
    pub fn list(&self) -> Arc<List> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name of a volume, for people.
    #[must_use]
    pub fn name_of(&self, id: VolumeId) -> String {
        self.list().volume(id).map_or_else(|| id.to_string(), |v| v.name.clone())
    }

    /// Asks for the list. Not within `ring::block_on`.
    ///
    /// # Errors
    /// The manager's; `Unreachable`.
    pub fn refresh(&self, link: &Link) -> Result<()> {
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let at = SystemClock.now();
        let got = ring::block_on(link.call(ListVolumes {}, Some(super::ASK)))?;
        self.set(got.volumes, at);
        Ok(())
    }

    /// The same for the push thread, which lives within `ring::block_on`.
    pub(super) async fn renew(&self, link: &Link) -> Result<()> {
        let at = SystemClock.now();
        let got = link.call(ListVolumes {}, Some(super::ASK)).await?;
        self.set(got.volumes, at);
        Ok(())
    }

    /// The list, not older than `age` where the manager answers quickly.
    pub(super) fn within(&self, link: &Link, age: Duration) -> Arc<List> {
        let list = self.list();
        let now = SystemClock.now();
        if now.since(list.at) < age || !matches!(link.state().borrow().phase, Phase::Connected { .. }) {
            return list;
        }
        let Ok(_asking) = self.asking.try_lock() else { return list };
        match ring::block_on(link.call(ListVolumes {}, Some(PATIENCE))) {
            Ok(got) => self.set(got.volumes, now),
            Err(e) => tracing::debug!("the list of volumes could not be renewed: {e}"),
        }
        self.list()
    }

    fn set(&self, volumes: Vec<VolumeInfo>, at: BootTime) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if list.at <= at {
            *list = Arc::new(List { volumes, at });
        }
    }
}
