//! A sector that says what it is: 512 bytes that hold magic, volume, address, sequence, writer, life and a checksum, and
//! a filling that depends on all of these. One read tells stale, torn, foreign and misdirected.
//!
//! Little-endian: `[0..8)` magic, `[8..16)` volume, `[16..24)` address (in sectors), `[24..32)` sequence, `[32..36)`
//! writer, `[36..40)` life, `[40..44)` CRC-32C of the sector with these four bytes zero, `[44..48)` zero, then the filling.

/// Bytes of a sector: what a disk writes in whole or not at all.
pub const SECTOR: usize = 512;
const MAGIC: [u8; 8] = *b"FVLOAD\0\x01";
const SUM: std::ops::Range<usize> = 40..44;
const HEAD: usize = 48;

/// Which write of a load a sector comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The load's volume.
    pub volume: u64,
    /// Where in the volume it was written, in sectors.
    pub address: u64,
    /// Number of the write, never used again in the load's lives; 0 is "never written".
    pub seq: u64,
    /// The thread that wrote it.
    pub writer: u32,
    /// The life of the load in which it was written.
    pub life: u32,
}

impl Stamp {
    /// Writes the sector into `out`, which is [`SECTOR`] bytes.
    pub fn put(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.volume.to_le_bytes());
        out[16..24].copy_from_slice(&self.address.to_le_bytes());
        out[24..32].copy_from_slice(&self.seq.to_le_bytes());
        out[32..36].copy_from_slice(&self.writer.to_le_bytes());
        out[36..40].copy_from_slice(&self.life.to_le_bytes());
        out[40..HEAD].fill(0);
        // Knuth's multiplier: two sectors of one write differ all over, and so do two writes of one sector.
        let mut word = self.seq.wrapping_mul(6_364_136_223_846_793_005) ^ self.address;
        for chunk in out[HEAD..].chunks_exact_mut(8) {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let sum = crc32c::crc32c(out);
        out[SUM].copy_from_slice(&sum.to_le_bytes());
    }

    /// Whether the end of a sector is of this write, whatever it begins with.
    pub fn ends(sector: &[u8], seq: u64, address: u64) -> bool {
        let mut whole = [0; SECTOR];
        Self { volume: 0, address, seq, writer: 0, life: 0 }.put(&mut whole);
        sector[SECTOR - 8..] == whole[SECTOR - 8..]
    }

    /// What the sector says; `None` for zeros.
    ///
    /// # Errors
    /// A sentence: it is neither zeros nor a whole sector of a load.
    pub fn get(sector: &[u8]) -> Result<Option<Self>, String> {
        let u64_at = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().expect("4 bytes"));
        if sector.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if sector[..8] != MAGIC {
            return Err(format!("is foreign: it begins with {:02x?}", &sector[..16]));
        }
        let stamp = Self { volume: u64_at(8), address: u64_at(16), seq: u64_at(24), writer: u32_at(32), life: u32_at(36) };
        let mut whole = [0; SECTOR];
        stamp.put(&mut whole);
        if whole == *sector {
            Ok(Some(stamp))
        } else {
            {
                let from = whole.iter().zip(sector).position(|(a, b)| a != b).unwrap_or(0);
                let upto = whole.iter().zip(sector).rposition(|(a, b)| a != b).unwrap_or(0);
                let is = &sector[from..SECTOR.min(from + 16)];
                Err(format!("is torn: its head says {stamp:?}, and bytes {from} to {upto} are not of it: {is:02x?}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_tells_what_became_of_it() {
        let stamp = Stamp { volume: 7, address: 11, seq: 3, writer: 1, life: 2 };
        let (mut a, mut b) = ([0; SECTOR], [0; SECTOR]);
        assert_eq!(Stamp::get(&a), Ok(None));
        stamp.put(&mut a);
        assert_eq!(Stamp::get(&a), Ok(Some(stamp)));
        Stamp { seq: 4, ..stamp }.put(&mut b);
        b[256..].copy_from_slice(&a[256..]);
        assert!(Stamp::get(&b).is_err_and(|e| e.contains("torn")));
        assert!(Stamp::ends(&b, 3, 11) && !Stamp::ends(&b, 4, 11) && !Stamp::ends(&b, 3, 12));
        a[0] = 1;
        assert!(Stamp::get(&a).is_err_and(|e| e.contains("foreign")));
    }
}
