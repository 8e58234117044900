//! A manifest: one snapshot of one volume. Written last; a snapshot exists when its manifest does. Its payload is JSON,
//! small for any image: the chunk table hangs on the one id `table`.

use super::envelope::{FileKind, open, seal};
use super::id::{ChunkId, FileId};
use super::{IMAGE_MAX, config::chunk_size_is_valid, damaged};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};

/// Longest text in a manifest, bytes.
const TEXT_MAX: usize = 255;

/// The volume that was stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRef {
    /// Its name then.
    pub name: String,
    /// Its identity.
    pub id: VolumeId,
}

/// The snapshot that was read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRef {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: SnapshotId,
    /// The epoch that it closed.
    pub epoch: u64,
    /// When it was taken, seconds since 1970 UTC: the instant that the image is of.
    pub taken: u64,
}

/// What a backup did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Bytes of the image that are no hole.
    pub data: u64,
    /// Bytes read from the source.
    pub read: u64,
    /// Chunks of data in the table.
    pub chunks: u64,
    /// Chunks that the repository did not have.
    pub new_chunks: u64,
    /// Plain bytes of them.
    pub new_bytes: u64,
    /// Bytes that all new entries, tables too, take in packs.
    pub stored: u64,
    /// How long it took, milliseconds.
    pub millis: u64,
}

/// One snapshot in the repository.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its own name; equals the file's.
    pub id: FileId,
    /// Which volume.
    pub volume: VolumeRef,
    /// Which snapshot of it.
    pub snapshot: SnapshotRef,
    /// When the manifest was written, nanoseconds since 1970 UTC: the order of the snapshots.
    pub time_ns: u64,
    /// Host that ran the backup.
    pub host: String,
    /// Program and version.
    pub program: String,
    /// Bytes of the image.
    pub size: u64,
    /// Bytes of the volume's block, the grain of its holes.
    pub block_size: u32,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// Root of the chunk table; none where the whole image is a hole.
    pub table: Option<ChunkId>,
    /// The manifest of this volume before this one.
    pub previous: Option<FileId>,
    /// What was done.
    pub stats: Stats,
}

impl Manifest {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self, repo: FileId) -> Vec<u8> {
        let payload = serde_json::to_vec(self).expect("a manifest holds only strings and numbers");
        seal(FileKind::Manifest, repo, &payload)
    }

    /// Checks and parses the bytes of the file `name`.
    ///
    /// # Errors
    /// `Damaged`, `Version`.
    pub fn decode(repo: FileId, name: FileId, bytes: &[u8]) -> Result<Self> {
        let (_, payload) = open(FileKind::Manifest, Some(repo), bytes)?;
        let m: Self = serde_json::from_slice(payload).map_err(|e| damaged("the manifest does not parse").because(e))?;
        if m.id != name {
            return Err(damaged(format!("the manifest carries the name {}", m.id)));
        }
        let texts = [&m.volume.name, &m.snapshot.name, &m.host, &m.program];
        if m.size > IMAGE_MAX || !chunk_size_is_valid(m.chunk_size) || texts.iter().any(|t| t.len() > TEXT_MAX) {
            return Err(damaged("the manifest holds a number or text out of its range"));
        }
        if m.size == 0 && m.table.is_some() {
            return Err(damaged("an empty image has a chunk table"));
        }
        Ok(m)
    }
}
