//! What a mount answers to the verbs: plain records, the same for `--json` and for people.

use super::memory::Memory;
use crate::fs::transport::Served;
use crate::link::Phase;
use crate::private;
use crate::session::Session;
use crate::session::machine::{State, Why};
use crate::volume::{Counters, Mode, Progress};
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Target;
use fusevol_shared::units::DiskNo;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Who a mount is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Who {
    pub(super) pid: u32,
    pub(super) dir: PathBuf,
    pub(super) pool: String,
}

/// A granted volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) size: u64,
    pub(super) written: u64,
    pub(super) rights: String,
    /// Client that has it attached for writing; empty if none.
    pub(super) writer: String,
    pub(super) snapshots: Vec<Snapshot>,
    /// How it is attached here: `read`, `write`, or nothing.
    pub(super) attached: Option<String>,
    /// How many have it open here.
    pub(super) readers: u32,
    pub(super) writers: u32,
    /// Where it is written here.
    pub(super) writing: Option<Writing>,
    /// How its copies are, where it is written here and has several.
    #[serde(default)]
    pub(super) copies: Option<Progress>,
}

/// How the writer of a volume gets on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Writing {
    /// AUs that are granted and not bound.
    pub(super) reserve_aus: u64,
    /// Grants that came.
    pub(super) grants: u64,
    /// Writes that waited for one.
    pub(super) grant_waits: u64,
    /// The longest of these waits.
    pub(super) grant_wait_us_max: u64,
    /// Appends to the journal.
    pub(super) appends: u64,
    /// Those that the manager has not folded yet.
    pub(super) unfolded: u64,
    /// Fill of the journal's half.
    pub(super) journal_used: u64,
    pub(super) journal_size: u64,
    pub(super) preserved_blocks: u64,
    /// Snapshots of it lost blocks while it was attached here.
    pub(super) broken: bool,
}

impl From<Counters> for Writing {
    fn from(c: Counters) -> Self {
        Self {
            reserve_aus: c.reserve_aus,
            grants: c.grants,
            grant_waits: c.grant_waits,
            grant_wait_us_max: c.grant_wait_us_max,
            appends: c.appends,
            unfolded: c.unfolded,
            journal_used: c.journal_used,
            journal_size: c.journal_size,
            preserved_blocks: c.preserved_blocks,
            broken: c.broken,
        }
    }
}

/// A snapshot of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) size: u64,
    pub(super) written: u64,
    /// Seconds since 1970 UTC in the mount's answer.
    pub(super) created: u64,
    pub(super) broken: bool,
}

/// A disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Disk {
    pub(super) no: u16,
    pub(super) id: String,
    pub(super) path: String,
    pub(super) size: u64,
    /// `direct`, `draining`, `proxied`, `probing`, `missing`.
    pub(super) state: String,
    /// Since when it is so, milliseconds.
    pub(super) since_ms: u64,
    /// Why it is not direct.
    pub(super) reason: Option<String>,
    /// How often the path has failed.
    pub(super) failures: u64,
    /// Bytes that went through the manager.
    pub(super) redirected: u64,
}

/// How bad something is, as monitoring plugins count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    Ok = 0,
    Warning = 1,
    Critical = 2,
}

/// The process that serves a mount.
pub(super) struct Process<'a> {
    pub(super) who: &'a Who,
    pub(super) transport: Served,
    pub(super) memory: Memory,
}

/// All about a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) pool: String,
    pub(super) mount: PathBuf,
    pub(super) pid: u32,
    /// Which way requests come from the kernel.
    pub(super) transport: Served,
    /// Whether it goes on where memory is short.
    pub(super) memory: Memory,
    pub(super) health: Health,
    pub(super) session: String,
    pub(super) session_no: u32,
    /// `live`, `fenced`, `failing`, `over`.
    pub(super) state: String,
    /// Why it is over.
    pub(super) reason: Option<String>,
    pub(super) lease_left_ms: u64,
    /// How long ago a manager extended it; none before the first time.
    pub(super) lease_by_network_ms: Option<u64>,
    /// How long ago a heartbeat on the slot disks extended it.
    pub(super) lease_by_disk_ms: Option<u64>,
    /// What needs the manager fails: none has answered in time.
    pub(super) manager_failing: bool,
    /// Address of the manager that answers, if one does.
    pub(super) manager: Option<String>,
    /// Since when the connection is as it is, milliseconds.
    pub(super) manager_since_ms: u64,
    /// Why the last connection failed.
    pub(super) manager_error: Option<String>,
    pub(super) disks: Vec<Disk>,
    pub(super) volumes: Vec<Volume>,
    /// What the user can do.
    pub(super) action: Vec<String>,
}

/// A run of bytes of a volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) length: u64,
    /// Where it lies: disk and AU. Only of a live volume.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) disk: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) au: Option<u32>,
    /// Whether it was written; space that was only allocated reads as zeros. Only of a live volume.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) written: Option<bool>,
}

impl Extent {
    fn plain((start, length): (u64, u64)) -> Self {
        Self { start, length, disk: None, au: None, written: None }
    }
}

/// The granted volumes, with what is open here.
pub(super) fn volumes(session: &Session) -> Vec<Volume> {
    let (list, open) = (session.list_within(std::time::Duration::ZERO), session.attachments());
    let volume = |v: &fusevol_shared::wire::messages::VolumeInfo| {
        let here = open.iter().find(|(o, _)| o.id() == v.id);
        let snapshots = v.snapshots.iter().map(|s| Snapshot {
            name: s.name.clone(),
            id: s.id.to_string(),
            size: s.size,
            written: s.written,
            created: s.created,
            broken: s.broken,
        });
        Volume {
            name: v.name.clone(),
            id: v.id.to_string(),
            size: v.size,
            written: here.map_or(v.written, |(o, _)| o.written_bytes()),
            rights: v.rights.to_string(),
            writer: v.writer.clone(),
            snapshots: snapshots.collect(),
            attached: here.map(|(o, _)| if o.mode() == Mode::Write { "write" } else { "read" }.to_owned()),
            readers: here.map_or(0, |(_, u)| u.readers),
            writers: here.map_or(0, |(_, u)| u.writers),
            writing: here.filter(|(o, _)| o.mode() == Mode::Write).map(|(o, _)| o.counters().into()),
            copies: here.filter(|(o, _)| o.mode() == Mode::Write && o.is_mirrored()).map(|(o, _)| o.copying()),
        }
    };
    list.volumes.iter().map(volume).collect()
}

/// All about this mount; of one volume, or of those that are open.
///
/// # Errors
/// `NotFound` for a volume that is not there.
pub(super) fn status(session: &Session, process: Process<'_>, only: Option<&Target>) -> Result<Status> {
    if let Some(target) = only {
        session.granted().list().volume_of(target)?;
    }
    let Process { who, transport, memory } = process;
    let now = SystemClock.now();
    let (about, link, shown) = (session.about(), session.link(), session.shown());
    let (word, reason) = match &shown.state {
        State::Opening => ("opening", None),
        State::Live { .. } => ("live", None),
        State::Fenced { .. } if shown.failing => ("failing", None),
        State::Fenced { .. } => ("fenced", None),
        State::Over(Why::Refused { sentence, .. }) => ("over", Some(sentence.clone())),
        State::Over(Why::Closed) => ("over", Some("it is being unmounted".to_owned())),
    };
    let manager = if let Phase::Connected { address } = &link.phase { Some(address.clone()) } else { None };
    let disks = disks(session);
    let health = health(word, manager.is_some(), shown.failing, worst_path(&disks));
    let chosen = |v: &Volume| only.map_or(v.attached.is_some(), |t| t.volume.as_str() == v.name);
    Ok(Status {
        pool: who.pool.clone(),
        mount: who.dir.clone(),
        pid: who.pid,
        transport,
        memory,
        health,
        session: about.id.to_string(),
        session_no: about.welcome.session.0,
        state: word.to_owned(),
        reason,
        lease_left_ms: millis(session.lease().deadline(), now),
        lease_by_network_ms: shown.extended.network.map(|t| millis(now, t)),
        lease_by_disk_ms: shown.extended.disk.map(|t| millis(now, t)),
        manager_failing: shown.failing,
        manager_since_ms: millis(now, link.since),
        manager_error: link.last_error.filter(|_| manager.is_none()).map(|e| e.message),
        disks,
        volumes: volumes(session).into_iter().filter(chosen).collect(),
        action: action(&shown.state, manager.is_some(), who),
        manager,
    })
}

/// The disks, and how they are reached.
pub(super) fn disks(session: &Session) -> Vec<Disk> {
    let (now, about) = (SystemClock.now(), session.about());
    let disk = |(d, path): &crate::session::Found| {
        let known = Disk {
            no: d.no.0,
            id: d.id.to_string(),
            path: path.clone(),
            size: u64::from(d.aus) * about.welcome.au_size.bytes(),
            state: "missing".to_owned(),
            since_ms: 0,
            reason: None,
            failures: 0,
            redirected: 0,
        };
        match session.disks().get(d.no).map(|m| m.path().shown()) {
            Ok(p) => Disk {
                state: p.state.as_str().to_owned(),
                since_ms: millis(now, p.since),
                reason: p.why,
                failures: p.failures,
                redirected: p.redirected,
                ..known
            },
            Err(e) => Disk { reason: Some(e.to_string()), ..known },
        }
    };
    about.known.all().iter().map(disk).collect()
}

/// The drill: the path to this disk counts as failed, or not any more. It is named by number, UUID or path.
///
/// # Errors
/// `NotFound`.
pub(super) fn drill(session: &Session, disk: &str, fails: bool) -> Result<Disk> {
    let named = |d: &Disk| d.no.to_string() == disk || d.id == disk || d.path == disk;
    let none = || Error::new(Kind::NotFound, format!("there is no disk {disk} in this mount")).hint("fusevol paths");
    let no = disks(session).into_iter().find(named).ok_or_else(none)?.no;
    session.disks().get(DiskNo(no))?.path().drill(fails);
    disks(session).into_iter().find(|d| d.no == no).ok_or_else(none)
}

fn worst_path(disks: &[Disk]) -> Health {
    let of = |d: &Disk| match d.state.as_str() {
        "direct" => Health::Ok,
        "missing" => Health::Critical,
        _ => Health::Warning,
    };
    disks.iter().map(of).max().unwrap_or(Health::Ok)
}

/// From the earlier to the later, zero if they are the other way round.
fn millis(later: BootTime, earlier: BootTime) -> u64 {
    u64::try_from(later.since(earlier).as_millis()).unwrap_or(u64::MAX)
}

/// While the lease holds, by the disks too, a manager that is away is a matter to look into, not a failure: I/O goes on.
fn health(word: &str, connected: bool, failing: bool, paths: Health) -> Health {
    match (word, connected) {
        ("live", _) if failing => Health::Critical,
        ("live", true) => paths,
        ("live", false) => paths.max(Health::Warning),
        _ => Health::Critical,
    }
}

fn action(state: &State, connected: bool, who: &Who) -> Vec<String> {
    match state {
        State::Over(_) => {
            let dir = who.dir.display();
            vec![format!(
                "fusevol umount {dir}; fusevol mount --key FILE {dir}   # the session is over: its volumes are dead until mounted again"
            )]
        }
        _ if !connected => vec!["fusevol-mgr status   # on the manager's host: does it serve, and is it reached from here?".to_owned()],
        _ => Vec::new(),
    }
}

/// Where the data of a volume lies, or what a snapshot holds, or what was modified since.
///
/// # Errors
/// `NotFound`, `Denied`, `Io`, `Unreachable`.
pub(super) fn map(session: &Arc<Session>, target: &Target, modified: bool) -> Result<(Vec<Extent>, bool)> {
    let list = session.renew_list()?;
    if target.snapshot.is_none() {
        let file = session.volume(list.volume_of(target)?.id)?;
        file.open(session, Mode::Read)?;
        let extents = file.attached().map(|v| v.extents()).unwrap_or_default();
        file.close(session, Mode::Read)?;
        let extent = |e: crate::volume::Extent| Extent {
            start: e.offset,
            length: e.len,
            disk: Some(e.at.disk.0),
            au: Some(e.at.au.0),
            written: Some(e.written),
        };
        return Ok((extents.into_iter().map(extent).collect(), true));
    }
    let (_, snapshot) = list.snapshot_of(target)?;
    if modified {
        let got = private::modified(session, snapshot.id)?;
        let extents = private::extents(&got.blocks, session.about().welcome.au_size);
        return Ok((extents.into_iter().map(Extent::plain).collect(), got.complete));
    }
    let file = session.snapshot(snapshot.id)?;
    file.open(session)?;
    let mut out = Vec::new();
    if let Some(reader) = file.reader() {
        // Each turn goes on by at least a block.
        let mut at = 0;
        while let Some(start) = reader.seek_data(at) {
            at = reader.seek_hole(start).unwrap_or(reader.size()).max(start + 1);
            out.push(Extent::plain((start, at - start)));
        }
    }
    file.close(session)?;
    Ok((out, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_is_away_is_a_warning_while_the_lease_holds() {
        assert_eq!(health("live", true, false, Health::Ok), Health::Ok);
        assert_eq!(health("live", false, false, Health::Ok), Health::Warning);
        assert_eq!(health("live", true, false, Health::Warning), Health::Warning);
        assert_eq!(health("live", false, true, Health::Ok), Health::Critical);
        assert_eq!(health("live", true, false, Health::Critical), Health::Critical);
        assert_eq!(health("fenced", true, false, Health::Ok), Health::Critical);
        assert_eq!(health("over", true, false, Health::Ok), Health::Critical);
    }
}
