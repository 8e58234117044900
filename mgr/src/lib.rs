//! The manager: owns the pool's metadata, and is not in the data path.
//!
//! - [`catalog`]: what the manager knows, as the fold of a log of records.
//! - [`core`]: the state machine that answers clients and administrators.

pub mod catalog;
pub mod core;
