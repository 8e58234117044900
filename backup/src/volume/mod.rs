//! The door to the volumes: a snapshot is taken and appears as a pseudo-device file; a volume is opened to be restored.
//!
//! States of a snapshot here: taken (ours, temporary) or found (another's, kept) -> read -> let go -> ended. What was
//! taken here is removed however the work ends; a `kill -9` alone leaves it, under a name that says what it was.

mod private;

pub use private::{open_for_restore, open_snapshots};

use crate::format::manifest::{SnapshotRef, VolumeRef};
use fusevol_shared::cli::time::rfc3339;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Name;
use fusevol_shared::random::Random;
use std::path::PathBuf;

/// A snapshot that can be read.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its volume.
    pub volume: VolumeRef,
    /// It.
    pub snapshot: SnapshotRef,
    /// Bytes.
    pub size: u64,
    /// Bytes of the volume's block.
    pub block_size: u32,
    /// The pseudo-device file.
    pub path: PathBuf,
}

/// Volumes whose snapshots can be taken and read.
pub trait Snapshots {
    /// Takes a snapshot, to be removed in the end.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Busy`, `NoSpace`, `Unreachable`.
    fn take(&self, volume: &Name, snapshot: &Name) -> Result<Image>;

    /// A snapshot that is there, and stays.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unreachable`; `Damaged` where it is broken.
    fn find(&self, volume: &Name, snapshot: &Name) -> Result<Image>;

    /// A snapshot that was taken here is not needed any more. One that is still in use is removed at the end.
    ///
    /// # Errors
    /// `Denied`, `Unreachable`.
    fn let_go(&self, volume: &Name, snapshot: &Name) -> Result<()>;

    /// Ends it all; whatever was taken here and is still there is removed.
    ///
    /// # Errors
    /// Where that cannot be done: a snapshot may stay.
    fn end(self: Box<Self>) -> Result<()>;
}

/// A volume that is open to be written from its first byte to its last.
pub trait OpenVolume {
    /// Its image file.
    fn path(&self) -> PathBuf;
    /// Bytes.
    fn size(&self) -> u64;
    /// Bytes in written blocks, as far as the manager knows.
    fn written(&self) -> u64;
    /// Ends it; the volume is detached.
    ///
    /// # Errors
    /// Where that cannot be done in order.
    fn end(self: Box<Self>) -> Result<()>;
}

/// A name for a temporary snapshot that nobody else uses: `backup-20260131T120000Z-0badcafe`. `now`: seconds since 1970 UTC.
///
/// # Errors
/// Never, as long as a name may have 63 bytes.
pub fn temporary_name(now: u64, random: &mut dyn Random) -> Result<Name> {
    let time: String = rfc3339(now).chars().filter(char::is_ascii_alphanumeric).collect();
    let mut some = [0; 4];
    random.fill(&mut some);
    Name::new(&format!("backup-{time}-{}", crate::format::id::hex(&some))).map_err(|e| Error::new(Kind::Internal, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::random::SeededRandom;

    #[test]
    fn a_temporary_snapshot_says_what_it_is() {
        let name = temporary_name(0, &mut SeededRandom(1)).expect("a name");
        assert!(name.as_str().starts_with("backup-19700101T000000Z-"), "{name}");
        assert_ne!(name, temporary_name(0, &mut SeededRandom(2)).expect("a name"));
    }
}
