//! The mount within a program, as the backup tool uses it: snapshots only, or one volume to be written; nothing stays.

use fusevol::private::{Kind, PrivateMount};
use fusevol_shared::error::Kind as ErrorKind;
use fusevol_shared::map::AuMask;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::name::Name;
use fusevol_shared::units::VolAu;
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::pool::Pool;
use std::fs;
use std::os::unix::fs::FileExt;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

#[test]
fn a_snapshot_in_a_private_mount_leaves_nothing_behind() {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let backup = pool.client("backup", &[("db", "read,snapshot,backup")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let image = fs::File::options().write(true).open(mount.image("db")).expect("it opens");
    image.write_all_at(&[1; 3 << 20], 0).and_then(|()| image.sync_data()).expect("it writes");

    let private = PrivateMount::open(&backup, &[], Kind::Snapshots).expect("it mounts");
    let volumes = private.volumes().expect("they are listed");
    assert_eq!((volumes.len(), volumes[0].name.as_str(), volumes[0].size), (1, "db", 64 << 20));
    let taken = private.create_snapshot(&name("db"), &name("tmp")).expect("it is taken");
    image.write_all_at(&[2; 16 << 10], 1 << 20).and_then(|()| image.sync_data()).expect("it writes on");
    let mut seen = vec![0; 3 << 20];
    let path = private.snapshot_path(&name("db"), &name("tmp"));
    fs::File::open(&path).and_then(|f| f.read_exact_at(&mut seen, 0)).expect("it reads");
    assert!(seen.iter().all(|b| *b == 1), "not the bytes of the instant");
    let modified = private.modified(&name("db"), &name("tmp")).expect("the list");
    assert_eq!(modified.blocks, [AuMask { au: VolAu(1), blocks: BlockMask(1) }]);
    assert!(modified.complete);
    let listed = private.snapshots(&name("db")).expect("they are listed");
    assert_eq!(listed.iter().map(|s| s.id).collect::<Vec<_>>(), [taken.id]);
    assert!(!private.volume_path(&name("db")).exists(), "no live volume in it");
    let missing = private.create_snapshot(&name("none"), &name("x")).expect_err("no such volume");
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    let (dir, held) = (private.path().to_owned(), fs::File::open(&path).expect("it opens"));
    private.close().expect("it ends in order");
    assert!(!dir.exists(), "the folder stays");
    assert!(held.read_at(&mut [0], 0).is_err(), "what was open fails");
    let left = pool.mgr(&["--json", "snapshot", "ls"]).ok().json();
    assert_eq!(left["snapshots"].as_array().map(Vec::len), Some(0), "{left}");
    drop(image);
    mount.umount();
    pool.check();
}

#[test]
fn one_volume_to_be_written() {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    pool.volume("other", "64M");
    let key = pool.client("host1", &[("db", "read,write"), ("other", "read,write")]);
    let private = PrivateMount::open(&key, &[], Kind::Volume(name("db"))).expect("it mounts");
    let shown: Vec<_> = fs::read_dir(private.path()).expect("it lists").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(shown, ["db.img"]);
    let image = fs::File::options().write(true).open(private.volume_path(&name("db"))).expect("it opens");
    image.write_all_at(b"restored", 1 << 20).and_then(|()| image.sync_data()).expect("it writes");
    drop(image);
    drop(private);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let mut seen = [0; 8];
    fs::File::open(mount.image("db")).and_then(|f| f.read_exact_at(&mut seen, 1 << 20)).expect("it reads");
    assert_eq!(&seen, b"restored");
    mount.umount();
    let none = PrivateMount::open(&key, &[], Kind::Volume(name("none"))).map(|_| ()).expect_err("no such volume");
    assert_eq!(none.kind(), ErrorKind::NotFound);
    pool.check();
}
