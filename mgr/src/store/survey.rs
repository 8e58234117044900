//! Looks at the disks that were found, and finds out where the pool's catalog stands: the newest label decides.

use super::Candidate;
use super::door::Door;
use super::group::{Entry, Group, Member};
use fusevol_shared::disk::{Disk, label};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::format::label::{CatalogCopy, DiskLabel, Finding, LabelState};
use fusevol_shared::ids::PoolId;
use std::collections::BTreeMap;

/// Reads all labels, and keeps the disks of one pool. Gives also what is to be said about them.
///
/// # Errors
/// `NotFound` where there is no pool; `Refused` where there are several and `pool` does not name one, where a disk is
/// there twice, or where a label cannot be believed and no other disk of the pool makes up for it.
pub(super) async fn gather<D: Disk>(candidates: Vec<Candidate<D>>, pool: Option<PoolId>) -> Result<(PoolId, Vec<Member<D>>, Vec<String>)> {
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    for c in candidates {
        let said = label::probe(&c.disk).await;
        match said {
            Ok(Finding::Label(l, flaws)) => {
                warnings.extend(flaws.iter().map(|f| format!("{}: {f}", c.path)));
                found.push(Member { disk: c.disk, path: c.path, label: *l, well: true, kept: None });
            }
            Ok(Finding::Blank) => warnings.push(format!("{} carries no label", c.path)),
            Ok(Finding::Foreign(what)) => warnings.push(format!("{} carries {what}", c.path)),
            Ok(Finding::Damaged(why)) => warnings.push(format!("{}: {why}", c.path)),
            Err(e) => warnings.push(format!("{} cannot be read: {e}", c.path)),
        }
    }
    let mut pools: BTreeMap<PoolId, &str> = BTreeMap::new();
    for m in found.iter().filter(|m| pool.is_none_or(|p| p == m.label.pool)) {
        pools.insert(m.label.pool, m.label.pool_name.as_str());
    }
    let chosen = match pools.keys().copied().collect::<Vec<_>>()[..] {
        [one] => one,
        [] => return Err(Error::new(Kind::NotFound, told("no disk of the pool was found", &warnings))),
        _ => {
            let names: Vec<String> = pools.iter().map(|(id, name)| format!("{name} ({id})")).collect();
            return Err(Error::new(Kind::Refused, format!("these disks belong to different pools: {}", names.join(", "))));
        }
    };
    let members: Vec<Member<D>> = found.into_iter().filter(|m| m.label.pool == chosen).collect();
    for (i, m) in members.iter().enumerate() {
        if let Some(twin) = members[..i].iter().find(|t| t.label.disk == m.label.disk) {
            return Err(Error::new(
                Kind::Refused,
                format!("{} and {} carry the same label: one is a copy of the other", twin.path, m.path),
            )
            .hint("take the copy away, or name only the right one"));
        }
    }
    Ok((chosen, members, warnings))
}

fn told(what: &str, warnings: &[String]) -> String {
    if warnings.is_empty() { what.to_owned() } else { format!("{what} ({})", warnings.join("; ")) }
}

/// Where the catalog stands.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct View {
    /// The newest label of the pool.
    pub newest: DiskLabel,
    /// Which members of the recorded set are here.
    pub present: Vec<usize>,
    /// Which are not.
    pub missing: Vec<CatalogCopy>,
}

/// How many copies of a recorded set of `n` must be there to start.
#[must_use]
pub fn quorum(n: usize) -> usize {
    n / 2 + 1
}

impl View {
    /// Whether those present are enough.
    ///
    /// # Errors
    /// `Refused`, naming the missing disks.
    pub fn enough(&self, force: bool) -> Result<()> {
        let (have, of) = (self.present.len(), self.newest.set.len());
        if have >= quorum(of) || (force && have > 0) {
            return Ok(());
        }
        let names: Vec<String> = self.missing.iter().map(|c| format!("disk {} ({})", c.no, c.disk)).collect();
        Err(Error::new(Kind::Refused, format!("only {have} of {of} catalog disks are here: missing {}", names.join(", ")))
            .hint("attach the missing disks; if they are lost for good and no other manager can see them, start with --force"))
    }
}

impl<D: Disk, W: Door<D>> Group<D, W> {
    /// Reads the labels again; a disk that no longer says what it said is left out.
    ///
    /// # Errors
    /// `Io` where no disk is left.
    pub async fn read_labels(&mut self) -> Result<()> {
        let found = self.each(&self.well(), |m| label::probe(&m.disk)).await;
        for (i, finding) in found {
            let m = &mut self.members[i];
            match finding {
                Ok(Finding::Label(l, _)) if (l.pool, l.disk) == (m.label.pool, m.label.disk) => m.label = *l,
                _ => m.well = false,
            }
        }
        if self.well().is_empty() { Err(Error::new(Kind::Io, "no disk of the pool can be read any more")) } else { Ok(()) }
    }

    /// Where the catalog stands, by the labels as last read.
    ///
    /// # Errors
    /// `Refused` where no disk is a member yet, or where the pool was forced into two.
    pub fn view(&self, table: &[Entry]) -> Result<View> {
        let members = || self.members.iter().filter(|m| m.well && m.label.state == LabelState::Member).map(|m| &m.label);
        let Some(mut newest) = members().max_by_key(|l| l.age()) else {
            return Err(
                Error::new(Kind::Refused, "the pool was never finished: its init was interrupted").hint("run init again with --force")
            );
        };
        // Two writers of one generation: the one that the owner table names has won it.
        if members().any(|l| l.generation == newest.generation && l.writer != newest.writer) {
            let owner = table.iter().filter_map(|e| e.owner.as_ref()).find(|o| o.generation == newest.generation);
            let of_owner =
                owner.and_then(|o| members().filter(|l| (l.generation, l.writer) == (o.generation, o.instance)).max_by_key(|l| l.age()));
            newest = of_owner.ok_or_else(|| {
                Error::new(Kind::Refused, "the disks of this pool have been served apart from each other: their labels contradict")
                    .hint("keep the disks of one side only")
            })?;
        }
        let index = |c: &CatalogCopy| self.members.iter().position(|m| m.well && m.label.disk == c.disk);
        Ok(View {
            newest: newest.clone(),
            present: newest.set.iter().filter_map(index).collect(),
            missing: newest.set.iter().filter(|c| index(c).is_none()).copied().collect(),
        })
    }
}

/// Reads a label for the first time, for a disk that is to be taken into a pool.
///
/// # Errors
/// `Refused` where it belongs to someone and `force` is not said; `Io` where it cannot be read.
pub(super) async fn unused<D: Disk>(disk: &D, path: &str, force: bool) -> Result<Finding> {
    let finding = label::probe(disk).await.context(Kind::Io, || format!("{path} cannot be read"))?;
    let used = match &finding {
        Finding::Blank => return Ok(finding),
        _ if force => return Ok(finding),
        Finding::Foreign(what) => format!("{path} carries {what}"),
        Finding::Label(l, _) if l.state == LabelState::Preparing => {
            format!("{path} carries the label of an unfinished init or add of pool {}", l.pool_name)
        }
        Finding::Label(l, _) => format!("{path} is disk {} of pool {} ({})", l.no, l.pool_name, l.pool),
        Finding::Damaged(why) => format!("{path} was a disk of a pool: {why}"),
    };
    Err(Error::new(Kind::Refused, used).hint("if nothing on it is needed any more, say so with --force"))
}
