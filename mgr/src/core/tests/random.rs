//! Many steps of anything, from a seed: clients, retries, lost connections, dead processes, administrators, restarts before and after commits.

use super::harness::*;
use super::people::{AUS, Person};
use crate::catalog::record::Record;
use crate::catalog::{Catalog, Snapshot};
use crate::core::{AdminRequest, Event};
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::DiskAu;
use std::collections::BTreeMap;
use std::time::Duration;

/// Places that a record hands out.
fn handed_out(r: &Record) -> Vec<DiskAu> {
    match r {
        Record::Bound { runs, .. } => runs
            .iter()
            .flat_map(|r| r.entries().expect("fits"))
            .flat_map(|(_, e)| e.legs().iter().map(|l| l.at).collect::<Vec<_>>())
            .collect(),
        Record::Attached { segment: Some(s), .. } | Record::SegmentGranted { segment: s, .. } | Record::EpochBegun { segment: s, .. } => {
            s.legs.clone()
        }
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
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut w = World::new(2, 60);
        let volumes = vec![w.volume("a", u64::from(AUS) << 20), w.volume("b", u64::from(AUS) << 20)];
        for key in 1..=4 {
            w.client(key, "a", "all");
            w.client(key, "b", "all");
        }
        let people = (1..=4).map(Person::new).collect();
        Self { w, r: SeededRandom(seed), people, volumes, frozen: BTreeMap::new(), stolen: Vec::new() }
    }

    /// Looks at what was committed since `from`.
    fn look(&mut self, from: usize) {
        for at in self.w.log[from.min(self.w.log.len())..].iter().flat_map(handed_out) {
            for p in self.people.iter().filter(|p| p.knows().contains(&at)) {
                let tail: Vec<_> = self.w.log.iter().skip(self.w.log.len().saturating_sub(40)).collect();
                self.stolen.push(format!("{at} is known to {p:?}; the log ends with {tail:#?}"));
            }
        }
        let now: Vec<SnapshotId> = self.snapshots();
        self.frozen.retain(|id, _| now.contains(id));
        for id in now {
            let s = self.w.shadow.snapshot(id).expect("there");
            assert!(self.frozen.entry(id).or_insert_with(|| s.clone()) == s, "a snapshot changed");
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

    fn restart(&mut self) {
        self.people.iter_mut().for_each(|p| p.conn = None);
        self.w.restart();
        self.w.core.skip_waits = false;
    }

    fn step(&mut self) {
        let from = self.w.log.len();
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
            9..12 => self.verb(n),
            _ => {
                let snapshots = self.snapshots();
                self.people[n].act(&mut self.w, &mut self.r, &self.volumes, &snapshots);
            }
        }
        self.look(from);
        self.probes();
        if self.r.below(100) == 0 {
            let again = Catalog::fold(&self.w.shadow.dump()).expect("a checkpoint folds");
            assert!(again == self.w.shadow, "a checkpoint tells another state");
            self.w.effects.clear();
        }
    }

    fn verb(&mut self, n: usize) {
        let client = format!("host{}", n + 1);
        let names: Vec<String> = self.w.shadow.snapshots_of(self.volumes[0]).iter().map(|s| s.entry.name.to_string()).collect();
        let request = match self.r.below(6) {
            0 => AdminRequest::AccessRevoke { volume: "a".into(), client, rights: None },
            1 | 2 => AdminRequest::AccessGrant { volume: "a".into(), client, rights: "all".parse().expect("rights") },
            3 => AdminRequest::SnapshotCreate { volume: "b".into(), name: format!("n{}", self.r.below(9)) },
            4 => AdminRequest::SnapshotRemove { volume: "a".into(), name: names.first().cloned().unwrap_or_default() },
            _ => AdminRequest::Status,
        };
        let _ = self.w.try_admin(request);
    }
}

#[test]
fn anything_in_any_order() {
    let mut done = [0; 4];
    for seed in 0..8 {
        let mut run = Run::new(seed);
        for step in 0..4000 {
            run.step();
            assert!(run.stolen.is_empty(), "seed {seed}, step {step}: handed out under a reader: {}", run.stolen[0]);
        }
        for r in &run.w.log {
            match r {
                Record::SnapshotTaken { .. } => done[0] += 1,
                Record::Bound { .. } => done[1] += 1,
                Record::LimboAnswered { .. } => done[2] += 1,
                Record::EpochBegun { .. } => done[3] += 1,
                _ => {}
            }
        }
    }
    assert!(done[0] > 80 && done[1] > 200 && done[2] > 40 && done[3] > 40, "the runs did little: {done:?}");
}

#[test]
fn without_the_wait_places_are_handed_out_under_their_readers() {
    let stolen: usize = (0..4)
        .map(|seed| {
            let mut run = Run::new(seed);
            for _ in 0..3000 {
                run.w.core.skip_waits = true;
                run.step();
            }
            run.stolen.len()
        })
        .sum();
    assert!(stolen > 0, "the check must see what the wait prevents");
}
