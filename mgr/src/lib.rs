//! The manager: owns the pool's metadata, and is not in the data path.
//!
//! - [`authority`]: the pool's own authority, its certificates, its recovery key.
//! - [`catalog`]: what the manager knows, as the fold of a log of records.
//! - [`core`]: the state machine that answers clients and administrators.
//! - [`listen`]: connections of clients to events, answers and pushes back.
//! - [`store`]: the catalog on the shared disks.

pub mod authority;
pub mod catalog;
pub mod core;
pub mod listen;
pub mod store;
