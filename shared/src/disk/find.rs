//! Finding the pool's disks: paths are hints, labels decide.
//!
//! Everything that may be a disk of the pool is looked at: paths that the user gave (globs), paths that the manager
//! knows, and a scan of this host's block devices. Paths may be addresses of NBD exports; a scan finds none of those. Each is opened for reading and its label read, all at once and each
//! with a limit of time, so that one hung device costs only itself. Then, for each disk that is wanted:
//!
//! ```text
//!  seen with the wanted pool and disk UUID:  none                               -> Missing (and what lies at its paths)
//!                                            several that are not one medium    -> Refused, naming them: a copy of a disk
//!                                            one medium, by one or more paths   -> opened, label read again -> Here
//! ```
//!
//! Invariants: a disk is handed out only after its label, read through the very descriptor that is handed out, carried
//! the expected pool, UUID and number; nothing is ever written here; a damaged copy of a label is said, as long as
//! another one holds; two nodes, two paths of one LUN (world-wide name, multipath), or a loop device and its file are
//! one medium, not copies.

mod choose;
mod host;
#[cfg(test)]
mod tests;

use super::any::{Address, PoolDisk};
use super::file::{FileDisk, Identity, OpenMode};
use super::{Disk, DiskError, DiskResult, label, ring};
use crate::error::{Error, Kind, Result};
use crate::format::label::{DiskLabel, Finding};
use crate::ids::{DiskId, PoolId};
use crate::units::DiskNo;
use choose::{Choice, choose};
use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt};
use host::Medium;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

/// A device that has not shown its label after so long is left out, and said.
const PATIENCE: Duration = Duration::from_secs(5);
/// Devices looked at at once.
const AT_ONCE: usize = 64;

/// A disk that shall be found.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its number in the pool.
    pub no: DiskNo,
    /// What its label must say.
    pub id: DiskId,
    /// Where it was known to be.
    pub paths: Vec<Address>,
}

/// Where to look besides the known paths.
#[derive(Clone, Default, Debug)]
pub struct Places {
    /// Addresses that the user gave; in a path `*` and `?` stand for any characters within a name.
    pub globs: Vec<String>,
    /// Whether to look at all block devices of this host.
    pub scan: bool,
}

/// Why a path was looked at; the first is preferred where several lead to one disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// The user named it.
    Given,
    /// The manager or a configuration knew it.
    Known,
    /// The scan met it.
    Scanned,
}

/// Something that was looked at.
#[derive(Clone, Debug)]
pub struct Seen {
    /// By which address.
    pub path: Address,
    /// Why there.
    pub source: Source,
    /// Which file, device or export it is; `None` where it could not be opened.
    pub identity: Option<Identity>,
    /// Its bytes; 0 where it could not be opened.
    pub size: u64,
    /// Whose it is, or why that cannot be told.
    pub finding: std::result::Result<Finding, String>,
    medium: Option<Medium>,
    /// Devices that it stands on.
    lower: Vec<Identity>,
}

/// A disk that was found and is open.
#[derive(Debug)]
pub struct Here {
    /// Open, as asked.
    pub disk: PoolDisk,
    /// Its label.
    pub label: DiskLabel,
    /// What people should know: damaged copies of the label.
    pub notes: Vec<String>,
}

/// What became of a wanted disk.
#[derive(Debug)]
pub enum Found {
    /// It is there.
    Here(Box<Here>),
    /// It is nowhere; and what is where it was.
    Missing(String),
    /// Something has its label, but must not be used: a copy beside it, another number, damage.
    Refused(String),
}

/// Finds and opens disks of a pool; one result for each that is wanted, in order. Runs within `ring::block_on`.
pub async fn find(pool: PoolId, wanted: &[Wanted], places: &Places, mode: OpenMode) -> Vec<Found> {
    let known: Vec<Address> = wanted.iter().flat_map(|w| w.paths.iter().cloned()).collect();
    let seen = survey(&known, places).await;
    let mut found = Vec::with_capacity(wanted.len());
    for w in wanted {
        found.push(match choose(pool, w, &seen) {
            Choice::Use(index) => take(pool, w, &seen[index], mode).await,
            Choice::Missing(why) => Found::Missing(why),
            Choice::Refused(why) => Found::Refused(why),
        });
    }
    found
}

/// Looks at known paths, given paths and, if asked, all block devices; each file or device once. Reads only.
pub async fn survey(known: &[Address], places: &Places) -> Vec<Seen> {
    let mut paths: Vec<(Address, Source)> = places.globs.iter().flat_map(|g| given(g)).map(|p| (p, Source::Given)).collect();
    paths.extend(known.iter().map(|p| (p.clone(), Source::Known)));
    if places.scan {
        paths.extend(host::block_devices().into_iter().map(|p| (p.into(), Source::Scanned)));
    }
    let mut asked = std::collections::HashSet::new();
    paths.retain(|(path, _)| asked.insert(path.clone()));
    let mut seen: Vec<Seen> = stream::iter(paths).map(|(path, source)| look(path, source)).buffered(AT_ONCE).collect().await;
    // The same node by another name adds nothing, unless someone knows it by that name.
    let mut met = std::collections::HashSet::new();
    seen.retain(|s| s.identity.is_none_or(|i| met.insert(i)) || s.source != Source::Scanned);
    seen
}

/// What a user's text stands for. One that is meant as an export's address and is none leads nowhere: whoever asks the user says so.
fn given(text: &str) -> Vec<Address> {
    match text.parse() {
        Ok(Address::Path(_)) => host::expand(text).into_iter().map(Address::Path).collect(),
        Ok(export) => vec![export],
        Err(_) => Vec::new(),
    }
}

async fn look(path: Address, source: Source) -> Seen {
    let unseen = Seen { path, source, identity: None, size: 0, finding: Ok(Finding::Blank), medium: None, lower: Vec::new() };
    let disk = match patient("it was not opened", PoolDisk::peek(&unseen.path)).await {
        Ok(disk) => disk,
        Err(e) => return Seen { finding: Err(e.to_string()), ..unseen },
    };
    // What was just opened is something.
    let Some(identity) = disk.identity() else { return unseen };
    let finding = probe(&disk).await.map_err(|e| e.to_string());
    let (medium, lower) = (host::medium(identity), host::lower(identity));
    Seen { identity: Some(identity), size: disk.size(), finding, medium: Some(medium), lower, ..unseen }
}

/// Reads whose a disk is, within `PATIENCE`.
async fn probe<D: Disk>(disk: &D) -> std::result::Result<Finding, DiskError> {
    patient("the label was not read", label::probe(disk)).await
}

/// Outside of a ring nothing is bounded.
async fn patient<T>(what: &str, request: impl Future<Output = DiskResult<T>>) -> DiskResult<T> {
    if !ring::runs_here() {
        return request.await;
    }
    match select(pin!(request), pin!(ring::sleep(PATIENCE))).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(DiskError {
            answer: super::Answer::NotReturned,
            errno: libc::ETIMEDOUT,
            what: format!("{what} within {} s", PATIENCE.as_secs()),
        }),
    }
}

/// Opens what was chosen, and believes only what its label says through this descriptor, or these connections.
async fn take(pool: PoolId, wanted: &Wanted, seen: &Seen, mode: OpenMode) -> Found {
    let disk = match PoolDisk::open(&seen.path, mode).await {
        Ok(disk) => disk,
        Err(e) => return Found::Missing(e.to_string()),
    };
    match confirm(&disk, pool, wanted.id).await {
        Ok((label, _)) if label.no != wanted.no => {
            Found::Refused(format!("{disk} says that it is disk number {} of its pool, not {}", label.no, wanted.no))
        }
        Ok((label, notes)) => Found::Here(Box::new(Here { disk, label, notes })),
        Err(e) => Found::Missing(format!("{disk}: {e}")),
    }
}

/// Reads the label of an open disk and checks that it is the one expected; also what is to be said of damaged copies.
/// To be asked again after the connection to a disk was lost.
///
/// # Errors
/// `Io` where it cannot be read (in time), `Damaged` where no copy can be believed, `Refused` where it is another's.
pub async fn confirm<D: Disk>(disk: &D, pool: PoolId, id: DiskId) -> Result<(DiskLabel, Vec<String>)> {
    let finding = probe(disk).await.map_err(|e| Error::new(Kind::Io, "its label cannot be read").because(e))?;
    let found = choose::describe(&finding);
    match finding {
        Finding::Label(label, notes) if (label.pool, label.disk) == (pool, id) => Ok((*label, notes)),
        Finding::Damaged(_) => Err(Error::new(Kind::Damaged, found)),
        Finding::Label(..) | Finding::Blank | Finding::Foreign(_) => {
            Err(Error::new(Kind::Refused, format!("not disk {id} of pool {pool}: {found}"))
                .hint("see which disk is whose with `fusevol-mgr disk scan`"))
        }
    }
}

/// The paths of this host's block devices that have a size.
#[must_use]
pub fn block_devices() -> Vec<PathBuf> {
    host::block_devices()
}

/// Whether two paths lead to one medium, as far as this host can tell.
#[must_use]
pub fn same_medium(a: &Path, b: &Path) -> bool {
    let medium = |p: &Path| FileDisk::open(p, OpenMode::Read).ok().map(|d| host::medium(d.identity()));
    medium(a).is_some_and(|m| Some(m) == medium(b))
}
