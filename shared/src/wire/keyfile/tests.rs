//! Key files, whole and spoilt: each fault is said, with a hint, and never with a byte of the key.

use super::*;

/// A self-signed Ed25519 certificate with its key, made once for these tests.
const CERTIFICATE: &str = "MIIBNDCB56ADAgECAhQl8ppxqy9bOJxqSlskJyg8EKxTHjAFBgMrZXAwDzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIwMzI1NDlaGA8yMTI2MTAyOTAzMjU0\
     OVowDzENMAsGA1UEAwwEdGVzdDAqMAUGAytlcAMhAGO2eFSePTtN2c7JF+bmK1ooouYxv7yQN7TPZuGx89TSo1MwUTAdBgNVHQ4EFgQUGQm4IAbTarsstZcS\
     iTO5lpSq7lMwHwYDVR0jBBgwFoAUGQm4IAbTarsstZcSiTO5lpSq7lMwDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXADQQAIWaezU+OyyaW+DJPWNcDEBE9ckuDF\
     93q7TLQwpGi546p27huifxWjVD1vP6cUxGDCeKKjtlrKTDs0T6U69DgN";
const KEY: &str = "MC4CAQAwBQYDK2VwBCIEII1VMxelGKcFh2OfT0vE1PPSGk/NPX5yvQ4hXJsXyyjE";

fn der(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

fn sample() -> KeyFile {
    KeyFile {
        pool: Name::new("san1").unwrap(),
        pool_id: PoolId([7; 16]),
        client: Name::new("host1").unwrap(),
        managers: vec!["127.0.0.1:7400".into(), "[fd00::1]:7400".into(), "mgr.example.org:7400".into()],
        identity: Identity { certificate: der(CERTIFICATE), key: der(KEY) },
        authority: der(CERTIFICATE),
    }
}

fn refused(text: &str) -> String {
    let e = KeyFile::parse(text).unwrap_err();
    assert_eq!(e.kind(), Kind::Refused, "{e}");
    assert!(e.hint_text().is_some(), "{e}");
    assert!(!e.to_string().contains(&KEY[..16]), "a secret in an error");
    e.to_string()
}

#[test]
fn comes_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host1.key");
    let file = sample();
    file.save(&path).unwrap();
    let again = KeyFile::load(&path).unwrap();
    assert_eq!(again.render().unwrap(), file.render().unwrap());
    assert_eq!(again.managers, file.managers);
    assert_eq!(again.print().unwrap(), file.print().unwrap());
    assert!(again.tls().is_ok());
    assert!(!format!("{again:?}").contains("key:"), "the key is not shown");
    assert_eq!(file.save(&path).unwrap_err().kind(), Kind::Exists);
}

#[test]
fn each_fault_is_said() {
    let text = sample().render().unwrap();
    let without = |field: &str| text.lines().filter(|l| !l.starts_with(field)).map(|l| format!("{l}\n")).collect::<String>();
    assert!(refused("").contains("no 'format'"));
    assert!(refused("\u{0}\u{1}binary").contains("malformed"));
    assert!(refused(&without("pool_id")).contains("pool_id"));
    assert!(refused(&without("format")).contains("no 'format'"));
    assert!(refused(&format!("colour = 3\n{text}")).contains("colour"));
    assert!(refused(&text.replace("\"san1\"", "\"a b\"")).contains("'a b' is not a name"));
    assert!(refused(&text.replace("BEGIN PRIVATE KEY", "BEGIN SECRET")).contains("private_key"));
    assert!(refused(&text.replacen("BEGIN CERTIFICATE", "BEGIN NOTHING", 1)).contains("'certificate'"));
    assert!(refused(&text.replace("127.0.0.1:7400", "127.0.0.1")).contains("host:port"));
    let none = KeyFile { managers: vec![], ..sample() }.render().unwrap();
    assert!(refused(&none).contains("0 manager addresses"));
    let later = KeyFile::parse(&text.replace("format = 1", "format = 2")).unwrap_err();
    assert_eq!(later.kind(), Kind::Version);
}

#[test]
fn no_cut_of_a_file_is_taken_or_panics() {
    let text = sample().render().unwrap();
    for cut in (0..text.trim_end().len()).filter(|i| text.is_char_boundary(*i)) {
        assert!(KeyFile::parse(&text[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_loaded_file_is_named_in_its_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.key");
    secret::write_new(&path, b"format = 7").unwrap();
    assert!(KeyFile::load(&path).unwrap_err().to_string().contains("bad.key"));
    assert_eq!(KeyFile::load(&dir.path().join("none")).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn addresses() {
    for good in ["h:1", "10.0.0.1:7400", "[::1]:65535", "a-b.c_d:80"] {
        assert!(is_address(good), "{good}");
    }
    for bad in ["", ":1", "h", "h:", "h:0", "h:65536", "h:x", "::1:7400", "[::1:7400", "[h]:1", "a b:1", "a/b:1", "user@h:1"] {
        assert!(!is_address(bad), "{bad}");
    }
}
