//! The administrator's verbs on pool, disks, volumes and snapshots; the others are in `admin_access`.

use super::admin_api::Level;
use super::attach::AUS_PER_PART;
use super::view::{new_name, snapshot_view};
use super::{AdminId, AdminReply, AdminRequest, Asker, Core};
use crate::catalog::alloc::Wish;
use crate::catalog::record::{DiskEntry, Fencing, Record};
use fusevol_shared::change::WhenFull;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{DiskId, SnapshotId, VolumeId};
use fusevol_shared::map::COPIES_MAX;
use fusevol_shared::size;
use fusevol_shared::units::{AuNo, DiskNo, PAGE_U64, VolAu};

impl Core {
    /// Answers an administrator; nothing where the answer comes later.
    pub(super) fn admin(&mut self, from: AdminId, request: AdminRequest) -> Result<Option<AdminReply>> {
        let answer = match request {
            AdminRequest::PoolShow => self.pool_view().map(AdminReply::Pool),
            AdminRequest::PoolSet { fencing } => self.pool_set(fencing),
            AdminRequest::DiskAdd { id, aus, first_data, end_data, paths } => {
                return self.disk_add(from, id, aus, first_data, end_data, paths);
            }
            AdminRequest::DiskPaths { id, paths } => self.disk_paths(id, paths),
            AdminRequest::PoolReservations { on } => self.pool_reservations(on),
            AdminRequest::PoolRebuildAfter { ms } => self.pool_rebuild_after(ms),
            AdminRequest::DiskSet { disk, spare, domain } => self.disk_set(&disk, spare, domain.as_deref()),
            AdminRequest::DiskFail { disk, failed } => self.disk_fail(&disk, failed),
            AdminRequest::JobList => Ok(self.job_list()),
            AdminRequest::JobSet { volume, paused, limit } => self.job_set(&volume, paused, limit),
            AdminRequest::DiskList => Ok(AdminReply::Disks(self.disk_views())),
            AdminRequest::VolumeCreate { name, size } => self.volume_create(&name, size, 1),
            AdminRequest::VolumeCreateMirrored { name, size, copies } => self.volume_create(&name, size, copies),
            AdminRequest::VolumeList => Ok(AdminReply::Volumes(self.volume_views())),
            AdminRequest::VolumeSet { name, when_full } => self.volume_set(&name, when_full),
            AdminRequest::VolumeShow { name } => self.named_volume(&name).map(|v| AdminReply::Volume(self.volume_view(v))),
            AdminRequest::VolumeRemove { name } => self.volume_remove(&name),
            AdminRequest::VolumeMap { name, snapshot, from } => self.volume_map(&name, snapshot.as_deref(), from),
            AdminRequest::SnapshotCreate { volume, name } => return self.snapshot_create(&volume, &name, from),
            AdminRequest::SnapshotList { volume } => self.snapshot_list(volume.as_deref()),
            AdminRequest::SnapshotRemove { volume, name } => {
                let id = self.named_snapshot(&volume, &name)?.entry.id;
                self.remove_snapshot(id).map(|()| AdminReply::Done)
            }
            AdminRequest::ClientUnfence { name } => return self.client_unfence(&name, from).map(|()| None),
            AdminRequest::ClientConfirmDead { name } => return self.client_confirm_dead(&name, from).map(|()| None),
            AdminRequest::Status => self.status().map(AdminReply::Status),
            AdminRequest::Events { after, limit } => Ok(AdminReply::Events(self.notices.after(after, limit))),
            AdminRequest::AuthorityShow => {
                Ok(AdminReply::Authority { sealed: self.catalog.sealed().to_vec(), addresses: self.catalog.addresses().to_vec() })
            }
            AdminRequest::ListenSet { addresses } => {
                check_texts(&addresses)?;
                self.commit(Record::ListenSet { addresses }).map(|()| AdminReply::Done)
            }
            other => self.admin_access(other),
        };
        answer.map(Some)
    }

    fn pool_set(&mut self, fencing: Fencing) -> Result<AdminReply> {
        if self.catalog.fencing() != fencing {
            self.commit(Record::FencingSet { fencing })?;
        }
        self.pool_view().map(AdminReply::Pool)
    }

    fn pool_rebuild_after(&mut self, ms: u64) -> Result<AdminReply> {
        if self.catalog.rebuild_after() != Some(ms) {
            self.commit(Record::RebuildAfterSet { ms })?;
        }
        self.pool_view().map(AdminReply::Pool)
    }

    fn pool_reservations(&mut self, on: bool) -> Result<AdminReply> {
        if self.catalog.reserves() != on {
            let from = on.then(|| self.catalog.counters().session);
            self.commit(Record::ReservationsSet { from })?;
        }
        self.pool_view().map(AdminReply::Pool)
    }

    /// Answered when everybody knows the disk, or now where it has joined already.
    fn disk_add(
        &mut self,
        from: AdminId,
        id: DiskId,
        aus: u32,
        first_data: AuNo,
        end_data: AuNo,
        paths: Vec<String>,
    ) -> Result<Option<AdminReply>> {
        check_texts(&paths)?;
        if let Some(d) = self.catalog.disks().find(|d| d.entry.id == id) {
            return Ok(Some(AdminReply::Disk(self.disk_view(d))));
        }
        let count = self.catalog.disks().count();
        let no = u16::try_from(count).ok().filter(|_| count < self.config.limits.disks);
        let no = DiskNo(no.ok_or_else(|| Error::new(Kind::Refused, "the pool has as many disks as it can"))?);
        if first_data >= end_data || end_data.0 > aus {
            return Err(Error::new(Kind::Refused, "the disk has no room for data").hint("use a larger disk"));
        }
        self.join_begins(from, DiskEntry { no, id, aus, first_data, end_data, paths })?;
        Ok(None)
    }

    fn disk_paths(&mut self, id: DiskId, paths: Vec<String>) -> Result<AdminReply> {
        check_texts(&paths)?;
        let missing = || Error::new(Kind::NotFound, "no such disk in the pool");
        let disk = self.catalog.disks().find(|d| d.entry.id == id).map(|d| d.entry.clone()).ok_or_else(missing)?;
        if disk.paths != paths {
            self.commit(Record::DiskPaths { disk: disk.no, paths })?;
        }
        let d = self.catalog.disk(disk.no).ok_or_else(missing)?;
        Ok(AdminReply::Disk(self.disk_view(d)))
    }

    fn volume_create(&mut self, name: &str, asked: u64, copies: u8) -> Result<AdminReply> {
        let name = new_name(name)?;
        if self.catalog.volume_named(name.as_str()).is_some() {
            return Err(Error::new(Kind::Exists, format!("a volume is named '{name}' already")).hint("choose another name"));
        }
        self.check_room_in_catalog()?;
        if self.catalog.volumes().count() >= self.config.limits.volumes {
            return Err(Error::new(Kind::Refused, "the pool has as many volumes as it can"));
        }
        if asked == 0 {
            return Err(Error::new(Kind::Refused, "a volume of size 0 holds nothing").hint("give a size, as --size 20G"));
        }
        let au = self.catalog.au_size();
        let most = au.bytes() * u64::from(u32::MAX);
        let most = most.min(i64::MAX.unsigned_abs() / PAGE_U64 * PAGE_U64);
        let size = asked.checked_next_multiple_of(PAGE_U64).filter(|s| *s <= most).ok_or_else(|| {
            Error::new(Kind::Refused, format!("a volume of {} is more than can be", size::show(asked))).hint(format!(
                "with AUs of {} a volume holds at most {}",
                size::show(au.bytes()),
                size::show(most)
            ))
        })?;
        if !(1..=COPIES_MAX).contains(&usize::from(copies)) {
            return Err(Error::new(Kind::Refused, format!("a volume has 1 to {COPIES_MAX} copies, not {copies}")));
        }
        let id = VolumeId::from_random(self.random.id());
        self.commit(Record::VolumeCreated { id, name: name.clone(), size, legs: copies, created: self.now.seconds() })?;
        self.tell(Level::Ok, "volume-created", format!("volume '{name}' of {} was created", size::show(size)));
        let v = self.named_volume(name.as_str())?;
        let mut view = self.volume_view(v);
        if size != asked {
            view.notes.push(format!("the size was rounded up from {asked} to {size} bytes, a multiple of 4 KiB"));
        }
        let now = Wish::of(copies, &[]).legs_now(&self.catalog);
        if now < copies {
            view.notes
                .push(format!("the pool has room for {now} of {copies} copies on different disks; the rest is made when disks are added"));
        }
        let (total, promised) = (self.bytes(self.catalog.total_aus()), self.space_view().promised);
        if promised > total {
            view.notes.push(format!(
                "volumes promise {} in all, the pool holds {}: writes fail when it is full",
                size::show(promised),
                size::show(total)
            ));
        }
        Ok(AdminReply::Volume(view))
    }

    fn volume_set(&mut self, name: &str, when_full: WhenFull) -> Result<AdminReply> {
        let v = self.named_volume(name)?;
        let (volume, former) = (v.entry.id, v.entry.when_full);
        if former != when_full {
            self.commit(Record::WhenFullSet { volume, when_full })?;
        }
        let mut view = self.volume_view(self.named_volume(name)?);
        if former != when_full && self.catalog.writer(volume).is_some() {
            view.notes.push("the writer that has the volume attached now goes by the former setting until it attaches again".to_owned());
        }
        Ok(AdminReply::Volume(view))
    }

    fn volume_remove(&mut self, name: &str) -> Result<AdminReply> {
        let v = self.named_volume(name)?;
        let (id, name) = (v.entry.id, v.entry.name.clone());
        if let Some(a) = self.catalog.attached(id).next() {
            let (s, now) = (a.session, self.now.boot);
            if let Some(l) = self.lives.get_mut(&s).filter(|l| l.may_be_dead()) {
                l.probe_now(now);
                l.wanted = true;
            }
            let e = Error::new(Kind::Busy, format!("volume '{name}' is attached by {}", self.who(s)));
            return Err(e.hint("unmount it there first"));
        }
        if self.is_copied(id) {
            let e = Error::new(Kind::Busy, format!("volume '{name}' is being copied"));
            return Err(e.hint("try again in a moment"));
        }
        let snapshots = self.catalog.snapshots_of(id).len();
        if snapshots > 0 {
            let e = Error::new(Kind::Busy, format!("volume '{name}' has {snapshots} snapshots"));
            return Err(e.hint(format!("`fusevol-mgr snapshot ls {name}` lists them; remove them first")));
        }
        self.list_changed(id);
        self.commit(Record::VolumeRemoved { id })?;
        self.locks_of_volume_gone(id);
        self.tell(Level::Ok, "volume-removed", format!("volume '{name}' was removed"));
        Ok(AdminReply::Done)
    }

    fn volume_map(&self, name: &str, snapshot: Option<&str>, from: VolAu) -> Result<AdminReply> {
        let map = match snapshot {
            Some(s) => &self.named_snapshot(name, s)?.map,
            None => &self.named_volume(name)?.map,
        };
        let (runs, next) = map.runs(from, AUS_PER_PART);
        Ok(AdminReply::Map { runs, next })
    }

    fn snapshot_create(&mut self, volume: &str, name: &str, from: AdminId) -> Result<Option<AdminReply>> {
        let volume = self.named_volume(volume)?.entry.id;
        let id = SnapshotId::from_random(self.random.id());
        if self.create_snapshot(volume, id, name, Asker::Admin(from))?.is_none() {
            return Ok(None);
        }
        let s = self.catalog.snapshot(id).ok_or_else(super::rights::no_snapshot)?;
        Ok(Some(AdminReply::Snapshot(snapshot_view(self, s))))
    }

    fn snapshot_list(&self, volume: Option<&str>) -> Result<AdminReply> {
        let volumes = match volume {
            Some(name) => vec![self.volume_view(self.named_volume(name)?)],
            None => self.volume_views(),
        };
        Ok(AdminReply::Snapshots(volumes.into_iter().flat_map(|v| v.snapshots).collect()))
    }
}

fn check_texts(texts: &[String]) -> Result<()> {
    if texts.len() <= 64 && texts.iter().all(|t| t.len() <= 4096) {
        Ok(())
    } else {
        Err(Error::new(Kind::Refused, "the list of paths or addresses is too long"))
    }
}
