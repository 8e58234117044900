//! Proves a pool's catalog against its disks, offline: reads labels and every copy of the catalog, folds it, and looks
//! for AUs with two owners or none, map entries outside of a disk, snapshots and maps that do not agree; then for what sessions
//! write themselves: journals, preserve segments, slots ([`crate::inspect::deep`]); where that is asked for, for copies that differ
//! ([`crate::inspect::copies`]). Reads only.

use super::config::Config;
use super::dir::Dir;
use super::disks::{self, Found};
use crate::catalog::{Catalog, prove};
use crate::driver::log;
use crate::inspect::copies::{self, Compared};
use crate::inspect::deep::{self, Findings};
use crate::session_io::{LIMIT, SessionIo};
use fusevol_shared::disk::any::Address;
use fusevol_shared::disk::file::OpenMode;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::label::DiskLabel;
use fusevol_shared::ids::Generation;
use fusevol_shared::name::Name;
use serde::Serialize;
use std::sync::Arc;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The pool.
    pub pool: Name,
    /// Of the manager that wrote the catalog last.
    pub generation: Generation,
    /// Records from which the catalog was folded, those of its checkpoint included.
    pub records: usize,
    /// Disks of the pool.
    pub disks: usize,
    /// Volumes.
    pub volumes: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Clients.
    pub clients: usize,
    /// Data AUs of all disks.
    pub aus: u64,
    /// Of these, free.
    pub free_aus: u64,
    /// What the sessions write.
    pub sessions: Findings,
    /// What the copies of mirrored volumes hold, where they were compared.
    pub copies: Option<Compared>,
    /// Copies of labels, of the catalog, of journals or preserve segments that are damaged, though others serve.
    pub flaws: Vec<String>,
    /// What must not be.
    pub violations: Vec<String>,
}

impl Report {
    /// Nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.flaws.is_empty() && self.violations.is_empty()
    }
}

/// Checks the pool on `paths`, or that of the configuration in `dir` where none is given; `copies`: compares those of mirrored volumes, too.
///
/// # Errors
/// `Busy` while a manager on this host serves the pool; `NotFound`, `Damaged`, `Io` where the catalog cannot be read.
pub fn check(dir: &Dir, paths: &[Address], copies: bool) -> Result<Report> {
    if !paths.is_empty() {
        let members = disks::open_members(paths, OpenMode::Read, None)?;
        return examine(Found { members, missing: Vec::new() }, None, copies);
    }
    if !dir.is_made() {
        return Err(dir.no_pool());
    }
    let _lock = dir.lock()?;
    let config = Config::load(dir)?;
    examine(disks::find(&config, OpenMode::Read)?, Some(config), copies)
}

fn examine(mut found: Found, config: Option<Config>, copies: bool) -> Result<Report> {
    disks::refuse_if_served(&found.members)?;
    let Some(DiskLabel { pool: id, pool_name: pool, au_size, .. }) = found.members.first().map(|m| m.label.clone()) else {
        let none = || Error::new(Kind::Refused, "there is no disk to check");
        return Err(config.map_or_else(none, |config| found.lack(&config)));
    };
    let read = log::read(&found.members)?;
    let catalog = Catalog::fold(&read.records)?;
    let mut violations: Vec<String> = prove(&catalog).into_iter().map(|v| v.0).collect();
    if let Some(mut config) = config {
        // What is missing is said below, with the rest.
        let _ = disks::complete(&mut found, &mut config, &catalog, OpenMode::Read);
    }
    let members = &found.members;
    for disk in catalog.disks() {
        let entry = &disk.entry;
        let what = format!("disk {} ({}, last at {})", entry.no, entry.id, entry.paths.join(", "));
        match members.iter().find(|m| m.label.disk == entry.id) {
            None => violations.push(format!("{what} is not here")),
            Some(m) if (m.label.no, m.label.aus) != (entry.no, entry.aus) => violations.push(format!(
                "{what}: its label says number {} and {} AUs, the catalog {} and {}",
                m.label.no, m.label.aus, entry.no, entry.aus
            )),
            Some(_) => {}
        }
    }
    let disks: Vec<_> = members.iter().map(|m| (m.label.no, m.label.disk, Arc::clone(&m.disk))).collect();
    let io = SessionIo::new(id, au_size, &disks, LIMIT);
    let mut sessions = block_on(deep::look(&catalog, id, &io));
    let mut copies = copies.then(|| block_on(copies::compare(&catalog, &io)));
    violations.append(&mut sessions.violations);
    let mut flaws = read.flaws;
    flaws.append(&mut sessions.flaws);
    if let Some(c) = &mut copies {
        violations.append(&mut c.violations);
        flaws.append(&mut c.flaws);
    }
    Ok(Report {
        pool,
        generation: read.generation,
        records: read.records.len(),
        disks: catalog.disks().count(),
        volumes: catalog.volumes().count(),
        snapshots: catalog.snapshot_count(),
        clients: catalog.clients().count(),
        aus: catalog.total_aus(),
        free_aus: catalog.free_aus(),
        sessions,
        copies,
        flaws,
        violations,
    })
}
