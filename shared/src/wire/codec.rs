//! Messages to frames and back.
//!
//! [`encode`] makes the bytes of one message; a [`Decoder`] finds messages in a stream of bytes; a [`Reader`] is a decoder on a
//! connection. A decoder is in one of two states: waiting for a header, or for the archive behind a checked header.
//!
//! Invariants: the archive is copied into aligned memory and checked by bytecheck before anything of it is believed; memory is taken
//! for a checked length only; every fault of the peer is a `FrameError` and ends the stream, none is a panic.

use super::frame::{FrameError, FrameKind, HEADER, Header, Limits};
use super::messages::{FromClient, FromManager, Reply};
use crate::units::AuSize;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use rkyv::util::AlignedVec;
use std::marker::PhantomData;
use tokio::io::AsyncRead;
use tokio_util::codec::FramedRead;

#[cfg(test)]
mod tests;

/// A message that travels in a frame of its own.
pub trait Message: Sized + Send {
    /// Its kind in the header.
    const KIND: FrameKind;

    /// Its archive.
    ///
    /// # Errors
    /// `Malformed` where it cannot be archived.
    fn to_archive(&self) -> Result<AlignedVec, FrameError>;

    /// From an archive out of a frame.
    ///
    /// # Errors
    /// `Malformed` where the archive does not pass its check.
    fn from_archive(archive: &AlignedVec) -> Result<Self, FrameError>;
}

macro_rules! message {
    ($name:ident, $kind:ident, $sound:expr) => {
        impl Message for $name {
            const KIND: FrameKind = FrameKind::$kind;

            fn to_archive(&self) -> Result<AlignedVec, FrameError> {
                rkyv::to_bytes::<rkyv::rancor::Error>(self).map_err(malformed)
            }

            fn from_archive(archive: &AlignedVec) -> Result<Self, FrameError> {
                let message = rkyv::from_bytes::<Self, rkyv::rancor::Error>(archive).map_err(malformed)?;
                let sound: fn(&Self) -> Result<(), FrameError> = $sound;
                sound(&message)?;
                Ok(message)
            }
        }
    };
}

message!(FromClient, Client, |_| Ok(()));
message!(FromManager, Manager, |m| match m {
    // The AU size is the one value whose misuse would be a shift out of range.
    FromManager::Reply { result: Ok(Reply::Welcome(w)), .. } if AuSize::from_log2(w.au_size.log2()).is_none() =>
        Err(FrameError::Malformed(format!("an allocation unit of 2^{} bytes", w.au_size.log2()))),
    _ => Ok(()),
});

pub(super) fn malformed(e: impl std::fmt::Display) -> FrameError {
    // The text of a checker may run over many lines and quotes no bytes of ours that matter; one line is enough for a log.
    FrameError::Malformed(e.to_string().lines().next().unwrap_or_default().chars().take(200).collect())
}

/// The frame of a message.
///
/// # Errors
/// `TooLong` where its archive is over the limit of an open connection.
pub fn encode<M: Message>(message: &M) -> Result<Bytes, FrameError> {
    let archive = message.to_archive()?;
    let header = Header::make(M::KIND, &archive, Limits::OPEN)?;
    let mut frame = BytesMut::with_capacity(HEADER + archive.len());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(&archive);
    Ok(frame.freeze())
}

/// Finds messages in bytes.
#[derive(Debug)]
pub struct Decoder<M> {
    limits: Limits,
    head: Option<([u8; HEADER], Header)>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message> Decoder<M> {
    /// With these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, head: None, message: PhantomData }
    }

    /// Other limits from the next header on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }
}

impl<M: Message> tokio_util::codec::Decoder for Decoder<M> {
    type Item = M;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<M>, FrameError> {
        let (bytes, header) = match self.head {
            Some(head) => head,
            None => {
                let Some(bytes) = src.first_chunk::<HEADER>().copied() else { return Ok(None) };
                let header = Header::parse(&bytes, M::KIND, self.limits)?;
                src.advance(HEADER);
                *self.head.insert((bytes, header))
            }
        };
        let archive_len = header.archive as usize;
        let whole = archive_len + header.payload as usize;
        if src.len() < whole {
            src.reserve(whole - src.len());
            return Ok(None);
        }
        self.head = None;
        let mut archive = AlignedVec::with_capacity(archive_len);
        archive.extend_from_slice(&src[..archive_len]);
        src.advance(whole);
        header.check(&bytes, &archive)?;
        M::from_archive(&archive).map(Some)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<M>, FrameError> {
        match self.decode(src)? {
            Some(message) => Ok(Some(message)),
            None if src.is_empty() && self.head.is_none() => Ok(None),
            None => Err(FrameError::Half),
        }
    }
}

/// Messages from a connection.
#[derive(Debug)]
pub struct Reader<R, M>(FramedRead<R, Decoder<M>>);

impl<R: AsyncRead + Unpin, M: Message> Reader<R, M> {
    /// On this connection.
    pub fn new(from: R, limits: Limits) -> Self {
        Self(FramedRead::with_capacity(from, Decoder::new(limits), 8 << 10))
    }

    /// Other limits from the next header on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.0.decoder_mut().set_limits(limits);
    }

    /// The next message; `None` where the peer ended the connection between two frames. May be cancelled without loss.
    ///
    /// # Errors
    /// Whatever is wrong with the frame or the connection; nothing more comes after it.
    pub async fn next(&mut self) -> Result<Option<M>, FrameError> {
        self.0.next().await.transpose()
    }
}
