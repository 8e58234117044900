//! Records as bytes: each one an rkyv archive of its own, behind its length, so that a unit of the log can be cut and
//! checked record by record.
//!
//! `length u32, 12 bytes of zeros, the archive, zeros up to a multiple of 16`; little-endian. The envelope around it has
//! been checked before; here each archive is checked by bytecheck before it is believed.

use fusevol_shared::error::{Context, Error, Kind, Result};
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

const ALIGN: usize = 16;
/// Bytes of records in a piece of a checkpoint: the limit that closes a piece, not the largest record.
const PIECE: usize = 128 << 10;

/// A record of the catalog: anything that rkyv can archive and check.
pub trait LogRecord: Sized {
    /// Its archive.
    ///
    /// # Errors
    /// `Internal` where rkyv refuses.
    fn to_archive(&self) -> Result<AlignedVec>;

    /// The record in this archive, checked.
    ///
    /// # Errors
    /// `Damaged` where it is none.
    fn from_archive(bytes: &[u8]) -> Result<Self>;
}

impl<R> LogRecord for R
where
    R: Archive + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
    R::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<R, HighDeserializer<rancor::Error>>,
{
    fn to_archive(&self) -> Result<AlignedVec> {
        rkyv::to_bytes::<rancor::Error>(self).context(Kind::Internal, || "a record does not become bytes")
    }

    fn from_archive(bytes: &[u8]) -> Result<Self> {
        let mut aligned = AlignedVec::<ALIGN>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes::<R, rancor::Error>(&aligned).context(Kind::Damaged, || "a record of the catalog makes no sense")
    }
}

fn push<R: LogRecord>(record: &R, out: &mut Vec<u8>) -> Result<()> {
    let archive = record.to_archive()?;
    let len = u32::try_from(archive.len()).context(Kind::Internal, || "a record of more than 4 GiB")?;
    out.extend(len.to_le_bytes());
    out.extend([0; ALIGN - 4]);
    out.extend_from_slice(&archive);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    Ok(())
}

/// The bytes of one unit that holds all these records.
///
/// # Errors
/// As [`LogRecord::to_archive`].
pub fn pack<R: LogRecord>(records: &[R]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    records.iter().try_for_each(|r| push(r, &mut out))?;
    Ok(out)
}

/// The bytes of the units of a checkpoint that holds all these records; at least one unit.
///
/// # Errors
/// As [`LogRecord::to_archive`].
pub fn pack_pieces<R: LogRecord>(records: &[R]) -> Result<Vec<Vec<u8>>> {
    let mut pieces = vec![Vec::new()];
    for r in records {
        let mut one = Vec::new();
        push(r, &mut one)?;
        match pieces.last_mut().filter(|p| p.is_empty() || p.len() + one.len() <= PIECE) {
            Some(piece) => piece.extend(one),
            None => pieces.push(one),
        }
    }
    Ok(pieces)
}

/// Appends the records of a unit to `out`.
///
/// # Errors
/// `Damaged` where the bytes do not make sense.
pub fn unpack<R: LogRecord>(mut bytes: &[u8], out: &mut Vec<R>) -> Result<()> {
    let bad = || Error::new(Kind::Damaged, "the records of a catalog block do not fit together");
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(ALIGN).ok_or_else(bad)?;
        let len = head.first_chunk::<4>().map(|l| u32::from_le_bytes(*l)).and_then(|l| usize::try_from(l).ok()).ok_or_else(bad)?;
        out.push(R::from_archive(rest.get(..len).ok_or_else(bad)?)?);
        bytes = rest.get(len.next_multiple_of(ALIGN)..).ok_or_else(bad)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Archive, Serialize, Deserialize, PartialEq, Debug, Clone)]
    enum R {
        A(u64, String),
        B(Vec<u8>),
    }

    #[test]
    fn packs_and_unpacks() {
        let records: Vec<R> = (0..100u8).flat_map(|i| [R::A(i.into(), "x".repeat(i.into())), R::B(vec![i; 5000])]).collect();
        let mut back: Vec<R> = Vec::new();
        unpack(&pack(&records).expect("packs"), &mut back).expect("unpacks");
        assert_eq!(back, records);
        let pieces = pack_pieces(&records).expect("packs");
        assert!(pieces.len() > 2 && pieces.iter().all(|p| p.len() <= PIECE));
        back.clear();
        pieces.iter().for_each(|p| unpack(p, &mut back).expect("unpacks"));
        assert_eq!(back, records);
        assert_eq!(pack_pieces::<R>(&[]).expect("packs"), [Vec::<u8>::new()]);
    }

    #[test]
    fn nonsense_is_damage() {
        let good = pack(&[R::A(1, "abc".to_owned())]).expect("packs");
        for cut in 1..good.len() {
            assert!(unpack::<R>(&good[..cut], &mut Vec::new()).is_err(), "{cut}");
        }
        let mut bad = good.clone();
        bad[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpack::<R>(&bad, &mut Vec::new()).is_err());
        for at in ALIGN..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            // Checked, whatever it makes of it: no panic.
            let _ = unpack::<R>(&bad, &mut Vec::new());
        }
    }
}
