//! The authority as it lies in the catalog: its certificate, and its key sealed by the recovery key.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | length of the certificate, little-endian |
//! | 4.. | the certificate, DER |
//! | then | the sealed key (`crate::authority::seal`) |

use crate::authority::Authority;
use crate::authority::recovery::RecoveryKey;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::PoolId;
use fusevol_shared::random::Random;

/// For the catalog.
///
/// # Errors
/// `Internal`.
pub fn pack(authority: &Authority, key: &RecoveryKey, random: &mut dyn Random) -> Result<Vec<u8>> {
    let certificate = authority.certificate();
    let length = u32::try_from(certificate.len()).map_err(|_| Error::new(Kind::Internal, "the authority's certificate is too long"))?;
    Ok([&length.to_le_bytes()[..], certificate, &authority.seal(key, random)?].concat())
}

/// From the catalog.
///
/// # Errors
/// `Damaged`, or `Denied` where the recovery key is another pool's.
pub fn unpack(pool: PoolId, packed: &[u8], key: &RecoveryKey) -> Result<Authority> {
    let split = || {
        let (length, rest) = packed.split_first_chunk::<4>()?;
        rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
    };
    let (certificate, sealed) = split().ok_or_else(|| Error::new(Kind::Damaged, "the catalog's copy of the authority is damaged"))?;
    Authority::unseal(pool, certificate.to_vec(), sealed, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::name::Name;
    use fusevol_shared::random::SeededRandom;

    #[test]
    fn the_recovery_key_opens_what_it_sealed_and_no_other() {
        let (pool, mut random) = (PoolId([3; 16]), SeededRandom(1));
        let (key, other) = (RecoveryKey::create(&mut random), RecoveryKey::create(&mut random));
        let authority = Authority::create(pool, &Name::new("p").expect("a name")).expect("made");
        let packed = pack(&authority, &key, &mut random).expect("packed");
        assert_eq!(unpack(pool, &packed, &key).expect("opens").certificate(), authority.certificate());
        assert_eq!(unpack(pool, &packed, &other).expect_err("another key").kind(), Kind::Denied);
        for cut in [0, 3, 4, 100, packed.len() - 1] {
            assert!(unpack(pool, &packed[..cut], &key).is_err(), "cut at {cut}");
        }
    }
}
