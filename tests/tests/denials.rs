//! Every message against every way of not being allowed to send it, over real connections to a real manager.
//! The rows are made from the message types: a new message is in the matrix as soon as it exists.

use fusevol_shared::error::Kind;
use fusevol_shared::ids::{BootId, SessionId, SnapshotId, VolumeId};
use fusevol_shared::random::{Random, SystemRandom};
use fusevol_shared::wire::keyfile::KeyFile;
use fusevol_shared::wire::messages::{Hello, PROTOCOL, Request};
use fusevol_shared::wire::rights::{Need, Right};
use fusevol_tests::real::caller::{Caller, Outcome};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::pool::Pool;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn hello() -> Request {
    Hello {
        protocol: PROTOCOL,
        session: SessionId::from_random(SystemRandom.id()),
        boot: BootId([3; 16]),
        host: "host".into(),
        program: "test".into(),
        resume: false,
    }
    .into()
}

fn load(key: &Path) -> KeyFile {
    KeyFile::load(key).expect("made by client add")
}

fn id_in(json: &serde_json::Value) -> String {
    fn find(v: &serde_json::Value) -> Option<String> {
        match v {
            serde_json::Value::Object(m) => m.get("id").and_then(|i| i.as_str()).map(str::to_owned).or_else(|| m.values().find_map(find)),
            serde_json::Value::Array(a) => a.iter().find_map(find),
            _ => None,
        }
    }
    find(json).unwrap_or_else(|| panic!("no id in {json}"))
}

/// A pool with the volumes `db` (with the snapshot `db@s1`) and `other`, and every message speaking of `db`.
struct House {
    pool: Pool,
    messages: Vec<Request>,
}

impl House {
    fn new() -> Self {
        let pool = Pool::new();
        pool.volume("db", "64M");
        pool.volume("other", "64M");
        let _said = pool.mgr(&["snapshot", "create", "db@s1"]).ok();
        let volume: VolumeId = id_in(&pool.mgr(&["volume", "show", "db", "--json"]).ok().json()).parse().expect("a UUID");
        let snapshot: SnapshotId = id_in(&pool.mgr(&["snapshot", "ls", "--json"]).ok().json()).parse().expect("a UUID");
        Self { pool, messages: Request::samples(volume, snapshot) }
    }

    fn client(&self, name: &str, grants: &[(&str, &str)]) -> KeyFile {
        load(&self.pool.client(name, grants))
    }
}

/// > Every message is denied without a certificate, with one of a foreign authority, after revocation, without the right, and with the right on another volume only.
#[tokio::test]
async fn every_message_is_denied_to_whom_it_is_not_for() {
    let house = House::new();
    let mut checked = 0;

    let known = house.client("known", &[]);
    for message in &house.messages {
        let name = message.name();
        assert!(cut_off_without_certificate(&known, message).await, "{name} without a certificate");
        checked += 1;
    }

    let foreign = Pool::new();
    let stranger = load(&foreign.client("known", &[]));
    for message in &house.messages {
        let forged = KeyFile {
            pool: known.pool.clone(),
            pool_id: known.pool_id,
            client: known.client.clone(),
            managers: known.managers.clone(),
            identity: fusevol_shared::wire::tls::Identity {
                certificate: stranger.identity.certificate.clone(),
                key: stranger.identity.key.clone(),
            },
            authority: known.authority.clone(),
        };
        let outcome = match Caller::connect(&forged).await {
            Ok(mut caller) => caller.ask(message.clone()).await,
            Err(e) => Outcome::Answered(Err((&e).into())),
        };
        assert_eq!(outcome.refusal(), Some(Kind::Denied), "{} of a foreign authority: {outcome:?}", message.name());
        checked += 1;
    }

    let revoked = house.client("revoked", &[("db", "all")]);
    let _said = house.pool.mgr(&["client", "revoke", "revoked", "-y"]).ok();
    for message in &house.messages {
        let mut caller = Caller::connect(&revoked).await.expect("the certificate is of the pool's authority");
        let outcome = caller.ask(message.clone()).await;
        assert_eq!(outcome.refusal(), Some(Kind::Denied), "{} of a revoked client: {outcome:?}", message.name());
        checked += 1;
    }

    // Without a session, however many rights there are.
    let member = house.client("member", &[("db", "all"), ("other", "all")]);
    for message in house.messages.iter().filter(|m| m.need() != Need::Client) {
        let mut caller = Caller::connect(&member).await.expect("known");
        let outcome = caller.ask(message.clone()).await;
        assert!(outcome.refusal().is_some(), "{} without a session: {outcome:?}", message.name());
        checked += 1;
    }

    // With a session, but no right on the volume, or rights on another volume only: as if there were no such volume.
    let elsewhere = house.client("elsewhere", &[("other", "all")]);
    for key in [&known, &elsewhere] {
        for message in house.messages.iter().filter(|m| matches!(m.need(), Need::On(_))) {
            let outcome = ask_in_session(key, message).await;
            assert_eq!(outcome.refusal(), Some(Kind::NotFound), "{} of {}: {outcome:?}", message.name(), key.client);
            checked += 1;
        }
    }

    // With every right but the one that the message needs.
    for right in Right::ALL {
        let all_but: Vec<_> =
            Right::ALL.iter().filter(|r| **r != right && !(right == Right::Read && **r == Right::Write)).map(|r| r.as_str()).collect();
        let key = house.client(&format!("no-{}", right.as_str()), &[("db", &all_but.join(","))]);
        for message in house.messages.iter().filter(|m| m.need() == Need::On(right)) {
            let outcome = ask_in_session(&key, message).await;
            assert_eq!(outcome.refusal(), Some(Kind::Denied), "{} without {}: {outcome:?}", message.name(), right.as_str());
            checked += 1;
        }
    }
    assert!(checked > 6 * house.messages.len() - 10, "only {checked} cells");
    println!("{checked} denials");
}

async fn ask_in_session(key: &KeyFile, message: &Request) -> Outcome {
    let mut caller = Caller::connect(key).await.expect("known");
    let welcome = caller.ask(hello()).await;
    assert!(welcome.refusal().is_none(), "{welcome:?}");
    caller.ask(message.clone()).await
}

/// Trusts anybody: only the manager's judgement is looked at.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn cut_off_without_certificate(key: &KeyFile, message: &Request) -> bool {
    use fusevol_shared::wire::{codec, messages::FromClient, tls};
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"fusevol/1".to_vec()];
    let tcp = tokio::net::TcpStream::connect(&key.managers[0]).await.expect("the manager listens");
    let name = rustls::pki_types::ServerName::try_from(tls::server_name(key.pool_id)).expect("a name");
    let Ok(mut stream) = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await else { return true };
    let frame = codec::encode(&FromClient::Request { id: 1, request: message.clone() }).expect("samples are small");
    if stream.write_all(&frame).await.is_err() {
        return true;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.is_err() || answer.is_empty()
}

/// > A client sees the volumes that it was granted, and no others: in the mount, in `ls`, and in what errors say.
#[test]
fn the_mount_shows_granted_volumes_only() {
    let pool = Pool::new();
    for volume in ["mine", "yours", "both"] {
        pool.volume(volume, "64M");
    }
    let _said = pool.mgr(&["snapshot", "create", "yours@s1"]).ok();
    let _said = pool.mgr(&["snapshot", "create", "both@s1"]).ok();
    let key = pool.client("host1", &[("mine", "read,write"), ("both", "read,backup")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    let files: Vec<_> = names(mount.path()).into_iter().filter(|n| n != ".snapshots").collect();
    assert_eq!(files, ["both.img", "mine.img"]);
    assert_eq!(names(&mount.path().join(".snapshots")), ["both@s1.img"]);
    let listed = mount.fusevol(&["ls", "--json"]).ok().out;
    assert!(listed.contains("mine") && !listed.contains("yours"), "{listed}");
    let denied = std::fs::OpenOptions::new().write(true).open(mount.image("both")).expect_err("no write right");
    assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied, "{denied}");
    mount.umount();
}
