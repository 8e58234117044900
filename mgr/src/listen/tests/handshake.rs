//! The handshake: a certificate of this pool's authority for clients, TLS 1.3, our protocol; all else is turned away without an event.

use super::*;
use fusevol_shared::error::Kind;
use fusevol_shared::wire::tls::{ALPN, ClientTls, Identity, ServerTls, key_print, server_name};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;

/// A client of its own making.
struct Raw {
    identity: Option<Identity>,
    alpn: Vec<Vec<u8>>,
    now: u64,
}

#[derive(Debug)]
struct At(u64);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

impl Raw {
    fn config(self, authority: &Authority) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority.certificate())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_details(provider, Arc::new(At(self.now)));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key));
                builder.with_client_auth_cert(vec![CertificateDer::from(own.certificate)], key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn;
        config
    }

    /// Whether the manager takes it: a frame of ours comes through and is answered.
    async fn taken_by(self, manager: &mut Manager) -> bool {
        let connector = TlsConnector::from(Arc::new(self.config(&manager.authority)));
        let name = ServerName::try_from(server_name(POOL)).unwrap();
        let Ok(mut stream) = connector.connect(name, manager.dial().await).await else { return false };
        let frame = encode(&FromClient::Request { id: 0, request: hello(4).into() }).unwrap();
        if stream.write_all(&frame).await.is_err() || stream.flush().await.is_err() {
            return false;
        }
        let mut reader = Reader::<_, FromManager>::new(stream, Limits::OPEN);
        let heard = reader.next();
        tokio::pin!(heard);
        tokio::select! {
            heard = &mut heard => { assert!(!matches!(heard, Ok(Some(_)))); false }
            conn = manager.connected() => {
                assert!(matches!(manager.event().await, Event::Request { id: 0, .. }));
                manager.listener.connections().reply(conn, 0, Ok(Reply::Welcome(welcome())));
                assert!(matches!(heard.await, Ok(Some(_))));
                true
            }
        }
    }
}

fn raw(identity: Option<Identity>) -> Raw {
    Raw { identity, alpn: vec![ALPN.to_vec()], now: 1_700_000_000 }
}

#[tokio::test]
async fn certificates_of_this_pool_for_clients_alone() {
    let mut manager = Manager::new(ListenLimits::default()).await;
    let issue = |a: &Authority| Some(a.issue_client(&name("host1")).unwrap().0);
    let (own, foreign) = (issue(&manager.authority), issue(&authority()));
    assert!(raw(own).taken_by(&mut manager).await);
    manager.gone(ConnId(1)).await;
    assert!(!raw(None).taken_by(&mut manager).await, "no certificate");
    assert!(!raw(foreign).taken_by(&mut manager).await, "an authority of the same name with another key");
    let managers = Some(manager.authority.issue_manager().unwrap());
    assert!(!raw(managers).taken_by(&mut manager).await, "the manager's own certificate is none for clients");
    assert!(manager.events.try_recv().is_err(), "the core has heard of none of the others");
}

#[tokio::test]
async fn the_core_gets_the_print_of_the_key() {
    let mut manager = Manager::new(ListenLimits::default()).await;
    let key = manager.key("host1");
    let _client = Client::new(&manager, &key).await;
    let print = key_print(&key.identity.certificate).unwrap();
    assert!(matches!(manager.event().await, Event::Connected { print: p, .. } if p == print));
}

#[tokio::test]
async fn wrong_clocks_do_not_matter() {
    let mut manager = Manager::new(ListenLimits::default()).await;
    for now in [0, 1, 4_102_444_800, 253_402_214_400] {
        let identity = Some(manager.authority.issue_client(&name("host1")).unwrap().0);
        assert!(Raw { now, ..raw(identity) }.taken_by(&mut manager).await, "at {now} seconds since 1970");
        manager.event().await;
    }
}

#[tokio::test]
async fn another_protocol_is_turned_away() {
    let mut manager = Manager::new(ListenLimits::default()).await;
    for alpn in [vec![], vec![b"h2".to_vec()], vec![b"fusevol/2".to_vec()]] {
        let identity = Some(manager.authority.issue_client(&name("host1")).unwrap().0);
        assert!(!Raw { alpn: alpn.clone(), ..raw(identity) }.taken_by(&mut manager).await, "{alpn:?}");
    }
    assert!(manager.events.try_recv().is_err());
}

/// What the manager says to these bytes until it closes.
async fn answer_to(manager: &Manager, bytes: &[u8]) -> Vec<u8> {
    let mut stream = manager.dial().await;
    stream.write_all(bytes).await.unwrap();
    let mut heard = Vec::new();
    // A reset is an end as good as any.
    let _ = timeout(HANG, stream.read_to_end(&mut heard)).await.expect("not closed");
    heard
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let mut manager = Manager::new(ListenLimits::default()).await;
    // ClientHello of TLS 1.2 (RFC 5246, 7.4.1.2) that offers nothing newer: version, random, no session, three suites, no compression.
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 6, 0xc0, 0x2b, 0xc0, 0x2f, 0, 0x9c], &[1, 0]].concat();
    let len = u8::try_from(body.len()).unwrap();
    let hello = [&[0x16, 3, 1, 0, len + 4, 1, 0, 0, len][..], &body].concat();
    let heard = answer_to(&manager, &hello).await;
    assert_eq!(heard.first(), Some(&0x15), "an alert: {heard:02x?}");
    assert_eq!(heard.len(), 7, "and nothing more");
    assert!(manager.events.try_recv().is_err());
}

#[tokio::test]
async fn plain_text_and_noise_are_refused() {
    let mut manager = Manager::new(ListenLimits::default()).await;
    let frame = encode(&FromClient::Request { id: 0, request: hello(4).into() }).unwrap();
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 4096], vec![0xff; 4096], frame.to_vec(), vec![0x16, 3, 1, 0xff, 0xff]] {
        let heard = answer_to(&manager, &bytes).await;
        assert!(heard.len() <= 7, "{heard:02x?}");
    }
    assert!(manager.events.try_recv().is_err());
}

#[tokio::test]
async fn silence_is_ended_and_does_not_keep_others_out() {
    let limits = ListenLimits { handshake: Duration::from_millis(200), half_open: 2, ..ListenLimits::default() };
    let mut manager = Manager::new(limits).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(manager.dial().await);
    }
    let key = manager.key("host1");
    let mut client = Client::new(&manager, &key).await;
    manager.welcome(&mut client).await;
    for mut stream in silent {
        let mut byte = [0];
        let end = timeout(HANG, stream.read(&mut byte)).await.expect("not closed");
        assert!(matches!(end, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn a_client_knows_its_own_manager_alone() {
    let own = authority();
    let key = own.key_file(&name("san1"), &name("host1"), vec!["127.0.0.1:1".into()]).unwrap().0;
    let foreign = authority();
    let impostor = ServerTls::new(own.certificate(), &own.issue_client(&name("host2")).unwrap().0).unwrap();
    let other_pool = Authority::from_parts(PoolId([5; 16]), own.certificate().to_vec(), own_key(&own)).unwrap();
    let cases = [
        ("its own", own.tls().unwrap(), None),
        ("foreign authority of the same names", foreign.tls().unwrap(), Some(Kind::Denied)),
        ("another client of the pool", impostor, Some(Kind::Denied)),
        ("the name of another pool", other_pool.tls().unwrap(), Some(Kind::Denied)),
    ];
    for (what, server, expected) in cases {
        let kind = meet(&key.tls().unwrap(), server).await;
        assert_eq!(kind, expected, "{what}");
    }
}

/// As it lies in the manager's folder.
fn own_key(authority: &Authority) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    let dir = tempfile::tempdir().unwrap();
    authority.save(dir.path()).unwrap();
    PrivatePkcs8KeyDer::from_pem_file(dir.path().join(crate::authority::AUTHORITY_FILE)).unwrap().secret_pkcs8_der().to_vec()
}

/// The client's verdict on this server.
async fn meet(client: &ClientTls, server: ServerTls) -> Option<Kind> {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (accepted, connected) = tokio::join!(async { server.accept(socket.accept().await.unwrap().0).await }, async {
        client.connect(TcpStream::connect(address).await.unwrap()).await
    });
    drop(accepted);
    connected.err().map(|e| e.kind())
}
