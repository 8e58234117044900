//! Legs of mirrored volumes that fail: said durably, and to all who read them, before a write that missed them is acknowledged (PROTOCOL.md, R2).
//!
//! ```text
//!  LegOut (the writer; a reader where nobody writes) -> LegsOut is durable -> LegFailed to everybody who reads the volume or a snapshot of it
//!     -> all have answered, or hold nothing of it any more -> Done
//! ```
//! A client and a disk that die together: once the client is sealed, or drained, the manager says it in its stead.
//!
//! The waits are in memory only: who asks again (its answer was lost, the manager was another) has it all done again, which changes nothing.
//! A session whose lease is over may still read, living by its heartbeat: it is waited for until its locks, its heartbeat or a fence say more.

use super::admin_api::Level;
use super::change::refused;
use super::life::Life;
use super::rights::no_volume;
use super::{Asker, Core};
use crate::catalog::Volume;
use crate::catalog::record::{Mode, Record};
use fusevol_shared::change::RegionRun;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{SessionNo, VolumeId};
use fusevol_shared::map::{Leg, LegState, VolumeMap};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::{DiskNo, VolAu};
use fusevol_shared::wire::messages::{Done, Push, Reply};
use fusevol_shared::wire::recovery::{DIRTY_RUNS, LegFailed, LegOut, SAYS_MAX};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long legs may be out before their copies are made elsewhere, where the pool does not say.
const REBUILD_AFTER: Duration = Duration::from_secs(60);

/// What a reader said of a disk counts so long; it says it again and again.
const SUSPECTED: Duration = Duration::from_secs(5);

/// Who asked for the legs of a volume on a disk to be given up, and whom they wait for.
#[derive(Debug)]
pub(super) struct LegWait {
    volume: VolumeId,
    disk: DiskNo,
    askers: Vec<(SessionNo, Asker)>,
    waits: BTreeSet<(SessionNo, u64)>,
}

fn done() -> Reply {
    Reply::Done(Done {})
}

/// Whether an AU of these regions would change.
fn would_change(v: &Volume, disk: DiskNo, dirty: &[RegionRun]) -> bool {
    let out: Vec<DiskNo> = v.out.iter().copied().chain([disk]).collect();
    let within = |run: &RegionRun| {
        let aus = run.aus();
        v.map.iter_from(VolAu(aus.start)).take_while(move |(au, _)| au.0 < aus.end)
    };
    !v.out.contains(&disk) || dirty.iter().flat_map(within).any(|(_, e)| e.missed_by(&out).legs() != e.legs())
}

impl Core {
    /// The legs of a volume on a disk have failed; nothing where the answer comes later.
    pub(super) fn leg_out(&mut self, session: SessionNo, m: &LegOut, asker: Asker) -> Result<Option<Reply>> {
        let a = self.attachment(session, m.volume)?;
        if a.token != m.token {
            return Err(refused("the session has not attached this volume under this token"));
        }
        let writes = a.writes();
        if !writes && self.catalog.writer(m.volume).is_some() {
            self.suspect(m.volume, m.disk);
            return Err(
                Error::new(Kind::Busy, "it is for the writer of the volume to say that a leg has failed").hint("try again in a moment")
            );
        }
        let v = self.catalog.volume(m.volume).ok_or_else(no_volume)?;
        if v.entry.legs < 2 {
            return Err(refused("the volume has no other copy").hint("what fails is an error to who reads or writes it"));
        }
        let aus = self.catalog.au_size().aus_for(v.entry.size).unwrap_or(0);
        let fit = |r: &RegionRun| r.count > 0 && r.first.aus().start < aus;
        if m.dirty.len() > DIRTY_RUNS || m.why.len() > SAYS_MAX || !m.dirty.iter().all(fit) || self.catalog.disk(m.disk).is_none() {
            return Err(refused("what is said of a leg that failed does not fit together"));
        }
        let dirty = if writes { m.dirty.as_slice() } else { &[] };
        if would_change(v, m.disk, dirty) {
            self.commit_leg_out(m.volume, m.disk, dirty.to_vec(), &m.why)?;
        }
        Ok(self.wait_for_legs(session, m.volume, m.disk, asker).then(done))
    }

    /// A reader does not reach its copies on a disk: the writer is asked to look.
    fn suspect(&mut self, volume: VolumeId, disk: DiskNo) {
        let now = self.now.boot;
        self.suspects.retain(|_, said| said.plus(SUSPECTED) > now);
        if self.catalog.disk(disk).is_some() && self.suspects.insert((volume, disk), now).is_none() {
            self.list_changed(volume);
        }
    }

    /// The disks that a volume's writer is to look at.
    pub(super) fn suspects(&self, volume: VolumeId) -> Vec<DiskNo> {
        let fresh = |said: &BootTime| said.plus(SUSPECTED) > self.now.boot;
        let of_it = self.suspects.range((volume, DiskNo(0))..=(volume, DiskNo(u16::MAX)));
        of_it.filter(|(_, said)| fresh(said)).map(|((_, disk), _)| *disk).collect()
    }

    /// From now on nobody reads or writes these legs.
    pub(super) fn commit_leg_out(&mut self, volume: VolumeId, disk: DiskNo, dirty: Vec<RegionRun>, why: &str) -> Result<()> {
        let fresh = self.catalog.volume(volume).is_some_and(|v| !v.out.contains(&disk));
        self.commit(Record::LegsOut { volume, disk, dirty })?;
        if fresh {
            self.out_since.insert((volume, disk), self.now.boot);
            let name = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
            let why: String = why.chars().filter(|c| !c.is_control()).collect();
            self.tell(Level::Warning, "leg-out", format!("volume '{name}' goes on without its copies on disk {disk}: {why}"));
        }
        Ok(())
    }

    /// What this session has attached to write goes on without disks that are lost, or given up: there is no writer any more who could say so, and its journals are
    /// not concluded while a disk that counts cannot be flushed. Only of one that is sealed, or drained: what it had acknowledged is on every copy, and nothing is
    /// acknowledged after that. What its journal says besides is folded as written without these disks. Which copy is right is settled by this.
    pub(super) fn does_without_lost(&mut self, session: SessionNo) {
        let over = self.catalog.session(session).is_some_and(|s| s.sealed) || self.lives.get(&session).is_some_and(Life::is_ending);
        let bad = self.bad_disks();
        if !over || bad.is_empty() {
            return;
        }
        let volumes: Vec<VolumeId> = self.catalog.attachments().filter(|a| a.session == session && a.writes()).map(|a| a.volume).collect();
        for volume in volumes {
            for disk in &bad {
                // Each takes a copy away: the next one is judged by what is left.
                if self.has_all_beside(volume, *disk) {
                    self.goes_on_without(volume, *disk);
                }
            }
        }
    }

    fn goes_on_without(&mut self, volume: VolumeId, disk: DiskNo) {
        match self.commit_leg_out(volume, disk, Vec::new(), "it is lost, and so is the client that wrote there") {
            Ok(()) => _ = self.say_leg_failed(volume, disk, None),
            Err(e) => self.tell(Level::Critical, "internal", e.to_string()),
        }
    }

    /// Whether all that a volume and its snapshots have is in sync somewhere else, too.
    fn has_all_beside(&self, volume: VolumeId, disk: DiskNo) -> bool {
        let Some(v) = self.catalog.volume(volume).filter(|v| v.entry.legs > 1 && !v.out.contains(&disk)) else { return false };
        let counts = |l: &Leg| l.state == LegState::InSync && l.at.disk != disk && !v.out.contains(&l.at.disk);
        let kept = |map: &VolumeMap| map.iter().all(|(_, e)| e.legs().iter().any(counts));
        kept(&v.map) && self.catalog.snapshots_of(volume).iter().all(|s| kept(&s.map))
    }

    /// Tells all who read, and waits for them; whether there is nobody to wait for.
    fn wait_for_legs(&mut self, session: SessionNo, volume: VolumeId, disk: DiskNo, asker: Asker) -> bool {
        let waits = self.say_leg_failed(volume, disk, Some(session));
        if waits.is_empty() || !holds(Tag::R2) {
            return true;
        }
        let at = self.leg_waits.iter().position(|w| (w.volume, w.disk) == (volume, disk));
        let mut askers = at.map(|i| self.leg_waits.swap_remove(i).askers).unwrap_or_default();
        askers.retain(|(s, _)| *s != session);
        askers.push((session, asker));
        waits.iter().for_each(|(s, _)| self.holder_is_wanted(*s));
        self.leg_waits.push(LegWait { volume, disk, askers, waits });
        false
    }

    /// Says to everybody who reads a volume, or a snapshot of it, that legs of it are out; `but` knows what concerns the volume itself.
    pub(super) fn say_leg_failed(&mut self, volume: VolumeId, disk: DiskNo, but: Option<SessionNo>) -> BTreeSet<(SessionNo, u64)> {
        let live = self.catalog.attached(volume).filter(|a| a.mode == Mode::Read && Some(a.session) != but).map(|a| a.session);
        let all: BTreeSet<SessionNo> = live.chain(self.catalog.frozen_readers(volume)).collect();
        let of = LegFailed { volume, disk };
        let mut waits = BTreeSet::new();
        for s in all {
            let same = |p: &Push| matches!(p, Push::LegFailed(f) if *f == of);
            let under_way = self.lives.get(&s).and_then(|l| l.pushes.iter().find(|(_, p)| same(p)).map(|(n, _)| *n));
            let push = under_way.or_else(|| self.push(s, Push::LegFailed(of.clone())));
            // One that could not be told is waited for all the same, until its session is over.
            waits.insert((s, push.unwrap_or(u64::MAX)));
        }
        waits
    }

    /// A new manager does not know what readers were told.
    pub(super) fn say_legs_again(&mut self) {
        let out: Vec<(VolumeId, DiskNo)> = self.catalog.volumes().flat_map(|v| v.out.iter().map(|d| (v.entry.id, *d))).collect();
        for (volume, disk) in out {
            self.say_leg_failed(volume, disk, None);
            // A writer may have taken it back since: its own word comes with its journal.
            self.unsay_to_writer(volume, disk);
        }
    }

    /// The writer of a volume knows better which of its disks are out.
    fn unsay_to_writer(&mut self, volume: VolumeId, disk: DiskNo) {
        if let Some(writer) = self.catalog.writer(volume).map(|a| a.session) {
            self.unpush(writer, |p| matches!(p, Push::LegFailed(m) if (m.volume, m.disk) == (volume, disk)));
        }
    }

    /// Whether somebody waits until this session reads a leg no more.
    pub(super) fn legs_wait_for(&self, no: SessionNo) -> bool {
        self.leg_waits.iter().any(|w| w.waits.iter().any(|(s, _)| *s == no))
    }

    /// Takes waits away; those who have nobody left to wait for are answered.
    pub(super) fn leg_waits_over(&mut self, over: impl Fn(VolumeId, &(SessionNo, u64)) -> bool) {
        let mut ready = Vec::new();
        for w in &mut self.leg_waits {
            w.waits.retain(|wait| !over(w.volume, wait));
            if w.waits.is_empty() {
                ready.append(&mut w.askers);
            }
        }
        self.leg_waits.retain(|w| !w.waits.is_empty());
        for (_, asker) in ready {
            self.reply(asker, Ok(done()));
        }
    }

    /// A session has given back something of a volume.
    pub(super) fn legs_not_read(&mut self, no: SessionNo, volume: VolumeId) {
        let reads = self.catalog.attachment_of(volume, no).is_some_and(|a| !a.writes()) || self.catalog.reads_frozen(volume, no);
        if !reads {
            self.unpush(no, |p| matches!(p, Push::LegFailed(m) if m.volume == volume));
            self.leg_waits_over(|v, (s, _)| v == volume && *s == no);
            self.volume_not_read(no, volume);
        }
    }

    /// The legs of a volume that are out may have become others.
    pub(super) fn out_changed(&mut self, volume: VolumeId) {
        let known: Vec<DiskNo> = self.out_since.keys().filter(|(v, _)| *v == volume).map(|(_, d)| *d).collect();
        let back = |d: &DiskNo| self.catalog.volume(volume).is_none_or(|v| !v.out.contains(d));
        let back: Vec<DiskNo> = known.into_iter().filter(back).collect();
        back.into_iter().for_each(|d| self.unsay_to_writer(volume, d));
        let (catalog, now) = (&self.catalog, self.now.boot);
        self.out_since.retain(|(v, d), _| *v != volume || catalog.volume(volume).is_some_and(|v| v.out.contains(d)));
        for d in catalog.volume(volume).into_iter().flat_map(|v| &v.out) {
            self.out_since.entry((volume, *d)).or_insert(now);
        }
    }

    /// Disks on which the legs of a volume are given up: by the administrator's word, or out for so long.
    pub(super) fn given_up(&self, volume: VolumeId) -> Vec<DiskNo> {
        let Some(v) = self.catalog.volume(volume) else { return Vec::new() };
        let long = |d: &DiskNo| self.out_since.get(&(volume, *d)).is_some_and(|since| self.is_long(*since));
        v.out.iter().copied().filter(|d| self.catalog.disk(*d).is_some_and(|d| d.failed) || long(d)).collect()
    }

    fn is_long(&self, since: BootTime) -> bool {
        since.plus(self.rebuild_after()) <= self.now.boot
    }

    /// How long legs may be out before their copies are made elsewhere.
    pub(super) fn rebuild_after(&self) -> Duration {
        self.catalog.rebuild_after().map_or(REBUILD_AFTER, Duration::from_millis)
    }
}
