//! The pool's own authority: it signs the manager's certificate and those of the clients.
//!
//! - The authority is a key and a self-signed certificate, made by `init`. The certificate stands in the catalog and in every key file.
//! - The key lies in the manager's folder (mode 0600), so that serving needs no recovery key; and in the catalog, sealed by the recovery
//!   key ([`seal`], [`recovery`]), so that `adopt` needs nothing of the old folder.
//! - The manager's own certificate is made anew at each start, with a key that is never written anywhere.
//!
//! Invariants: a client's certificate serves for clients alone and the manager's for the manager alone, so that no client can stand in for
//! the manager; certificates are valid from 1970 to 9999; an `Authority` in memory holds a key that belongs to its certificate.

pub mod recovery;
pub mod seal;
#[cfg(test)]
mod tests;

use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::ids::{KeyPrint, PoolId};
use fusevol_shared::name::Name;
use fusevol_shared::wire::keyfile::{KeyFile, pem};
use fusevol_shared::wire::secret;
use fusevol_shared::wire::tls::{Identity, ServerTls, key_print, server_name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::path::Path;

/// The authority's file in the manager's folder.
pub const AUTHORITY_FILE: &str = "authority.pem";
/// Longest such file, bytes.
const FILE_MAX: usize = 16 << 10;

/// Key and certificate of a pool's authority.
pub struct Authority {
    pool: PoolId,
    own: Identity,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.pool)
    }
}

impl Authority {
    /// Makes the authority of a new pool.
    ///
    /// # Errors
    /// `Internal` where no key or certificate can be made.
    pub fn create(pool: PoolId, name: &Name) -> Result<Self> {
        let key = new_key()?;
        let mut params = params(&format!("fusevol pool {name} {pool}"), vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(making)?;
        Ok(Self { pool, own: Identity { certificate: certificate.der().to_vec(), key: key.serialize_der() } })
    }

    /// From certificate and key, both DER; checks that they belong together.
    ///
    /// # Errors
    /// `Damaged` where they do not, or are none.
    pub fn from_parts(pool: PoolId, certificate: Vec<u8>, key: Vec<u8>) -> Result<Self> {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(&key[..])).context(Kind::Damaged, || "the authority's key")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).context(Kind::Damaged, || "the authority's certificate")?;
        if parsed.public_key().raw != pair.subject_public_key_info() {
            return Err(Error::new(Kind::Damaged, "the authority's key and certificate do not belong together"));
        }
        Ok(Self { pool, own: Identity { certificate, key } })
    }

    /// The certificate, DER: for the catalog, and in every key file.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.own.certificate
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// Writes it into the manager's folder, mode 0600.
    ///
    /// # Errors
    /// `Exists` where there is one already, `Io`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let text = format!("{}{}", pem("CERTIFICATE", &self.own.certificate), pem("PRIVATE KEY", &self.own.key));
        secret::write_new(&dir.join(AUTHORITY_FILE), text.as_bytes())
    }

    /// Reads it from the manager's folder.
    ///
    /// # Errors
    /// `NotFound`, `Refused` where others may read it, `Damaged`, `Io`.
    pub fn load(dir: &Path, pool: PoolId) -> Result<Self> {
        let path = dir.join(AUTHORITY_FILE);
        let text = secret::read(&path, FILE_MAX)?;
        let within = |e: Error| e.within(path.display()).hint("fusevol-mgr adopt makes it anew from the disks and the recovery key");
        let certificate = CertificateDer::from_pem_slice(&text).context(Kind::Damaged, || "no certificate").map_err(within)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text).context(Kind::Damaged, || "no key").map_err(within)?;
        Self::from_parts(pool, certificate.to_vec(), key.secret_pkcs8_der().to_vec()).map_err(within)
    }

    /// A new certificate for the manager, with a new key.
    ///
    /// # Errors
    /// `Internal` where none can be made.
    pub fn issue_manager(&self) -> Result<Identity> {
        self.issue("fusevol manager", vec![server_name(self.pool)], ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A new certificate for a client, with a new key, and what it will be known by.
    ///
    /// # Errors
    /// `Internal` where none can be made.
    pub fn issue_client(&self, client: &Name) -> Result<(Identity, KeyPrint)> {
        let identity = self.issue(client.as_str(), vec![], ExtendedKeyUsagePurpose::ClientAuth)?;
        let print = key_print(&identity.certificate)?;
        Ok((identity, print))
    }

    /// A new client's whole key file, and what it will be known by.
    ///
    /// # Errors
    /// `Internal` where no certificate can be made.
    pub fn key_file(&self, pool: &Name, client: &Name, managers: Vec<String>) -> Result<(KeyFile, KeyPrint)> {
        let (identity, print) = self.issue_client(client)?;
        let file = KeyFile {
            pool: pool.clone(),
            pool_id: self.pool,
            client: client.clone(),
            managers,
            identity,
            authority: self.own.certificate.clone(),
        };
        Ok((file, print))
    }

    /// The manager's end of TLS, with a certificate made for this start.
    ///
    /// # Errors
    /// `Internal` or `Damaged` where it cannot be made.
    pub fn tls(&self) -> Result<ServerTls> {
        ServerTls::new(&self.own.certificate, &self.issue_manager()?)
    }

    fn issue(&self, name: &str, dns: Vec<String>, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        let own = KeyPair::try_from(&PrivatePkcs8KeyDer::from(&self.own.key[..])).map_err(making)?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(&self.own.certificate[..]), own).map_err(making)?;
        let key = new_key()?;
        let mut params = params(name, dns)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).map_err(making)?;
        Ok(Identity { certificate: certificate.der().to_vec(), key: key.serialize_der() })
    }
}

fn params(name: &str, dns: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(dns).map_err(making)?;
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(making)
}

fn making(e: rcgen::Error) -> Error {
    Error::new(Kind::Internal, "the certificate cannot be made").because(e)
}
