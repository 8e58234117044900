//! Opens disks and says whose they are: for `init`, `adopt`, `disk add`, `disk scan`, and to find the pool's disks at
//! the manager's start. Labels decide, paths are hints. Nothing is written here.

use super::config::{Config, ConfigDisk};
use crate::catalog::{Catalog, Disk};
use crate::driver::Joining;
use crate::marks::{self, Marks};
use crate::store::quorum;
use fusevol_shared::disk::any::{Address, PoolDisk};
use fusevol_shared::disk::file::OpenMode;
use fusevol_shared::disk::nbd::NbdOptions;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::disk::{Disk as _, DiskError, label};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::format::label::{DiskLabel, Finding, LabelState};
use fusevol_shared::format::layout::{Layout, MANAGER_LOCK};
use fusevol_shared::ids::{DiskId, PoolId};
use fusevol_shared::name::Name;
use fusevol_shared::size;
use fusevol_shared::units::AuSize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A disk of the pool, open.
#[derive(Clone, Debug)]
pub struct Member {
    /// Open for I/O.
    pub disk: Arc<PoolDisk>,
    /// What it says.
    pub label: DiskLabel,
}

/// Opens a disk.
///
/// # Errors
/// `NotFound`, `Denied`, `Refused` (no disk) or `Io`, naming the path.
pub fn open(path: &Address, mode: OpenMode) -> Result<PoolDisk> {
    block_on(PoolDisk::open_with(path, mode, &NbdOptions::patient())).map_err(|e| {
        let what = format!("disk {path}");
        let why = std::io::Error::from_raw_os_error(e.errno);
        match (path, why.kind()) {
            // What is wrong with a server, and what to do about it, says its own sentence.
            (Address::Nbd(_), ErrorKind::PermissionDenied) => Error::new(Kind::Denied, what).because(e),
            (Address::Nbd(_), _) if e.errno == libc::ENOENT => Error::new(Kind::NotFound, what).because(e),
            (Address::Nbd(_), _) if matches!(e.errno, libc::EROFS | libc::EOPNOTSUPP | libc::EINVAL) => {
                Error::new(Kind::Refused, what).because(e)
            }
            (Address::Nbd(_), _) => Error::new(Kind::Io, what).because(e),
            (_, ErrorKind::NotFound) => {
                Error::new(Kind::NotFound, what).because(why).hint("see what is there with `fusevol-mgr disk scan`")
            }
            (_, ErrorKind::PermissionDenied) => Error::new(Kind::Denied, what).because(why).hint("run it as root"),
            _ if e.errno == libc::ENOTBLK => Error::new(Kind::Refused, format!("{what}: neither a block device nor a plain file")),
            _ => Error::new(Kind::Io, what).because(why),
        }
    })
}

/// A failed request as an error of ours.
#[must_use]
pub fn io_error(disk: &PoolDisk, e: DiskError) -> Error {
    Error::new(Kind::Io, format!("disk {}", disk.address())).because(e)
}

/// Whose it is.
fn probe(disk: &PoolDisk) -> Result<Finding> {
    block_on(label::probe(disk)).map_err(|e| io_error(disk, e))
}

/// Opens disks that shall join a pool, and refuses them all if one of them is wrong, saying which and why.
///
/// # Errors
/// That of the one wrong disk; `Refused` with all of them where there are several.
pub fn open_blank(paths: &[Address], au_size: AuSize) -> Result<Vec<PoolDisk>> {
    let mut good: Vec<PoolDisk> = Vec::new();
    let mut wrong: Vec<Error> = Vec::new();
    for path in paths {
        match open_one_blank(path, au_size, &good) {
            Ok(disk) => good.push(disk),
            Err(e) => wrong.push(e),
        }
    }
    match wrong.len() {
        0 => Ok(good),
        1 => Err(wrong.remove(0)),
        _ => {
            let all: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            let hint = wrong.iter().find_map(Error::hint_text).unwrap_or_default().to_owned();
            Err(Error::new(Kind::Refused, all.join("; ")).hint(hint))
        }
    }
}

/// Opens a disk that shall join this pool: blank, or labelled for it already (the driver knows whether it has joined).
///
/// # Errors
/// As `open_blank`.
pub fn open_joining(path: &Address, au_size: AuSize, pool: PoolId) -> Result<Joining> {
    let disk = open(path, OpenMode::ReadWrite)?;
    if let Finding::Label(label, _) = probe(&disk)?
        && label.pool == pool
    {
        return Ok(Joining { was: Some(label.disk), disk });
    }
    drop(disk);
    Ok(Joining { disk: open_one_blank(path, au_size, &[])?, was: None })
}

fn open_one_blank(path: &Address, au_size: AuSize, others: &[PoolDisk]) -> Result<PoolDisk> {
    let disk = open(path, OpenMode::ReadWrite)?;
    let what = format!("disk {}", path);
    let refused = |why: &str| Error::new(Kind::Refused, format!("{what}: {why}"));
    if let Some(twin) = others.iter().find(|o| o.identity() == disk.identity()) {
        return Err(refused(&format!("the same disk as {}", twin.address())).hint("name each disk once"));
    }
    Layout::for_disk(au_size, disk.size()).map_err(|e| e.within(&what))?;
    let wipe = match path {
        Address::Path(_) => format!("if nothing on it is needed, wipe all of it first: blkdiscard -z {path} (a file: make it anew)"),
        Address::Nbd(_) => "if nothing on it is needed, wipe all of it first, where it is exported".to_owned(),
    };
    match probe(&disk)? {
        Finding::Blank => Ok(disk),
        Finding::Foreign(is) => Err(refused(&format!("it carries {is}")).hint(wipe)),
        Finding::Label(label, _) => Err(refused(&format!("it belongs to pool {} ({}) already", label.pool_name, label.pool)).hint(wipe)),
        Finding::Damaged(why) => Err(refused(&format!("it was a pool's: {why}")).hint(wipe)),
    }
}

/// Opens disks that are said to be a pool's, and reads their labels.
///
/// # Errors
/// `Refused` for one that is nobody's, another pool's than the others, or named twice; `Damaged`.
pub fn open_members(paths: &[Address], mode: OpenMode, pool: Option<PoolId>) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    for path in paths {
        let member = open_member(path, mode)?;
        let what = format!("disk {}", path);
        let expected = pool.or(members.first().map(|m| m.label.pool));
        if expected.is_some_and(|p| p != member.label.pool) {
            let of = format!("{what}: it belongs to another pool, {} ({})", member.label.pool_name, member.label.pool);
            return Err(Error::new(Kind::Refused, of).hint("see which disk is whose with `fusevol-mgr disk scan DISK...`"));
        }
        if let Some(twin) = members.iter().find(|m| m.label.disk == member.label.disk) {
            let (same, hint) = if twin.disk.identity() == member.disk.identity() {
                ("the same disk as", "name each disk once")
            } else {
                ("it carries the same label as", "one of them is a copy: take the copy away")
            };
            return Err(Error::new(Kind::Refused, format!("{what}: {same} {}", twin.disk.address())).hint(hint));
        }
        members.push(member);
    }
    Ok(members)
}

fn open_member(path: &Address, mode: OpenMode) -> Result<Member> {
    let disk = open(path, mode)?;
    let what = format!("disk {}", path);
    match probe(&disk)? {
        Finding::Label(label, _) => Ok(Member { disk: Arc::new(disk), label: *label }),
        Finding::Blank => Err(Error::new(Kind::Refused, format!("{what}: it carries no label: it belongs to no pool"))),
        Finding::Foreign(is) => Err(Error::new(Kind::Refused, format!("{what}: it carries {is}, no label of a pool"))),
        Finding::Damaged(why) => Err(Error::new(Kind::Damaged, format!("{what}: {why}"))
            .hint("start from the pool's other disks; their copies of the catalog suffice where two of three are left")),
    }
}

/// Refuses while a manager on this host serves the pool: it holds its byte lock on each disk that knows locks. Of a pool without any it is
/// not known, as of a manager on another host.
///
/// # Errors
/// `Busy`.
pub fn refuse_if_served(members: &[Member]) -> Result<()> {
    for m in members {
        if m.disk.lock_held_by_other(MANAGER_LOCK).map_err(|e| io_error(&m.disk, e))? == Some(true) {
            return Err(Error::new(Kind::Busy, format!("a manager serves pool {}: it holds disk {}", m.label.pool_name, m.disk.address()))
                .hint("stop it first"));
        }
    }
    Ok(())
}

/// The disks of a pool as they were found on this host.
#[derive(Clone, Default, Debug)]
pub struct Found {
    /// Those that are here, open.
    pub members: Vec<Member>,
    /// Those that are not.
    pub missing: Vec<Missing>,
}

/// A disk that was not found.
#[derive(Clone, Debug)]
pub struct Missing {
    /// What its label would say.
    pub id: DiskId,
    /// Where it was looked for.
    pub hints: Vec<Address>,
    /// What is there, or why nothing is.
    pub why: String,
}

impl Found {
    /// All of them, for who needs all.
    ///
    /// # Errors
    /// `NotFound` naming the disks that are missing.
    pub fn whole(self, config: &Config) -> Result<Vec<Member>> {
        if self.missing.is_empty() { Ok(self.members) } else { Err(self.lack(config)) }
    }

    /// Whether too few of the disks that hold the catalog are here, by the newest label that is.
    #[must_use]
    pub fn is_short(&self) -> bool {
        let here = |id: DiskId| self.members.iter().any(|m| m.label.disk == id);
        let newest = self.members.iter().map(|m| &m.label).max_by_key(|l| l.age());
        newest.is_none_or(|l| l.set.iter().filter(|c| here(c.disk)).count() < quorum(l.set.len()))
    }

    /// What is to be said where it does not go without those that are missing.
    #[must_use]
    pub fn lack(&self, config: &Config) -> Error {
        let missing: Vec<String> = self.missing.iter().map(|m| format!("{} (was at {}; {})", m.id, shown(&m.hints), m.why)).collect();
        Error::new(Kind::NotFound, format!("pool {}: disk {} is missing", config.pool, missing.join(", disk ")))
            .hint("make it visible to this host, or write where it is now into config.toml; `fusevol-mgr disk scan` shows what is there")
    }
}

/// Finds the disks of the configuration: at their paths first, then among all block devices. Labels decide.
///
/// # Errors
/// `Damaged` where one is there but its label cannot be believed.
pub fn find(config: &Config, mode: OpenMode) -> Result<Found> {
    let mut found = Found::default();
    let wanted: Vec<_> = config.disks.iter().map(|d| (d.id, vec![d.path.clone()])).collect();
    find_into(&mut found, config, &wanted, mode)?;
    Ok(found)
}

/// Reads the marks of all disks that are here; one that is an older copy of itself counts as missing. `force`: by the administrator's word it is used as
/// it is.
pub fn leave_older(found: &mut Found, pool: PoolId, force: bool) -> Marks {
    let disks: Vec<(DiskId, &PoolDisk)> = found.members.iter().map(|m| (m.label.disk, &*m.disk)).collect();
    let (marks, older) = block_on(marks::survey(pool, &disks));
    for (at, why) in older.into_iter().rev() {
        if force {
            tracing::warn!("disk {} is used as it is, by force: {why}", found.members[at].disk);
            continue;
        }
        let m = found.members.remove(at);
        found.missing.push(Missing { id: m.label.disk, hints: vec![m.disk.address()], why });
    }
    marks
}

/// Finds the disks of the catalog that the configuration does not know: it was made on another host, or a disk joined
/// and the manager died before it was written down. Says whether there were any, here or not. What is missing is then what the catalog has and was
/// not found; where that says that it was is a hint, too.
///
/// # Errors
/// As `find`.
pub fn complete(found: &mut Found, config: &mut Config, catalog: &Catalog, mode: OpenMode) -> Result<bool> {
    let hints = |d: &Disk| d.entry.paths.iter().filter_map(|p| p.parse().ok()).collect::<Vec<Address>>();
    found.missing.retain(|m| catalog.disks().any(|d| d.entry.id == m.id));
    for m in &mut found.missing {
        let more = catalog.disks().filter(|d| d.entry.id == m.id).flat_map(hints).filter(|a| !m.hints.contains(a)).collect::<Vec<_>>();
        m.hints.extend(more);
    }
    let unknown = |d: &&Disk| {
        let id = d.entry.id;
        found.members.iter().all(|m| m.label.disk != id) && found.missing.iter().all(|m| m.id != id)
    };
    let wanted: Vec<_> = catalog.disks().filter(unknown).map(|d| (d.entry.id, hints(d))).collect();
    let (known, gone) = (found.members.len(), found.missing.len());
    find_into(found, config, &wanted, mode)?;
    config.disks.extend(found.members[known..].iter().map(|m| ConfigDisk { id: m.label.disk, path: m.disk.address() }));
    config.disks.extend(found.missing[gone..].iter().filter_map(|m| Some(ConfigDisk { id: m.id, path: m.hints.first()?.clone() })));
    Ok(!wanted.is_empty())
}

fn find_into(into: &mut Found, config: &Config, wanted: &[(DiskId, Vec<Address>)], mode: OpenMode) -> Result<()> {
    for (id, paths) in wanted {
        let right = |m: &Member| m.label.pool == config.pool_id && m.label.disk == *id;
        let mut why = "another disk is there now".to_owned();
        let mut found = None;
        for path in paths {
            match open_member(path, mode) {
                Ok(m) if right(&m) => found = Some(m),
                Ok(_) => {}
                Err(e) if e.kind() == Kind::Damaged => return Err(e),
                Err(e) => why = e.to_string(),
            }
        }
        match found.or_else(|| elsewhere(mode, right)) {
            Some(m) => into.members.push(m),
            None => into.missing.push(Missing { id: *id, hints: paths.clone(), why }),
        }
    }
    Ok(())
}

fn shown(paths: &[Address]) -> String {
    paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn elsewhere(mode: OpenMode, right: impl Fn(&Member) -> bool) -> Option<Member> {
    block_devices().unwrap_or_default().into_iter().filter_map(|p| open_member(&p.into(), mode).ok()).find(right)
}

/// The block devices of this host that have a size, sorted.
///
/// # Errors
/// `Io`.
pub fn block_devices() -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/sys/class/block").context(Kind::Io, || "/sys/class/block")?.flatten() {
        let sectors = std::fs::read_to_string(entry.path().join("size")).unwrap_or_default();
        let dev = Path::new("/dev").join(entry.file_name());
        if sectors.trim().parse::<u64>().is_ok_and(|n| n > 0) && dev.exists() {
            all.push(dev);
        }
    }
    all.sort();
    Ok(all)
}

/// What `disk scan` says about a disk.
#[derive(Debug, Default)]
pub struct Look {
    /// Bytes, where it can be opened.
    pub size: Option<u64>,
    /// `blank`, `foreign`, `member`, `preparing`, `damaged` or `unreadable`.
    pub state: &'static str,
    /// The pool that it belongs to.
    pub pool: Option<(Name, PoolId)>,
    /// Its own identity.
    pub disk: Option<DiskId>,
    /// What more there is to say.
    pub message: String,
}

/// Looks at a disk, whatever it is.
#[must_use]
pub fn look(path: &Address) -> Look {
    let unreadable = |e: Error| Look { state: "unreadable", message: e.to_string(), ..Look::default() };
    let disk = match open(path, OpenMode::Read) {
        Ok(disk) => disk,
        Err(e) => return unreadable(e),
    };
    let size = Some(disk.size());
    match probe(&disk) {
        Err(e) => Look { size, ..unreadable(e) },
        Ok(Finding::Blank) => Look { size, state: "blank", ..Look::default() },
        Ok(Finding::Foreign(is)) => Look { size, state: "foreign", message: is.to_owned(), ..Look::default() },
        Ok(Finding::Damaged(why)) => Look { size, state: "damaged", message: why, ..Look::default() },
        Ok(Finding::Label(label, flaws)) => {
            let state = match label.state {
                LabelState::Preparing => "preparing",
                LabelState::Member => "member",
            };
            let used = size::show(u64::from(label.aus) << label.au_size.log2());
            let message = if flaws.is_empty() { format!("disk {}, {used}", label.no) } else { flaws.join("; ") };
            Look { size, state, pool: Some((label.pool_name.clone(), label.pool)), disk: Some(label.disk), message }
        }
    }
}
