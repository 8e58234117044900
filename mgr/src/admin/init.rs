//! Makes a pool of raw disks.
//!
//! Order: everything is checked first, and nothing is written unless all disks are fine. Then the authority and the
//! recovery key go into the folder, then the disks are labelled and get the first catalog, then the configuration is
//! written: with it the folder counts as made. A crash in between leaves disks that are being prepared, or a whole pool
//! that `adopt` takes over with the recovery key in the folder.

use super::config::{Config, ConfigDisk};
use super::dir::Dir;
use super::{disks, sealed};
use crate::authority::Authority;
use crate::authority::recovery::RecoveryKey;
use crate::catalog::record::{DiskEntry, PoolEntry, Record};
use crate::driver::log;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::any::{Address, PoolDisk};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::layout::Layout;
use fusevol_shared::ids::{DiskId, PoolId};
use fusevol_shared::name::Name;
use fusevol_shared::random::{Random, SystemRandom};
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::keyfile::is_address;
use fusevol_shared::wire::secret;
use std::net::SocketAddr;
use std::time::Duration;

/// What the pool shall be.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Its name.
    pub pool: Name,
    /// Where the manager listens.
    pub listen: Vec<SocketAddr>,
    /// What clients are told instead.
    pub address: Vec<String>,
    /// Bytes of an allocation unit.
    pub au_size: u64,
    /// Of sessions.
    pub lease: Duration,
    /// Where its disks are.
    pub disks: Vec<Address>,
}

/// A new pool.
#[derive(Debug)]
pub struct Made {
    /// Its configuration, as it was written.
    pub config: Config,
    /// To be kept elsewhere.
    pub recovery: RecoveryKey,
    /// Bytes that volumes can have.
    pub data: u64,
}

/// Makes the pool.
///
/// # Errors
/// `Refused` for a wish that cannot be, naming each disk that is wrong; `Busy`, `Exists`, `Io`.
pub fn init(dir: &Dir, wish: &Wish) -> Result<Made> {
    let au_size = AuSize::from_bytes(wish.au_size).ok_or_else(|| {
        Error::new(Kind::Refused, format!("an allocation unit of {} bytes", wish.au_size)).hint("a power of two from 256K to 64M")
    })?;
    check_addresses(&wish.address)?;
    check_addresses(&wish.listen.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let _lock = dir.make_and_lock()?;
    if dir.is_made() {
        return Err(Error::new(Kind::Exists, format!("{}: there is a pool's configuration in this folder already", dir.root().display()))
            .hint("name another folder with --dir"));
    }
    let files = disks::open_blank(&wish.disks, au_size)?;
    let mut random = SystemRandom;
    let (pool, recovery) = (PoolId::from_random(random.id()), RecoveryKey::create(&mut random));
    let authority = Authority::create(pool, &wish.pool)?;
    let members = entries(&files, au_size, &mut random)?;
    let config = Config {
        pool: wish.pool.clone(),
        pool_id: pool,
        listen: wish.listen.clone(),
        address: wish.address.clone(),
        disks: members.iter().zip(&files).map(|(e, f)| ConfigDisk { id: e.id, path: f.address() }).collect(),
    };
    let mut records = vec![
        Record::PoolCreated(PoolEntry {
            id: pool,
            name: wish.pool.clone(),
            au_size,
            lease_ms: u32::try_from(wish.lease.as_millis()).map_err(|_| Error::new(Kind::Refused, "the lease is too long"))?,
            created: SystemClock.wall() / 1_000_000_000,
        }),
        Record::AuthoritySet { sealed: sealed::pack(&authority, &recovery, &mut random)? },
        Record::ListenSet { addresses: config.told() },
    ];
    let data = members.iter().map(|e| u64::from(e.end_data.0 - e.first_data.0) * au_size.bytes()).sum();
    records.extend(members.iter().cloned().map(Record::DiskAdded));

    authority.save(dir.root())?;
    secret::write_new(&dir.recovery_key(), recovery_text(&config, &recovery).as_bytes())?;
    log::create(files, &members, &config, au_size, wish.lease, &records)?;
    config.save(dir)?;
    Ok(Made { config, recovery, data })
}

/// Refuses what no client could connect to.
///
/// # Errors
/// `Refused`.
pub fn check_addresses(addresses: &[String]) -> Result<()> {
    match addresses.iter().find(|a| !is_address(a)) {
        Some(bad) => Err(Error::new(Kind::Refused, format!("'{bad}' is no address")).hint("as mgr.example.org:7400 or 10.0.0.1:7400")),
        None => Ok(()),
    }
}

fn entries(files: &[PoolDisk], au_size: AuSize, random: &mut dyn Random) -> Result<Vec<DiskEntry>> {
    let entry = |(no, file): (usize, &PoolDisk)| {
        let layout = Layout::for_disk(au_size, file.size())?;
        Ok(DiskEntry {
            no: DiskNo(u16::try_from(no).map_err(|_| Error::new(Kind::Refused, "too many disks"))?),
            id: DiskId::from_random(random.id()),
            aus: layout.aus,
            first_data: layout.first_data,
            end_data: layout.end_data,
            paths: vec![file.address().to_string()],
        })
    };
    files.iter().enumerate().map(entry).collect()
}

fn recovery_text(config: &Config, key: &RecoveryKey) -> String {
    format!(
        "# Recovery key of fusevol pool {} ({}).\n# It opens the authority's key, which lies sealed on the pool's disks, for `fusevol-mgr adopt`.\n\
         # Keep it away from the disks and from this host; then remove this file.\n{key}\n",
        config.pool, config.pool_id
    )
}
