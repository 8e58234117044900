//! The client engine: the connection to the manager, the session, the data path, the mount.

pub mod link;
