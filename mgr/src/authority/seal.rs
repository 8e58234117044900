//! The authority's key, sealed by the recovery key, as it stands in the catalog.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `FVSEAL` and version, `00 01` |
//! | 8..32 | nonce, random |
//! | 32.. | XChaCha20-Poly1305 of the key (PKCS#8, DER), tag at the end |
//!
//! Authenticated with it: the magic, the pool's id, and the authority's certificate; so a sealed key of another pool, or beside another
//! certificate, does not open.

use super::Authority;
use super::recovery::RecoveryKey;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::PoolId;
use fusevol_shared::random::Random;

const MAGIC: [u8; 8] = *b"FVSEAL\x00\x01";
const NONCE: usize = 24;
/// Longest sealed key that is looked at, bytes.
const SEALED_MAX: usize = 4096;

impl Authority {
    /// Its key, sealed.
    ///
    /// # Errors
    /// `Internal` where the cipher refuses.
    pub fn seal(&self, key: &RecoveryKey, random: &mut dyn Random) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        random.fill(&mut nonce);
        let bound = bound(self.pool, &self.own.certificate);
        let sealed = cipher(key)
            .encrypt(&XNonce::from(nonce), Payload { msg: &self.own.key, aad: &bound })
            .map_err(|_| Error::new(Kind::Internal, "the authority's key cannot be sealed"))?;
        Ok([&MAGIC[..], &nonce, &sealed].concat())
    }

    /// Opens what `seal` made, beside the certificate from the catalog.
    ///
    /// # Errors
    /// `Damaged` where it is no sealed key, `Denied` where the recovery key does not open it.
    pub fn unseal(pool: PoolId, certificate: Vec<u8>, sealed: &[u8], key: &RecoveryKey) -> Result<Self> {
        let damaged = || Error::new(Kind::Damaged, "the catalog's sealed key of the authority is damaged");
        let rest = sealed.strip_prefix(&MAGIC).filter(|_| sealed.len() <= SEALED_MAX).ok_or_else(damaged)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE>().ok_or_else(damaged)?;
        let bound = bound(pool, &certificate);
        let opened = cipher(key).decrypt(&XNonce::from(*nonce), Payload { msg: text, aad: &bound }).map_err(|_| {
            Error::new(Kind::Denied, "the recovery key does not open this pool's authority")
                .hint("each pool has its own recovery key, shown by its init")
        })?;
        Self::from_parts(pool, certificate, opened)
    }
}

fn cipher(key: &RecoveryKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.bytes().into())
}

fn bound(pool: PoolId, certificate: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &pool.0, certificate].concat()
}
