//! `ls`, `status`, `map`: which mount is asked, and how its answer is shown.

use super::control::{Question, ask, sockets};
use super::report::{Extent, Health, Status, Volume, Who};
use super::show;
use crate::fs::table;
use fusevol_shared::cli::{DONE, ListArgs, json};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::name::Target;
use serde_json::json;
use std::path::PathBuf;

/// What every verb is told.
pub(super) struct Ask {
    pub(super) json: bool,
    /// The mount to ask.
    pub(super) dir: Option<PathBuf>,
}

/// A mount that answers.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) who: Who,
    pub(super) socket: PathBuf,
}

/// All mounts of this host that answer.
pub(super) fn mounts() -> Vec<Found> {
    let who = |socket: PathBuf| {
        let value = ask(&socket, &Question::Who, |_: serde_json::Value| Ok(())).ok()?;
        Some(Found { who: serde_json::from_value(value).ok()?, socket })
    };
    sockets().into_iter().filter_map(who).collect()
}

impl Ask {
    /// The mount that is meant.
    pub(super) fn mount(&self) -> Result<Found> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(Kind::Denied, "a mount answers root only").hint("run it as root (sudo)"));
        }
        let mut all = mounts();
        if let Some(dir) = &self.dir {
            let place = table::place(dir);
            let found = all.into_iter().find(|m| m.who.dir == place);
            return found.ok_or_else(|| {
                Error::new(Kind::NotFound, format!("no volumes are mounted at {}", dir.display())).hint("fusevol mount --key FILE DIR")
            });
        }
        match all.len() {
            0 => Err(Error::new(Kind::NotFound, "no volumes are mounted on this host").hint("fusevol mount --key FILE DIR")),
            1 => Ok(all.remove(0)),
            _ => {
                let dirs: Vec<_> = all.iter().map(|m| m.who.dir.display().to_string()).collect();
                Err(Error::new(Kind::Refused, format!("there are several mounts: {}", dirs.join(", "))).hint("name one: --mount DIR"))
            }
        }
    }

    /// The mount that is meant, if it is of the pool that the target names.
    pub(super) fn mount_of(&self, target: &Target) -> Result<Found> {
        let mount = self.mount()?;
        match &target.pool {
            Some(pool) if pool.as_str() != mount.who.pool => Err(Error::new(
                Kind::NotFound,
                format!("the mount at {} is of pool {}, not {pool}", mount.who.dir.display(), mount.who.pool),
            )),
            _ => Ok(mount),
        }
    }
}

/// `fusevol ls`.
pub(super) fn ls(asker: &Ask, list: &ListArgs) -> Result<u8> {
    let mount = asker.mount()?;
    let mut volumes: Vec<Volume> = Vec::new();
    ask(&mount.socket, &Question::Volumes, |v| {
        volumes.push(v);
        Ok(())
    })?;
    if asker.json {
        let shown: Vec<_> = volumes.iter().map(show::volume_json).collect::<Result<_>>()?;
        json::print_list("volumes", &shown)?;
    } else {
        show::volumes(&volumes, list)?;
    }
    Ok(DONE)
}

/// `fusevol status`.
pub(super) fn status(asker: &Ask, volume: Option<&Target>, check: bool) -> Result<u8> {
    let question = Question::Status { volume: volume.map(|t| t.volume.clone()) };
    let asked = volume
        .map_or_else(|| asker.mount(), |t| asker.mount_of(t))
        .and_then(|mount| ask(&mount.socket, &question, |_: serde_json::Value| Ok(())));
    let status: Status = match asked {
        Ok(value) => serde_json::from_value(value).context(Kind::Damaged, || "the mount's answer is not understood")?,
        // A monitoring plugin that cannot find out says so with 3.
        Err(e) if check => {
            let _code = fusevol_shared::cli::report::report("fusevol", asker.json, &e);
            return Ok(3);
        }
        Err(e) => return Err(e),
    };
    match (asker.json, check) {
        (true, _) => json::print(&show::status_json(&status)?)?,
        (false, true) => show::health(&status)?,
        (false, false) => show::status(&status)?,
    }
    Ok(if check { status.health as u8 } else { DONE })
}

/// `fusevol map`.
pub(super) fn map(asker: &Ask, target: &Target, modified: bool, list: &ListArgs) -> Result<u8> {
    if modified && target.snapshot.is_none() {
        return Err(
            Error::new(Kind::Refused, "--modified needs a snapshot: what was modified since it").hint("fusevol map VOL@SNAP --modified")
        );
    }
    let mount = asker.mount_of(target)?;
    let question = Question::Map { volume: target.volume.clone(), snapshot: target.snapshot.clone(), modified };
    let mut extents: Vec<Extent> = Vec::new();
    let end = ask(&mount.socket, &question, |e| {
        extents.push(e);
        Ok(())
    })?;
    let complete = end.get("complete").and_then(serde_json::Value::as_bool).unwrap_or(true);
    if !complete && !asker.json {
        tracing::warn!("without the right to read the live volume, blocks that were written for the first time since are not known");
    }
    if asker.json {
        json::print(&json!({ "extents": extents, "complete": complete }))?;
    } else {
        show::extents(&extents, target.snapshot.is_none(), list)?;
    }
    Ok(DONE)
}

/// What `--check` says in one word.
pub(super) fn word(health: Health) -> &'static str {
    match health {
        Health::Ok => "OK",
        Health::Warning => "WARNING",
        Health::Critical => "CRITICAL",
    }
}
