//! A client's key file: everything that a client needs to reach its pool, in one text file.
//!
//! TOML with three PEM blocks: the pool's name and id, the client's name, the manager's addresses, the client's certificate and
//! private key, the authority's certificate. It is written once by the manager's `client add` and is a secret ([`super::secret`]).
//!
//! Invariant: a `KeyFile` in memory has a name that is a name, at least one address of the form `host:port`, and certificates that
//! parse; that key and certificate belong together is checked by [`KeyFile::tls`].

use super::secret;
use super::tls::{ClientTls, Identity, Use, key_print};
use crate::error::{Context, Error, Kind, Result};
use crate::ids::{KeyPrint, PoolId};
use crate::name::Name;
use base64::Engine;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::path::Path;

#[cfg(test)]
mod tests;

/// Version of the file.
pub const FORMAT: u32 = 1;
/// Longest file that is read, bytes.
pub const KEY_FILE_MAX: usize = 64 << 10;
/// Most manager addresses in one.
pub const ADDRESSES_MAX: usize = 16;

const HINT: &str = "a key file is made by: fusevol-mgr client add NAME --out FILE";
const HEAD: &str = "# The key of a fusevol client. Whoever holds it is this client: keep it secret (mode 0600).\n";

/// A client's key, and where and what its pool is.
#[derive(Debug)]
pub struct KeyFile {
    /// The pool's name.
    pub pool: Name,
    /// Its identity.
    pub pool_id: PoolId,
    /// The client's name.
    pub client: Name,
    /// Where its manager listens, `host:port`, in the order in which they are tried.
    pub managers: Vec<String>,
    /// The client's certificate and key.
    pub identity: Identity,
    /// The authority's certificate, DER.
    pub authority: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    pool: Name,
    pool_id: PoolId,
    client: Name,
    managers: Vec<String>,
    certificate: String,
    private_key: String,
    authority: String,
}

impl KeyFile {
    /// Writes it to a new file of mode 0600.
    ///
    /// # Errors
    /// `Exists` where there is a file of that name, `Io`.
    pub fn save(&self, path: &Path) -> Result<()> {
        secret::write_new(path, self.render()?.as_bytes())
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// `NotFound`, `Refused` (others may read it, or it is no key file), `Version`, `Io`.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = secret::read(path, KEY_FILE_MAX).map_err(|e| match e.kind() {
            Kind::NotFound => e.within("no key file").hint(HINT),
            _ => e,
        })?;
        let text = String::from_utf8(bytes).map_err(|_| Error::new(Kind::Refused, "not a text file").hint(HINT));
        text.and_then(|t| Self::parse(&t)).map_err(|e| e.within(format_args!("key file {}", path.display())))
    }

    /// The client's end of TLS.
    ///
    /// # Errors
    /// `Refused` where key and certificates do not belong together.
    pub fn tls(&self) -> Result<ClientTls> {
        self.tls_for(Use::Control)
    }

    /// The same for connections of this use.
    ///
    /// # Errors
    /// As [`KeyFile::tls`].
    pub fn tls_for(&self, purpose: Use) -> Result<ClientTls> {
        ClientTls::made_for(purpose, self.pool_id, &self.authority, &self.identity)
            .context(Kind::Refused, || "the key file's certificates are unusable")
    }

    /// As the manager will know this client.
    ///
    /// # Errors
    /// `Damaged` where the certificate does not parse; one that was loaded does.
    pub fn print(&self) -> Result<KeyPrint> {
        key_print(&self.identity.certificate)
    }

    /// The text of the file.
    ///
    /// # Errors
    /// `Internal` where it cannot be written as TOML.
    pub fn render(&self) -> Result<String> {
        let text = Text {
            format: FORMAT,
            pool: self.pool.clone(),
            pool_id: self.pool_id,
            client: self.client.clone(),
            managers: self.managers.clone(),
            certificate: pem("CERTIFICATE", &self.identity.certificate),
            private_key: pem("PRIVATE KEY", &self.identity.key),
            authority: pem("CERTIFICATE", &self.authority),
        };
        let body = toml::to_string(&text).context(Kind::Internal, || "the key file cannot be written")?;
        Ok(format!("{HEAD}{body}"))
    }

    /// From the text of the file.
    ///
    /// # Errors
    /// `Refused` with what is wrong, `Version` where a later release wrote it.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |what: String| Error::new(Kind::Refused, what).hint(HINT);
        let table: toml::Table = toml::from_str(text).map_err(|e| refused(format!("malformed: {}", first_line(&e))))?;
        match table.get("format").and_then(toml::Value::as_integer) {
            Some(f) if f == i64::from(FORMAT) => {}
            Some(f) => return Err(Error::new(Kind::Version, format!("format {f}; this program reads {FORMAT}")).hint(HINT)),
            None => return Err(refused("malformed: no 'format' in it".into())),
        }
        let t: Text = table.try_into().map_err(|e| refused(format!("malformed: {}", first_line(&e))))?;
        if t.managers.is_empty() || t.managers.len() > ADDRESSES_MAX {
            return Err(refused(format!("it names {} manager addresses; 1 to {ADDRESSES_MAX} belong there", t.managers.len())));
        }
        if let Some(bad) = t.managers.iter().find(|a| !is_address(a)) {
            return Err(refused(format!("'{}' is no address: host:port", bad.chars().take(80).collect::<String>())));
        }
        let certificate = |what: &str, text: &str| {
            let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|e| refused(format!("no certificate in '{what}': {e}")))?;
            key_print(&der).map_err(|e| refused(format!("'{what}': {e}")))?;
            Ok::<_, Error>(der.to_vec())
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(t.private_key.as_bytes());
        let key = key.map_err(|e| refused(format!("no key in 'private_key': {e}")))?.secret_pkcs8_der().to_vec();
        Ok(Self {
            identity: Identity { certificate: certificate("certificate", &t.certificate)?, key },
            authority: certificate("authority", &t.authority)?,
            pool: t.pool,
            pool_id: t.pool_id,
            client: t.client,
            managers: t.managers,
        })
    }
}

/// Whether `text` is `host:port` (an IPv6 address in brackets).
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() < 254 && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    host && port.parse::<u16>().is_ok_and(|p| p != 0)
}

/// A PEM block (RFC 7468).
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|b| char::from(*b)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// The first line that says something; the rest of a parser's text quotes the file, which is secret.
fn first_line(e: &toml::de::Error) -> String {
    e.message().lines().next().unwrap_or_default().chars().take(120).collect()
}
