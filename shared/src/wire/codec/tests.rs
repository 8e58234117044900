//! Frames, whole and spoilt: what comes out is what went in, or an error; never a panic, never memory for a length that is not allowed.

use super::*;
use crate::error::{Kind, WireError};
use crate::ids::{BootId, SessionId, SnapshotId, VolumeId};
use crate::wire::messages::{Ack, Hello, PROTOCOL, Push, Request, VolumesChanged};
use proptest::prelude::*;
use tokio_util::codec::Decoder as _;

fn requests() -> Vec<FromClient> {
    let requests = Request::samples(VolumeId([1; 16]), SnapshotId([2; 16]));
    let mut all: Vec<_> = (1..).zip(requests).map(|(id, request)| FromClient::Request { id, request }).collect();
    all.push(FromClient::Ack { push: 5, ack: Ack::Done });
    all
}

fn hello(host_len: usize) -> FromClient {
    let host = "h".repeat(host_len);
    let (session, boot) = (SessionId([1; 16]), BootId([2; 16]));
    let hello = Hello { protocol: PROTOCOL, session, boot, host, program: "test".into(), resume: false };
    FromClient::Request { id: 0, request: Request::Hello(hello) }
}

/// All messages in `bytes`, and the error that ended them.
fn decode<M: Message>(bytes: &[u8], limits: Limits) -> (Vec<M>, Option<FrameError>) {
    let (mut src, mut decoder, mut found) = (BytesMut::from(bytes), Decoder::<M>::new(limits), Vec::new());
    loop {
        match decoder.decode_eof(&mut src) {
            Ok(Some(message)) => found.push(message),
            Ok(None) => return (found, None),
            Err(e) => return (found, Some(e)),
        }
    }
}

fn header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = encode(&hello(3)).unwrap().to_vec();
    change(&mut bytes);
    bytes
}

#[test]
fn every_request_comes_back_as_it_went() {
    let bytes: Vec<u8> = requests().iter().flat_map(|m| encode(m).unwrap()).collect();
    let (found, end) = decode::<FromClient>(&bytes, Limits::BEFORE_HELLO);
    assert!(end.is_none(), "{end:?}");
    assert_eq!(found, requests());
    let answer = FromManager::Reply { id: 3, result: Err(WireError { kind: Kind::Denied, message: "no".into(), hint: String::new() }) };
    let push = FromManager::Push { push: 9, body: Push::VolumesChanged(VolumesChanged {}) };
    let bytes = [encode(&answer).unwrap(), encode(&push).unwrap()].concat();
    assert_eq!(decode::<FromManager>(&bytes, Limits::OPEN).0, [answer, push]);
}

#[test]
fn found_whole_however_the_stream_is_cut() {
    let bytes: Vec<u8> = requests().iter().flat_map(|m| encode(m).unwrap()).collect();
    for step in [1, 2, 3, 7, 31, 32, 33, 100] {
        let (mut src, mut decoder, mut found) = (BytesMut::new(), Decoder::<FromClient>::new(Limits::BEFORE_HELLO), Vec::new());
        for part in bytes.chunks(step) {
            src.extend_from_slice(part);
            while let Some(message) = decoder.decode(&mut src).unwrap() {
                found.push(message);
            }
        }
        assert_eq!(found, requests(), "in steps of {step}");
    }
}

#[test]
fn golden_header() {
    let bytes = encode(&hello(3)).unwrap();
    let archive = bytes.len() - HEADER;
    assert_eq!(&bytes[..12], [b"FVWR\x01\x00\x01\x00", &u32::try_from(archive).unwrap().to_le_bytes()[..]].concat());
    assert_eq!(bytes[12..16], [0; 4]);
    assert_eq!(bytes[16..20], crc32c::crc32c(&[&bytes[..16], &bytes[HEADER..]].concat()).to_le_bytes());
    assert_eq!(bytes[20..32], [0; 12]);
}

#[test]
fn each_wrong_field_is_named() {
    type Check = fn(&FrameError) -> bool;
    let cases: [(&str, Vec<u8>, Check); 9] = [
        ("magic", header(|b| b[0] = b'G'), |e| matches!(e, FrameError::Magic(_))),
        ("plain text", b"GET / HTTP/1.1\r\nHost: manager.example\r\n\r\n".to_vec(), |e| matches!(e, FrameError::Magic(_))),
        ("version", header(|b| b[4] = 2), |e| matches!(e, FrameError::Version(2))),
        ("kind", header(|b| b[6] = 2), |e| matches!(e, FrameError::Kind(2))),
        ("flags", header(|b| b[7] = 1), |e| matches!(e, FrameError::Reserved)),
        ("reserved", header(|b| b[31] = 1), |e| matches!(e, FrameError::Reserved)),
        ("empty", header(|b| b[8..12].fill(0)), |e| matches!(e, FrameError::Empty)),
        ("payload", header(|b| b[12] = 1), |e| matches!(e, FrameError::TooLong { part: "payload", len: 1, limit: 0 })),
        ("checksum", header(|b| b[40] ^= 1), |e| matches!(e, FrameError::Checksum)),
    ];
    for (what, bytes, check) in cases {
        let (found, end) = decode::<FromClient>(&bytes, Limits::OPEN);
        assert!(found.is_empty() && end.as_ref().is_some_and(check), "{what}: {end:?}");
    }
}

#[test]
fn lengths_over_the_limit_are_refused_from_the_header_alone() {
    for (limits, limit) in [(Limits::BEFORE_HELLO, 64 << 10), (Limits::OPEN, 1 << 20)] {
        for len in [limit + 1, u32::MAX] {
            let bytes = header(|b| b[8..12].copy_from_slice(&len.to_le_bytes()));
            let mut src = BytesMut::from(&bytes[..HEADER]);
            let end = Decoder::<FromClient>::new(limits).decode(&mut src).unwrap_err();
            assert!(matches!(end, FrameError::TooLong { part: "message", .. }), "{end}");
            assert!(src.capacity() <= bytes.len(), "no memory was taken for it");
        }
    }
    let long = encode(&hello(70_000)).unwrap();
    assert!(matches!(decode::<FromClient>(&long, Limits::BEFORE_HELLO).1, Some(FrameError::TooLong { .. })));
    assert_eq!(decode::<FromClient>(&long, Limits::OPEN).0, [hello(70_000)]);
    assert!(matches!(encode(&hello(2 << 20)), Err(FrameError::TooLong { .. })), "nor is one made");
}

#[test]
fn an_au_size_out_of_range_is_no_welcome() {
    use crate::ids::{Generation, PoolId, SessionNo};
    use crate::units::AuSize;
    use crate::wire::messages::Welcome;
    let welcome = Welcome {
        session: SessionNo(1),
        pool: PoolId([3; 16]),
        pool_name: "san1".into(),
        au_size: AuSize::DEFAULT,
        lease_ms: 1000,
        generation: Generation(1),
        disks: vec![],
        slots: vec![],
        moves: 0,
        reservations: false,
    };
    let message = FromManager::Reply { id: 0, result: Ok(Reply::Welcome(welcome)) };
    let archive = message.to_archive().unwrap();
    let mut wrong = 0;
    for at in 0..archive.len() {
        let mut bytes = archive.clone();
        if bytes[at] != 20 {
            continue;
        }
        bytes[at] = 200;
        if let Err(FrameError::Malformed(why)) = FromManager::from_archive(&bytes) {
            wrong += usize::from(why.contains("2^200"));
        }
    }
    assert_eq!(wrong, 1);
}

#[tokio::test]
async fn a_reader_ends_between_frames_and_fails_within_one() {
    let frame = encode(&hello(3)).unwrap();
    for cut in 0..=frame.len() {
        let mut reader = Reader::<_, FromClient>::new(&frame[..cut], Limits::BEFORE_HELLO);
        match reader.next().await {
            Ok(Some(message)) => {
                assert_eq!((cut, message), (frame.len(), hello(3)));
                assert!(reader.next().await.unwrap().is_none());
            }
            Ok(None) => assert_eq!(cut, 0),
            Err(e) => assert!(matches!(e, FrameError::Half) && cut > 0 && cut < frame.len(), "at {cut}: {e}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Turned bytes are found out; by the checksum at the latest.
    #[test]
    fn mutated_frames_are_errors(which in 0..requests().len(), at in any::<prop::sample::Index>(), bits in 1u8..) {
        let mut bytes = encode(&requests()[which]).unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        let (found, end) = decode::<FromClient>(&bytes, Limits::BEFORE_HELLO);
        prop_assert!(found.is_empty() && end.is_some());
    }

    /// A peer that computes the checksum itself: bytecheck stands alone against its archive.
    #[test]
    fn hostile_archives_never_panic(which in 0..requests().len(), turns in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut archive = requests()[which].to_archive().unwrap();
        for (at, byte) in turns {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        let frame = [&Header::make(FrameKind::Client, &archive, Limits::OPEN).unwrap()[..], &archive].concat();
        let (found, end) = decode::<FromClient>(&frame, Limits::BEFORE_HELLO);
        prop_assert!(found.len() == 1 || end.is_some());
        let _ = FromManager::from_archive(&archive);
    }

    /// Any bytes at all.
    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), framed in any::<bool>()) {
        let mut archive = AlignedVec::new();
        archive.extend_from_slice(&bytes);
        let _ = (FromClient::from_archive(&archive), FromManager::from_archive(&archive));
        let head = if framed && !bytes.is_empty() { Header::make(FrameKind::Client, &bytes, Limits::OPEN).unwrap().to_vec() } else { vec![] };
        let _ = decode::<FromClient>(&[head, bytes].concat(), Limits::BEFORE_HELLO);
    }
}
