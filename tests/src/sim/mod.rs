//! The seeded simulator: managers, clients, disks and nets in one thread; one seed decides everything, and gives one trace.
//!
//! - [`sched`]: clock, dice, trace, processes. [`exec`]: tasks in seeded order.
//! - [`disk`]: a shared disk with a volatile cache, late landings, tears, errors and lies. [`net`], [`link`]: connections, and a client's use of them.
//! - [`data`], [`redirect`]: I/O through the manager, where a client's own way to a disk is lost.
//! - [`manager`], [`client`]: processes made of the real parts. [`program`]: what clients do. [`chaos`]: what goes wrong.
//! - [`truth`], [`volume`]: what may be read. [`setup`], [`world`]: a world from a seed.

pub mod chaos;
pub mod client;
pub mod data;
pub mod disk;
pub mod exec;
pub mod link;
pub mod manager;
pub mod net;
pub mod program;
pub mod redirect;
pub mod sched;
pub mod setup;
pub mod truth;
pub mod volume;
pub mod world;
