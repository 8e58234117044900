//! Chooses the crash states of a recording, and makes each when it is asked for.

use super::replay::{Overlay, Replay};
use super::{Event, Fault, Label, Log, Mode, State};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{DiskOff, PAGE_U64};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// How much of one open write landed.
#[derive(Clone, Debug)]
enum Landed {
    Whole,
    Sectors(Vec<bool>),
}

/// A state to be made: which open writes landed.
struct Choice {
    mode: Mode,
    landed: Vec<(usize, Landed)>,
}

enum Way {
    /// Power cuts: the replay walks on, and the choices at its present cut wait.
    Cuts { replay: Box<Replay>, per_point: usize, waiting: VecDeque<Choice> },
    /// A lying disk: so many tries; (write, event at which it became durable) to choose from.
    Lying { log: Arc<Log>, start: Vec<MemDisk>, tries: usize, mode: Mode, durable: Vec<(usize, usize)> },
}

/// Crash states, each made when asked for; see the module above.
pub struct States<'r> {
    random: &'r mut SeededRandom,
    way: Way,
    seen: HashSet<(u128, u64)>,
    contents: HashSet<u128>,
}

impl<'r> States<'r> {
    pub(super) fn power_cuts(log: Log, start: &[MemDisk], random: &'r mut SeededRandom, per_point: usize) -> Self {
        let replay = Box::new(Replay::new(Arc::new(log), start, None));
        let nothing_yet = VecDeque::from([Choice { mode: Mode::Prefix, landed: Vec::new() }]);
        Self::new(random, Way::Cuts { replay, per_point, waiting: nothing_yet })
    }

    pub(super) fn lying(log: Log, start: &[MemDisk], random: &'r mut SeededRandom, tries: usize, mode: Mode) -> Self {
        let log = Arc::new(log);
        let mut replay = Replay::new(log.clone(), start, None);
        let (mut open, mut durable) = (HashSet::new(), Vec::new());
        while replay.step().is_some() {
            let now: HashSet<_> = replay.open.iter().map(|o| o.id).collect();
            let mut settled: Vec<_> = open.difference(&now).copied().collect();
            settled.sort_unstable();
            durable.extend(settled.into_iter().map(|id| (id, replay.cut)));
            open = now;
        }
        let start = start.iter().map(MemDisk::fork).collect();
        Self::new(random, Way::Lying { log, start, tries, mode, durable })
    }

    fn new(random: &'r mut SeededRandom, way: Way) -> Self {
        Self { random, way, seen: HashSet::new(), contents: HashSet::new() }
    }

    /// Different contents among the states given so far (states may share a content where their marks differ).
    #[must_use]
    pub fn distinct_contents(&self) -> usize {
        self.contents.len()
    }

    /// Whether this state is a new one.
    fn is_new(seen: &mut HashSet<(u128, u64)>, contents: &mut HashSet<u128>, digest: u128, mark: u64) -> bool {
        contents.insert(digest);
        seen.insert((digest, mark))
    }
}

impl Iterator for States<'_> {
    type Item = State;

    fn next(&mut self) -> Option<State> {
        let Self { random, way, seen, contents } = self;
        match way {
            Way::Cuts { replay, per_point, waiting } => loop {
                while let Some(choice) = waiting.pop_front() {
                    let overlay = overlay(replay, &choice);
                    if Self::is_new(seen, contents, replay.digest_with(&overlay), replay.mark) {
                        let label = Label { mode: choice.mode, cut: replay.cut, detail: describe(replay, &choice) };
                        let disks = replay.disks_with(&overlay);
                        return Some(State { label, acknowledged: replay.mark, fault: None, disks });
                    }
                }
                let event = replay.step()?;
                choose(replay, event, *per_point, random, waiting);
            },
            Way::Lying { log, start, tries, mode, durable } => {
                while *tries > 0 && !durable.is_empty() {
                    *tries -= 1;
                    let replay = lie(log, start, *mode, durable, random);
                    let (fault, replay) = replay?;
                    // Everything else is there: the lie is the only fault.
                    let landed = (0..replay.open.len()).map(|i| (i, Landed::Whole)).collect();
                    let overlay = overlay(&replay, &Choice { mode: *mode, landed });
                    if Self::is_new(seen, contents, replay.digest_with(&overlay), replay.mark) {
                        let label = Label { mode: *mode, cut: replay.cut, detail: format!("{fault:?}") };
                        let disks = replay.disks_with(&overlay);
                        return Some(State { label, acknowledged: replay.mark, fault: Some(fault), disks });
                    }
                }
                None
            }
        }
    }
}

fn overlay(replay: &Replay, choice: &Choice) -> Overlay {
    let mut overlay = Overlay::new();
    for (index, landed) in &choice.landed {
        match landed {
            Landed::Whole => replay.land(&mut overlay, *index, |_| true),
            Landed::Sectors(take) => replay.land(&mut overlay, *index, |s| take[s]),
        }
    }
    overlay
}

fn describe(replay: &Replay, choice: &Choice) -> String {
    if choice.landed.is_empty() {
        return format!("none of {} open writes", replay.open.len());
    }
    let each = choice.landed.iter().map(|(index, landed)| match landed {
        Landed::Whole => replay.describe(*index),
        Landed::Sectors(take) => {
            let map: String = take.iter().map(|&t| if t { '1' } else { '0' }).collect();
            format!("{} sectors {map}", replay.describe(*index))
        }
    });
    format!("of {} open writes {}", replay.open.len(), each.collect::<Vec<_>>().join(", "))
}

/// The states to make at a cut: those that the event made possible.
fn choose(replay: &Replay, event: Event, per_point: usize, random: &mut SeededRandom, out: &mut VecDeque<Choice>) {
    let n = replay.open.len();
    let prefixes = match event {
        // Of the shorter ones nothing has changed.
        Event::WriteBegun(_) => n..=n,
        Event::WriteDone(id) if !replay.log.writes[id].durable => return,
        Event::FlushBegun { .. } => return,
        Event::WriteDone(_) | Event::FlushDone(_) | Event::Mark(_) => 0..=n,
    };
    let whole = |indices: &mut dyn Iterator<Item = usize>| indices.map(|i| (i, Landed::Whole)).collect::<Vec<_>>();
    out.extend(prefixes.map(|k| Choice { mode: Mode::Prefix, landed: whole(&mut (0..k)) }));
    if n == 0 {
        return;
    }
    if n < 16 && 1 << n <= per_point {
        let subset = |bits: usize| Choice { mode: Mode::Subset, landed: whole(&mut (0..n).filter(move |i| bits >> i & 1 == 1)) };
        out.extend((0..1 << n).map(subset));
    } else {
        for _ in 0..per_point {
            let some: Vec<_> = (0..n).filter(|_| random.below(2) == 0).collect();
            out.push_back(Choice { mode: Mode::Subset, landed: whole(&mut some.into_iter()) });
        }
    }
    out.extend((0..per_point).map(|_| tear(replay, random)));
}

/// One open write torn (the newest with even odds: it has had the fewest cuts), some of the others whole.
fn tear(replay: &Replay, random: &mut SeededRandom) -> Choice {
    let n = replay.open.len();
    let torn = if random.below(2) == 0 { n - 1 } else { pick(random, n) };
    let all = replay.sectors(torn);
    let cut = pick(random, all + 1);
    let sectors: Vec<bool> = match random.below(4) {
        0 => (0..all).map(|s| s < cut).collect(),
        1 => (0..all).map(|s| s >= cut).collect(),
        _ => (0..all).map(|_| random.below(2) == 0).collect(),
    };
    let others_all = random.below(2) == 0;
    let landed = (0..n).filter_map(|i| match i == torn {
        true => Some((i, Landed::Sectors(sectors.clone()))),
        false => (others_all || random.below(2) == 0).then_some((i, Landed::Whole)),
    });
    Choice { mode: Mode::Tear, landed: landed.collect() }
}

/// A replay to some cut after a durable write, in which that write is lost or lands elsewhere.
fn lie(log: &Arc<Log>, start: &[MemDisk], mode: Mode, durable: &[(usize, usize)], random: &mut SeededRandom) -> Option<(Fault, Replay)> {
    let (id, since) = durable[pick(random, durable.len())];
    let write = &log.writes[id];
    let landed = match mode {
        Mode::Misdirected => Some(elsewhere(log, start, id, random)),
        _ => None,
    };
    let fault = Fault { disk: write.disk, at: write.at, len: write.data.len(), landed };
    let mut replay = Replay::new(log.clone(), start, Some((id, fault)));
    let cut = since + pick(random, log.events.len() - since + 1);
    while replay.cut < cut {
        replay.step()?;
    }
    Some((fault, replay))
}

/// Another page of the same disk: where some other write lies, or any.
fn elsewhere(log: &Log, start: &[MemDisk], id: usize, random: &mut SeededRandom) -> DiskOff {
    use fusevol_shared::disk::Disk;
    let write = &log.writes[id];
    let last = (start[write.disk].size() - write.data.len() as u64) / PAGE_U64;
    let others: Vec<_> = log.writes.iter().filter(|w| w.disk == write.disk && w.at != write.at).collect();
    let page = match others.is_empty() || random.below(2) == 0 {
        true => random.below(last + 1),
        false => others[pick(random, others.len())].at.0 / PAGE_U64,
    };
    DiskOff(page.min(last) * PAGE_U64)
}

fn pick(random: &mut SeededRandom, n: usize) -> usize {
    usize::try_from(random.below(n as u64)).expect("below a usize")
}
