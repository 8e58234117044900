//! The connection itself: TCP, a unix socket, or TLS over TCP.

use super::uri::Server;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::negotiate::Failed;

/// Largest file of certificates or keys that is read, in bytes.
const PEM_MAX: u64 = 1 << 20;

/// How long a server may take to answer to the first packet: one that is lost is sent again after a second. Who tries a lost path again, again and
/// again, is not to miss that it is back.
const CONNECT: Duration = Duration::from_millis(1500);
/// How long sent bytes may stay unconfirmed, milliseconds (`TCP_USER_TIMEOUT`, tcp(7)): the kernel of the server's host confirms them, however slow
/// the disk is. So a cut network is no longer stall than this.
const UNCONFIRMED_MS: u32 = 1500;
/// Silence after which the kernel asks the peer whether it is still there, and how often it then asks, how many times.
const KEEP: (Duration, Duration, u32) = (Duration::from_secs(1), Duration::from_secs(1), 2);

/// Small requests at once, and a cut network noticed.
fn tune(socket: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP.0)?;
    sockopt::set_tcp_keepintvl(socket, KEEP.1)?;
    sockopt::set_tcp_keepcnt(socket, KEEP.2)?;
    sockopt::set_tcp_user_timeout(socket, UNCONFIRMED_MS)?;
    Ok(())
}

/// A connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Whom a connection was made to: further ones go to the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Connects to a server, at the first of its addresses that answers.
pub(super) async fn dial(server: &Server) -> Result<(Stream, Peer), Failed> {
    let (host, port, only_here) = match server {
        Server::Unix(path) => {
            let peer = Peer::Unix(path.clone());
            return Ok((redial(&peer).await?, peer));
        }
        Server::Tcp { host, port, insecure } => (host, *port, !insecure),
        Server::Tls { host, port, .. } => (host, *port, false),
    };
    let all: Vec<SocketAddr> = lookup_host((host.as_str(), port)).await.map_err(|e| Failed::io(&e, "its host is not known"))?.collect();
    if only_here && all.iter().any(|a| !a.ip().to_canonical().is_loopback()) {
        return Err(Failed::new(
            libc::EACCES,
            "in clear, and not on this host: use nbds://, or say ?insecure=1 where the storage network is separated from all others",
        ));
    }
    let mut last = Failed::new(libc::EHOSTUNREACH, "its host has no address");
    for peer in all.into_iter().map(Peer::Tcp) {
        match redial(&peer).await {
            Ok(stream) => return Ok((stream, peer)),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Connects once more.
pub(super) async fn redial(peer: &Peer) -> Result<Stream, Failed> {
    let refused = |e: io::Error| Failed::io(&e, "nobody answers there");
    match peer {
        Peer::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix).map_err(refused),
        Peer::Tcp(address) => {
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            let stream = timeout(CONNECT, TcpStream::connect(address)).await.map_err(late).and_then(|s| s).map_err(refused)?;
            tune(&stream).map_err(refused)?;
            Ok(Stream::Tcp(stream))
        }
    }
}

fn pem(path: &Path) -> Result<Vec<u8>, Failed> {
    let failed = |e: io::Error| Failed::io(&e, &path.display().to_string());
    if std::fs::metadata(path).map_err(failed)?.len() > PEM_MAX {
        return Err(Failed::new(libc::EFBIG, format!("{} is no file of certificates", path.display())));
    }
    std::fs::read(path).map_err(failed)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failed> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(path)?).collect();
    match found {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(Failed::new(libc::EINVAL, format!("{} holds no certificate", path.display()))),
    }
}

/// TLS with the certificates of a folder, named as libnbd and qemu name them.
pub(super) fn connector(dir: &Path) -> Result<TlsConnector, Failed> {
    let bad = |what: &str| Failed::new(libc::EINVAL, format!("{what} in {} cannot be used", dir.display()));
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&dir.join("ca-cert.pem"))? {
        roots.add(certificate).map_err(|_| bad("ca-cert.pem"))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|_| bad("TLS 1.3"))?
        .with_root_certificates(roots);
    let own = dir.join("client-cert.pem");
    let config = if own.exists() {
        let key = PrivateKeyDer::from_pem_slice(&pem(&dir.join("client-key.pem"))?).map_err(|_| bad("client-key.pem"))?;
        config.with_client_auth_cert(certificates(&own)?, key).map_err(|_| bad("client-cert.pem with client-key.pem"))?
    } else {
        config.with_no_client_auth()
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Shakes hands; the server must prove that it is `host`.
pub(super) async fn secure(stream: Stream, host: &str, connector: &TlsConnector) -> Result<Stream, Failed> {
    let Stream::Tcp(stream) = stream else { return Err(Failed::new(libc::EINVAL, "TLS is spoken over TCP only")) };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Failed::new(libc::EINVAL, "no name that a certificate can be for"))?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(e) => Err(Failed::new(libc::EACCES, format!("TLS: {e}"))),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_flush(cx),
            Stream::Unix(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
