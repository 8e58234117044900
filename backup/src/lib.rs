//! The backup tool: point-in-time dumps of volumes into a deduplicating repository, and back.
//!
//! - [`format`]: the bytes of repository format v1, each structure with one codec.
//! - [`store`]: the door to the repository's file operations. [`repo`]: a repository: packs, index, manifests, tables.
//! - [`pipeline`]: reading, hashing, compressing and writing overlap in bounded memory; restoring likewise.
//! - [`check`]: proves a repository, and names what a damage hurts.
//! - [`volume`]: the door to the volumes: snapshots and their pseudo-device files. [`cli`]: what the user types.
//!
//! Invariants: a manifest is written last, when everything that it names is durable; nothing that a manifest names is
//! ever changed; every byte that is read back is checked by its BLAKE3 hash; nothing read is trusted unchecked.

pub mod check;
pub mod cli;
pub mod format;
pub mod pipeline;
pub mod repo;
pub mod store;
pub mod volume;

use fusevol_shared::error::{Error, Kind};
use std::io;

/// The kind of a failed system call, for control flow and the exit code.
#[must_use]
pub fn io_kind(e: &io::Error) -> Kind {
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Kind::NotFound,
        Some(libc::EBUSY | libc::ETXTBSY) => Kind::Busy,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Kind::Denied,
        Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
        Some(libc::EEXIST) => Kind::Exists,
        Some(libc::EISDIR | libc::ENOTDIR | libc::EFBIG | libc::ENAMETOOLONG) => Kind::Refused,
        _ => Kind::Io,
    }
}

/// A failed system call as our error: `what` is what was being done to what.
pub fn io_error(what: impl Into<String>, e: impl Into<io::Error>) -> Error {
    let e = e.into();
    Error::new(io_kind(&e), what).because(e)
}
