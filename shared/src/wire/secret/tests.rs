//! Secrets are written whole, kept from others, and never overwritten.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn written_once_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    write_new(&path, b"secret").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(read(&path, 6).unwrap(), b"secret");
    assert_eq!(write_new(&path, b"other").unwrap_err().kind(), Kind::Exists);
    assert_eq!(read(&path, 6).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn refused_when_others_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    write_new(&path, b"secret").unwrap();
    for mode in [0o640, 0o604, 0o660, 0o644] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let e = read(&path, 100).unwrap_err();
        assert_eq!(e.kind(), Kind::Refused);
        assert!(e.hint_text().unwrap().starts_with("chmod 600 "), "{e}");
    }
}

#[test]
fn refused_when_too_long_missing_or_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    assert_eq!(read(&path, 5).unwrap_err().kind(), Kind::NotFound);
    write_new(&path, b"secret").unwrap();
    assert_eq!(read(&path, 5).unwrap_err().kind(), Kind::Refused);
    assert_eq!(read(dir.path(), 5).unwrap_err().kind(), Kind::Refused);
    assert_eq!(write_new(&dir.path().join("no/s"), b"x").unwrap_err().kind(), Kind::Io);
}
