//! The manager: owns the pool's metadata, and is not in the data path.
//!
//! - [`admin`]: the administrator's side: folder, socket, making and taking over a pool. [`cli`]: the command line.
//! - [`authority`]: the pool's own authority, its certificates, its recovery key.
//! - [`catalog`]: what the manager knows, as the fold of a log of records.
//! - [`copies`]: copies of AUs, made as the core decides.
//! - [`core`]: the state machine that answers clients and administrators.
//! - [`data`]: I/O that clients cannot do by themselves.
//! - [`driver`]: joins core, store, listener and admin socket.
//! - [`inspect`]: what stands on the disks, for `check` and `dump`.
//! - [`listen`]: connections of clients to events, answers and pushes back.
//! - [`marks`]: whether a disk is an older copy of itself.
//! - [`session_io`]: slots and journals of sessions on the shared disks.
//! - [`store`]: the catalog on the shared disks.

pub mod admin;
pub mod authority;
pub mod catalog;
pub mod cli;
pub mod copies;
pub mod core;
pub mod data;
pub mod driver;
pub mod inspect;
pub mod listen;
pub mod marks;
pub mod session_io;
pub mod store;
