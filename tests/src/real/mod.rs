//! Real parts on this machine: the built programs, real mounts, loop devices and network namespaces, each owned by a
//! guard that ends it. A guard ends only what it started, by pid or name; nothing is left behind, and no mount can hang
//! a test for ever ([`mount::Mount`] aborts its connection after a time).
//!
//! `FUSEVOL_KEEP=1` keeps the scratch folders of failed tests; `FUSEVOL_LONG=1` makes the long forms of the proofs ([`rounds`]).

pub mod attached;
pub mod caller;
pub mod crashfile;
pub mod files;
pub mod ledger;
pub mod load;
pub mod locker;
pub mod loopdev;
pub mod mirrored;
pub mod mount;
pub mod nbd;
pub mod netns;
pub mod pool;
pub mod reader;
pub mod run;
pub mod split;
pub mod stopped;
pub mod wait;
pub mod writer;

/// Rounds in a long form, for each one of the short form.
const LONG: u64 = 10;

/// `short` rounds, or `long` ones where the long forms are asked for.
#[must_use]
pub fn rounds_of(short: u64, long: u64) -> u64 {
    if std::env::var_os("FUSEVOL_LONG").is_some() { long } else { short }
}

/// `n` rounds, or many times as many where the long forms are asked for.
#[must_use]
pub fn rounds(n: u64) -> u64 {
    if std::env::var_os("FUSEVOL_LONG").is_some() { n * LONG } else { n }
}
