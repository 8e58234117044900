//! The goals of the data path, as data: the least ratio of a work to what it is measured against.

use super::target::TargetKind;

#[cfg(test)]
mod tests;

/// What a work is measured against, in the same round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// Another target at the same work.
    Target(TargetKind),
    /// The same target at the work's base: our own overwrites.
    Own,
}

/// A goal.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Goal {
    /// Name of the work.
    pub work: &'static str,
    /// Against what.
    pub against: Against,
    /// At least so many times as fast.
    pub least: f64,
}

const RAW: Against = Against::Target(TargetKind::Raw);
const QSD: Against = Against::Target(TargetKind::QsdRaw);
const QCOW2: Against = Against::Target(TargetKind::QsdQcow2);

const fn goal(work: &'static str, against: Against, least: f64) -> Goal {
    Goal { work, against, least }
}

/// The table of the goals.
pub const GOALS: [Goal; 16] = [
    goal("randread-qd1", RAW, 0.85),
    goal("randread-qd1", QSD, 1.4),
    goal("randwrite-qd1", RAW, 0.90),
    goal("randwrite-qd1", QSD, 1.8),
    goal("randread-qd32", RAW, 0.65),
    goal("randread-qd32", QSD, 1.8),
    goal("randwrite-qd32", RAW, 0.85),
    goal("randwrite-qd32", QSD, 1.6),
    goal("seqread", RAW, 0.90),
    goal("seqread", QSD, 1.8),
    goal("seqwrite", RAW, 0.90),
    goal("seqwrite", QSD, 1.8),
    goal("newplaces", Against::Own, 0.60),
    goal("newplaces", QCOW2, 3.0),
    goal("aftersnap", Against::Own, 0.30),
    goal("aftersnap", QCOW2, 2.0),
];

/// Whether a goal is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// One of the two was not measured.
    Unknown,
}

impl Goal {
    /// What a measured ratio says; nothing is rounded in its favour.
    #[must_use]
    pub fn mark(&self, ratio: Option<f64>) -> Mark {
        match ratio {
            Some(r) if r >= self.least => Mark::Met,
            Some(_) => Mark::Missed,
            None => Mark::Unknown,
        }
    }
}

impl Mark {
    /// For a table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Unknown => "-",
        }
    }
}
