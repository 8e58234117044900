//! Whether the copies of mirrored volumes are equal: what the catalog has as in sync is compared on the disks, block by block, where it is written.
//!
//! A volume that a session has attached for writing is passed over, and said: its dirty regions may differ. So are AUs that only snapshots have: of
//! those a block that is preserved is not read any more, and may differ.

use crate::catalog::{Catalog, Volume};
use crate::session_io::SessionIo;
use fusevol_shared::disk::Disk;
use fusevol_shared::map::{LegState, MapEntry};
use fusevol_shared::units::{DiskAu, VolAu};
use futures_util::future::join_all;
use serde::Serialize;

/// Differences of one volume that are said one by one.
const SAID: usize = 16;

/// What was found.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Compared {
    /// AUs of which several copies were compared.
    pub aus: u64,
    /// AUs with fewer copies in sync than they should have.
    pub lacking: u64,
    /// Bytes that were compared with the first copy.
    pub bytes: u64,
    /// Copies that cannot be read.
    pub flaws: Vec<String>,
    /// Copies that differ.
    pub violations: Vec<String>,
    /// What was passed over.
    pub notes: Vec<String>,
}

/// Compares all copies of all mirrored volumes that nobody writes.
pub async fn compare<D: Disk>(catalog: &Catalog, io: &SessionIo<'_, D>) -> Compared {
    let mut found = Compared::default();
    for v in catalog.volumes().filter(|v| v.entry.legs > 1) {
        match catalog.writer(v.entry.id) {
            Some(_) => found.notes.push(format!("volume '{}' is attached for writing: its copies were not compared", v.entry.name)),
            None => volume(catalog, v, io, &mut found).await,
        }
    }
    found
}

async fn volume<D: Disk>(catalog: &Catalog, v: &Volume, io: &SessionIo<'_, D>, found: &mut Compared) {
    let counts = |at: &DiskAu| !v.out.contains(&at.disk) && catalog.disk(at.disk).is_some_and(|d| !d.failed);
    let mut differ = 0;
    for (au, e) in v.map.iter() {
        let copies: Vec<DiskAu> = e.legs().iter().filter(|l| l.state == LegState::InSync).map(|l| l.at).filter(counts).collect();
        found.lacking += u64::from(copies.len() < usize::from(v.entry.legs));
        if copies.len() < 2 {
            continue;
        }
        found.aus += 1;
        for what in one(au, &e, &copies, io, found).await {
            differ += 1;
            if differ <= SAID {
                found.violations.push(format!("volume '{}': {what}", v.entry.name));
            }
        }
    }
    if differ > SAID {
        found.violations.push(format!("volume '{}': {} more differences", v.entry.name, differ - SAID));
    }
}

/// The differences of one AU.
async fn one<D: Disk>(au: VolAu, e: &MapEntry, copies: &[DiskAu], io: &SessionIo<'_, D>, found: &mut Compared) -> Vec<String> {
    let mut whole = Vec::new();
    for (at, read) in copies.iter().zip(join_all(copies.iter().map(|at| io.read_au(*at))).await) {
        match read {
            Ok((bytes, _)) => whole.push((at, bytes)),
            Err(e) => found.flaws.push(format!("the copy of AU {au} at {at} cannot be read: {e}")),
        }
    }
    let Some(((first, right), others)) = whole.split_first() else { return Vec::new() };
    let block = usize::try_from(io.au_size().block_bytes()).expect("a block is at most 1 MiB");
    let mut wrong = Vec::new();
    for (at, bytes) in others {
        for run in e.written.runs() {
            let range = run.start as usize * block..run.end as usize * block;
            found.bytes += range.len() as u64;
            if bytes.get(range.clone()) != right.get(range) {
                wrong.push(format!("AU {au}, blocks {}..{}: the copy at {at} differs from that at {first}", run.start, run.end));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests;
