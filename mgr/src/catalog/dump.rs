//! A checkpoint: records that rebuild an equal state.

use super::record::{Base, Fencing, MapOf, Record};
use super::{Catalog, Volume};
use fusevol_shared::change::Region;
use fusevol_shared::map::{AuMask, VolumeMap};
use fusevol_shared::units::VolAu;

/// AUs in one record of a map: such a record stays below 64 KiB.
const AUS_PER_RECORD: usize = 512;
/// AUs in one record of changes: the same.
const CHANGES_PER_RECORD: usize = 2048;
/// Regions in one record of AUs that are not at rest: the same.
const REGIONS_PER_RECORD: usize = 2048;

fn dump_map(of: MapOf, map: &VolumeMap, out: &mut Vec<Record>) {
    let mut from = Some(VolAu(0));
    while let Some(at) = from {
        let (runs, next) = map.runs(at, AUS_PER_RECORD);
        if !runs.is_empty() {
            out.push(Record::Base(Base::Map { of, runs }));
        }
        from = next;
    }
}

fn dump_changes(v: &Volume, out: &mut Vec<Record>) {
    for (epoch, masks) in &v.changed {
        let all: Vec<AuMask> = masks.iter().map(|(au, blocks)| AuMask { au: *au, blocks: *blocks }).collect();
        let part = |m: &[AuMask]| Record::Base(Base::Changed { volume: v.entry.id, epoch: *epoch, masks: m.to_vec() });
        out.extend(all.chunks(CHANGES_PER_RECORD).map(part));
    }
}

impl Catalog {
    /// Records that rebuild an equal state: `Catalog::fold(&x.dump()) == x`.
    #[must_use]
    pub fn dump(&self) -> Vec<Record> {
        let mut out = Vec::new();
        let Some(pool) = &self.pool else { return out };
        out.push(Record::PoolCreated(pool.clone()));
        out.push(Record::AuthoritySet { sealed: self.sealed.clone() });
        out.push(Record::ListenSet { addresses: self.addresses.clone() });
        if self.fencing != Fencing::default() {
            out.push(Record::FencingSet { fencing: self.fencing });
        }
        out.extend(self.reservations.map(|no| Record::ReservationsSet { from: Some(no) }));
        out.extend(self.rebuild_after.map(|ms| Record::RebuildAfterSet { ms }));
        out.extend(self.disks.values().map(|d| Record::DiskAdded(d.entry.clone())));
        for d in self.disks.values() {
            if d.spare || d.domain.is_some() {
                out.push(Record::DiskSet { disk: d.entry.no, spare: d.spare, domain: d.domain.clone() });
            }
            if d.failed {
                out.push(Record::DiskFailed { disk: d.entry.no, failed: true });
            }
        }
        out.extend(self.clients.values().map(|c| Record::Base(Base::Client(c.clone()))));
        out.extend(self.volumes.values().map(|v| Record::Base(Base::Volume(v.entry.clone()))));
        out.extend(self.access.iter().map(|((volume, client), rights)| Record::AccessSet {
            volume: *volume,
            client: *client,
            rights: *rights,
        }));
        out.extend(self.sessions.values().map(|s| Record::Base(Base::Session(s.clone()))));
        out.extend(self.attachments.values().map(|a| Record::Base(Base::Attachment(a.entry()))));
        for (token, regions) in self.attachments.values().map(|a| (a.token, a.fresh.regions())) {
            out.extend(regions.chunks(REGIONS_PER_RECORD).map(|r| Record::Base(Base::Fresh { token, regions: r.to_vec() })));
        }
        out.extend(self.taking.iter().map(|(token, r)| Record::Base(Base::Taking { token: *token, places: r.runs() })));
        for v in self.volumes.values() {
            dump_map(MapOf::Volume(v.entry.id), &v.map, &mut out);
            out.extend(v.segments.values().map(|s| Record::Base(Base::Segment { volume: v.entry.id, segment: s.clone() })));
            dump_changes(v, &mut out);
            if v.paused || v.limit > 0 {
                out.push(Record::JobSet { volume: v.entry.id, paused: v.paused, limit: v.limit });
            }
            if !v.out.is_empty() {
                out.push(Record::Base(Base::Out { volume: v.entry.id, disks: v.out.clone() }));
            }
            out.extend(v.husks.iter().map(|(no, places)| {
                let (volume, no, places) = (v.entry.id, *no, places.clone());
                Record::Base(Base::Husks { volume, no, places })
            }));
        }
        for a in self.attachments.values() {
            let regions: Vec<Region> = a.bound.iter().copied().collect();
            let part = |r: &[Region]| Record::Base(Base::Bound { token: a.token, regions: r.to_vec() });
            out.extend(regions.chunks(CHANGES_PER_RECORD).map(part));
        }
        for s in self.snapshots.values() {
            out.push(Record::Base(Base::Snapshot(s.entry.clone())));
            dump_map(MapOf::Snapshot(s.entry.id), &s.map, &mut out);
        }
        out.extend(self.opens.iter().map(|(id, session)| Record::SnapshotOpened { id: *id, session: *session }));
        out.extend(self.limbo.values().map(|l| Record::Base(Base::Limbo(l.clone()))));
        out.extend(self.quarantine.values().map(|q| Record::Base(Base::Quarantine(q.clone()))));
        out.extend(self.kept.values().map(|k| Record::Base(Base::Kept(k.entry()))));
        for session in self.late.values().copied().collect::<std::collections::BTreeSet<_>>() {
            let places = self.late.iter().filter(|(_, s)| **s == session).map(|(p, _)| *p).collect();
            out.push(Record::Base(Base::Late { session, places }));
        }
        self.dump_copying(&mut out);
        let c = self.counters;
        out.push(Record::Base(Base::Counters { session: c.session, token: c.token, limbo: c.limbo, quarantine: c.quarantine }));
        out
    }
}
