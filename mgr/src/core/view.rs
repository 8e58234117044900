//! What administrators are shown.

use super::Core;
use super::admin_api::{AttachmentView, ClientView, DiskView, PoolView, SessionView, SnapshotView, SpaceView, VolumeView};
use crate::catalog::record::{ClientEntry, Mode, SessionEntry};
use crate::catalog::{Disk, Snapshot, Volume};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Name;

pub(super) fn snapshot_view(core: &Core, s: &Snapshot) -> SnapshotView {
    let catalog = &core.catalog;
    let live = catalog.volume(s.entry.volume);
    let others: Vec<_> = catalog.snapshots_of(s.entry.volume).into_iter().filter(|o| o.entry.id != s.entry.id).collect();
    let alone = s.map.iter().filter(|(au, e)| {
        let there = |m: &fusevol_shared::map::VolumeMap| m.get(*au).is_some_and(|x| x.name() == e.name());
        !live.is_some_and(|v| there(&v.map)) && !others.iter().any(|o| there(&o.map))
    });
    SnapshotView {
        id: s.entry.id,
        volume: live.map_or_else(|| s.entry.name.clone(), |v| v.entry.name.clone()),
        name: s.entry.name.clone(),
        epoch: s.entry.epoch,
        size: s.entry.size,
        written: core.written(s.map.written_blocks()),
        own: core.bytes(alone.map(|(_, e)| e.legs().len() as u64).sum()),
        created: s.entry.created,
        broken: s.entry.broken,
        open: catalog.readers(s.entry.id).collect(),
        held_us: core.held_us.get(&s.entry.id).copied(),
    }
}

impl Core {
    /// AUs in bytes.
    pub(super) fn bytes(&self, aus: u64) -> u64 {
        aus << self.catalog.au_size().log2()
    }

    pub(super) fn pool_view(&self) -> Result<PoolView> {
        let p = self.catalog.pool().ok_or_else(|| Error::new(Kind::Internal, "a manager without a pool"))?;
        Ok(PoolView {
            id: p.id,
            name: p.name.clone(),
            au_size: p.au_size.bytes(),
            au: p.au_size,
            generation: self.generation,
            lease_ms: p.lease_ms,
            fencing: self.catalog.fencing(),
            reservations: self.catalog.reserves(),
            rebuild_after_ms: u64::try_from(self.rebuild_after().as_millis()).unwrap_or(u64::MAX),
            created: p.created,
            space: self.space_view(),
            disks: self.catalog.disks().count(),
            volumes: self.catalog.volumes().count(),
            snapshots: self.catalog.snapshot_count(),
            clients: self.catalog.clients().count(),
            sessions: self.catalog.sessions().count(),
        })
    }

    pub(super) fn space_view(&self) -> SpaceView {
        let c = &self.catalog;
        let limbo: u64 = c.limbo().map(|l| l.places.len() as u64).sum();
        let preserve: u64 = c.volumes().flat_map(|v| v.segments.values()).map(|s| s.legs.len() as u64).sum::<u64>()
            + c.volumes().flat_map(|v| v.husks.values()).map(|h| h.len() as u64).sum::<u64>();
        let reserve: u64 = c.attachments().map(|a| a.reserve.places().count() as u64).sum();
        let journals: u64 = c.attachments().filter_map(|a| a.journal.as_ref()).map(|j| j.places().len() as u64).sum();
        let copying = c.copying().filter(|(_, x)| x.target.is_none()).count() as u64;
        let quarantine: u64 = c.quarantine().map(|q| q.places.len() as u64).sum::<u64>() + copying;
        let others = limbo + preserve + reserve + journals + quarantine + c.taken_aside();
        let (total, free) = (c.total_aus(), c.free_aus());
        SpaceView {
            total: self.bytes(total),
            free: self.bytes(free),
            limbo: self.bytes(limbo),
            preserve: self.bytes(preserve),
            reserve: self.bytes(reserve),
            journals: self.bytes(journals),
            quarantine: self.bytes(quarantine),
            mapped: self.bytes(total.saturating_sub(free + others)),
            promised: c.volumes().fold(0u64, |sum, v| sum.saturating_add(v.entry.size)),
            kept: self.bytes(self.reserve()),
        }
    }

    pub(super) fn disk_view(&self, d: &Disk) -> DiskView {
        DiskView {
            no: d.entry.no,
            id: d.entry.id,
            aus: d.entry.aus,
            size: self.bytes(u64::from(d.entry.aus)),
            data: self.bytes(u64::from(d.space.total())),
            free: self.bytes(u64::from(d.space.free())),
            paths: d.entry.paths.clone(),
            spare: d.spare,
            domain: d.domain.clone(),
            failed: d.failed,
        }
    }

    pub(super) fn disk_views(&self) -> Vec<DiskView> {
        self.catalog.disks().map(|d| self.disk_view(d)).collect()
    }

    pub(super) fn volume_view(&self, v: &Volume) -> VolumeView {
        let attached = self.catalog.attached(v.entry.id).filter_map(|a| {
            let s = self.catalog.session(a.session)?;
            Some(AttachmentView {
                client: self.catalog.client(s.client)?.name.clone(),
                host: s.host.clone(),
                session: a.session,
                token: a.token,
                mode: a.mode,
                state: self.session_state(a.session),
                reserve: self.bytes(a.reserve.places().count() as u64),
                journal: a.journal.iter().flat_map(|j| &j.copies).map(|c| format!("{} {}", c.first, c.second)).collect(),
                folded: a.folded,
            })
        });
        let preserve: u64 = v.segments.values().map(|s| s.legs.len() as u64).sum();
        VolumeView {
            id: v.entry.id,
            name: v.entry.name.clone(),
            size: v.entry.size,
            allocated: self.bytes(self.mapped_places(v)),
            written: self.written(v.map.written_blocks()),
            epoch: v.entry.epoch,
            legs: v.entry.legs,
            out: v.out.clone(),
            lacking: self.counted.get(&v.entry.id).map_or(0, super::recovery::Counted::todo),
            created: v.entry.created,
            attached: attached.collect(),
            snapshots: self.catalog.snapshots_of(v.entry.id).into_iter().map(|s| snapshot_view(self, s)).collect(),
            preserve: self.bytes(preserve),
            when_full: v.entry.when_full,
            notes: Vec::new(),
        }
    }

    /// Places of the live map.
    fn mapped_places(&self, v: &Volume) -> u64 {
        if v.entry.legs == 1 {
            return v.map.aus();
        }
        v.map.iter().map(|(_, e)| e.legs().len() as u64).sum()
    }

    pub(super) fn volume_views(&self) -> Vec<VolumeView> {
        let mut all: Vec<_> = self.catalog.volumes().map(|v| self.volume_view(v)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn session_view(&self, s: &SessionEntry) -> SessionView {
        let name = |id| self.catalog.volume(id).map(|v| v.entry.name.to_string());
        let attached = self.catalog.attachments().filter(|a| a.session == s.no).filter_map(|a| {
            let how = if a.mode == Mode::Write { "" } else { " (read-only)" };
            Some(format!("{}{how}", name(a.volume)?))
        });
        let open = self.catalog.opens().filter(|(_, no)| *no == s.no).filter_map(|(id, _)| {
            let snapshot = self.catalog.snapshot(id)?;
            Some(format!("{}@{}", name(snapshot.entry.volume)?, snapshot.entry.name))
        });
        SessionView {
            no: s.no,
            host: s.host.clone(),
            program: s.program.clone(),
            opened: s.opened,
            state: self.session_state(s.no),
            holds: attached.chain(open).collect(),
        }
    }

    pub(super) fn client_view(&self, c: &ClientEntry) -> ClientView {
        ClientView {
            id: c.id,
            name: c.name.clone(),
            key: format!("{:?}", c.print),
            created: c.created,
            revoked: c.revoked,
            sessions: self.catalog.sessions().filter(|s| s.client == c.id).map(|s| self.session_view(s)).collect(),
        }
    }

    pub(super) fn client_views(&self) -> Vec<ClientView> {
        let mut all: Vec<_> = self.catalog.clients().map(|c| self.client_view(c)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A volume by name, for an administrator.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn named_volume(&self, name: &str) -> Result<&Volume> {
        let missing =
            || Error::new(Kind::NotFound, format!("no volume is named '{}'", short(name))).hint("`fusevol-mgr volume ls` lists them");
        self.catalog.volume_named(name).ok_or_else(missing)
    }

    /// A snapshot by name, for an administrator.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn named_snapshot(&self, volume: &str, name: &str) -> Result<&Snapshot> {
        let v = self.named_volume(volume)?;
        let found = self.catalog.snapshots_of(v.entry.id).into_iter().find(|s| s.entry.name.as_str() == name);
        let missing = || {
            Error::new(Kind::NotFound, format!("volume '{}' has no snapshot '{}'", v.entry.name, short(name)))
                .hint(format!("`fusevol-mgr snapshot ls {}` lists them", v.entry.name))
        };
        found.ok_or_else(missing)
    }

    /// A client by name, for an administrator.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn named_client(&self, name: &str) -> Result<&ClientEntry> {
        let missing =
            || Error::new(Kind::NotFound, format!("no client is named '{}'", short(name))).hint("`fusevol-mgr client ls` lists them");
        self.catalog.client_named(name).ok_or_else(missing)
    }
}

/// A name as typed, fit for an error.
fn short(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// A new object's name, checked.
///
/// # Errors
/// `Refused`.
pub(super) fn new_name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|e| Error::new(Kind::Refused, e.to_string()).hint("choose another name"))
}
