//! Takes a pool over to this host, from its disks alone: reads the catalog, opens the authority's key with the recovery
//! key, and writes a folder from which the manager can serve. Nothing on the disks is changed; `serve` takes over.

use super::config::{Config, ConfigDisk};
use super::dir::Dir;
use super::{disks, init, sealed};
use crate::authority::recovery::RecoveryKey;
use crate::catalog::Catalog;
use crate::driver::log;
use fusevol_shared::disk::any::Address;
use fusevol_shared::disk::file::OpenMode;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::DiskId;
use std::net::SocketAddr;

/// What is known of the pool.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where the manager shall listen.
    pub listen: Vec<SocketAddr>,
    /// What clients are told instead.
    pub address: Vec<String>,
    /// Where its disks are.
    pub disks: Vec<Address>,
}

/// A pool that was taken over.
#[derive(Debug)]
pub struct Adopted {
    /// Its configuration, as it was written.
    pub config: Config,
    /// What is wrong with labels or copies of the catalog, though it could be read.
    pub flaws: Vec<String>,
}

/// Takes the pool over.
///
/// # Errors
/// `Refused` or `Damaged` naming the disk, `NotFound` naming the disks that are missing, `Denied` where the recovery key
/// is another pool's, `Busy` where a manager on this host serves the pool.
pub fn adopt(dir: &Dir, wish: &Wish, recovery: &RecoveryKey) -> Result<Adopted> {
    init::check_addresses(&wish.address)?;
    let _lock = dir.make_and_lock()?;
    if dir.is_made() {
        return Err(Error::new(Kind::Exists, format!("{}: there is a pool's configuration in this folder already", dir.root().display()))
            .hint("name a new folder with --dir"));
    }
    let members = disks::open_members(&wish.disks, OpenMode::Read, None)?;
    disks::refuse_if_served(&members)?;
    let (label, ids) = match members.first() {
        Some(m) => (m.label.clone(), members.iter().map(|m| (m.label.disk, m.disk.address())).collect::<Vec<_>>()),
        None => return Err(Error::new(Kind::Refused, "no disk is named")),
    };
    let read = log::read(&members)?;
    let catalog = Catalog::fold(&read.records)?;
    refuse_if_missing(&catalog, &ids)?;
    let authority = sealed::unpack(label.pool, catalog.sealed(), recovery)?;
    let config = Config {
        pool: label.pool_name,
        pool_id: label.pool,
        listen: wish.listen.clone(),
        address: wish.address.clone(),
        disks: ids.into_iter().map(|(id, path)| ConfigDisk { id, path }).collect(),
    };
    if !dir.authority().exists() {
        authority.save(dir.root())?;
    }
    config.save(dir)?;
    Ok(Adopted { config, flaws: read.flaws })
}

/// Refuses where a disk of the catalog is not among those that were named.
fn refuse_if_missing(catalog: &Catalog, present: &[(DiskId, Address)]) -> Result<()> {
    let missing: Vec<String> = catalog
        .disks()
        .filter(|d| !present.iter().any(|(id, _)| *id == d.entry.id))
        .map(|d| format!("disk {} ({}, last at {})", d.entry.no, d.entry.id, d.entry.paths.join(", ")))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::NotFound, format!("missing: {}", missing.join("; "))).hint("name all disks of the pool"))
}
