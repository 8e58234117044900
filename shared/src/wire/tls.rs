//! TLS between client and manager: version 1.3 only, certificates on both sides, the pool's own authority as the only root.
//!
//! - The manager proves itself by a certificate of the authority for `<pool id>.fusevol.invalid`, whatever address it is reached at.
//! - A client is its key: the SHA-256 of the certificate's public key ([`KeyPrint`]). That the authority has signed it only opens the
//!   door; what the key may do is looked up in the catalog by the core.
//! - Certificates do not run out, and no clock is read to check them: revocation stands in the catalog. No session is resumed and no
//!   early data is taken, so nothing can be replayed.

use crate::error::{Context, Error, Kind, Result};
use crate::ids::{KeyPrint, PoolId};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What both sides name as their protocol on a control connection.
pub const ALPN: &[u8] = b"fusevol/1";
/// The same on a data connection ([`super::data`]).
pub const ALPN_DATA: &[u8] = b"fusevol-data/1";

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Requests, answers and pushes.
    Control,
    /// I/O through the manager.
    Data,
}

impl Use {
    fn alpn(self) -> &'static [u8] {
        match self {
            Use::Control => ALPN,
            Use::Data => ALPN_DATA,
        }
    }
}

/// Bytes that are read from a stream at once: the library asks for 4 KiB. Untouched memory is none.
const READ_AHEAD: usize = 256 << 10;
/// Bytes on a data connection that are sealed before they are written: the library's own limit is 64 KiB.
const WRITE_AHEAD: usize = 256 << 10;

/// A connection over any stream, as the manager sees it.
pub type ServerStream<S = TcpStream> = tokio_rustls::server::TlsStream<BufReader<S>>;
/// A connection over any stream, as a client sees it.
pub type ClientStream<S = TcpStream> = tokio_rustls::client::TlsStream<BufReader<S>>;

/// The name for which a pool's manager has its certificate.
#[must_use]
pub fn server_name(pool: PoolId) -> String {
    format!("{pool}.fusevol.invalid")
}

/// The identity in a certificate.
///
/// # Errors
/// `Damaged` where it is no certificate.
pub fn key_print(certificate: &[u8]) -> Result<KeyPrint> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|e| Error::new(Kind::Damaged, format!("no certificate: {e}")))?;
    let mut print = [0; 32];
    print.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, parsed.public_key().raw).as_ref());
    Ok(KeyPrint(print))
}

/// A certificate with its key, both DER; the key as PKCS#8.
pub struct Identity {
    /// X.509.
    pub certificate: Vec<u8>,
    /// PKCS#8: secret.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?})", key_print(&self.certificate))
    }
}

impl Identity {
    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![CertificateDer::from(self.certificate.clone())], PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone())))
    }
}

/// The manager's end.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// From the authority's certificate and one that it issued for [`server_name`].
    ///
    /// # Errors
    /// `Damaged` where one of them is unusable.
    pub fn new(authority: &[u8], own: &Identity) -> Result<Self> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider())
            .build()
            .context(Kind::Damaged, || "the authority's certificate")?;
        let (chain, key) = own.parts();
        let mut config = ServerConfig::builder_with_details(provider(), Arc::new(NoClock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context(Kind::Internal, || "TLS 1.3")?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .context(Kind::Damaged, || "the manager's certificate")?;
        config.alpn_protocols = vec![ALPN.to_vec(), ALPN_DATA.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands; the caller sets the time limit.
    ///
    /// # Errors
    /// `Denied` for a wrong certificate, `Version` for a wrong protocol, `Unreachable` where the connection broke.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<(ServerStream<S>, KeyPrint, Use)> {
        let mut stream = self.0.accept(BufReader::with_capacity(READ_AHEAD, stream)).await.map_err(explain)?;
        let state = stream.get_ref().1;
        let named = |u: &Use| state.alpn_protocol() == Some(u.alpn());
        let purpose = [Use::Control, Use::Data].into_iter().find(named).ok_or_else(unnamed)?;
        let certificate = state.peer_certificates().and_then(<[_]>::first);
        let print = key_print(certificate.ok_or_else(|| Error::new(Kind::Denied, "no certificate was shown"))?)?;
        if purpose == Use::Data {
            stream.get_mut().1.set_buffer_limit(Some(WRITE_AHEAD));
        }
        Ok((stream, print, purpose))
    }
}

/// A client's end.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    name: ServerName<'static>,
    purpose: Use,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientTls({:?})", self.name)
    }
}

impl ClientTls {
    /// For control connections to the pool whose authority this is, with the certificate that it issued.
    ///
    /// # Errors
    /// `Damaged` where one of them is unusable.
    pub fn new(pool: PoolId, authority: &[u8], own: &Identity) -> Result<Self> {
        Self::made_for(Use::Control, pool, authority, own)
    }

    /// The same for connections of this use.
    ///
    /// # Errors
    /// As [`ClientTls::new`].
    pub fn made_for(purpose: Use, pool: PoolId, authority: &[u8], own: &Identity) -> Result<Self> {
        let (chain, key) = own.parts();
        let mut config = ClientConfig::builder_with_details(provider(), Arc::new(NoClock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context(Kind::Internal, || "TLS 1.3")?
            .with_root_certificates(roots(authority)?)
            .with_client_auth_cert(chain, key)
            .context(Kind::Damaged, || "the client's certificate and key")?;
        config.alpn_protocols = vec![purpose.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(server_name(pool)).context(Kind::Internal, || "the manager's name")?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name, purpose })
    }

    /// Shakes hands; the caller sets the time limit. In TLS 1.3 the manager's judgement of our certificate comes only with the
    /// first read after this.
    ///
    /// # Errors
    /// `Denied` where the manager is not this pool's, `Version` for a wrong protocol, `Unreachable` where the connection broke.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<ClientStream<S>> {
        let stream = BufReader::with_capacity(READ_AHEAD, stream);
        let mut stream = self.connector.connect(self.name.clone(), stream).await.map_err(explain)?;
        if self.purpose == Use::Data {
            stream.get_mut().1.set_buffer_limit(Some(WRITE_AHEAD));
        }
        let named = stream.get_ref().1.alpn_protocol() == Some(self.purpose.alpn());
        if named { Ok(stream) } else { Err(unnamed()) }
    }
}

/// What a failed connection means: the kind and the sentence for a broken one, for distrust on either side, and for another protocol.
#[must_use]
pub fn explain(e: io::Error) -> Error {
    use AlertDescription as Alert;
    let Some(tls) = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Error::new(Kind::Unreachable, "the connection failed").because(e);
    };
    let (kind, what, hint) = match tls {
        rustls::Error::NoCertificatesPresented => (Kind::Denied, "no certificate was shown", ""),
        rustls::Error::InvalidCertificate(_) => (
            Kind::Denied,
            "the other side's certificate is not of this pool",
            "is the key file of this pool, and the address of its manager?",
        ),
        rustls::Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::CertificateRequired
            | Alert::DecryptError
            | Alert::AccessDenied,
        ) => (Kind::Denied, "the other side refuses our certificate", "is the key file of this pool?"),
        rustls::Error::AlertReceived(Alert::ProtocolVersion | Alert::NoApplicationProtocol | Alert::HandshakeFailure)
        | rustls::Error::PeerIncompatible(_)
        | rustls::Error::NoApplicationProtocol
        | rustls::Error::InvalidMessage(_) => {
            (Kind::Version, "the other side does not speak our protocol", "is the address that of a manager?")
        }
        _ => (Kind::Unreachable, "the secured connection failed", ""),
    };
    let error = Error::new(kind, what).because(e);
    if hint.is_empty() { error } else { error.hint(hint) }
}

fn unnamed() -> Error {
    Error::new(Kind::Version, "the other side does not name our protocol")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authority: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority)).context(Kind::Damaged, || "the authority's certificate")?;
    Ok(roots)
}

/// Certificates are valid from 1970 to 9999; a host whose clock is wrong must not lose its disks over it.
#[derive(Debug)]
struct NoClock;

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_000_000_000)))
    }
}
