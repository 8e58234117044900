//! What client and manager say to each other (PROTOCOL.md).
//!
//! - [`messages`]: every request, reply and push, and the right that each request needs, declared on its type.
//! - [`rights`]: rights and needs.
//!
//! One connection carries requests (client -> manager, each with an id, answered once) and pushes (manager -> client,
//! each with an id, acknowledged once). A request that was not answered is sent again on the next connection of the
//! same session with the same sequence number; the manager does it once.

pub mod messages;
pub mod rights;
