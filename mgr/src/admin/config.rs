//! `config.toml`: what this host needs to start the pool's manager. All of it can be written anew from the disks.

use super::dir::{Dir, write_secret};
use fusevol_shared::disk::any::Address;
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::ids::{DiskId, PoolId};
use fusevol_shared::name::Name;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Largest file that is read, in bytes.
const CONFIG_MAX: u64 = 1 << 20;

/// The configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the pool, for people.
    pub pool: Name,
    /// What every label must say.
    pub pool_id: PoolId,
    /// Where clients connect.
    pub listen: Vec<SocketAddr>,
    /// What clients are told instead, as `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
    /// The disks. Paths are hints: the label at a path decides.
    #[serde(default, rename = "disk")]
    pub disks: Vec<ConfigDisk>,
}

/// A disk of the pool.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigDisk {
    /// What its label must say.
    pub id: DiskId,
    /// Where it was seen last: a path, or the address of an NBD export.
    pub path: Address,
}

impl Config {
    /// Reads it.
    ///
    /// # Errors
    /// `NotFound` where there is none; `Refused` where it is not as it must be.
    pub fn load(dir: &Dir) -> Result<Self> {
        if !dir.is_made() {
            return Err(dir.no_pool());
        }
        let path = dir.config();
        let what = || path.display().to_string();
        if std::fs::metadata(&path).context(Kind::Io, what)?.len() > CONFIG_MAX {
            return Err(Error::new(Kind::Refused, format!("{}: too large for a configuration", path.display())));
        }
        let text = std::fs::read_to_string(&path).context(Kind::Io, what)?;
        toml::from_str(&text).map_err(|e| {
            Error::new(Kind::Refused, format!("{}: {}", path.display(), e.message())).hint(format!(
                "mend it, or write it anew with `fusevol-mgr adopt --dir NEW DISK...`: {}",
                e.to_string().lines().next().unwrap_or("")
            ))
        })
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, dir: &Dir) -> Result<()> {
        let text = toml::to_string(self).context(Kind::Internal, || "the configuration cannot be written as TOML")?;
        write_secret(&dir.config(), text.as_bytes())
    }

    /// Writes a disk down that has joined.
    ///
    /// # Errors
    /// As `load` and `save`.
    pub fn add_disk(dir: &Dir, disk: ConfigDisk) -> Result<()> {
        let mut config = Self::load(dir)?;
        config.disks.push(disk);
        config.save(dir)
    }

    /// What the catalog keeps as the manager's addresses.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        if self.address.is_empty() { self.listen.iter().map(ToString::to_string).collect() } else { self.address.clone() }
    }

    /// The addresses that a new client's key file names.
    ///
    /// # Errors
    /// `Refused` where the manager listens on every address of the host and nobody said which one clients shall use.
    pub fn client_addresses(&self, asked: &[String]) -> Result<Vec<String>> {
        let given = if asked.is_empty() { &self.address } else { asked };
        if !given.is_empty() {
            return Ok(given.to_vec());
        }
        if let Some(any) = self.listen.iter().find(|a| a.ip().is_unspecified()) {
            return Err(Error::new(
                Kind::Refused,
                format!("the manager listens on {any}, which is no address that a client can connect to"),
            )
            .hint(format!("say which one clients shall use: --address HOST:{}", any.port())));
        }
        Ok(self.told())
    }
}
