//! Which of the things seen is the wanted disk. Decides only; pure.

use super::{Seen, Source, Wanted};
use crate::format::label::{DiskLabel, Finding};
use crate::ids::PoolId;

/// What to do about a wanted disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    /// Open this one of those seen.
    Use(usize),
    /// It is nowhere.
    Missing(String),
    /// It must not be used.
    Refused(String),
}

/// What lies somewhere, for people.
pub(super) fn describe(finding: &Finding) -> String {
    match finding {
        Finding::Blank => "it carries no label".to_owned(),
        Finding::Foreign(what) => format!("it carries {what}"),
        Finding::Label(l, _) => format!("it is disk {} of pool {} ({})", l.disk, l.pool_name, l.pool),
        Finding::Damaged(why) => why.clone(),
    }
}

fn label(seen: &Seen) -> Option<&DiskLabel> {
    match &seen.finding {
        Ok(Finding::Label(l, _)) => Some(l),
        _ => None,
    }
}

/// Whether two things seen are one medium: the same node, the same world-wide name, or one stands on the other.
fn one_medium(a: &Seen, b: &Seen) -> bool {
    a.identity == b.identity || a.medium == b.medium || stands_on(a, b) || stands_on(b, a)
}

fn stands_on(upper: &Seen, lower: &Seen) -> bool {
    lower.identity.is_some_and(|l| upper.lower.contains(&l))
}

pub(super) fn choose(pool: PoolId, wanted: &Wanted, seen: &[Seen]) -> Choice {
    let of_it = |i: &usize| label(&seen[*i]).is_some_and(|l| (l.pool, l.disk) == (pool, wanted.id));
    let mut media: Vec<Vec<usize>> = Vec::new();
    for i in (0..seen.len()).filter(of_it) {
        // One thing may join two groups: two paths of a LUN, and the multipath device over both.
        let (mut its, others): (Vec<_>, Vec<_>) = media.into_iter().partition(|m| m.iter().any(|&j| one_medium(&seen[i], &seen[j])));
        let mut whole: Vec<usize> = its.drain(..).flatten().collect();
        whole.push(i);
        media = others;
        media.push(whole);
    }
    match media.as_slice() {
        [] => Choice::Missing(nowhere(wanted, seen)),
        [medium] => Choice::Use(preferred(medium, seen)),
        _ => {
            media.sort_by_key(|m| preferred(m, seen));
            let paths: Vec<_> = media.iter().map(|m| seen[preferred(m, seen)].path.to_string()).collect();
            Choice::Refused(format!("{} carry the same label and are not one disk: one is a copy", paths.join(" and ")))
        }
    }
}

/// The topmost device of a medium (multipath over its paths), then the user's choice, then the known path.
fn preferred(medium: &[usize], seen: &[Seen]) -> usize {
    let beneath = |i: usize| medium.iter().any(|&j| j != i && seen[i].identity != seen[j].identity && stands_on(&seen[j], &seen[i]));
    let best = medium.iter().copied().min_by_key(|&i| (beneath(i), seen[i].source, i));
    best.expect("a medium has a path")
}

/// What is to be said of a disk that is nowhere: what lies where it was, and what is wrong where the user said to look.
fn nowhere(wanted: &Wanted, seen: &[Seen]) -> String {
    let of_interest = |s: &&Seen| wanted.paths.contains(&s.path) || s.source == Source::Given && s.finding.is_err();
    let there: Vec<_> = seen
        .iter()
        .filter(of_interest)
        .map(|s| match &s.finding {
            Ok(finding) => format!("{}: {}", s.path, describe(finding)),
            Err(why) => why.clone(),
        })
        .collect();
    match there.is_empty() {
        true => "no disk that this host sees carries its label".to_owned(),
        false => format!("no disk that this host sees carries its label ({})", there.join("; ")),
    }
}
