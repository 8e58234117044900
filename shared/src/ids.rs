//! Identities and counters. UUIDs are never reused; each counter is a type of its own.

use crate::units::place;
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Archive, Serialize, Deserialize)]
        #[rkyv(derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash), compare(PartialEq))]
        pub struct $name(pub [u8; 16]);
        impl $name {
            /// The identity as a UUID.
            #[must_use]
            pub fn uuid(self) -> uuid::Uuid {
                uuid::Uuid::from_bytes(self.0)
            }
            /// A new one (UUID version 4) from 16 random bytes.
            #[must_use]
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(*uuid::Builder::from_random_bytes(bytes).as_uuid().as_bytes())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.uuid(), f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.uuid())
            }
        }
        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, uuid::Error> {
                Ok(Self(*uuid::Uuid::parse_str(s)?.as_bytes()))
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                uuid::Uuid::deserialize(d).map(|u| Self(*u.as_bytes()))
            }
        }
    };
}

id!(/// A pool: the set of disks under one manager.
    PoolId);
id!(/// A disk, as its label says.
    DiskId);
id!(/// A volume.
    VolumeId);
id!(/// A snapshot of one volume.
    SnapshotId);
id!(/// A client: one key.
    ClientId);
id!(/// One life of one client process: random, never reused, chosen by the client.
    SessionId);
id!(/// One boot of one host, from `/proc/sys/kernel/random/boot_id`.
    BootId);

/// Identity of a client on the wire: SHA-256 of its certificate's public key (SPKI, DER).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
pub struct KeyPrint(pub [u8; 32]);

impl fmt::Debug for KeyPrint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

place!(/// A session's number in the catalog: grows, never reused. Its slot is the number modulo the slot count.
    SessionNo(u32));
place!(/// Counts the snapshots of a volume: it grows by one at each flip. Writes after the flip belong to the new one.
    VolumeEpoch(u64));
place!(/// Counts the changes of a volume's map.
    MapVersion(u64));
place!(/// One per attachment: a later attachment of a volume has a higher one.
    FenceToken(u64));
place!(/// One per replica: a leg with an older one than the map says is stale.
    LegGeneration(u32));
place!(/// One per life of a manager on a pool.
    Generation(u64));
place!(/// One life of a manager's or client's path to a disk, never used twice by one process: a lost connection ends it. 0 is a path without lives: what
    /// was written by it and not flushed is not lost with it.
    Life(u64));
place!(/// A sequence number within one log, journal or attachment; starts at 1.
    Seq(u64));

impl Seq {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Life {
    /// Of a path that has no lives: a file or block device of this host.
    pub const LASTING: Self = Self(0);
    /// Of a path that there never was: to a disk that is not found yet. Nothing is ever done by it.
    pub const NONE: Self = Self(u64::MAX);

    /// Whether it has none.
    #[must_use]
    pub fn is_lasting(self) -> bool {
        self == Self::LASTING
    }
}
