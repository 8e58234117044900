//! What follows from a step: timers that are due, AUs and segments that are free, what sessions must be told.

use super::remap::Remap;
use super::{Core, Effect};
use crate::catalog::record::Record;
use fusevol_shared::change::Segment;
use fusevol_shared::clock::BootTime;
use fusevol_shared::ids::SessionNo;
use fusevol_shared::wire::messages::{Push, VolumesChanged};

impl Core {
    pub(super) fn settle(&mut self) {
        if self.next_due().is_some_and(|d| d <= self.now.boot) {
            self.sessions_due();
            self.holds_due();
            self.pending_due();
            self.probes_due();
        }
        self.jobs_due();
        self.copies_due();
        self.layings_due();
        self.fences_due();
        self.seals_begin();
        self.seals_due();
        self.remaps_go_on();
        self.closings_due();
        self.holds_go_on();
        self.join_goes_on();
        self.slots_go_on();
        self.free_limbo();
        self.drop_segments();
        self.tell_readers();
        self.tell_lists();
        self.mail_goes_on();
        self.confirms_go_on();
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<BootTime> {
        let lives = self.lives.iter().flat_map(|(no, l)| {
            let lease = (!l.lapsed).then_some(l.until);
            let probe = (l.may_be_dead() && !l.probe.asked && !l.is_ending() && self.is_probed(*no)).then_some(l.probe.next);
            let recall = if l.doomed && (l.is_sealed() || l.is_ending()) { None } else { l.recalled.values().min().copied() };
            let watch = l.watch.and_then(|w| w.due());
            let closing = l.closing.as_ref().filter(|_| !l.is_written_for()).and_then(|c| c.due());
            let remap = l.remap.as_ref().filter(|_| l.may_be_taken_from()).and_then(Remap::due);
            [lease, probe, recall, watch, l.seal.due(), closing, remap, self.fence_due(*no)].into_iter().flatten()
        });
        let confirms = self.confirms.iter().map(|c| c.deadline);
        lives
            .chain(self.mail_due())
            .chain(self.slots_next())
            .chain(self.holds.values().map(|h| h.deadline))
            .chain(self.pending.values().map(|p| p.deadline))
            .chain(confirms)
            .chain(self.joining.as_ref().map(|j| j.deadline))
            .chain(self.jobs_next())
            .chain(self.copies_next())
            .chain(self.layings_next())
            .min()
    }

    fn sessions_due(&mut self) {
        let now = self.now.boot;
        let over: Vec<SessionNo> = self.lives.iter().filter(|(_, l)| !l.lapsed && l.until <= now).map(|(no, _)| *no).collect();
        for no in over {
            self.lapse(no);
        }
        let deaf: Vec<_> =
            self.lives.iter().filter(|(_, l)| !l.doomed && l.recalled.values().any(|d| *d <= now)).map(|(no, _)| *no).collect();
        for no in deaf {
            self.doom(no, "it does not give back what was recalled");
        }
    }

    fn probes_due(&mut self) {
        let now = self.now.boot;
        let most = self.config.lease;
        let due: Vec<SessionNo> = self
            .lives
            .iter()
            .filter(|(no, l)| l.may_be_dead() && !l.probe.asked && !l.is_ending() && l.probe.next <= now && self.is_probed(**no))
            .map(|(no, _)| *no)
            .collect();
        for session in due {
            if let Some(l) = self.lives.get_mut(&session) {
                l.probe.asked = true;
                l.probe.next = now.plus(l.probe.wait);
                l.probe.wait = (l.probe.wait * 2).min(most);
                self.out.effects.push(Effect::ProbeLock { session });
            }
        }
    }

    /// What nobody uses any more is free.
    fn free_limbo(&mut self) {
        if !std::mem::take(&mut self.limbo_moved) {
            return;
        }
        let free: Vec<u64> = self.catalog.limbo().filter(|l| l.waits.is_empty()).map(|l| l.no).collect();
        for no in free {
            self.commit_or_tell(Record::LimboFreed { no });
        }
    }

    fn drop_segments(&mut self) {
        for volume in std::mem::take(&mut self.spent) {
            let Some(v) = self.catalog.volume(volume) else { continue };
            let spent = |s: &Segment| self.catalog.is_spent(volume, s) && !self.catalog.may_be_closing(volume, s);
            let nos: Vec<u32> = v.segments.iter().filter(|(_, s)| spent(s)).map(|(no, _)| *no).collect();
            if !nos.is_empty() {
                self.commit_or_tell(Record::SegmentsDropped { volume, nos });
            }
        }
    }

    fn tell_lists(&mut self) {
        let told = |p: &Push| matches!(p, Push::VolumesChanged(_));
        let due: Vec<SessionNo> =
            self.lives.iter().filter(|(_, l)| l.volumes_changed && !l.pushes.values().any(told)).map(|(no, _)| *no).collect();
        for no in due {
            if let Some(l) = self.lives.get_mut(&no) {
                l.volumes_changed = false;
            }
            self.push(no, Push::VolumesChanged(VolumesChanged {}));
        }
    }
}
