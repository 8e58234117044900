//! Questions to the catalog.

use super::record::{ClientEntry, Fencing, LimboEntry, Mode, PoolEntry, QuarantineEntry, SessionEntry};
use super::{Attachment, Catalog, Copying, Counters, Disk, Snapshot, Volume};
use fusevol_shared::format::slot::SLOT_DISKS;
use fusevol_shared::ids::{ClientId, FenceToken, KeyPrint, SessionId, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::map::MapEntry;
use fusevol_shared::units::{AuSize, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::Segment;
use fusevol_shared::wire::rights::Rights;
use std::collections::BTreeSet;

impl Catalog {
    /// The pool; none before its first record.
    #[must_use]
    pub fn pool(&self) -> Option<&PoolEntry> {
        self.pool.as_ref()
    }

    /// AU size of the pool.
    #[must_use]
    pub fn au_size(&self) -> AuSize {
        self.pool.as_ref().map_or(AuSize::DEFAULT, |p| p.au_size)
    }

    /// The authority's sealed key, as it was handed over.
    #[must_use]
    pub fn sealed(&self) -> &[u8] {
        &self.sealed
    }

    /// What must be before a lost client is succeeded.
    #[must_use]
    pub fn fencing(&self) -> Fencing {
        self.fencing
    }

    /// Whether the pool cuts hosts off by persistent reservations.
    #[must_use]
    pub fn reserves(&self) -> bool {
        self.reservations.is_some()
    }

    /// Whether the host of this session registers with each disk before the session uses it.
    #[must_use]
    pub fn has_reservations(&self, session: SessionNo) -> bool {
        self.reservations.is_some_and(|from| from <= session)
    }

    /// How long legs may be out before their copies are made elsewhere, milliseconds, if that was set.
    #[must_use]
    pub fn rebuild_after(&self) -> Option<u64> {
        self.rebuild_after
    }

    /// Where a manager's copier may still write.
    pub fn copying(&self) -> impl Iterator<Item = (DiskAu, &Copying)> {
        self.copying.iter().map(|(at, c)| (*at, c))
    }

    /// Addresses of managers.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Numbers that are handed out next.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Disks, by number.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values()
    }

    /// A disk.
    #[must_use]
    pub fn disk(&self, no: DiskNo) -> Option<&Disk> {
        self.disks.get(&no)
    }

    /// Free data AUs of the pool.
    #[must_use]
    pub fn free_aus(&self) -> u64 {
        self.disks().map(|d| u64::from(d.space.free())).sum()
    }

    /// Data AUs of the pool.
    #[must_use]
    pub fn total_aus(&self) -> u64 {
        self.disks().map(|d| u64::from(d.space.total())).sum()
    }

    /// Volumes, by identity.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values()
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(&id)
    }

    /// A volume by name.
    #[must_use]
    pub fn volume_named(&self, name: &str) -> Option<&Volume> {
        self.volumes().find(|v| v.entry.name.as_str() == name)
    }

    /// A snapshot.
    #[must_use]
    pub fn snapshot(&self, id: SnapshotId) -> Option<&Snapshot> {
        self.snapshots.get(&id)
    }

    /// A volume's snapshots, oldest first.
    #[must_use]
    pub fn snapshots_of(&self, volume: VolumeId) -> Vec<&Snapshot> {
        let mut all: Vec<_> = self.snapshots.values().filter(|s| s.entry.volume == volume).collect();
        all.sort_by_key(|s| s.entry.epoch);
        all
    }

    /// How many snapshots there are.
    #[must_use]
    pub fn snapshot_count(&self) -> usize {
        self.snapshots.len()
    }

    /// Clients, by identity.
    pub fn clients(&self) -> impl Iterator<Item = &ClientEntry> {
        self.clients.values()
    }

    /// A client.
    #[must_use]
    pub fn client(&self, id: ClientId) -> Option<&ClientEntry> {
        self.clients.get(&id)
    }

    /// A client by its key.
    #[must_use]
    pub fn client_of(&self, print: &KeyPrint) -> Option<&ClientEntry> {
        self.clients().find(|c| c.print == *print)
    }

    /// A client by name.
    #[must_use]
    pub fn client_named(&self, name: &str) -> Option<&ClientEntry> {
        self.clients().find(|c| c.name.as_str() == name)
    }

    /// What this client may do on this volume.
    #[must_use]
    pub fn rights(&self, volume: VolumeId, client: ClientId) -> Rights {
        self.access.get(&(volume, client)).copied().unwrap_or(Rights::NONE)
    }

    /// All entries of access lists.
    pub fn access(&self) -> impl Iterator<Item = (VolumeId, ClientId, Rights)> + '_ {
        self.access.iter().map(|((v, c), r)| (*v, *c, *r))
    }

    /// Sessions, by number.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionEntry> {
        self.sessions.values()
    }

    /// A session.
    #[must_use]
    pub fn session(&self, no: SessionNo) -> Option<&SessionEntry> {
        self.sessions.get(&no)
    }

    /// A session by the client's identity of it.
    #[must_use]
    pub fn session_by_id(&self, id: SessionId) -> Option<&SessionEntry> {
        self.sessions().find(|s| s.id == id)
    }

    /// The number of the next session: numbers whose slot a session has are passed over. None when all slots are taken, or all numbers used up.
    #[must_use]
    pub fn next_session(&self) -> Option<SessionNo> {
        let first = self.counters.session.0;
        (first..u32::MAX).take(self.sessions.len() + 1).map(SessionNo).find(|no| self.slot_is_free(*no))
    }

    /// The disks that carry the slot of a session that is opened now.
    #[must_use]
    pub fn slot_disks(&self) -> Vec<DiskNo> {
        self.disks.keys().copied().take(SLOT_DISKS).collect()
    }

    /// The volume of which this snapshot is to be taken.
    #[must_use]
    pub fn pending_of(&self, snapshot: SnapshotId) -> Option<&Volume> {
        self.volumes().find(|v| v.entry.pending.as_ref().is_some_and(|p| p.id == snapshot))
    }

    /// Attachments, by token.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// An attachment.
    #[must_use]
    pub fn attachment(&self, token: FenceToken) -> Option<&Attachment> {
        self.attachments.get(&token)
    }

    /// How this session has this volume.
    #[must_use]
    pub fn attachment_of(&self, volume: VolumeId, session: SessionNo) -> Option<&Attachment> {
        self.attachments().find(|a| a.volume == volume && a.session == session)
    }

    /// Attachments of a volume.
    pub fn attached(&self, volume: VolumeId) -> impl Iterator<Item = &Attachment> {
        self.attachments().filter(move |a| a.volume == volume)
    }

    /// The writer of a volume.
    #[must_use]
    pub fn writer(&self, volume: VolumeId) -> Option<&Attachment> {
        self.attached(volume).find(|a| a.mode == Mode::Write)
    }

    /// Open snapshots, with who reads them.
    pub fn opens(&self) -> impl Iterator<Item = (SnapshotId, SessionNo)> + '_ {
        self.opens.iter().copied()
    }

    /// Who reads this snapshot.
    pub fn readers(&self, id: SnapshotId) -> impl Iterator<Item = SessionNo> + '_ {
        self.opens.range((id, SessionNo(0))..=(id, SessionNo(u32::MAX))).map(|(_, s)| *s)
    }

    /// Whether this session reads this snapshot.
    #[must_use]
    pub fn is_open(&self, id: SnapshotId, session: SessionNo) -> bool {
        self.opens.contains(&(id, session))
    }

    /// Whether a session reads a snapshot of this volume.
    #[must_use]
    pub fn reads_frozen(&self, volume: VolumeId, session: SessionNo) -> bool {
        self.opens().any(|(id, s)| s == session && self.snapshot(id).is_some_and(|n| n.entry.volume == volume))
    }

    /// Sessions that read snapshots of this volume.
    #[must_use]
    pub fn frozen_readers(&self, volume: VolumeId) -> BTreeSet<SessionNo> {
        self.opens().filter(|(id, _)| self.snapshot(*id).is_some_and(|n| n.entry.volume == volume)).map(|(_, s)| s).collect()
    }

    /// AUs in limbo, by number.
    pub fn limbo(&self) -> impl Iterator<Item = &LimboEntry> {
        self.limbo.values()
    }

    /// AUs in quarantine, by number.
    pub fn quarantine(&self) -> impl Iterator<Item = &QuarantineEntry> {
        self.quarantine.values()
    }

    /// Where a takeover of this attachment copies to.
    #[must_use]
    pub fn taking(&self, token: FenceToken) -> Vec<Vec<DiskAu>> {
        self.taking.get(&token).into_iter().flat_map(|r| r.each().map(<[DiskAu]>::to_vec)).collect()
    }

    /// The attachments that are being taken over.
    pub fn takeovers(&self) -> impl Iterator<Item = FenceToken> + '_ {
        self.taking.keys().copied()
    }

    /// AUs that takeovers have, or that are kept for who reads a snapshot.
    #[must_use]
    pub fn taken_aside(&self) -> u64 {
        self.taking.values().map(|r| r.places().count() as u64).sum::<u64>() + self.kept.values().map(|k| k.freed.len() as u64).sum::<u64>()
    }

    /// Whether a session may read this place under the map, or out of the segments, of a snapshot that it had opened before a takeover.
    #[must_use]
    pub fn is_kept_for(&self, session: SessionNo, place: DiskAu) -> bool {
        self.kept.values().any(|k| k.opens.iter().any(|(_, s)| *s == session) && k.places.contains(&place))
    }

    /// Whether a snapshot of the volume shares this AU: it has it under the same name.
    #[must_use]
    pub(super) fn shared(snapshots: &[&Snapshot], au: VolAu, entry: &MapEntry) -> bool {
        snapshots.iter().any(|s| s.map.get(au).is_some_and(|e| e.name() == entry.name()))
    }

    /// Places of `au -> entry` pairs.
    pub(super) fn places<'a>(entries: impl IntoIterator<Item = &'a MapEntry>) -> Vec<DiskAu> {
        entries.into_iter().flat_map(|e| e.legs().iter().map(|l| l.at).collect::<Vec<_>>()).collect()
    }

    /// Whether this segment serves no snapshot any more and is written by nobody: it serves those whose epoch is not above its own, and
    /// its writer is done with it when its attachment is over or it has flipped to a later epoch.
    #[must_use]
    pub fn is_spent(&self, volume: VolumeId, s: &Segment) -> bool {
        let written = self.attachment(s.token).is_some_and(|a| a.flipped <= s.epoch);
        let read = self.snapshots.values().any(|n| n.entry.volume == volume && n.entry.epoch <= s.epoch);
        !written && !read
    }

    /// Whether the writer of this segment may still owe it the page that names its successor: a flip is folded before that page is written, and only the
    /// next flip says that it was. One segment that was granted ahead may have been passed over.
    #[must_use]
    pub fn may_be_closing(&self, volume: VolumeId, s: &Segment) -> bool {
        let Some((a, v)) = self.attachment(s.token).zip(self.volume(volume)) else { return false };
        let before = v.segments.values().rev().filter(|x| x.token == s.token && x.epoch < a.flipped);
        before.take(2).any(|x| x.no == s.no)
    }

    /// The epoch that the preserve segments of a writer carry which attaches now: that before the current one.
    #[must_use]
    pub fn preserve_epoch(volume: &Volume) -> VolumeEpoch {
        VolumeEpoch(volume.entry.epoch.0.saturating_sub(1))
    }
}
