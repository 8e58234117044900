//! Many steps of anything, from a seed: clients, retries, lost connections, dead processes with journals that are not folded, late answers of the
//! disks, administrators, restarts before and after commits.
//!
//! Held against what the clients themselves know: no place is handed out that somebody may still read or write; what was durable in a journal
//! is in the catalog once its writer is over; a snapshot is what was there when its writer flipped, and never changes.

use super::harness::*;
use super::people::{AUS, Person};
use crate::catalog::record::{Fencing, Record};
use crate::catalog::{Catalog, Snapshot};
use crate::core::{AdminRequest, Event};
use fusevol_shared::change::Places;
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{DiskAu, DiskNo};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Places that a record hands out.
fn handed_out(r: &Record) -> Vec<DiskAu> {
    let flat = |p: &[Places]| p.iter().flat_map(Places::each).flatten().collect::<Vec<_>>();
    match r {
        Record::Attached { segment, journal, reserve, .. } => {
            let segment = segment.iter().flat_map(|s| s.legs.clone());
            segment.chain(journal.iter().flat_map(|j| j.places())).chain(flat(reserve)).collect()
        }
        Record::Granted { places, .. } => flat(places),
        Record::JournalReplaced { journal, .. } => journal.places(),
        Record::TakeoverGranted { places, .. } => flat(places),
        _ => Vec::new(),
    }
}

struct Run {
    w: World,
    r: SeededRandom,
    people: Vec<Person>,
    volumes: Vec<VolumeId>,
    frozen: BTreeMap<SnapshotId, Snapshot>,
    /// Places that were handed out while somebody still knew them, with their story.
    stolen: Vec<String>,
    /// Disks that the manager has lost.
    lost: Vec<DiskNo>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut w = World::new(4, 35);
        let volumes = vec![w.volume("a", u64::from(AUS) << 20), w.volume("b", u64::from(AUS) << 20)];
        for key in 1..=4 {
            w.client(key, "a", "all");
            w.client(key, "b", "all");
        }
        if seed % 2 == 1 {
            // What dead writers of other hosts could still write is taken over.
            w.admin(AdminRequest::PoolSet { fencing: Fencing::LeaseOnly });
        }
        let people = (1..=4).map(Person::new).collect();
        Self { w, r: SeededRandom(seed), people, volumes, frozen: BTreeMap::new(), stolen: Vec::new(), lost: Vec::new() }
    }

    /// What each of them knows now, and where the log ends.
    fn before(&self) -> (usize, Vec<BTreeSet<DiskAu>>) {
        (self.w.log.len(), self.people.iter().map(Person::knows).collect())
    }

    /// Looks at what was committed since then: who knew a place before, and knows it still, has not given it back.
    fn look(&mut self, (from, knew): &(usize, Vec<BTreeSet<DiskAu>>)) {
        let still: Vec<BTreeSet<DiskAu>> =
            self.people.iter().zip(knew).map(|(p, k)| p.knows().intersection(k).copied().collect()).collect();
        for at in self.w.log[(*from).min(self.w.log.len())..].iter().flat_map(handed_out) {
            for (p, _) in self.people.iter().zip(&still).filter(|(_, s)| s.contains(&at)) {
                let tail: Vec<_> = self.w.log.iter().skip(self.w.log.len().saturating_sub(40)).collect();
                self.stolen.push(format!("{at} is known to {p:?}; the log ends with {tail:#?}"));
            }
        }
        let now: Vec<SnapshotId> = self.snapshots();
        self.frozen.retain(|id, _| now.contains(id));
        for id in now {
            let s = self.w.shadow.snapshot(id).expect("there");
            let truth = &self.w.truth;
            let first = self.frozen.entry(id).or_insert_with(|| {
                let (v, empty) = (s.entry.volume, Masks::new());
                let is = truth.flips.get(&(v, s.entry.epoch)).or(truth.live.get(&v)).unwrap_or(&empty);
                assert_eq!(&masks(&s.map), is, "a snapshot is not what was there when its writer flipped");
                s.clone()
            });
            assert!(masks(&first.map) == masks(&s.map) && first.entry.epoch == s.entry.epoch, "a snapshot changed");
        }
        for v in self.w.shadow.volumes().filter(|v| self.w.shadow.writer(v.entry.id).is_none()) {
            let is = self.w.truth.live.get(&v.entry.id).cloned().unwrap_or_default();
            assert_eq!(masks(&v.map), is, "what was durable is not what is there");
        }
    }

    fn snapshots(&self) -> Vec<SnapshotId> {
        self.volumes.iter().flat_map(|v| self.w.shadow.snapshots_of(*v)).map(|s| s.entry.id).collect()
    }

    /// Answers the probes truly: a process that lives holds its lock, once it has opened its session.
    fn probes(&mut self) {
        for session in self.w.probes() {
            let lives = self.people.iter().any(|p| p.session == Some(session));
            let slow = self.r.below(4) == 0;
            self.w.step(Event::LockProbed { session, held: lives || slow });
        }
    }

    /// Who lives beats; who finds its SEAL set is over.
    fn beats(&mut self) {
        for p in &mut self.people {
            if let (Some(s), Some(slot)) = (p.session.filter(|s| self.w.disks.slots.get(s) == Some(&true)), &p.slot) {
                let clear = slot.could_go_on(&self.w.disks.seals, s);
                assert!(!clear, "session {s} is sealed and could go on by {slot:?}: {:?}", self.w.shadow.session(s));
                p.leave(&mut self.w);
                p.die();
            }
        }
        self.w.disks.alive = self.people.iter().filter_map(|p| p.session).collect();
    }

    fn restart(&mut self) {
        self.people.iter_mut().for_each(|p| p.conn = None);
        self.w.restart();
        self.lose(self.lost.clone());
    }

    /// The manager does not reach these disks.
    fn lose(&mut self, lost: Vec<DiskNo>) {
        self.w.disks.broken = lost.iter().map(|d| (*d, self.r.below(2) == 0)).collect();
        self.w.core.set_lost(lost.iter().map(|d| (*d, "lost".to_owned())).collect());
        self.lost = lost;
    }

    fn step(&mut self) {
        let before = self.before();
        let n = usize::try_from(self.r.below(4)).expect("small");
        match self.r.below(200) {
            0 => self.restart(),
            1 => {
                // The batch in which this was done was never committed.
                self.people[n].lose(&mut self.w, &mut self.r, &self.volumes);
                self.restart();
            }
            2..8 => self.w.wait(Duration::from_millis(200 + self.r.below(1500))),
            8 => self.w.wait(LEASE * 2),
            9..15 => self.verb(n),
            18 => self.w.disks.silent = self.r.below(3) == 0,
            19 => {
                let some = (0..4).map(DiskNo).filter(|_| self.r.below(4) == 0).collect();
                self.lose(some);
            }
            20 => self.w.disks.slow = self.r.below(3) == 0,
            15..18 => self.w.answer_questions(),
            _ => {
                let snapshots = self.snapshots();
                self.people[n].act(&mut self.w, &mut self.r, &self.volumes, &snapshots);
            }
        }
        self.beats();
        self.look(&before);
        let before = self.before();
        self.probes();
        self.look(&before);
        if self.r.below(50) == 0 {
            let again = Catalog::fold(&self.w.shadow.dump()).expect("a checkpoint folds");
            assert!(again == self.w.shadow, "a checkpoint tells another state");
            self.w.effects.clear();
        }
    }

    fn verb(&mut self, n: usize) {
        let client = format!("host{}", n + 1);
        let names: Vec<String> = self.w.shadow.snapshots_of(self.volumes[0]).iter().map(|s| s.entry.name.to_string()).collect();
        let request = match self.r.below(12) {
            0 => AdminRequest::AccessRevoke { volume: "a".into(), client, rights: None },
            1 | 2 => AdminRequest::AccessGrant { volume: "a".into(), client, rights: "all".parse().expect("rights") },
            3 => AdminRequest::SnapshotCreate { volume: "b".into(), name: format!("n{}", self.r.below(9)) },
            4 => AdminRequest::SnapshotRemove { volume: "a".into(), name: names.first().cloned().unwrap_or_default() },
            5..11 => AdminRequest::ClientConfirmDead { name: client },
            _ => AdminRequest::Status,
        };
        let _ = self.w.try_admin(request);
    }

    /// Everybody dies; nothing of them is left but what they wrote.
    fn end(&mut self) {
        (self.w.disks.silent, self.w.disks.slow) = (false, false);
        self.lose(Vec::new());
        self.w.answer_questions();
        for p in &mut self.people {
            p.leave(&mut self.w);
            p.die();
        }
        self.beats();
        for _ in 0..12 {
            for n in 1..=4 {
                let _ = self.w.try_admin(AdminRequest::ClientConfirmDead { name: format!("host{n}") });
            }
            self.w.wait(LEASE);
            for session in self.w.probes() {
                self.w.step(Event::LockProbed { session, held: false });
            }
        }
        let before = self.before();
        self.look(&before);
        let c = &self.w.shadow;
        let left = (c.sessions().count(), c.attachments().count(), c.limbo().count(), c.quarantine().count());
        let status = self.w.try_admin(AdminRequest::Status);
        let c = &self.w.shadow;
        assert_eq!(left, (0, 0, 0, 0), "{status:#?}");
        let mut owned: Vec<DiskAu> = c.volumes().flat_map(|v| v.map.iter().map(|(_, e)| e.legs()[0].at).collect::<Vec<_>>()).collect();
        owned.extend(self.snapshots().iter().filter_map(|s| c.snapshot(*s)).flat_map(|s| s.map.iter().map(|(_, e)| e.legs()[0].at)));
        owned.extend(c.volumes().flat_map(|v| v.segments.values()).flat_map(|s| s.legs.clone()));
        // What takeovers of former managers may still copy to: nothing proves here that those are drained.
        owned.extend(c.copying().map(|(at, _)| at));
        owned.sort_unstable();
        owned.dedup();
        assert_eq!(c.free_aus() + owned.len() as u64, c.total_aus(), "an AU is lost");
    }
}

#[test]
fn anything_in_any_order() {
    let mut done = [0usize; 12];
    for seed in 0..8 {
        let mut run = Run::new(seed);
        for step in 0..8000 {
            run.step();
            assert!(run.stolen.is_empty(), "seed {seed}, step {step}: handed out under its holder: {}", run.stolen[0]);
        }
        run.end();
        for r in &run.w.log {
            let n = match r {
                Record::SnapshotTaken { .. } => 0,
                Record::Folded { .. } => 1,
                Record::LimboAnswered { .. } => 2,
                Record::EpochBegun { .. } => 3,
                Record::Granted { .. } => 4,
                Record::SessionEnded { closed, .. } if !closed.is_empty() => 5,
                Record::SessionSealed { .. } => 6,
                Record::JournalReplaced { .. } => 7,
                Record::LeftDirty { .. } => 8,
                Record::TakenOver(_) => 9,
                Record::SlotMoves { .. } => 10,
                Record::SlotMoved { .. } => 11,
                _ => continue,
            };
            done[n] += 1;
        }
    }
    println!("{done:?}");
    let least = [60, 400, 60, 100, 200, 40, 40, 10, 8, 3, 100, 60];
    assert!(done.iter().zip(least).all(|(d, l)| *d > l), "the runs did little: {done:?}");
}

/// How often the checks of the runs find something with a sentence switched off.
fn found_without(tag: Tag) -> usize {
    let broken = |seed| {
        let run = || {
            let mut run = Run::new(seed);
            run.w.prove = false;
            for _ in 0..3000 {
                run.step();
            }
            run.stolen.len()
        };
        // What the checks say is not of interest here, only that they do.
        std::panic::catch_unwind(|| without(tag, run)).unwrap_or(1)
    };
    (0..4).map(broken).sum()
}

#[test]
fn without_the_wait_places_are_handed_out_under_their_readers() {
    assert!(found_without(Tag::R1) > 0, "the check must see what the wait prevents");
}

#[test]
fn without_the_proof_of_drain_places_are_handed_out_under_their_writers() {
    assert!(found_without(Tag::K1) > 0, "the check must see what the proof prevents");
}

#[test]
fn without_the_closing_number_what_was_durable_is_lost() {
    assert!(found_without(Tag::F1) > 0, "the check must see what the closing prevents");
}
