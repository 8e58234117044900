//! What client and manager say to each other (PROTOCOL.md).
//!
//! - [`messages`]: every request, reply and push, and the right that each request needs, declared on its type.
//! - [`lock`]: the messages of byte-range locks. [`recovery`]: of mirrors. [`slots`]: which disks carry a session's slot.
//! - [`rights`]: rights and needs.
//! - [`frame`], [`codec`]: the envelope around a message, with its limits; messages to bytes and back.
//! - [`data`]: I/O through the manager, on a connection of its own.
//! - [`tcp`], [`tls`]: how a connection is set; TLS 1.3 with certificates on both sides.
//! - [`keyfile`], [`secret`]: a client's key file; files that nobody else may read.
//!
//! One connection carries requests (client -> manager, each with an id, answered once) and pushes (manager -> client,
//! each with an id, acknowledged once). A request that was not answered is sent again on the next connection of the
//! same session with the same sequence number; the manager does it once.

pub mod codec;
pub mod data;
pub mod frame;
pub mod keyfile;
pub mod lock;
pub mod messages;
pub mod recovery;
pub mod rights;
pub mod secret;
pub mod slots;
pub mod tcp;
pub mod tls;
