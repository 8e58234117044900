//! Reading a pool without touching it, for `check` and `scan`.

use super::door::Door;
use super::group::Group;
use super::open::predecessors;
use super::record::{LogRecord, unpack};
use super::replay::replay;
use super::survey::gather;
use super::{Candidate, Options};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::any::Lock;
use fusevol_shared::error::Result;
use fusevol_shared::format::label::{CatalogCopy, DiskLabel};
use fusevol_shared::format::owner::OwnerRecord;
use std::time::Duration;

/// What was seen of a pool.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The newest label: pool, generation, catalog set and pointer.
    pub newest: DiskLabel,
    /// Labels and paths of the disks that are here.
    pub disks: Vec<(DiskLabel, String)>,
    /// Catalog disks that are not here.
    pub missing: Vec<CatalogCopy>,
    /// The newest manager, as it says itself; it may be alive.
    pub owner: Option<OwnerRecord>,
    /// Transactions in the log after its checkpoint.
    pub transactions: u64,
    /// Bytes of the log.
    pub bytes: u64,
    /// Damaged and missing copies, as sentences.
    pub warnings: Vec<String>,
}

/// A door that locks nothing and never lets a request time out.
struct NoDoor;

impl<D> Door<D> for NoDoor {
    fn try_lock(&self, _: &D) -> Result<Lock> {
        Ok(Lock::Taken)
    }
    fn sleep(&self, _: Duration) -> impl Future<Output = ()> {
        std::future::pending()
    }
}

/// Reads the catalog of the pool that these disks carry. Takes no lock and writes nothing: beside a living manager it may
/// see a catalog that is being switched, and then says `Damaged`; ask again.
///
/// # Errors
/// As [`super::open`], but for `Busy` and for a quorum: any copy will do.
pub async fn inspect<D: Disk, R: LogRecord>(candidates: Vec<Candidate<D>>, options: &Options) -> Result<(Inspection, Vec<R>)> {
    let (pool, members, mut warnings) = gather(candidates, options.pool).await?;
    let group = Group { pool, members, door: NoDoor, limit: options.limit };
    let table = group.table(&group.well()).await;
    let view = group.view(&table)?;
    view.enough(true)?;
    if let Err(few) = view.enough(false) {
        warnings.push(format!("{few}: the catalog that was read may be an old one"));
    }
    let log = replay(&group, &view.present, &view.newest).await?;
    let mut records = Vec::new();
    log.units.iter().try_for_each(|u| unpack(u, &mut records))?;
    warnings.extend(log.warnings);
    let inspection = Inspection {
        disks: group.members.iter().map(|m| (m.label.clone(), m.path.clone())).collect(),
        missing: view.missing,
        owner: predecessors(&table, Default::default()).into_iter().next(),
        transactions: log.transactions,
        bytes: log.pages * fusevol_shared::units::PAGE_U64,
        newest: view.newest,
        warnings,
    };
    Ok((inspection, records))
}
