//! A manager's owner record, and the SEAL of its generation: the two pages of an entry of the owner table.
//!
//! An entry belongs to one generation (its place is the generation modulo 8). Its manager writes both pages when it
//! claims the generation, and the first one again for each heartbeat. The SEAL page says `Clear` for as long as nobody
//! has succeeded it. A successor overwrites it with `Sealed`; so does a manager that claims the same generation or one
//! eight later, with a `Clear` of its own. Hence the rule: **a manager may go on only while it reads, valid, `Clear` with
//! its own generation and instance** ([`Seal::is_clear_for`]); anything else, a torn page too, means that it is over.
//!
//! States of a manager: `Claiming` (may not serve; has not waited for its predecessors yet) -> `Serving` -> `Ended` (its
//! own word that all its I/O is done).

use super::envelope::{self, BlockKind, Flaw, Head, Place};
use super::label::Instance;
use super::layout::{AREAS, owner_at, seal_at};
use crate::ids::{BootId, DiskId, Generation, PoolId, Seq};
use std::time::Duration;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Longest host name kept, in bytes.
pub const HOST_MAX: usize = 64;

/// How far a manager has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnerState {
    /// It wants the generation.
    Claiming = 1,
    /// It has it.
    Serving = 2,
    /// It has given it back: nothing of it is in flight.
    Ended = 3,
}

/// What a manager says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerRecord {
    /// Its generation.
    pub generation: Generation,
    /// Which process.
    pub instance: Instance,
    /// Which boot of which host: only there do byte locks say anything.
    pub boot: BootId,
    /// Host name, for people.
    pub host: String,
    /// Process number, for people.
    pub pid: u32,
    /// How far it has come.
    pub state: OwnerState,
    /// The area that it writes, or is about to write.
    pub area: u8,
    /// The lease under which it serves: a successor waits that long.
    pub lease: Duration,
    /// Grows with each heartbeat.
    pub beat: Seq,
}

/// The second page of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seal {
    /// Of which generation.
    pub generation: Generation,
    /// Of which manager.
    pub instance: Instance,
    /// The generation that succeeded it; `None` while it is clear.
    pub by: Option<Generation>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOwner {
    instance: [u8; 16],
    boot: [u8; 16],
    state: u8,
    area: u8,
    host_len: u8,
    reserved: u8,
    pid: U32,
    lease_ms: U32,
    reserved2: U32,
    host: [u8; HOST_MAX],
    room: [u8; 128],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSeal {
    instance: [u8; 16],
    by: U64,
    room: [u8; 128],
}

impl OwnerRecord {
    /// The page for this disk, to be written at [`owner_at`] of the generation.
    #[must_use]
    pub fn encode(&self, pool: PoolId, disk: DiskId) -> Vec<u8> {
        let host = self.host.as_bytes();
        let len = (0..=host.len().min(HOST_MAX)).rev().find(|n| self.host.is_char_boundary(*n)).unwrap_or(0);
        let mut raw = RawOwner {
            instance: self.instance.0,
            boot: self.boot.0,
            state: self.state as u8,
            area: self.area,
            host_len: u8::try_from(len).expect("at most HOST_MAX"),
            reserved: 0,
            pid: self.pid.into(),
            lease_ms: u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX).into(),
            reserved2: 0.into(),
            host: [0; HOST_MAX],
            room: [0; 128],
        };
        raw.host[..len].copy_from_slice(&host[..len]);
        let at = owner_at(self.generation);
        envelope::seal(&Head { kind: BlockKind::Owner, pool, disk, at, generation: self.generation, seq: self.beat }, raw.as_bytes())
    }

    /// The record in entry `entry` (0 to 7) of the owner table, of which this is the first page.
    ///
    /// # Errors
    /// Why there is none.
    pub fn decode(page: &[u8], pool: PoolId, disk: DiskId, entry: u64) -> Result<Self, Flaw> {
        let place = Place { kind: BlockKind::Owner, pool: Some(pool), disk: Some(disk), at: owner_at(Generation(entry)) };
        let block = envelope::open(page, &place)?;
        let bad = Flaw::Length(u32::try_from(block.payload.len()).unwrap_or(u32::MAX));
        let raw = RawOwner::ref_from_bytes(block.payload).map_err(|_| bad)?;
        let state = match raw.state {
            1 => OwnerState::Claiming,
            2 => OwnerState::Serving,
            3 => OwnerState::Ended,
            _ => return Err(bad),
        };
        let host = raw.host.get(..usize::from(raw.host_len)).ok_or(bad)?;
        if raw.area >= AREAS || owner_at(block.head.generation) != place.at {
            return Err(bad);
        }
        Ok(Self {
            generation: block.head.generation,
            instance: Instance(raw.instance),
            boot: BootId(raw.boot),
            host: String::from_utf8_lossy(host).into_owned(),
            pid: raw.pid.get(),
            state,
            area: raw.area,
            lease: Duration::from_millis(raw.lease_ms.get().into()),
            beat: block.head.seq,
        })
    }
}

impl Seal {
    /// Whether the manager of this generation and instance may go on.
    #[must_use]
    pub fn is_clear_for(&self, generation: Generation, instance: Instance) -> bool {
        self.by.is_none() && (self.generation, self.instance) == (generation, instance)
    }

    /// The page for this disk, to be written at [`seal_at`] of the generation.
    #[must_use]
    pub fn encode(&self, pool: PoolId, disk: DiskId) -> Vec<u8> {
        let raw = RawSeal { instance: self.instance.0, by: self.by.map_or(0, |g| g.0).into(), room: [0; 128] };
        let (at, seq) = (seal_at(self.generation), Seq(1 + u64::from(self.by.is_some())));
        envelope::seal(&Head { kind: BlockKind::OwnerSeal, pool, disk, at, generation: self.generation, seq }, raw.as_bytes())
    }

    /// The SEAL in entry `entry` (0 to 7) of the owner table, of which this is the second page.
    ///
    /// # Errors
    /// Why there is none.
    pub fn decode(page: &[u8], pool: PoolId, disk: DiskId, entry: u64) -> Result<Self, Flaw> {
        let place = Place { kind: BlockKind::OwnerSeal, pool: Some(pool), disk: Some(disk), at: seal_at(Generation(entry)) };
        let block = envelope::open(page, &place)?;
        let bad = Flaw::Length(u32::try_from(block.payload.len()).unwrap_or(u32::MAX));
        let raw = RawSeal::ref_from_bytes(block.payload).map_err(|_| bad)?;
        if seal_at(block.head.generation) != place.at {
            return Err(bad);
        }
        let by = Some(Generation(raw.by.get())).filter(|g| g.0 != 0);
        Ok(Self { generation: block.head.generation, instance: Instance(raw.instance), by })
    }
}

#[cfg(test)]
mod tests;
