//! Letters: what the manager says to a session that it does not hear over the network, written to the session's slot disks.
//!
//! A disk has [`PAGES`] pages for letters, between the owner table and the end of the smallest first AU. A letter takes a whole page; the manager
//! chooses a free one, and writes over it when the letter is answered or its time is over. It says whose it is (session number and identity) and
//! which push of that session it carries; the push itself is its archive, opaque here. The answer stands in the session's heartbeat
//! ([`super::slot::Heartbeat`]).
//!
//! Invariants: a page that is torn, or another's, is no letter; what a letter asks may be asked any number of times: the session knows its
//! pushes by their numbers, which are never used twice.

use super::envelope::{self, BlockKind, Flaw, Head, PAGE_PAYLOAD, Place};
use super::layout::{OWNER_SLOTS, OWNER_TABLE};
use crate::ids::{DiskId, Generation, PoolId, Seq, SessionId, SessionNo};
use crate::units::{DiskOff, PAGE, PAGE_U64};
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Pages for letters on a disk.
pub const PAGES: u8 = 16;
/// Bytes of all of them.
pub const MAIL_BYTES: usize = PAGES as usize * PAGE;
/// Where they lie: behind the owner table, up to the end of an AU of the smallest size.
pub const MAIL: DiskOff = DiskOff(OWNER_TABLE.0 + OWNER_SLOTS * 2 * PAGE_U64);
/// Most bytes of a push's archive.
pub const BODY_MAX: usize = PAGE_PAYLOAD - HEAD;

const HEAD: usize = 32;

/// Where a letter lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LetterAt {
    /// The pool.
    pub pool: PoolId,
    /// The disk.
    pub disk: DiskId,
    /// Which of the [`PAGES`].
    pub page: u8,
}

impl LetterAt {
    /// The byte at which it begins.
    #[must_use]
    pub fn off(&self) -> DiskOff {
        MAIL.plus(u64::from(self.page) * PAGE_U64)
    }
}

/// What the manager says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// To whom: its number.
    pub session: SessionNo,
    /// Its identity.
    pub id: SessionId,
    /// The manager that wrote it.
    pub generation: Generation,
    /// Number of the push.
    pub push: u64,
    /// Its archive.
    pub body: Vec<u8>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLetter {
    id: [u8; 16],
    session: U32,
    room: [u8; 12],
}

impl Letter {
    /// The page for this place; `None` where the archive is longer than [`BODY_MAX`].
    #[must_use]
    pub fn encode(&self, at: LetterAt) -> Option<Vec<u8>> {
        if self.body.len() > BODY_MAX {
            return None;
        }
        let raw = RawLetter { id: self.id.0, session: self.session.0.into(), room: [0; 12] };
        let payload = [raw.as_bytes(), &self.body].concat();
        let (kind, seq) = (BlockKind::Mail, Seq(self.push));
        let head = Head { kind, pool: at.pool, disk: at.disk, at: at.off(), generation: self.generation, seq };
        Some(envelope::seal(&head, &payload))
    }

    /// The letter in this page.
    ///
    /// # Errors
    /// Why there is none.
    pub fn decode(page: &[u8], at: LetterAt) -> Result<Self, Flaw> {
        let block = envelope::open(page, &Place { kind: BlockKind::Mail, pool: Some(at.pool), disk: Some(at.disk), at: at.off() })?;
        let short = Flaw::Length(u32::try_from(block.payload.len()).unwrap_or(u32::MAX));
        let (raw, body) = RawLetter::ref_from_prefix(block.payload).map_err(|_| short)?;
        Ok(Self {
            session: SessionNo(raw.session.get()),
            id: SessionId(raw.id),
            generation: block.head.generation,
            push: block.head.seq.0,
            body: body.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::AuSize;

    fn at(page: u8) -> LetterAt {
        LetterAt { pool: PoolId([1; 16]), disk: DiskId([2; 16]), page }
    }

    fn letter(len: usize) -> Letter {
        let (session, id) = (SessionNo(2050), SessionId([3; 16]));
        Letter { session, id, generation: Generation(4), push: 4 << 32 | 7, body: vec![5; len] }
    }

    #[test]
    fn letters_are_read_back_and_only_from_their_place() {
        for len in [0, 1, BODY_MAX] {
            let page = letter(len).encode(at(3)).expect("it fits");
            assert_eq!((page.len(), Letter::decode(&page, at(3))), (PAGE, Ok(letter(len))));
            assert!(matches!(Letter::decode(&page, at(4)), Err(Flaw::Elsewhere(..))));
        }
        assert_eq!(letter(BODY_MAX + 1).encode(at(0)), None);
        let mut torn = letter(900).encode(at(0)).expect("it fits");
        torn[600] ^= 1;
        assert_eq!(Letter::decode(&torn, at(0)), Err(Flaw::Checksum));
        let golden = [[3; 16].as_slice(), &[2, 8, 0, 0], &[0; 12], &[5, 5, 0]].concat();
        let page = letter(2).encode(at(0)).expect("it fits");
        assert_eq!(page[envelope::HEADER..envelope::HEADER + 35], golden);
        assert_eq!(page[8], 9, "the kind");
    }

    #[test]
    fn they_lie_in_the_first_au_of_any_size() {
        let smallest = AuSize::from_log2(18).expect("in range");
        assert_eq!((MAIL, MAIL.0 + MAIL_BYTES as u64), (DiskOff(192 << 10), smallest.bytes()));
    }
}
