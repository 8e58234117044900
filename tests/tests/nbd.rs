//! NBD exports of real servers as disks: what is answered, what is not returned, and whole pools on them. (SEMANTICS.md, "NBD disks".)

use fusevol_shared::disk::any::{Address, PoolDisk};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::file::OpenMode;
use fusevol_shared::disk::nbd::{NbdDisk, NbdOptions};
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::disk::{Answer, Disk, DiskError, DiskResult};
use fusevol_shared::units::DiskOff;
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::nbd::{NbdServer, certificates, pause_filter};
use fusevol_tests::real::pool::{Pool, scratch};
use fusevol_tests::real::run::{program, run};
use fusevol_tests::real::wait::{pause, timed, until};
use futures_util::future::join_all;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const LEN: usize = 64 << 10;

fn options() -> NbdOptions {
    NbdOptions { answer: Duration::from_secs(2), ..NbdOptions::patient() }
}

fn open(server: &NbdServer) -> NbdDisk {
    let uri = server.uri().parse().expect("an address");
    block_on(NbdDisk::open(&uri, OpenMode::ReadWrite, &options())).unwrap_or_else(|e| panic!("{e}"))
}

fn pattern(seed: u64, len: usize) -> IoBuf {
    let mut buf = IoBuf::zeroed(len);
    for (b, n) in buf.chunks_exact_mut(8).zip(0u64..) {
        b.copy_from_slice(&(seed << 32 | n).to_le_bytes());
    }
    buf
}

fn read(disk: &NbdDisk, at: u64, len: usize) -> DiskResult<Vec<u8>> {
    let (result, buf) = block_on(disk.read(DiskOff(at), IoBuf::zeroed(len)));
    result.map(|()| buf.to_vec())
}

/// Writes all over the disk at once, of many lengths, reads it back, over one connection or several.
fn reads_what_was_written(disk: &NbdDisk) {
    let lengths = [4096, LEN, 1 << 20, 9 << 20];
    let places: Vec<(u64, usize)> = lengths.iter().scan(0, |at, len| Some((std::mem::replace(at, *at + *len as u64), *len))).collect();
    block_on(async {
        let writes = places.iter().map(|(at, len)| disk.write(DiskOff(*at), pattern(*at, *len).freeze()));
        join_all(writes).await.into_iter().collect::<DiskResult<()>>()?;
        disk.flush().await?;
        disk.write_durable(DiskOff(32 * MIB), pattern(77, LEN).freeze()).await?;
        let many = (0..256).map(|n| disk.write(DiskOff(40 * MIB + n * 4096), pattern(n, 4096).freeze()));
        join_all(many).await.into_iter().collect::<DiskResult<()>>()
    })
    .unwrap_or_else(|e| panic!("{e}"));
    for (at, len) in places.into_iter().chain([(32 * MIB, LEN)]) {
        let seed = if at == 32 * MIB { 77 } else { at };
        assert!(read(disk, at, len).expect("it reads") == *pattern(seed, len), "{len} bytes at {at}");
    }
    for n in 0..256 {
        assert!(read(disk, 40 * MIB + n * 4096, 4096).expect("it reads") == *pattern(n, 4096));
    }
    assert_eq!(read(disk, 60 * MIB, 4096), Ok(vec![0; 4096]), "a hole");
    assert_eq!(disk.lost(), None);
}

#[test]
fn servers_of_the_field_keep_what_is_written() {
    let dir = scratch();
    let file = dir.path().join("disk.raw");
    std::fs::File::create(&file).and_then(|f| f.set_len(64 * MIB)).expect("an image");
    let at = file.to_string_lossy().into_owned();
    let (memory, plain) = (["memory", "64M"], ["file", at.as_str()]);
    let servers = [
        (NbdServer::nbdkit(dir.path(), "memory", &memory), 4),
        (NbdServer::nbdkit(dir.path(), "file", &plain), 4),
        (NbdServer::nbdkit_tcp(dir.path(), "tcp", &memory), 4),
        (NbdServer::nbdkit_tls(dir.path(), "tls", &memory), 4),
        (NbdServer::nbdkit(dir.path(), "one", &["--filter=multi-conn", "memory", "64M", "multi-conn-mode=disable"]), 1),
        (NbdServer::nbdkit(dir.path(), "plain", &["--no-sr", "memory", "64M"]), 4),
        (NbdServer::nbdkit(dir.path(), "forced", &["--filter=fua", "memory", "64M", "fuamode=force"]), 4),
        (
            NbdServer::nbdkit(
                dir.path(),
                "small",
                &["--filter=blocksize-policy", "memory", "64M", "blocksize-maximum=64k", "blocksize-error-policy=error"],
            ),
            4,
        ),
    ];
    for (server, connections) in &servers {
        let disk = open(server);
        assert_eq!(disk.connections(), *connections, "{disk:?}");
        reads_what_was_written(&disk);
    }
    std::fs::File::create(&file).and_then(|f| f.set_len(64 * MIB)).expect("an image");
    let qemu = NbdServer::qemu(dir.path(), "qemu", &file, &[]);
    reads_what_was_written(&open(&qemu));
    let mut on_disk = vec![0; LEN];
    std::fs::File::open(&file).and_then(|f| f.read_exact_at(&mut on_disk, 32 * MIB)).expect("it reads");
    assert!(on_disk == *pattern(77, LEN));
}

/// A power cut: nbdkit's write-back cache is lost with the server. What was flushed, or written through, is there.
#[test]
fn what_was_flushed_or_written_through_survives_the_server() {
    let dir = scratch();
    let file = dir.path().join("disk.raw");
    std::fs::File::create(&file).and_then(|f| f.set_len(64 * MIB)).expect("an image");
    let at = file.to_string_lossy().into_owned();
    let cached = ["--filter=cache", "file", at.as_str(), "cache=writeback", "cache-min-block-size=64k"];
    let mut server = NbdServer::nbdkit(dir.path(), "d", &cached);
    let disk = open(&server);
    block_on(async {
        disk.write(DiskOff(0), pattern(1, LEN).freeze()).await?;
        disk.flush().await?;
        disk.write(DiskOff(2 * MIB), pattern(3, LEN).freeze()).await
    })
    .expect("it writes");
    server.kill();
    let mut back = vec![0; LEN];
    let image = std::fs::File::open(&file).expect("an image");
    image.read_exact_at(&mut back, 0).expect("it reads");
    assert!(back == *pattern(1, LEN), "flushed");
    image.read_exact_at(&mut back, 2 * MIB).expect("it reads");
    assert!(back.iter().all(|b| *b == 0), "the tool loses what was not flushed, or this proves nothing");
    server.start();
    let disk = open(&server);
    block_on(disk.write_durable(DiskOff(MIB), pattern(2, LEN).freeze())).expect("it writes");
    server.kill();
    image.read_exact_at(&mut back, MIB).expect("it reads");
    assert!(back == *pattern(2, LEN), "written through");
}

fn not_returned(e: &DiskError, errno: i32) {
    assert_eq!((e.answer, e.errno), (Answer::NotReturned, errno), "{e}");
}

fn is_lost(disk: &NbdDisk) {
    assert!(disk.lost().is_some());
    for e in [
        block_on(disk.write(DiskOff(0), pattern(0, 4096).freeze())),
        block_on(disk.flush()),
        block_on(disk.write_durable(DiskOff(0), pattern(0, 4096).freeze())),
        read(disk, 0, 4096).map(drop),
    ] {
        let e = e.expect_err("it is lost");
        assert_eq!((e.answer, e.errno), (Answer::Answered, libc::ENOTCONN), "{e}");
    }
}

/// > What was sent to an NBD server and not answered when its connection was lost counts as not returned; what is asked later fails at once.
#[test]
fn a_server_that_is_killed_under_load() {
    let dir = scratch();
    let slow = ["--filter=delay", "memory", "64M", "wdelay=20ms"];
    let mut server = NbdServer::nbdkit(dir.path(), "d", &slow);
    for _ in 0..4 {
        let disk = open(&server);
        let writer = |n: u64| {
            let disk = &disk;
            async move {
                for round in 0.. {
                    if let Err(e) = disk.write(DiskOff(n * MIB), pattern(round, LEN).freeze()).await {
                        return (round, e);
                    }
                }
                unreachable!("it is killed")
            }
        };
        let (ends, took) = std::thread::scope(|s| {
            s.spawn(|| {
                pause(Duration::from_millis(300));
                server.kill();
            });
            timed(|| block_on(join_all((0..32).map(writer))))
        });
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(ends.iter().any(|(rounds, _)| *rounds > 2), "there was load");
        let open = ends.iter().filter(|(_, e)| e.answer == Answer::NotReturned);
        open.clone().for_each(|(_, e)| not_returned(e, libc::ENOTCONN));
        assert!(open.count() > 0, "some were in flight: {ends:?}");
        is_lost(&disk);
        server.start();
        let again = self::open(&server);
        assert_eq!(read(&again, 0, 4096), Ok(vec![0; 4096]));
        is_lost(&disk);
    }
}

#[test]
fn an_error_of_the_server_is_its_answer() {
    let dir = scratch();
    let bad = dir.path().join("bad");
    let trigger = format!("error-pwrite-file={}", bad.display());
    let server =
        NbdServer::nbdkit(dir.path(), "d", &["--filter=error", "memory", "64M", "error=ENOSPC", "error-pwrite-rate=100%", &trigger]);
    let disk = open(&server);
    let write = || block_on(disk.write(DiskOff(0), pattern(1, LEN).freeze()));
    write().expect("it writes");
    std::fs::write(&bad, "").expect("a file");
    let e = write().expect_err("the filter");
    assert_eq!((e.answer, e.errno), (Answer::Answered, libc::ENOSPC), "{e}");
    std::fs::remove_file(&bad).expect("it is ours");
    write().expect("the disk is not lost by it");
    assert_eq!(disk.lost(), None);
}

#[test]
fn a_request_that_hangs_is_not_returned_and_may_land_later() {
    let dir = scratch();
    let control = dir.path().join("control");
    let at = format!("pause-control={}", control.display());
    let server = NbdServer::nbdkit(dir.path(), "d", &["--filter=pause", "memory", "64M", &at]);
    let disk = open(&server);
    block_on(disk.write(DiskOff(0), pattern(1, LEN).freeze())).expect("it writes");
    pause_filter(&control, b'p').expect("it answers");
    let (ended, took) = timed(|| block_on(disk.write(DiskOff(0), pattern(2, LEN).freeze())));
    not_returned(&ended.expect_err("it hangs"), libc::ETIMEDOUT);
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
    is_lost(&disk);
    pause_filter(&control, b'r').expect("it answers");
    // That is why it is not returned.
    let again = open(&server);
    until("the late write to land", Duration::from_secs(10), || (read(&again, 0, LEN).ok()? == *pattern(2, LEN)).then_some(()));
}

#[test]
fn a_server_that_stands_still_is_no_hang() {
    let dir = scratch();
    let server = NbdServer::nbdkit(dir.path(), "d", &["memory", "64M"]);
    let disk = open(&server);
    server.freeze();
    let (e, took) = timed(|| block_on(disk.flush()).expect_err("it stands still"));
    not_returned(&e, libc::ETIMEDOUT);
    let uri = server.uri().parse().expect("an address");
    let short = NbdOptions { negotiation: Duration::from_secs(1), ..options() };
    let (refused, more) = timed(|| block_on(NbdDisk::open(&uri, OpenMode::Read, &short)).expect_err("it stands still"));
    assert_eq!((refused.answer, refused.errno), (Answer::Answered, libc::ETIMEDOUT), "{refused}");
    assert!(took + more < Duration::from_secs(10), "{took:?} {more:?}");
    server.thaw();
    assert!(open(&server).lost().is_none());
}

/// > A server in TLS is believed only with a certificate of the authority that the address names, made for the host that it names.
#[test]
fn a_server_must_prove_who_it_is() {
    let dir = scratch();
    let server = NbdServer::nbdkit_tls(dir.path(), "d", &["memory", "64M"]);
    let refused = |uri: &str| block_on(NbdDisk::open(&uri.parse().expect("an address"), OpenMode::Read, &options())).expect_err(uri);
    let other = certificates(dir.path(), "other");
    let own = dir.path().join("d.pki");
    let e = refused(&server.uri().replace(&*own.to_string_lossy(), &other.to_string_lossy()));
    assert!(e.errno == libc::EACCES && e.what.contains("TLS"), "{e}");
    // `127.0.0.2` is the loopback, too, and not in the certificate.
    let wild = NbdServer::nbdkit_tls(dir.path(), "wild", &["memory", "64M"]);
    assert!(
        block_on(NbdDisk::open(&wild.uri().replace("127.0.0.1", "localhost").parse().expect("an address"), OpenMode::Read, &options()))
            .is_ok()
    );
    let clear = server.uri().replace("nbds://", "nbd://").split('?').next().expect("a text").to_owned();
    let e = refused(&clear);
    assert!(e.what.contains("nbds://"), "{e}");
    let plain = NbdServer::nbdkit_tcp(dir.path(), "plain", &["memory", "64M"]);
    let e = refused(&format!("{}?tls-certificates={}", plain.uri().replace("nbd://", "nbds://"), own.display()));
    assert!(e.what.contains("no TLS"), "{e}");
    // Without a certificate of ours the server ends it.
    std::fs::remove_file(own.join("client-cert.pem")).expect("it is ours");
    let e = refused(server.uri());
    assert_eq!(e.answer, Answer::Answered, "{e}");
}

#[test]
fn read_only_exports_are_read() {
    let dir = scratch();
    let server = NbdServer::nbdkit(dir.path(), "d", &["-r", "memory", "64M"]);
    let uri = server.uri().parse().expect("an address");
    assert_eq!(block_on(NbdDisk::open(&uri, OpenMode::ReadWrite, &options())).expect_err("read-only").errno, libc::EROFS);
    let disk = block_on(NbdDisk::open(&uri, OpenMode::Read, &options())).expect("it opens");
    assert_eq!(read(&disk, MIB, 4096), Ok(vec![0; 4096]));
}

#[test]
fn one_export_by_two_addresses_is_one_disk() {
    let dir = scratch();
    let server = NbdServer::nbdkit_tcp(dir.path(), "d", &["memory", "64M"]);
    let peek = |text: &str| block_on(PoolDisk::peek(&text.parse::<Address>().expect("an address"))).expect("it opens");
    let (a, b) = (peek(server.uri()), peek(&server.uri().replace("127.0.0.1", "localhost")));
    let c = peek(&server.uri().replace("/d", "/other"));
    assert_eq!(a.identity(), b.identity());
    assert_ne!(a.identity(), c.identity());
    assert!(!a.has_locks());
    assert_eq!((a.try_lock(1), a.lock_held_by_other(1)), (Ok(fusevol_shared::disk::any::Lock::Absent), Ok(None)));
}

/// Two servers, one image: nothing tells that they show one disk, so one of them is taken for a copy.
#[test]
fn labels_decide_over_nbd_too() {
    let dir = scratch();
    let file = dir.path().join("disk.raw");
    std::fs::File::create(&file).and_then(|f| f.set_len(1 << 30)).expect("an image");
    let at = file.to_string_lossy().into_owned();
    let new = |name: &str| NbdServer::nbdkit(dir.path(), name, &["file", &at]);
    let (a, b) = (new("a"), new("b"));
    let link = dir.path().join("link.sock");
    std::os::unix::fs::symlink(dir.path().join("a.sock"), &link).expect("a link");
    let same = format!("nbd+unix:///a?socket={}", link.display());
    let twice = Command::new(program("fusevol-mgr"))
        .args(["init", "--dir"])
        .arg(dir.path().join("mgr"))
        .args(["--pool", "p", "--listen", "127.0.0.1:1", a.uri(), &same])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(twice.status.code() == Some(2) && said.contains("the same disk as"), "{said}");

    let pool = Pool::on(vec![a.uri().into()]);
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = |disk: &str| {
        let mut command = Command::new(program("fusevol"));
        run(command.args(["mount", "-f", "--disk", disk, "--key"]).arg(&key).arg(pool.path().join("refused")))
    };
    let _said = mount(b.uri()).code(2).says("carry the same label").says(a.uri()).says(b.uri());
    let _said = mount("nbd://").code(2).says("no address of an NBD export");
    let well = Mount::with(&key, &pool.path().join("a"), None, &["--disk", &same]);
    fill(&well.image("db"), 5);
    holds(&well.image("db"), 5);
    well.umount();
}

fn fill(path: &Path, seed: u64) {
    fill_open(&writer(path), seed);
}

fn writer(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().write(true).open(path).expect("it opens")
}

fn fill_open(file: &std::fs::File, seed: u64) {
    for au in 0..8 {
        file.write_all_at(&pattern(seed + au, LEN), au * MIB + 4096).expect("it writes");
    }
    file.sync_data().expect("it syncs");
}

fn holds(path: &Path, seed: u64) {
    let file = std::fs::File::open(path).expect("it opens");
    let mut back = vec![0; LEN];
    for au in 0..8 {
        file.read_exact_at(&mut back, au * MIB + 4096).expect("it reads");
        assert!(back == *pattern(seed + au, LEN), "AU {au}");
    }
}

/// A pool on two exports from `init` to `check`: written, read by another mount, served by another manager.
fn a_whole_pool(first: &NbdServer, second: &NbdServer) {
    let mut pool = Pool::on(vec![first.uri().into(), second.uri().into()]);
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = Mount::new(&key, &pool.path().join("a"));
    fill(&mount.image("db"), 1000);
    let disks = mount.fusevol(&["status", "--json"]).ok().json()["disks"].clone();
    assert!(disks.to_string().contains(first.uri()), "{disks}");
    mount.umount();
    let mount = Mount::new(&key, &pool.path().join("b"));
    holds(&mount.image("db"), 1000);
    // The manager is killed; the next one waits as if the first were on another host, and finds everything.
    let held = writer(&mount.image("db"));
    pool.kill();
    fill_open(&held, 2000);
    pool.serve();
    drop(held);
    let listed = pool.mgr(&["disk", "ls", "--json"]).ok().json();
    assert_eq!(listed["disks"][0]["paths"][0], first.uri(), "{listed}");
    holds(&mount.image("db"), 2000);
    mount.umount();
    pool.check();
    let seen = pool.mgr(&["disk", "scan", "--json", first.uri()]).ok().json();
    assert_eq!((seen["disks"][0]["state"].as_str(), seen["disks"][0]["path"].as_str()), (Some("member"), Some(first.uri())), "{seen}");
}

#[test]
fn a_pool_on_nbdkit() {
    let dir = scratch();
    let new = |name: &str| NbdServer::nbdkit(dir.path(), name, &["memory", "1G"]);
    a_whole_pool(&new("d0"), &new("d1"));
}

#[test]
fn a_pool_over_tls() {
    let dir = scratch();
    let new = |name: &str| NbdServer::nbdkit_tls(dir.path(), name, &["memory", "1G"]);
    a_whole_pool(&new("d0"), &new("d1"));
}

#[test]
fn a_pool_on_qemu_nbd() {
    let dir = scratch();
    let new = |name: &str| {
        let file = dir.path().join(format!("{name}.raw"));
        std::fs::File::create(&file).and_then(|f| f.set_len(1 << 30)).expect("an image");
        NbdServer::qemu(dir.path(), name, &file, &[])
    };
    a_whole_pool(&new("d0"), &new("d1"));
}
