//! `config`: what holds for the whole repository. Written last by `init`, and never changed: a folder without it is no
//! repository. Its payload is JSON; the fields that encryption needs are there and say "none".

use super::envelope::{FileKind, open, seal};
use super::id::FileId;
use super::{CHUNK_MAX, CHUNK_MIN, damaged};
use fusevol_shared::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// Most key slots.
const SLOTS_MAX: usize = 64;

/// How a passphrase becomes a key; `none` while nothing is encrypted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kdf {
    /// `none`; later `argon2id`.
    pub name: String,
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Hex; empty while there is none.
    pub salt: String,
}

/// The repository's key, wrapped under one passphrase.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySlot {
    /// For people.
    pub label: String,
    /// Of this slot.
    pub kdf: Kdf,
    /// Nonce, wrapped key and tag, hex.
    pub wrapped: String,
}

/// The configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The repository's identity; equals the one in the envelope.
    pub id: FileId,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// `blake3-256`; later a keyed one.
    pub hash: String,
    /// `zstd`.
    pub compression: String,
    /// Its level.
    pub compression_level: i32,
    /// `none`; later `xchacha20-poly1305`.
    pub cipher: String,
    /// For new key slots.
    pub kdf: Kdf,
    /// Empty while nothing is encrypted.
    pub key_slots: Vec<KeySlot>,
    /// Seconds since 1970 UTC.
    pub created: u64,
}

impl Config {
    /// A repository that is not encrypted.
    #[must_use]
    pub fn plain(id: FileId, chunk_size: u32, created: u64) -> Self {
        let kdf = Kdf { name: "none".into(), memory_kib: 0, passes: 0, lanes: 0, salt: String::new() };
        Self {
            id,
            chunk_size,
            hash: "blake3-256".into(),
            compression: "zstd".into(),
            compression_level: 3,
            cipher: "none".into(),
            kdf,
            key_slots: Vec::new(),
            created,
        }
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let payload = serde_json::to_vec(self).expect("a configuration holds only strings and numbers");
        seal(FileKind::Config, self.id, &payload)
    }

    /// Checks and parses the file's bytes.
    ///
    /// # Errors
    /// `Damaged`; `Version` where it asks for what is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (id, payload) = open(FileKind::Config, None, bytes)?;
        let c: Self = serde_json::from_slice(payload).map_err(|e| damaged("the configuration does not parse").because(e))?;
        if c.id != id {
            return Err(damaged("the configuration names two repositories"));
        }
        if !chunk_size_is_valid(c.chunk_size) || !(1..=22).contains(&c.compression_level) || c.key_slots.len() > SLOTS_MAX {
            return Err(damaged("the configuration holds a number out of its range"));
        }
        let known = c.hash == "blake3-256" && c.compression == "zstd" && c.cipher == "none" && c.kdf.name == "none";
        if !known || !c.key_slots.is_empty() {
            let what = format!("the repository uses {}, {}, {}", c.hash, c.compression, c.cipher);
            return Err(Error::new(Kind::Version, what).hint("use a newer fusevol-backup"));
        }
        Ok(c)
    }
}

/// Whether a repository may have chunks of this size.
#[must_use]
pub fn chunk_size_is_valid(bytes: u32) -> bool {
    bytes.is_power_of_two() && (CHUNK_MIN..=CHUNK_MAX).contains(&bytes)
}
