//! What the manager knows: the fold of a log of records.

pub mod record;

use fusevol_shared::error::{Error, Kind, Result};
use record::{PoolEntry, Record};

/// The state.
#[derive(Clone, Default, Debug)]
pub struct Catalog {
    pool: Option<PoolEntry>,
}

/// Something that must not be, found by `prove`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

impl Catalog {
    /// Folds one record in.
    ///
    /// # Errors
    /// `Damaged` where it does not fit; nothing is changed then.
    pub fn apply(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::PoolCreated(p) if self.pool.is_none() => self.pool = Some(p.clone()),
            _ => return Err(Error::new(Kind::Damaged, "a record does not fit the catalog")),
        }
        Ok(())
    }

    /// Records that rebuild an equal state: a checkpoint.
    #[must_use]
    pub fn dump(&self) -> Vec<Record> {
        self.pool.iter().cloned().map(Record::PoolCreated).collect()
    }

    /// The pool; none before its first record.
    #[must_use]
    pub fn pool(&self) -> Option<&PoolEntry> {
        self.pool.as_ref()
    }
}

/// Everything that is wrong with a catalog.
#[must_use]
pub fn prove(_catalog: &Catalog) -> Vec<Violation> {
    Vec::new()
}
