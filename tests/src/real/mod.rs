//! Real parts on this machine: the built programs, real mounts, loop devices and network namespaces, each owned by a
//! guard that ends it. A guard ends only what it started, by pid or name; nothing is left behind, and no mount can hang
//! a test for ever ([`mount::Mount`] aborts its connection after a time).
//!
//! `FUSEVOL_KEEP=1` keeps the scratch folders of failed tests.

pub mod caller;
pub mod loopdev;
pub mod mount;
pub mod netns;
pub mod pool;
pub mod run;
pub mod wait;
pub mod writer;
