//! What more than one of client, manager and backup tool needs: words and units, maps and masks,
//! the on-disk format, the wire, the disks.
//!
//! Modules import downwards only (checked by the `tidy` test):
//! `units, ids, name, size, error, clock, random, sentence` <- `mask, map, lock` <- `change` <- `format, wire` <- `disk, net` <- `cli`.

pub mod change;
pub mod cli;
pub mod clock;
pub mod disk;
pub mod error;
pub mod format;
pub mod ids;
pub mod lock;
pub mod map;
pub mod mask;
pub mod name;
pub mod net;
pub mod random;
pub mod sentence;
pub mod size;
pub mod units;
pub mod wire;
