//! The FUSE adapter: what the kernel asks, passed on to the session, and its answers as the kernel wants them.
//!
//! - [`adapter`]: the operations; [`ops`]: those that take more than a line. [`attr`]: names and attributes. [`nodes`]: inode numbers. [`handles`]: open files.
//! - [`errno`]: our errors as numbers. [`mount`]: mounting, serving, the options of the connection.
//! - [`transport`]: which way requests come; [`uring`]: the quick one.
//! - [`pages`]: drops what the kernel's page cache must not give any more, and its readahead.
//! - [`locking`]: locks, and whether who waits was interrupted. [`scratch`]: a loop's memory. [`table`]: the host's table of mounts, and who uses one. [`loops`]: block devices over volume files ([`ioctl`]).
//!
//! Invariants: no decision about data is taken here; each request is served to its end on the thread that took it, which
//! drives the disks on its own ring; attributes and names are never cached by the kernel, so they are never stale; the kernel
//! keeps pages only of a volume that is attached for writing here, and of snapshots, and only until [`crate::stale`] says otherwise (mapped
//! pages of a volume that is only read here excepted).

mod adapter;
pub mod attr;
pub mod errno;
mod handles;
mod ioctl;
mod locking;
pub mod loops;
pub mod mount;
pub mod nodes;
mod ops;
mod pages;
mod scratch;
pub mod table;
pub mod transport;
mod uring;

pub use attr::Shows;
