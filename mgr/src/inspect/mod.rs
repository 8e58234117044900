//! Looks at what stands on a pool's disks, for `check` and `dump`: reads only, believes nothing, decides nothing.
//!
//! - [`deep`]: what the catalog says of journals, preserve segments and slots, against what stands there.
//! - [`copies`]: whether the copies of mirrored volumes are equal.
//! - [`preserve`]: one preserve segment on one leg, as it stands. [`lines`]: labels, owners, catalog blocks, slots, journals and
//!   preserve segments, one line each, for people.
//!
//! It shares the format's code with the programs and nothing else: what they believe is not taken from them.

pub mod copies;
pub mod deep;
pub mod lines;
pub mod preserve;
#[cfg(test)]
mod world;
