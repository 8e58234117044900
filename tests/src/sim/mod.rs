//! The seeded simulator: managers, clients, disks and nets in one thread; one seed decides everything, and gives one trace.
//!
//! - [`sched`]: clock, dice, trace, processes. [`exec`]: tasks in seeded order.
//! - [`disk`]: a shared disk with a volatile cache, late landings, tears, errors and lies.

pub mod disk;
pub mod exec;
pub mod sched;
