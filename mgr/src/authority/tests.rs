//! The authority, its seal, and the recovery key as a person copies it.

use super::recovery::RecoveryKey;
use super::*;
use fusevol_shared::random::{SeededRandom, SystemRandom};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn authority(pool: u8) -> Authority {
    Authority::create(PoolId([pool; 16]), &name("san1")).unwrap()
}

#[test]
fn a_recovery_key_survives_being_copied_by_hand() {
    let mut random = SeededRandom(1);
    for _ in 0..50 {
        let key = RecoveryKey::create(&mut random);
        let shown = key.to_string();
        assert_eq!(shown.len(), 56 + 13);
        let sloppy = shown.to_lowercase().replace('-', " \n").replace('0', "o").replace('1', "l");
        assert!(RecoveryKey::parse(&shown).unwrap() == key);
        assert!(RecoveryKey::parse(&sloppy).unwrap() == key);
        assert!(RecoveryKey::parse(&format!("# recovery key of pool san1\n{shown}\n")).unwrap() == key);
    }
}

#[test]
fn a_mistyped_recovery_key_says_what_is_wrong() {
    let shown = RecoveryKey::create(&mut SeededRandom(2)).to_string();
    let error = |text: &str| {
        let e = RecoveryKey::parse(text).unwrap_err();
        assert_eq!(e.kind(), Kind::Refused);
        e.to_string()
    };
    assert!(error(&shown[1..]).contains("not 55"));
    assert!(error("").contains("not 0"));
    assert!(error(&format!("{}U{}", &shown[..6], &shown[7..])).contains("'U' at place 2 of group 2"));
    assert!(error(&"A".repeat(5000)).contains("longer"));
    for at in (0..shown.len()).filter(|i| i % 5 != 4) {
        let mut typed = shown.clone().into_bytes();
        typed[at] = if typed[at] == b'7' { b'8' } else { b'7' };
        assert!(error(&String::from_utf8(typed).unwrap()).contains("mistyped"), "one wrong character at {at}");
    }
}

#[test]
fn the_sealed_key_opens_with_its_recovery_key_and_pool_alone() {
    let own = authority(1);
    let key = RecoveryKey::create(&mut SystemRandom);
    let sealed = own.seal(&key, &mut SystemRandom).unwrap();
    let open = |pool, sealed: &[u8], key| Authority::unseal(PoolId([pool; 16]), own.certificate().to_vec(), sealed, key);
    assert_eq!(open(1, &sealed, &key).unwrap().own.key, own.own.key);
    assert_eq!(open(2, &sealed, &key).unwrap_err().kind(), Kind::Denied);
    let wrong = RecoveryKey::create(&mut SystemRandom);
    assert_eq!(open(1, &sealed, &wrong).unwrap_err().kind(), Kind::Denied);
    assert!(Authority::unseal(PoolId([1; 16]), authority(1).certificate().to_vec(), &sealed, &key).is_err());
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert!(open(1, &bad, &key).is_err(), "a bit at {at} was turned");
        assert!(open(1, &sealed[..at], &key).is_err(), "cut at {at}");
    }
}

#[test]
fn saved_and_loaded_and_refused_when_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let own = authority(1);
    assert_eq!(Authority::load(dir.path(), own.pool()).unwrap_err().kind(), Kind::NotFound);
    own.save(dir.path()).unwrap();
    assert_eq!(own.save(dir.path()).unwrap_err().kind(), Kind::Exists);
    let again = Authority::load(dir.path(), own.pool()).unwrap();
    assert_eq!((again.certificate(), &again.own.key), (own.certificate(), &own.own.key));
    // The certificate of one authority beside the key of another.
    let other = authority(1);
    assert_eq!(Authority::from_parts(own.pool(), own.certificate().to_vec(), other.own.key.clone()).unwrap_err().kind(), Kind::Damaged);
    std::fs::remove_file(dir.path().join(AUTHORITY_FILE)).unwrap();
    secret::write_new(&dir.path().join(AUTHORITY_FILE), b"nonsense").unwrap();
    let e = Authority::load(dir.path(), own.pool()).unwrap_err();
    assert_eq!(e.kind(), Kind::Damaged);
    assert!(e.hint_text().unwrap().contains("adopt"));
}

#[test]
fn a_key_file_comes_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let own = authority(1);
    let (file, print) = own.key_file(&name("san1"), &name("host1"), vec!["127.0.0.1:7400".into(), "[::1]:7400".into()]).unwrap();
    let path = dir.path().join("host1.key");
    file.save(&path).unwrap();
    let again = KeyFile::load(&path).unwrap();
    again.tls().unwrap();
    assert_eq!(again.print().unwrap(), print);
    assert_eq!(again.render().unwrap(), file.render().unwrap());
    // A key that is not that of the certificate.
    let (other, _) = own.issue_client(&name("host2")).unwrap();
    let mixed = KeyFile { identity: Identity { certificate: again.identity.certificate.clone(), key: other.key }, ..again };
    assert_eq!(mixed.tls().unwrap_err().kind(), Kind::Refused);
}
