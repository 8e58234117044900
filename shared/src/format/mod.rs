//! What lies on the shared disks, byte by byte: pure codecs, no I/O (FORMAT.md is the page to this code).
//!
//! - [`envelope`]: the frame of every metadata block: magic, kind, owner, own address, generation, sequence, checksum.
//! - [`layout`]: which part of a disk is what.
//! - [`preserve`]: the preserve log of snapshots.
//! - [`label`]: who a disk is, and where the catalog lies. [`sniff`]: whose a disk is that has no label of ours.
//! - [`owner`]: a manager's owner record and its SEAL.
//! - [`catalog`]: a block of the catalog log. [`journal`]: the journal of an attachment. [`slot`]: a session's heartbeat and SEAL. [`mail`]: letters to it.
//! - [`mark`]: what every disk holds to prove that it is not older than it was.
//!
//! Invariants: bytes are parsed into an untrusted form first and checked before anything is believed; a block that
//! is valid at another place, in another pool or of another kind is as bad as a damaged one; nothing here panics on
//! any input.

pub mod catalog;
pub mod envelope;
pub mod journal;
pub mod label;
pub mod layout;
pub mod mail;
pub mod mark;
pub mod owner;
pub mod preserve;
pub mod slot;
pub mod sniff;
