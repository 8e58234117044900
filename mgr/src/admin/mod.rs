//! The administrator's side of the manager: its folder, its socket, and making or taking over a pool.
//!
//! - [`dir`]: the folder (`--dir`): what lies in it, and the lock that a running manager holds. [`config`]: `config.toml`.
//! - [`api`]: what is said over the socket. [`server`]: the manager's end. [`client`]: the verbs' end.
//! - [`init`]: makes a pool of raw disks. [`adopt`]: takes one over. [`check`]: proves one offline. [`dump`]: prints
//!   what stands on its disks.
//! - [`disks`]: opens disks and says what is wrong.
//!
//! Invariants: the folder is mode 0700 and everything secret in it 0600; nothing in it is needed to read data. Whoever
//! may connect to the socket is root: there are no rights below that. Only the holder of the folder's lock removes a
//! stale socket.

pub mod adopt;
pub mod api;
pub mod check;
pub mod client;
pub mod config;
pub mod dir;
pub mod disks;
pub mod dump;
pub mod init;
pub mod server;
pub mod wire;

mod sealed;
