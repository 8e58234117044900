//! Prints what stands on a pool's disks, offline: reads only, and believes no more than a reader of the disks must.

use super::config::Config;
use super::dir::Dir;
use super::disks::{self, Found, Member};
use crate::catalog::Catalog;
use crate::driver::log;
use crate::inspect::lines::{self, Dumper, Line};
use crate::session_io::{LIMIT, SessionIo};
use fusevol_shared::disk::any::Address;
use fusevol_shared::disk::file::OpenMode;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Name;
use std::sync::Arc;

/// Which structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Labels.
    Label,
    /// Owner tables.
    Owners,
    /// The catalog's log.
    Catalog,
    /// Session slots.
    Slots,
    /// Journals.
    Journal,
    /// Preserve segments.
    Preserve,
}

/// Reads it from `paths`, or from the disks of the configuration in `dir` where none is given.
///
/// # Errors
/// `Busy` while a manager on this host serves the pool; `NotFound`, `Damaged`, `Io` where too little can be read.
pub fn dump(dir: &Dir, what: What, paths: &[Address], volume: Option<&Name>) -> Result<Vec<Line>> {
    let config = if paths.is_empty() { Some(Config::load(dir)?) } else { None };
    if what == What::Label {
        // A disk whose label is damaged is just what is to be looked at.
        let known = config.iter().flat_map(|c| c.disks.iter().map(|d| d.path.clone()));
        let all: Vec<Address> = paths.iter().cloned().chain(known).collect();
        let one = |path: &Address| block_on(lines::labels(&path.to_string(), &disks::open(path, OpenMode::Read)?));
        return all.iter().map(one).collect::<Result<Vec<_>>>().map(|l| l.concat());
    }
    let mut members = match &config {
        Some(config) => disks::find(config, OpenMode::Read)?.whole(config)?,
        None => disks::open_members(paths, OpenMode::Read, None)?,
    };
    disks::refuse_if_served(&members)?;
    let catalog = match what {
        What::Journal | What::Preserve => Some(fold(&mut members, config)?),
        _ => None,
    };
    let only = match (&catalog, volume) {
        (Some(c), Some(name)) => {
            let missing = || Error::new(Kind::NotFound, format!("there is no volume '{name}'"));
            Some(c.volume_named(name.as_str()).ok_or_else(missing)?.entry.id)
        }
        _ => None,
    };
    let newest = members.iter().map(|m| &m.label).max_by_key(|l| l.age()).cloned();
    let newest = newest.ok_or_else(|| Error::new(Kind::Refused, "there is no disk to look at"))?;
    let open: Vec<_> = members.iter().map(|m| (m.label.no, m.label.disk, Arc::clone(&m.disk))).collect();
    let dumper = Dumper { pool: newest.pool, io: SessionIo::new(newest.pool, newest.au_size, &open, LIMIT), only };
    let catalog = catalog.unwrap_or_default();
    block_on(async {
        match what {
            What::Label => Ok(Vec::new()),
            What::Owners => dumper.owners().await,
            What::Catalog => dumper.catalog(&newest).await,
            What::Slots => dumper.slots().await,
            What::Journal => dumper.journals(&catalog).await,
            What::Preserve => dumper.segments(&catalog).await,
        }
    })
}

/// The catalog, which alone knows where journals and segments lie; and the disks that the configuration does not know.
fn fold(members: &mut Vec<Member>, config: Option<Config>) -> Result<Catalog> {
    let catalog = Catalog::fold(&log::read(members)?.records)?;
    if let Some(mut config) = config {
        // What is missing is an error where it is read.
        let mut found = Found { members: std::mem::take(members), missing: Vec::new() };
        let _ = disks::complete(&mut found, &mut config, &catalog, OpenMode::Read);
        *members = found.members;
    }
    Ok(catalog)
}
