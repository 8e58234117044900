//! The writer's changes: appends of its journal, durable already, are folded into the catalog; each once (PROTOCOL.md, F2).
//!
//! The same way takes what a living writer sends and what the journal of a dead one says.

use super::Core;
use super::admin_api::Level;
use super::change::refused;
use super::rights::no_volume;
use crate::catalog::record::Record;
use crate::catalog::touched;
use fusevol_shared::change::{Append, Entry};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::wire::messages::{APPEND_WEIGHT, FOLD_WEIGHT, Fold, Folded, Reply};
use std::collections::BTreeSet;

fn weighs(appends: &[Append]) -> usize {
    appends.iter().map(Append::weight).sum()
}

impl Core {
    pub(super) fn fold(&mut self, session: SessionNo, m: &Fold) -> Result<Reply> {
        let folded = self.writing(session, m.volume, m.token)?.folded;
        if m.appends.iter().any(|a| a.weight() > APPEND_WEIGHT) || m.appends.len() > 1 && weighs(&m.appends) > FOLD_WEIGHT {
            return Err(refused("a fold of too much at once"));
        }
        let numbers = (1..=u64::MAX).map(|i| m.prev.0.checked_add(i));
        if !m.appends.iter().zip(numbers).all(|(a, n)| Some(a.seq.0) == n) {
            return Err(refused("appends are folded out of order"));
        }
        if m.prev > folded {
            return Err(refused("appends are missing before those that are folded").hint("fold from the last one that was folded on"));
        }
        let known = if holds(Tag::F2) { folded } else { m.prev };
        let new: Vec<Append> = m.appends.iter().filter(|a| a.seq > known).cloned().collect();
        if new.is_empty() {
            return Ok(Reply::Folded(Folded { seq: folded }));
        }
        let seq = self.fold_appends(m.token, known, new).map_err(|e| {
            let e = Error::new(Kind::Refused, "the appends do not fit what is folded already").because(e);
            e.hint("detach; the journal is read when the session is over")
        })?;
        Ok(Reply::Folded(Folded { seq }))
    }

    /// Folds appends that follow `prev`, and tells whom it concerns.
    ///
    /// # Errors
    /// `Damaged` where they do not fit; nothing is changed then.
    pub(super) fn fold_appends(&mut self, token: FenceToken, prev: Seq, appends: Vec<Append>) -> Result<Seq> {
        let (volume, session) = self.catalog.attachment(token).map(|a| (a.volume, a.session)).ok_or_else(no_volume)?;
        let seq = appends.last().map_or(prev, |a| a.seq);
        let limbo = self.catalog.counters().limbo;
        let places = appends.iter().flat_map(|a| &a.entries).any(|e| matches!(e, Entry::Placed { .. }));
        let waits = if places { self.all_users(volume, Some(session)) } else { self.users(volume, Some(session)) };
        let pending = self.pending_snapshot(volume);
        let broken = self.broken_snapshots(volume);
        let aus = touched(&appends);
        let breaks = appends.iter().flat_map(|a| &a.entries).any(|e| matches!(e, Entry::Broken { .. }));
        let flips = appends.iter().flat_map(|a| &a.entries).any(|e| matches!(e, Entry::Flipped { .. }));
        let record = Record::Folded { token, prev, appends, limbo, waits: waits.clone() };
        self.catalog.apply(&record)?;
        self.out.records.push(record);
        if places {
            self.places_changed(volume, &aus);
        }
        self.map_changed(volume, Some(session), aus);
        self.out_changed(volume);
        if self.catalog.counters().limbo != limbo {
            self.limbo_entered(volume, &waits);
        }
        if flips {
            self.spent.insert(volume);
        }
        if let Some(id) = pending.filter(|_| self.pending_snapshot(volume).is_none()) {
            self.snapshot_folded(volume, id);
        }
        if breaks {
            self.tell_broken(volume, &broken);
        }
        Ok(seq)
    }

    fn pending_snapshot(&self, volume: VolumeId) -> Option<SnapshotId> {
        self.catalog.volume(volume).and_then(|v| v.entry.pending.as_ref()).map(|p| p.id)
    }

    fn broken_snapshots(&self, volume: VolumeId) -> BTreeSet<SnapshotId> {
        self.catalog.snapshots_of(volume).iter().filter(|s| s.entry.broken).map(|s| s.entry.id).collect()
    }

    /// Snapshots have lost blocks, for want of space to preserve them.
    fn tell_broken(&mut self, volume: VolumeId, before: &BTreeSet<SnapshotId>) {
        let of = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
        let now = self.catalog.snapshots_of(volume);
        let fresh = now.iter().filter(|s| s.entry.broken && !before.contains(&s.entry.id));
        let lost: Vec<String> = fresh.map(|s| format!("{of}@{}", s.entry.name)).collect();
        for name in lost {
            let text = format!("snapshot '{name}' has lost blocks: there was no space to preserve them; it reads as an error from now on");
            self.tell(Level::Critical, "snapshot-broken", text);
        }
        self.list_changed(volume);
    }
}
