//! The recovery key: 32 random bytes that open the authority's sealed key, as a person copies them.
//!
//! Shown as 14 groups of 4 characters: 56 characters of 5 bits each in Crockford's base 32 (no I, L, O, U) carry the 32 bytes and the low
//! 24 bits of their CRC32C, so that a mistyped key is known as such before anything is opened with it. Case, spaces, line ends and dashes
//! do not matter; O is read as 0, I and L as 1. Lines that begin with `#` are passed over, so that the file which `init` writes can be
//! given back as it is.

use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::random::Random;
use std::fmt;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a key.
const CHARS: usize = 56;
/// Characters in a group.
const GROUP: usize = 4;
/// Longest text that is looked at, bytes.
pub const TEXT_MAX: usize = 4096;

/// The key itself. `Display` shows it whole: only for the one time that it is given out.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey([u8; 32]);

impl RecoveryKey {
    /// A new one.
    pub fn create(random: &mut dyn Random) -> Self {
        let mut key = [0; 32];
        random.fill(&mut key);
        Self(key)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From what a person typed, or from the file that `init` wrote.
    ///
    /// # Errors
    /// `Refused`, saying which character, how many are missing or too many, or that it is mistyped.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |what: String| Error::new(Kind::Refused, format!("recovery key: {what}")).hint("14 groups of 4 letters and digits");
        if text.len() > TEXT_MAX {
            return Err(refused(format!("the text is longer than {TEXT_MAX} bytes")));
        }
        let mut values = Vec::with_capacity(CHARS);
        for c in text.lines().filter(|l| !l.trim_start().starts_with('#')).flat_map(str::chars) {
            if c.is_whitespace() || c == '-' {
                continue;
            }
            match value(c) {
                Some(v) => values.push(v),
                None => {
                    let (group, place) = (values.len() / GROUP + 1, values.len() % GROUP + 1);
                    return Err(refused(format!("'{}' at place {place} of group {group} does not occur in one", c.escape_default())));
                }
            }
        }
        if values.len() != CHARS {
            return Err(refused(format!("it has {CHARS} letters and digits, not {}", values.len())));
        }
        let bytes = pack(&values);
        let (key, check) = bytes.split_at(32);
        let key: [u8; 32] = key.try_into().map_err(|_| refused("wrong length".into()))?;
        if checksum(&key) != check { Err(refused("mistyped: its checksum does not agree".into())) } else { Ok(Self(key)) }
    }
}

impl std::str::FromStr for RecoveryKey {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<u8> = self.0.iter().copied().chain(checksum(&self.0)).collect();
        let chars = unpack(&bytes);
        for (i, group) in chars.chunks(GROUP).enumerate() {
            f.write_str(if i == 0 { "" } else { "-" })?;
            group.iter().try_for_each(|v| write!(f, "{}", char::from(ALPHABET[usize::from(*v)])))?;
        }
        Ok(())
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

fn checksum(key: &[u8; 32]) -> [u8; 3] {
    let [a, b, c, _] = crc32c::crc32c(key).to_le_bytes();
    [a, b, c]
}

fn value(c: char) -> Option<u8> {
    let c = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        c => c,
    };
    ALPHABET.iter().position(|a| char::from(*a) == c).and_then(|i| u8::try_from(i).ok())
}

/// Eight values of 5 bits to five bytes, first value highest.
fn pack(values: &[u8]) -> Vec<u8> {
    let group = |v: &[u8]| v.iter().fold(0u64, |n, v| n << 5 | u64::from(*v)).to_be_bytes();
    values.chunks(8).flat_map(|v| group(v)[3..].to_vec()).collect()
}

/// Five bytes to eight values of 5 bits.
fn unpack(bytes: &[u8]) -> Vec<u8> {
    let number = |b: &[u8]| b.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    bytes.chunks(5).flat_map(|b| (0..8).rev().map(move |i| (number(b) >> (5 * i) & 31).to_le_bytes()[0])).collect()
}
