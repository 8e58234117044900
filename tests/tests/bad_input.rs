//! Wrong input and full or damaged disks: a clear error with a hint and the right exit code, and nothing lost.

use fusevol_tests::real::loopdev::LoopDevice;
use fusevol_tests::real::mount::{Mount, Mounted};
use fusevol_tests::real::pool::{Options, Pool};
use fusevol_tests::real::run::{Ran, program, run, tool};
use fusevol_tests::real::wait::until;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BUSY: i32 = 5;
const DENIED: i32 = 6;
const NOT_FOUND: i32 = 4;
const REFUSED: i32 = 2;
const UNREACHABLE: i32 = 7;

fn fusevol(args: &[&str]) -> Ran {
    run(Command::new(program("fusevol")).args(args))
}

fn backup(args: &[&str]) -> Ran {
    run(Command::new(program("fusevol-backup")).args(args))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn keys_that_do_not_open() {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    let key = text(&pool.client("host1", &[("db", "read")]));
    let fv = text(&pool.path().join("fv"));

    let _said = fusevol(&["mount", "--key", "/no/such.key", &fv]).code(NOT_FOUND).says("hint:");
    let junk = pool.path().join("junk.key");
    fs::write(&junk, "not a key")
        .and_then(|()| fs::set_permissions(&junk, std::os::unix::fs::PermissionsExt::from_mode(0o600)))
        .expect("scratch");
    let _said = run(Command::new(program("fusevol")).args(["mount", "--key"]).arg(&junk).arg(&fv)).says("hint:");

    // Of another pool, pointed at this one's manager.
    let other = Pool::new();
    let stranger = other.client("host1", &[]);
    let address =
        |key: &str| fs::read_to_string(key).expect("a key").lines().find(|l| l.starts_with("managers")).expect("addresses").to_owned();
    let forged = fs::read_to_string(&stranger).expect("a key").replace(&address(&text(&stranger)), &address(&key));
    fs::write(&stranger, forged).expect("scratch");
    let _said = fusevol(&["mount", "--key", &text(&stranger), &fv]).code(DENIED).says("hint:");

    let revoked = text(&pool.client("host2", &[("db", "read")]));
    let _said = pool.mgr(&["client", "revoke", "host2", "-y"]).ok();
    let _said = fusevol(&["mount", "--key", &revoked, &fv]).code(DENIED).says("hint:");

    pool.stop();
    let _said = fusevol(&["mount", "--key", &key, &fv]).code(UNREACHABLE).says("hint:");
    let _said = fusevol(&["mount", "--key", &key, &fv, "--json"]).code(UNREACHABLE).says("\"schema\"");
}

/// > One writer: while a volume is attached for writing, a second writer is refused with EBUSY; readers are not.
#[test]
fn a_second_writer_is_refused() {
    let pool = Pool::new();
    pool.volume("db", "64M");
    let one = Mount::new(&pool.client("host1", &[("db", "read,write")]), &pool.path().join("one"));
    let two = Mount::new(&pool.client("host2", &[("db", "read,write")]), &pool.path().join("two"));
    let first = OpenOptions::new().write(true).open(one.image("db")).expect("the first writer");
    first.write_all_at(&[7; 4096], 0).and_then(|()| first.sync_all()).expect("a write");
    let refused = OpenOptions::new().write(true).open(two.image("db")).expect_err("the second");
    assert_eq!(refused.raw_os_error(), Some(libc::EBUSY));
    assert!(two.log().contains("host1"), "the log names the holder:\n{}", two.log());
    let mut read = [0; 4096];
    File::open(two.image("db")).and_then(|f| f.read_exact_at(&mut read, 0)).expect("a reader is welcome");
    assert_eq!(read, [7; 4096]);
    drop(first);
    let second =
        until("the volume to be given back", Duration::from_secs(10), || OpenOptions::new().write(true).open(two.image("db")).ok());
    second.write_all_at(&[8; 4096], 0).expect("now it is the writer");
    drop(second);
    one.umount();
    two.umount();
}

/// > A full pool is ENOSPC to the writer that needs new space, and to nobody else; when space is given back the writer goes on.
#[test]
fn a_full_pool_and_space_given_back() {
    let mut pool = Pool::with(&Options { disks: &[128 << 20], listen: &[], lease: 2 });
    let _said = pool.mgr(&["volume", "create", "db", "--size", "1G"]).ok().says("when it is full");
    let mount = Mount::new(&pool.client("host1", &[("db", "read,write")]), &pool.path().join("fv"));
    let image = OpenOptions::new().read(true).write(true).open(mount.image("db")).expect("it opens");
    let mut written = 0u64;
    let full = loop {
        match image.write_all_at(&[1; 1 << 20], written) {
            Ok(()) => written += 1 << 20,
            Err(e) => break e,
        }
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    assert!(written > 64 << 20, "{written}");
    image.write_all_at(&[2; 4096], 0).and_then(|()| image.sync_all()).expect("what has space is written and flushed");
    let _said = tool("fallocate", &["--punch-hole", "--offset", "8388608", "--length", "16777216", &text(&mount.image("db"))]);
    until("space to come back", Duration::from_secs(10), || image.write_all_at(&[3; 1 << 20], written).ok());
    image.sync_all().expect("a flush");
    let mut block = [0; 4096];
    image.read_exact_at(&mut block, 0).expect("a read");
    assert_eq!(block, [2; 4096]);
    drop(image);
    mount.umount();
    pool.check();
}

#[test]
fn words_that_the_manager_refuses() {
    let pool = Pool::new();
    pool.volume("db", "64M");
    for (args, code) in [
        (&["volume", "create", "zero", "--size", "0"][..], REFUSED),
        (&["volume", "create", "absurd", "--size", "9E"][..], REFUSED),
        (&["volume", "create", "-bad-", "--size", "1G"][..], REFUSED),
        (&["volume", "create", "db", "--size", "1G"][..], REFUSED),
        (&["volume", "create", "db2", "--size", "many"][..], REFUSED),
        (&["volume", "show", "nosuch"][..], NOT_FOUND),
        (&["volume", "rm", "db"][..], REFUSED),
        (&["snapshot", "create", "nosuch@s1"][..], NOT_FOUND),
        (&["snapshot", "create", "db"][..], REFUSED),
        (&["snapshot", "rm", "db@nosuch", "-y"][..], NOT_FOUND),
        (&["access", "grant", "db", "nosuch", "read"][..], NOT_FOUND),
        (&["access", "grant", "db", "nosuch", "fly"][..], REFUSED),
        (&["client", "revoke", "nosuch", "-y"][..], NOT_FOUND),
        (&["disk", "add", "/no/such/disk"][..], NOT_FOUND),
        (&["nonsense"][..], REFUSED),
    ] {
        let said = pool.mgr(args).code(code);
        assert!(
            said.err.contains("hint:") || said.err.contains("Usage:") || said.err.contains("For more information"),
            "{args:?}: {}",
            said.err
        );
    }
    let json = pool.mgr(&["volume", "show", "nosuch", "--json"]).code(NOT_FOUND).json();
    assert_eq!(json["schema"], 1);
    let _said = pool.mgr(&["volume", "show", "db"]).ok();
}

#[test]
fn disks_that_are_not_ours_are_refused() {
    let pool = Pool::new();
    let init = |disk: &Path| {
        run(Command::new(program("fusevol-mgr"))
            .args(["init", "--pool", "p2", "--listen", "127.0.0.1:1", "--dir"])
            .arg(pool.path().join("m2"))
            .arg(disk))
    };
    let used = pool.path().join("used.img");
    File::create(&used).and_then(|f| f.set_len(128 << 20)).expect("scratch");
    let _said = tool("mkfs.ext4", &["-q", &text(&used)]);
    let before = fs::read(&used).expect("scratch");
    let _said = init(&used).code(REFUSED).says("ext");
    assert!(fs::read(&used).expect("scratch") == before, "nothing was written");
    let small = pool.path().join("small.img");
    File::create(&small).and_then(|f| f.set_len(1 << 20)).expect("scratch");
    let _said = init(&small).code(REFUSED).says("small");
    let _said = init(&pool.disks()[0]).code(REFUSED).says("san1");
    let _said = init(Path::new("/no/such/disk")).code(NOT_FOUND);
}

/// > A disk that is missing or whose label is another's is never read as data and never written: its I/O goes through the manager until it is found; where none is found the mount is refused.
#[test]
fn missing_foreign_and_damaged_disks() {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let (fv, disk) = (pool.path().join("fv"), pool.disks()[1].clone());
    let away = pool.path().join("away.img");
    let globs = format!("{}/d*.img", pool.path().display());

    fs::rename(&disk, &away).expect("scratch");
    // A blank one in its place is not it.
    File::create(&disk).and_then(|f| f.set_len(2 << 30)).expect("scratch");
    let stands = Mount::with(&key, &fv, None, &["--disk", &globs]);
    let said = stands.fusevol(&["paths"]).ok().says("proxied").says("not found on this host");
    assert!(said.out.contains("direct"), "{}", said.out);
    let image = OpenOptions::new().read(true).write(true).open(stands.image("db")).expect("it opens");
    image.write_all_at(&[7; 8 << 20], 0).and_then(|()| image.sync_all()).expect("it writes, on both disks");
    assert!(fs::metadata(&disk).is_ok_and(|m| std::os::unix::fs::MetadataExt::blocks(&m) == 0), "nothing was written to it");
    fs::rename(&away, &disk).expect("scratch");
    until("the disk to be found", Duration::from_secs(30), || (!stands.fusevol(&["paths"]).ok().out.contains("proxied")).then_some(()));
    drop(image);
    stands.umount();

    let other = pool.path().join("other.img");
    pool.disks().iter().zip([&away, &other]).for_each(|(disk, to)| fs::rename(disk, to).expect("scratch"));
    let refused = run(Command::new(program("fusevol")).args(["mount", "--key"]).arg(&key).args(["--disk", &globs]).arg(&fv));
    assert!(refused.code != 0 && refused.err.contains("hint:"), "{}", refused.err);
    pool.disks().iter().zip([&away, &other]).for_each(|(disk, from)| fs::rename(from, disk).expect("scratch"));

    // One damaged copy of the label: another is used.
    let label = OpenOptions::new().write(true).open(&disk).expect("scratch");
    label.write_all_at(&[0xA5; 4096], 0).expect("damage");
    pool.stop();
    pool.serve();
    let stands = Mount::new(&key, &fv);
    fs::write(stands.image("db"), [5; 4096]).unwrap_or_default();
    stands.umount();
    pool.check();
}

/// > The catalog has copies: with one of two damaged the pool is served from the other, and it is said.
#[test]
fn a_damaged_catalog_copy() {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    pool.volume("db2", "64M");
    pool.stop();
    // Everything of the first disk between its label copies, up to the first data: the whole copy of the catalog.
    let disk = OpenOptions::new().read(true).write(true).open(&pool.disks()[0]).expect("scratch");
    let mut damaged = 0u64;
    for at in (17 << 20..49 << 20).step_by(4096) {
        let mut block = [0; 4096];
        disk.read_exact_at(&mut block, at).expect("scratch");
        if block.iter().any(|b| *b != 0) {
            disk.write_all_at(&[0x5A; 4096], at).expect("damage");
            damaged += 1;
        }
    }
    assert!(damaged > 2, "the catalog was not found ({damaged} blocks)");
    pool.serve();
    let listed = pool.mgr(&["volume", "ls"]).ok().out;
    assert!(listed.contains("db") && listed.contains("db2"), "{listed}");
    let said = format!("{}{}", pool.log(), pool.mgr(&["events"]).ok().out).to_lowercase();
    assert!(said.contains("damaged") || said.contains("copy"), "{said}");
    pool.check();
}

#[test]
fn repositories_and_targets() {
    let pool = Pool::new();
    pool.volume("db", "64M");
    let key = text(&pool.client("host1", &[("db", "read,write,snapshot,backup")]));
    let repo = text(&pool.path().join("repo"));
    let _said = backup(&["snapshots", "--repo", &repo]).code(10).says("hint:");
    let _said = backup(&["init", "--repo", &repo]).code(REFUSED).says("--no-encryption");
    let _said = backup(&["init", "--repo", &repo, "--no-encryption"]).ok();
    let _said = backup(&["init", "--repo", &repo, "--no-encryption"]).code(REFUSED);
    let _said = backup(&["backup", "nosuch", "--repo", &repo, "--key", &key]).code(NOT_FOUND).says("hint:");
    let _said = backup(&["restore", "latest", "--repo", &repo, "--to", "/dev/null/x"]).code(NOT_FOUND);

    let mount = Mount::new(Path::new(&key), &pool.path().join("fv"));
    fs::write(pool.path().join("data"), vec![9; 3 << 20]).expect("scratch");
    let _said = tool(
        "dd",
        &[
            &format!("if={}", text(&pool.path().join("data"))),
            &format!("of={}", text(&mount.image("db"))),
            "bs=1M",
            "conv=notrunc,fsync",
            "status=none",
        ],
    );
    let _said = backup(&["backup", "db", "--repo", &repo, "--key", &key]).ok();

    // Onto something in use: a volume that is attached, a file that is there, a mounted device.
    let held = OpenOptions::new().write(true).open(mount.image("db")).expect("it opens");
    let _said = backup(&["restore", "latest", "--repo", &repo, "--to-volume", "db", "--key", &key, "-y"]).code(BUSY).says("hint:");
    drop(held);
    let there = pool.path().join("there.img");
    fs::write(&there, "precious").expect("scratch");
    let _said = backup(&["restore", "latest", "--repo", &repo, "--to", &text(&there)]).code(REFUSED);
    assert_eq!(fs::read(&there).expect("scratch"), b"precious");
    let disk = pool.path().join("disk.img");
    File::create(&disk).and_then(|f| f.set_len(128 << 20)).expect("scratch");
    let _said = tool("mkfs.ext4", &["-q", &text(&disk)]);
    let device = LoopDevice::new(&disk, false);
    let mounted = Mounted::new(&[], device.path(), &pool.path().join("srv"));
    let _said = backup(&["restore", "latest", "--repo", &repo, "--to", &text(device.path()), "-y"]).code(BUSY).says("hint:");
    drop(mounted);
    mount.umount();
}
