//! Servers that break: each is a few bytes that a thread says on a unix socket. Whatever they say is an error, soon.

mod hostile;

use super::wire::{
    FIXED_NEWSTYLE, INFO_BLOCK_SIZE, INFO_EXPORT, NBD_MAGIC, NO_ZEROES, OPT_GO, OPT_MAGIC, OPT_REPLY_MAGIC, OPT_STRUCTURED_REPLY, REP_ACK,
    REP_ERR_UNSUP, REP_INFO, SIMPLE_MAGIC, STRUCTURED_MAGIC,
};
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::disk::ring::block_on;
use crate::units::PAGE;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

const SIZE: u64 = 1 << 20;
/// has-flags, flush, fua.
const FLAGS: u16 = 1 | 1 << 2 | 1 << 3;

/// A server that serves one connection at a time, each by `script`, until the test is over.
struct Scripted {
    dir: tempfile::TempDir,
}

impl Scripted {
    fn new(script: impl Fn(UnixStream) -> std::io::Result<()> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        // It waits in accept when the test ends: the process ends it.
        std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(|s| drop(script(s))));
        Self { dir }
    }

    fn uri(&self) -> NbdUri {
        NbdUri { server: Server::Unix(self.dir.path().join("s")), export: "x".to_owned(), write_through: false, stall: None }
    }

    fn open(&self, mode: OpenMode) -> DiskResult<NbdDisk> {
        block_on(NbdDisk::open(&self.uri(), mode, &quick()))
    }

    fn disk(&self) -> NbdDisk {
        self.open(OpenMode::ReadWrite).unwrap()
    }
}

/// A server that stands still is found out soon, but not because of a flush, which may take its time.
#[test]
fn a_stall_is_found_before_a_late_answer() {
    let server = serving(FLAGS, false, 1 << 20, |_| Vec::new());
    let options = NbdOptions { answer: Duration::from_secs(2), stall: Some(Duration::from_millis(200)), ..quick() };
    let timed = |uri: &NbdUri, write: bool| {
        let disk = block_on(NbdDisk::open(uri, OpenMode::ReadWrite, &options)).unwrap();
        let began = SystemClock.now();
        let done = match write {
            true => block_on(disk.write(DiskOff(0), IoBuf::zeroed(4096).freeze())),
            false => block_on(disk.flush()),
        };
        let e = done.unwrap_err();
        assert_eq!((e.answer, e.errno), (Answer::NotReturned, libc::ETIMEDOUT), "{e}");
        SystemClock.now().since(began)
    };
    assert!(timed(&server.uri(), true) < Duration::from_secs(1));
    assert!(timed(&server.uri(), false) >= Duration::from_secs(2));
    let longer = NbdUri { stall: Some(Duration::from_secs(1)), ..server.uri() };
    assert!(timed(&longer, true) >= Duration::from_secs(1), "an address may say another time");
}

fn quick() -> NbdOptions {
    NbdOptions { negotiation: Duration::from_millis(700), answer: Duration::from_millis(300), ..NbdOptions::default() }
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [&OPT_REPLY_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

fn info_export(size: u64, flags: u16) -> Vec<u8> {
    [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
}

fn info_blocks(min: u32, max: u32) -> Vec<u8> {
    [&INFO_BLOCK_SIZE.to_be_bytes()[..], &min.to_be_bytes(), &4096_u32.to_be_bytes(), &max.to_be_bytes()].concat()
}

fn greeting() -> Vec<u8> {
    [&NBD_MAGIC.to_be_bytes()[..], &OPT_MAGIC.to_be_bytes(), &(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes()].concat()
}

/// All that a server says before the first request.
fn negotiation(flags: u16, structured: bool, max: u32) -> Vec<u8> {
    let chunks = if structured { REP_ACK } else { REP_ERR_UNSUP };
    [
        greeting(),
        option_reply(OPT_STRUCTURED_REPLY, chunks, &[]),
        option_reply(OPT_GO, REP_INFO, &info_export(SIZE, flags)),
        option_reply(OPT_GO, REP_INFO, b"\0\x02a description"),
        option_reply(OPT_GO, REP_INFO, &info_blocks(1, max)),
        option_reply(OPT_GO, REP_ACK, &[]),
    ]
    .concat()
}

/// Reads what the client says until its requests begin.
fn hear_negotiation(s: &mut UnixStream) -> std::io::Result<()> {
    // Flags; STRUCTURED_REPLY; GO with the name `x` and one information.
    s.read_exact(&mut [0; 4 + 16 + 16 + 4 + 1 + 2 + 2])
}

#[derive(Debug)]
struct Asked {
    command: u16,
    flags: u16,
    cookie: u64,
    at: u64,
    len: u32,
}

fn hear(s: &mut UnixStream) -> std::io::Result<Asked> {
    let mut b = [0; 28];
    s.read_exact(&mut b)?;
    let n16 = |at| wire::u16_at(&b, at).unwrap();
    let len = wire::u32_at(&b, 24).unwrap();
    let asked = Asked { command: n16(6), flags: n16(4), cookie: wire::u64_at(&b, 8).unwrap(), at: wire::u64_at(&b, 16).unwrap(), len };
    if asked.command == 1 {
        s.read_exact(&mut vec![0; usize::try_from(len).unwrap()])?;
    }
    Ok(asked)
}

fn simple(cookie: u64, errno: u32) -> Vec<u8> {
    [&SIMPLE_MAGIC.to_be_bytes()[..], &errno.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

fn chunk(cookie: u64, done: bool, kind: u16, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [
        &STRUCTURED_MAGIC.to_be_bytes()[..],
        &u16::from(done).to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &len.to_be_bytes(),
        data,
    ]
    .concat()
}

fn data_chunk(cookie: u64, done: bool, at: u64, data: &[u8]) -> Vec<u8> {
    chunk(cookie, done, 1, &[&at.to_be_bytes()[..], data].concat())
}

/// A server that agrees, and answers each request by `reply`.
fn serving(flags: u16, structured: bool, max: u32, reply: impl Fn(&Asked) -> Vec<u8> + Send + 'static) -> Scripted {
    Scripted::new(move |mut s| {
        s.write_all(&negotiation(flags, structured, max))?;
        hear_negotiation(&mut s)?;
        loop {
            let asked = hear(&mut s)?;
            if asked.command == 2 {
                return Ok(());
            }
            s.write_all(&reply(&asked))?;
        }
    })
}

fn read(disk: &NbdDisk, at: u64, len: usize) -> (DiskResult<()>, IoBuf) {
    block_on(disk.read(DiskOff(at), IoBuf::zeroed(len)))
}

fn page(of: u8) -> IoBytes {
    IoBuf::copy_of(&[of; PAGE]).freeze()
}

#[test]
fn chunks_come_in_any_order_and_holes_are_zeros() {
    let server = serving(FLAGS, true, 1 << 20, |a| {
        let half = u64::from(a.len / 2);
        let pieces = [
            chunk(a.cookie, false, 2, &[&(a.at + half).to_be_bytes()[..], &(a.len / 4).to_be_bytes()].concat()),
            data_chunk(a.cookie, false, a.at, &vec![1; a.len as usize / 2]),
            data_chunk(a.cookie, true, a.at + half + half / 2, &vec![3; a.len as usize / 4]),
        ];
        pieces.concat()
    });
    let (result, buf) = block_on(server.disk().read(DiskOff(8192), IoBuf::copy_of(&[9; 2 * PAGE])));
    result.unwrap();
    assert!(buf[..PAGE].iter().all(|b| *b == 1) && buf[PAGE..PAGE * 3 / 2].iter().all(|b| *b == 0), "data, then the hole");
    assert!(buf[PAGE * 3 / 2..].iter().all(|b| *b == 3));
}

#[test]
fn larger_requests_are_split_and_joined() {
    for structured in [false, true] {
        let server = serving(FLAGS, structured, 3 * 4096 + 77, move |a| {
            assert!(a.len <= 3 * 4096, "{a:?}");
            let data: Vec<u8> = (0..a.len).map(|i| u8::try_from((a.at + u64::from(i)) / 4096).unwrap()).collect();
            match (a.command, structured) {
                (0, true) => data_chunk(a.cookie, true, a.at, &data),
                (0, false) => [simple(a.cookie, 0), data].concat(),
                _ => simple(a.cookie, 0),
            }
        });
        let disk = server.disk();
        let (result, buf) = read(&disk, 4096, 8 * PAGE);
        result.unwrap();
        assert!(buf.chunks(PAGE).zip(1..).all(|(page, n)| page.iter().all(|b| *b == n)));
        block_on(disk.write(DiskOff(0), IoBuf::zeroed(10 * PAGE).freeze())).unwrap();
    }
}

#[test]
fn an_error_of_the_server_is_its_answer() {
    let server = serving(FLAGS, true, 1 << 20, |a| match a.command {
        0 => [chunk(a.cookie, false, 0x8002, b"\0\0\0\x05\0\x03bad\0\0\0\0\0\0\0\0"), chunk(a.cookie, true, 0, &[])].concat(),
        1 => simple(a.cookie, 28),
        _ => simple(a.cookie, 999),
    });
    let disk = server.disk();
    let e = read(&disk, 0, PAGE).0.unwrap_err();
    assert_eq!((e.answer, e.errno), (Answer::Answered, libc::EIO));
    assert!(e.what.contains("(bad)"), "{e}");
    let e = block_on(disk.write(DiskOff(0), page(1))).unwrap_err();
    assert_eq!((e.answer, e.errno), (Answer::Answered, libc::ENOSPC));
    let e = block_on(disk.flush()).unwrap_err();
    assert_eq!((e.answer, e.errno), (Answer::Answered, libc::EIO));
    assert_eq!(disk.lost(), None);
}

#[test]
fn durable_writes_carry_fua_where_it_is_known_and_flush_elsewhere() {
    for (flags, expected) in
        [(FLAGS, vec![(1, 0), (1, 1), (3, 0)]), (1 | 1 << 2, vec![(1, 0), (1, 0), (3, 0), (3, 0)]), (1 | 1 << 3, vec![(1, 1), (1, 1)])]
    {
        let (tell, heard) = std::sync::mpsc::channel();
        let server = serving(flags, true, 1 << 20, move |a| {
            tell.send((a.command, a.flags)).unwrap();
            simple(a.cookie, 0)
        });
        let disk = server.disk();
        block_on(async {
            disk.write(DiskOff(0), page(1)).await?;
            disk.write_durable(DiskOff(0), page(1)).await?;
            disk.flush().await
        })
        .unwrap();
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), expected, "{flags:b}");
    }
}

#[test]
fn what_cannot_be_made_durable_is_opened_for_reading_only() {
    for (flags, errno) in [(1, libc::EOPNOTSUPP), (FLAGS | 2, libc::EROFS)] {
        let server = serving(flags, true, 1 << 20, |a| data_chunk(a.cookie, true, a.at, &vec![7; a.len as usize]));
        assert_eq!(server.open(OpenMode::ReadWrite).unwrap_err().errno, errno);
        let disk = server.open(OpenMode::Read).unwrap();
        read(&disk, 0, PAGE).0.unwrap();
        let e = block_on(disk.write(DiskOff(0), page(1))).unwrap_err();
        assert_eq!((e.answer, e.errno), (Answer::Answered, libc::EROFS));
    }
}

#[test]
fn in_clear_to_other_hosts_only_by_the_users_word() {
    let open = |uri: &str| block_on(NbdDisk::open(&uri.parse().unwrap(), OpenMode::Read, &quick())).unwrap_err();
    // TEST-NET-1 (RFC 5737): nobody is there.
    let e = open("nbd://192.0.2.1/x");
    assert_eq!(e.errno, libc::EACCES);
    assert!(e.what.contains("nbds://") && e.what.contains("insecure=1"), "{e}");
    assert_ne!(open("nbd://192.0.2.1/x?insecure=1").errno, libc::EACCES);
    assert_eq!(open("nbd://127.0.0.1:9/x").errno, libc::ECONNREFUSED);
}

#[test]
fn the_memory_of_a_dropped_read_is_not_given_up_before_its_answer() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = serving(FLAGS, true, 1 << 20, move |a| {
        if a.at == 0 {
            let _ = wait.lock().unwrap().recv();
        }
        data_chunk(a.cookie, true, a.at, &vec![7; a.len as usize])
    });
    let disk = server.disk();
    block_on(async {
        let read = std::pin::pin!(disk.read(DiskOff(0), IoBuf::zeroed(PAGE)));
        let pause = std::pin::pin!(crate::disk::ring::sleep(Duration::from_millis(50)));
        let _ = futures_util::future::select(read, pause).await;
    });
    go.send(()).unwrap();
    let (result, buf) = read(&disk, 4096, PAGE);
    result.unwrap();
    assert_eq!((buf[0], disk.lost()), (7, None));
}
