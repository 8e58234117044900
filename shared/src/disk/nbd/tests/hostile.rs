//! What a server must not say, at each place where it can say something.

use super::*;

/// Longer than any limit of `quick`.
const SOON: Duration = Duration::from_secs(5);

fn soon<T>(f: impl FnOnce() -> T) -> T {
    use crate::clock::{Clock, SystemClock};
    let began = SystemClock.now();
    let value = f();
    assert!(SystemClock.now() < began.plus(SOON), "it hung");
    value
}

#[test]
fn a_negotiation_that_ends_at_any_byte_is_an_error() {
    for structured in [false, true] {
        let whole = negotiation(FLAGS, structured, 1 << 20);
        for n in 0..whole.len() {
            let part = whole[..n].to_vec();
            let server = Scripted::new(move |mut s| s.write_all(&part));
            let e = soon(|| server.open(OpenMode::Read)).unwrap_err();
            assert_eq!(e.answer, Answer::Answered, "{n}: {e}");
        }
    }
}

#[test]
fn a_negotiation_that_stops_is_given_up() {
    let whole = negotiation(FLAGS, true, 1 << 20);
    for n in [0, 17, 18, 30, 38, 60, whole.len() - 1] {
        let part = whole[..n].to_vec();
        let server = Scripted::new(move |mut s| {
            s.write_all(&part)?;
            s.read_to_end(&mut Vec::new()).map(drop)
        });
        assert_eq!(soon(|| server.open(OpenMode::Read)).unwrap_err().errno, libc::ETIMEDOUT, "{n}");
    }
}

#[test]
fn a_negotiation_with_any_byte_changed_ends() {
    let whole = negotiation(FLAGS, true, 1 << 20);
    for n in 0..whole.len() {
        let mut changed = whole.clone();
        changed[n] ^= 0x81;
        let server = Scripted::new(move |mut s| s.write_all(&changed));
        // Most are errors; a size, a flag or a text may be another one.
        let _ = soon(|| server.open(OpenMode::Read));
    }
}

#[test]
fn answers_that_cannot_be_are_refused() {
    let structured = option_reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]);
    let export = |size, flags| option_reply(OPT_GO, REP_INFO, &info_export(size, flags));
    let done = option_reply(OPT_GO, REP_ACK, &[]);
    let mut giant = option_reply(OPT_GO, REP_INFO, &[]);
    giant[16..20].fill(0xff);
    let blocks = |min, max| option_reply(OPT_GO, REP_INFO, &info_blocks(min, max));
    let cases: [(&str, Vec<u8>, i32); 11] = [
        ("giant", giant, libc::EPROTO),
        ("no size", done.clone(), libc::EPROTO),
        ("no flags", [export(SIZE, 0), done.clone()].concat(), libc::EPROTO),
        ("too large", [export(u64::MAX, FLAGS), done.clone()].concat(), libc::EPROTO),
        ("another option", option_reply(3, REP_ACK, &[]), libc::EPROTO),
        ("for ever", export(SIZE, FLAGS).repeat(100), libc::EPROTO),
        ("odd blocks", [export(SIZE, FLAGS), blocks(3, 1 << 20), done.clone()].concat(), libc::EPROTO),
        ("large blocks", [export(SIZE, FLAGS), blocks(1 << 16, 1 << 20), done.clone()].concat(), libc::EINVAL),
        ("small requests", [export(SIZE, FLAGS), blocks(1, 512), done.clone()].concat(), libc::EINVAL),
        ("unknown", option_reply(OPT_GO, wire::REP_ERR_UNKNOWN, b"no such"), libc::ENOENT),
        ("TLS", option_reply(OPT_GO, wire::REP_ERR_TLS_REQD, &[0xff; 2000]), libc::EACCES),
    ];
    for (what, answer, errno) in cases {
        let said = [greeting(), structured.clone(), answer].concat();
        let server = Scripted::new(move |mut s| {
            s.write_all(&said)?;
            s.read_to_end(&mut Vec::new()).map(drop)
        });
        let e = soon(|| server.open(OpenMode::Read)).unwrap_err();
        assert_eq!(e.errno, errno, "{what}: {e}");
    }
}

/// A reply to the first read; whatever it is, the read ends as not returned, and the disk is lost.
fn lost_by(what: &str, structured: bool, reply: impl Fn(&Asked) -> Vec<u8> + Send + 'static) {
    let server = serving(FLAGS, structured, 1 << 20, reply);
    let disk = server.disk();
    let (result, buf) = soon(|| read(&disk, 4096, 2 * PAGE));
    let e = result.expect_err(what);
    assert_eq!((e.answer, buf.len()), (Answer::NotReturned, 2 * PAGE), "{what}: {e}");
    assert!(matches!(e.errno, libc::ENOTCONN | libc::ETIMEDOUT), "{what}: {e}");
    assert!(disk.lost().is_some(), "{what}");
    for e in [block_on(disk.write(DiskOff(0), page(1))), block_on(disk.flush()), read(&disk, 0, PAGE).0].map(Result::unwrap_err) {
        assert_eq!((e.answer, e.errno), (Answer::Answered, libc::ENOTCONN), "{what}: {e}");
    }
    block_on(disk.until_lost());
}

#[test]
fn replies_that_cannot_be_end_the_disk() {
    let full = |a: &Asked| vec![5; a.len as usize];
    lost_by("nothing", true, |_| Vec::new());
    lost_by("half a header", true, |a| simple(a.cookie, 0)[..9].to_vec());
    lost_by("no magic", true, |_| vec![0; 64]);
    lost_by("a simple reply to a read", true, move |a| [simple(a.cookie, 0), full(a)].concat());
    lost_by("chunks that nobody agreed on", false, move |a| data_chunk(a.cookie, true, a.at, &full(a)));
    lost_by("an unknown cookie", true, |a| simple(a.cookie + 1, 5));
    lost_by("a giant cookie", true, |_| simple(u64::MAX, 5));
    lost_by("data left out", true, |a| data_chunk(a.cookie, true, a.at, &[1; 4096]));
    lost_by("no data at all", true, |a| chunk(a.cookie, true, 0, &[]));
    lost_by("data twice", true, |a| data_chunk(a.cookie, false, a.at, &[1; 4096]).repeat(2));
    lost_by("data before the range", true, |a| data_chunk(a.cookie, true, a.at - 1, &[1; 4096]));
    lost_by("data behind the range", true, |a| data_chunk(a.cookie, true, a.at + 4097, &[1; 4096]));
    lost_by("an empty piece", true, |a| data_chunk(a.cookie, false, a.at, &[]));
    lost_by("a giant length", true, |a| {
        let mut giant = data_chunk(a.cookie, true, a.at, &[1; 100]);
        giant[16..20].fill(0xff);
        giant
    });
    lost_by("a hole of another length", true, |a| chunk(a.cookie, true, 2, &[0; 13]));
    lost_by("a giant hole", true, |a| chunk(a.cookie, true, 2, &[&a.at.to_be_bytes()[..], &[0xff; 4]].concat()));
    lost_by("nothing, and not the end", true, |a| chunk(a.cookie, false, 0, &[]));
    lost_by("an unknown chunk", true, |a| chunk(a.cookie, false, 77, &[0; 8]));
    lost_by("an error chunk that lies about its text", true, |a| chunk(a.cookie, true, 0x8001, b"\0\0\0\x05\xff\xffx"));
    lost_by("an error chunk that is too long", true, |a| chunk(a.cookie, true, 0x8001, &[0; 5000]));
    lost_by("an error that is none", true, |a| chunk(a.cookie, true, 0x8001, &[0; 6]));
    lost_by("errors without an end", true, |a| chunk(a.cookie, false, 0x8001, b"\0\0\0\x05\0\0"));
}

#[test]
fn a_reply_behind_the_last_one_ends_the_disk() {
    let server = serving(FLAGS, true, 1 << 20, |a| simple(a.cookie, 5).repeat(2));
    let disk = server.disk();
    // The first is an answer; what follows is a reply to something that was not asked.
    let e = block_on(disk.write(DiskOff(0), page(1))).unwrap_err();
    assert_eq!((e.answer, e.errno), (Answer::Answered, libc::EIO));
    soon(|| block_on(disk.until_lost()));
}

#[test]
fn any_bytes_end() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let bytes: Vec<u8> = (0..random() % 120).flat_map(|_| random().to_be_bytes()).collect();
        let (head, kind) = (random() % 4, u16::try_from(random() % 4).unwrap());
        let server = serving(FLAGS, true, 1 << 20, move |a| {
            let head = match head {
                0 => Vec::new(),
                1 => simple(a.cookie, 0),
                2 => chunk(a.cookie, false, kind, &[])[..16].to_vec(),
                _ => data_chunk(a.cookie, false, a.at, &[1; 512]),
            };
            [head, bytes.clone()].concat()
        });
        let disk = server.disk();
        let (_, buf) = soon(|| read(&disk, 4096, 2 * PAGE));
        assert_eq!(buf.len(), 2 * PAGE, "round {round}");
    }
}

#[test]
fn a_server_that_does_not_read_is_given_up() {
    let server = Scripted::new(|mut s| {
        s.write_all(&negotiation(FLAGS, true, 1 << 20))?;
        hear_negotiation(&mut s)?;
        std::thread::park_timeout(SOON);
        Ok(())
    });
    let disk = server.disk();
    let writes = (0..64).map(|_| disk.write(DiskOff(0), IoBuf::zeroed(1 << 20).freeze()));
    let ends = soon(|| block_on(join_all(writes)));
    let (open, unsent): (Vec<_>, Vec<_>) = ends.into_iter().map(Result::unwrap_err).partition(|e| e.answer == Answer::NotReturned);
    assert!(open.iter().all(|e| e.errno == libc::ETIMEDOUT), "{open:?}");
    // No more than 16 MiB are under way on a connection; fewer where the first were sent before the others had come.
    assert!((1..=16).contains(&open.len()), "{} were sent", open.len());
    assert_eq!(open.len() + unsent.len(), 64);
}
