//! The data connection: a client's I/O to a disk that it cannot reach itself, through the manager (PROTOCOL.md, "Redirect").
//!
//! A connection of its own ([`super::tls::Use::Data`]), so that a slow disk holds no renewal up. The client opens it once for its session;
//! then each piece of I/O is a request with an id, answered once, in any order. What is written or read is the frame's payload.
//!
//! The client resolves places: it has the newer state. A request names disk and place, and [`Claim`]: why the place is the client's. The
//! manager checks that against maps and grants; it never looks a place up.
//!
//! Invariants: a frame is at most [`MAX_IO`] and a small archive; its lengths are checked before memory is taken; the answer to `Open` comes when
//! nothing is in flight that was asked on an earlier data connection of the session.

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

use super::codec::Message;
use super::frame::{FrameError, FrameKind, HEADER, Header, Limits};
use crate::error::{Error, Kind, WireError};
use crate::ids::{Generation, Life, SessionId, SnapshotId, VolumeId};
use crate::units::{DiskNo, DiskOff, VolAu};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use std::ops::DerefMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes of one request.
pub const MAX_IO: usize = Limits::DATA.payload as usize;
/// Most requests of a connection without an answer.
pub const IN_FLIGHT: usize = 64;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum Verb {
    /// The answer's payload is what was read.
    Read,
    /// The payload is written.
    Write,
    /// The same, durable once it is answered.
    WriteDurable,
    /// Everything that was written to the disk before, by whichever path, is made durable.
    Flush,
}

/// Why a place is the client's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum Claim {
    /// A volume that it has attached lies there, at this AU and the ones after it, or it is of the attachment's reserve.
    Live { volume: VolumeId, au: VolAu },
    /// A snapshot that it has open lies there.
    Frozen { snapshot: SnapshotId, au: VolAu },
    /// A preserve segment of a volume that it has attached, or of which it has a snapshot open, or of the attachment's reserve.
    Segment { volume: VolumeId },
    /// The journal of its write attachment.
    Journal { volume: VolumeId },
    /// The session's own slot: to be read.
    Slot,
}

impl Claim {
    /// The same, so many AUs further on.
    #[must_use]
    pub fn further(self, aus: u32) -> Self {
        let on = |au: VolAu| VolAu(au.0.saturating_add(aus));
        match self {
            Claim::Live { volume, au } => Claim::Live { volume, au: on(au) },
            Claim::Frozen { snapshot, au } => Claim::Frozen { snapshot, au: on(au) },
            Claim::Segment { .. } | Claim::Journal { .. } | Claim::Slot => self,
        }
    }
}

/// One piece of I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Io {
    /// What is done.
    pub verb: Verb,
    /// On which disk.
    pub disk: DiskNo,
    /// From which byte on; 0 of a flush.
    pub at: DiskOff,
    /// How many bytes; 0 of a flush.
    pub len: u32,
    /// Why the client may.
    pub claim: Claim,
}

/// What a client sends.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum FromClient {
    /// First of all: whose I/O it is.
    Open { session: SessionId },
    /// I/O; the payload is what is written.
    Io { id: u64, io: Io },
}

/// Why a piece of I/O was not done.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum Failure {
    /// It was not sent to the disk.
    Refused(WireError),
    /// The disk failed it; where it was not answered it may still land.
    Disk { answered: bool, errno: i32, what: String },
    /// The manager's own path to the disk is lost, and not open again yet: it was not sent. It may be asked again.
    NoPath(String),
}

/// What a manager sends.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum FromManager {
    /// I/O may come. Nothing of this generation is in flight for the session; of earlier ones nothing either, if it says so.
    Opened { generation: Generation, drained: bool },
    /// No I/O for this session: the connection ends.
    Refused(WireError),
    /// The answer; the payload is what was read.
    Done { id: u64, result: Result<(), Failure> },
    /// A flush is done, by this life of the manager's path.
    Flushed { id: u64, life: Life },
}

macro_rules! message {
    ($name:ident, $kind:ident) => {
        impl Message for $name {
            const KIND: FrameKind = FrameKind::$kind;

            fn to_archive(&self) -> Result<AlignedVec, FrameError> {
                rkyv::to_bytes::<rkyv::rancor::Error>(self).map_err(super::codec::malformed)
            }

            fn from_archive(archive: &AlignedVec) -> Result<Self, FrameError> {
                rkyv::from_bytes::<Self, rkyv::rancor::Error>(archive).map_err(super::codec::malformed)
            }
        }
    };
}

message!(FromClient, DataClient);
message!(FromManager, DataManager);

/// Sends a message with its payload. Not to be cancelled in the middle.
///
/// # Errors
/// Where it is too long, or the connection fails.
pub async fn send<M: Message>(to: &mut (impl AsyncWrite + Unpin), message: &M, payload: &[u8]) -> Result<(), FrameError> {
    let archive = message.to_archive()?;
    let header = Header::make_for(M::KIND, &archive, payload.len(), Limits::DATA)?;
    // One record of both.
    to.write_all(&[&header[..], &archive].concat()).await?;
    to.write_all(payload).await?;
    Ok(())
}

/// Receives a message with its payload, in memory that `room` gives for so many bytes; `None` where the connection ends between two. Not to
/// be cancelled in the middle.
///
/// # Errors
/// Whatever is wrong with the frame or the connection.
pub async fn receive<M: Message, B: DerefMut<Target = [u8]>>(
    from: &mut (impl AsyncRead + Unpin),
    limits: Limits,
    room: impl FnOnce(usize) -> B,
) -> Result<Option<(M, B)>, FrameError> {
    let mut head = [0; HEADER];
    let first = from.read(&mut head).await?;
    if first == 0 {
        return Ok(None);
    }
    exact(from, &mut head[first..]).await?;
    let header = Header::parse(&head, M::KIND, limits)?;
    let mut archive = AlignedVec::with_capacity(header.archive as usize);
    archive.resize(header.archive as usize, 0);
    exact(from, &mut archive).await?;
    header.check(&head, &archive)?;
    let message = M::from_archive(&archive)?;
    let mut payload = room(header.payload as usize);
    exact(from, &mut payload).await?;
    Ok(Some((message, payload)))
}

async fn exact(from: &mut (impl AsyncRead + Unpin), into: &mut [u8]) -> Result<(), FrameError> {
    match from.read_exact(into).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(FrameError::Half),
        Err(e) => Err(e.into()),
    }
}

/// Whether a request and its payload fit together.
///
/// # Errors
/// `Damaged`.
pub fn fits(io: &Io, payload: &[u8]) -> Result<(), Error> {
    let (len, whole) =
        (io.len as usize, io.at.0.is_multiple_of(crate::units::PAGE_U64) && (io.len as usize).is_multiple_of(crate::units::PAGE));
    let fits = match io.verb {
        Verb::Read => payload.is_empty() && whole && (1..=MAX_IO).contains(&len),
        Verb::Write | Verb::WriteDurable => payload.len() == len && whole && len > 0,
        Verb::Flush => payload.is_empty() && len == 0 && io.at.0 == 0,
    };
    if fits { Ok(()) } else { Err(Error::new(Kind::Damaged, format!("{:?} of {len} bytes with a payload of {}", io.verb, payload.len()))) }
}

#[cfg(test)]
mod tests;
