//! Jobs: the recovery of each volume that lacks copies, as administrators see it and steer it.
//!
//! ```text
//!  copies are lacking -> waiting (a disk may return, no room, nothing answers) <-> running (the writer, or the manager) -> whole
//!                            ^------------------- paused (by an administrator) ---------------------^
//! ```
//! A job is no record: it is there as long as its volume lacks copies. What an administrator says of it (paused, a limit) is.

use super::admin_api::{Finding, JobState, JobView, Level};
use super::{AdminReply, Core, segments};
use crate::catalog::Volume;
use crate::catalog::record::Record;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::VolumeId;
use fusevol_shared::units::DiskNo;
use std::collections::VecDeque;
use std::time::Duration;

/// Between two looks at what volumes lack.
const LOOK: Duration = Duration::from_secs(1);
/// Looks from which the rate is told.
const SAMPLES: usize = 10;
/// What a copier says where there is none.
const ROOM: &str = "room";
/// What a copier said counts so long.
const SAID: Duration = Duration::from_secs(5);

/// What is known of a job besides the catalog.
#[derive(Debug, Default)]
pub(super) struct Meter {
    samples: VecDeque<(BootTime, u64)>,
    /// What the writer's copier said last.
    said: Option<(BootTime, String)>,
    /// AUs that lacked copies when it was told that there is no room for more.
    full_at: Option<u64>,
}

impl Meter {
    fn add(&mut self, now: BootTime, todo: u64) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, todo));
    }

    /// AUs in a thousand seconds.
    fn rate(&self) -> u64 {
        let (Some((t0, a)), Some((t1, b))) = (self.samples.front(), self.samples.back()) else { return 0 };
        let ms = u64::try_from(t1.since(*t0).as_millis()).unwrap_or(u64::MAX).max(1);
        a.saturating_sub(*b) * 1_000_000 / ms
    }
}

impl Core {
    /// When jobs are looked at next: never where no volume has several copies.
    pub(super) fn jobs_next(&self) -> Option<BootTime> {
        self.catalog.volumes().any(|v| v.entry.legs > 1).then_some(self.jobs_at)
    }

    /// Looks at what each volume lacks, and says what has begun or is over.
    pub(super) fn jobs_due(&mut self) {
        let now = self.now.boot;
        if self.jobs_next().is_none_or(|at| at > now) {
            return;
        }
        self.jobs_at = now.plus(LOOK);
        let volumes: Vec<VolumeId> = self.catalog.volumes().filter(|v| v.entry.legs > 1).map(|v| v.entry.id).collect();
        let catalog = &self.catalog;
        self.counted.retain(|v, _| catalog.volume(*v).is_some());
        self.meters.retain(|v, _| catalog.volume(*v).is_some());
        self.copiers.retain(|v, c| catalog.volume(*v).is_some() || c.is_busy());
        for volume in volumes {
            let todo = self.todo(volume);
            let segments = self.counted.get(&volume).map_or(0, |c| c.segments);
            self.copier_of(volume, todo.saturating_sub(segments));
            let name = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
            if todo == 0 {
                if self.meters.remove(&volume).is_some() {
                    self.tell(Level::Ok, "rebuild-done", format!("volume '{name}' has all its copies"));
                }
                continue;
            }
            if !self.meters.contains_key(&volume) {
                self.tell(Level::Warning, "rebuild-begins", format!("volume '{name}' lacks copies of {todo} AUs"));
            }
            self.meters.entry(volume).or_default().add(now, todo);
            self.tell_of_room(volume, &name, todo);
        }
        self.forget_layings();
        self.look_for_returns();
    }

    /// Says that copies wait for room, once until it goes on.
    fn tell_of_room(&mut self, volume: VolumeId, name: &str, todo: u64) {
        let why = self.catalog.volume(volume).and_then(|v| self.job_waits(v)).filter(|w| w.contains(ROOM));
        let (Some(why), Some(m)) = (why, self.meters.get_mut(&volume)) else { return };
        if m.full_at.replace(todo) != Some(todo) {
            self.tell(Level::Warning, "rebuild-waits", format!("volume '{name}' lacks copies of {todo} AUs, and waits: {why}"));
        }
    }

    /// What the writer's copier says.
    pub(super) fn copier_says(&mut self, volume: VolumeId, says: &str) {
        let now = self.now.boot;
        if let Some(m) = self.meters.get_mut(&volume) {
            let says: String = says.chars().filter(|c| !c.is_control()).collect();
            m.said = Some((now, says));
        }
    }

    fn job_view(&mut self, volume: VolumeId) -> Option<JobView> {
        let todo = self.todo(volume);
        if todo == 0 {
            return None;
        }
        let (total, frozen) = self.counted.get(&volume).map_or((todo, 0), |c| (c.total, c.frozen));
        let v = self.catalog.volume(volume)?;
        let writer = self.catalog.writer(volume).map(|a| self.who(a.session));
        let why = self.job_waits(v);
        let state = match (v.paused, &why) {
            (true, _) => JobState::Paused,
            (false, Some(_)) => JobState::Waiting,
            (false, None) => JobState::Running,
        };
        let rate = self.meters.get(&volume).map_or(0, Meter::rate);
        Some(JobView {
            volume: v.entry.name.clone(),
            id: volume,
            state,
            why: why.unwrap_or_default(),
            by: writer.unwrap_or_else(|| "manager".to_owned()),
            todo,
            total,
            frozen,
            rate: self.bytes(rate) / 1000,
            eta: (rate > 0 && state == JobState::Running).then(|| todo * 1000 / rate),
            limit: v.limit,
            holes: self.copiers.get(&volume).map_or(0, |c| c.holes.len() as u64)
                + self.layings.get(&volume).map_or(0, segments::Laying::holes),
        })
    }

    /// What keeps a volume's copies from being made; nothing where they are.
    fn job_waits(&self, v: &Volume) -> Option<String> {
        let id = v.entry.id;
        let given_up = self.given_up(id);
        if let Some(d) = v.out.iter().find(|d| !given_up.contains(d)) {
            let since = self.out_since.get(&(id, *d)).copied().unwrap_or(self.now.boot);
            let left = since.plus(self.rebuild_after()).since(self.now.boot).as_secs();
            return Some(format!("disk {d} may return; its copies are made elsewhere in {left} s"));
        }
        let said = match self.catalog.writer(id) {
            Some(_) => self.meters.get(&id).and_then(|m| m.said.clone()).filter(|(at, _)| at.plus(SAID) > self.now.boot).map(|(_, s)| s),
            None => self.copiers.get(&id).map(|c| c.says.clone()),
        };
        said.filter(|s| !s.is_empty())
    }

    fn all_jobs(&mut self) -> Vec<JobView> {
        let volumes: Vec<VolumeId> = self.catalog.volumes().filter(|v| v.entry.legs > 1).map(|v| v.entry.id).collect();
        let mut all: Vec<JobView> = volumes.into_iter().filter_map(|v| self.job_view(v)).collect();
        all.sort_by(|a, b| a.volume.cmp(&b.volume));
        all
    }

    pub(super) fn job_list(&mut self) -> AdminReply {
        AdminReply::Jobs(self.all_jobs())
    }

    /// Pauses a job, lets it go on, or limits it; what is not said stays.
    pub(super) fn job_set(&mut self, name: &str, paused: Option<bool>, limit: Option<u64>) -> Result<AdminReply> {
        let v = self.named_volume(name)?;
        if v.entry.legs < 2 {
            return Err(Error::new(Kind::Refused, format!("volume '{name}' has one copy: there is nothing to recover from")));
        }
        let volume = v.entry.id;
        let (paused, limit) = (paused.unwrap_or(v.paused), limit.unwrap_or(v.limit));
        if (v.paused, v.limit) != (paused, limit) {
            self.commit(Record::JobSet { volume, paused, limit })?;
        }
        Ok(AdminReply::Jobs(self.job_view(volume).into_iter().collect()))
    }

    /// The word of an administrator on a disk: what it holds is lost, now; or it is not.
    pub(super) fn disk_fail(&mut self, text: &str, failed: bool) -> Result<AdminReply> {
        let no = self.named_disk(text)?;
        let was = self.catalog.disk(no).is_some_and(|d| d.failed);
        if was != failed {
            self.commit(Record::DiskFailed { disk: no, failed })?;
            let what = if failed { "is given up: what it holds is copied elsewhere" } else { "is used again" };
            self.tell(Level::Warning, "disk-failed", format!("disk {no} {what}"));
        }
        // A writer says itself which regions its legs miss; it hears of it when it asks what to copy, and is told that it shall ask.
        let mirrored: Vec<(VolumeId, bool)> = self
            .catalog
            .volumes()
            .filter(|v| v.entry.legs > 1 && !v.out.contains(&no))
            .map(|v| (v.entry.id, self.catalog.writer(v.entry.id).is_some()))
            .collect();
        for (volume, writes) in mirrored.into_iter().filter(|_| failed) {
            if writes {
                self.list_changed(volume);
            } else {
                self.commit_leg_out(volume, no, Vec::new(), "an administrator has given it up")?;
                self.say_leg_failed(volume, no, None);
            }
        }
        self.counted.clear();
        self.jobs_at = self.now.boot;
        let d = self.catalog.disk(no).ok_or_else(|| Error::new(Kind::Internal, "the disk is not there"))?;
        Ok(AdminReply::Disk(self.disk_view(d)))
    }

    pub(super) fn disk_set(&mut self, text: &str, spare: Option<bool>, domain: Option<&str>) -> Result<AdminReply> {
        let no = self.named_disk(text)?;
        let d = self.catalog.disk(no).ok_or_else(|| Error::new(Kind::Internal, "the disk is not there"))?;
        let domain = match domain {
            Some("") => None,
            Some(name) => Some(super::view::new_name(name)?),
            None => d.domain.clone(),
        };
        let spare = spare.unwrap_or(d.spare);
        if (d.spare, &d.domain) != (spare, &domain) {
            self.commit(Record::DiskSet { disk: no, spare, domain })?;
        }
        let d = self.catalog.disk(no).ok_or_else(|| Error::new(Kind::Internal, "the disk is not there"))?;
        Ok(AdminReply::Disk(self.disk_view(d)))
    }

    /// A disk by its number, its identity, or a path under which it was seen.
    fn named_disk(&self, text: &str) -> Result<DiskNo> {
        let is = |d: &&crate::catalog::Disk| {
            d.entry.no.to_string() == text || d.entry.id.to_string() == text || d.entry.paths.iter().any(|p| p == text)
        };
        let missing = || Error::new(Kind::NotFound, "the pool has no such disk").hint("`fusevol-mgr disk ls` lists them");
        self.catalog.disks().find(is).map(|d| d.entry.no).ok_or_else(missing)
    }

    /// Volumes that lack copies.
    pub(super) fn job_findings(&self) -> Vec<Finding> {
        let lacking = self.catalog.volumes().filter_map(|v| Some((v, self.counted.get(&v.entry.id).filter(|c| c.todo() > 0)?)));
        lacking
            .map(|(v, c)| {
                let name = &v.entry.name;
                let why = self.job_waits(v);
                let room = why.as_ref().is_some_and(|w| w.contains(ROOM));
                let action = match (v.paused, room) {
                    (true, _) => format!("fusevol-mgr job resume {name}"),
                    (false, true) => "fusevol-mgr disk add DISK --spare".to_owned(),
                    (false, false) => format!("fusevol-mgr job show {name}"),
                };
                let how = if v.paused { "; paused".to_owned() } else { why.map_or_else(String::new, |w| format!("; it waits: {w}")) };
                let text = format!("volume '{name}' lacks copies of {} of {} AUs{how}", c.todo(), c.total);
                Finding { level: Level::Warning, text, action }
            })
            .collect()
    }
}
