//! Frames of the data connection: there and back, cut anywhere, and lengths that lie.

use super::*;
use crate::ids::VolumeId;

fn io(verb: Verb, len: u32) -> Io {
    Io { verb, disk: DiskNo(1), at: DiskOff(8192), len, claim: Claim::Live { volume: VolumeId([3; 16]), au: VolAu(7) } }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn frame(message: &FromClient, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    run(send(&mut out, message, payload)).expect("it fits");
    out
}

#[test]
fn a_message_and_its_payload_arrive() {
    let sent = FromClient::Io { id: 9, io: io(Verb::Write, 4096) };
    let bytes = frame(&sent, &[5; 4096]);
    let (got, payload) = run(receive::<FromClient, _>(&mut &bytes[..], Limits::DATA, |n| vec![0; n])).expect("whole").expect("one");
    assert_eq!((got, &payload[..]), (sent, &[5; 4096][..]));
    for cut in 1..bytes.len() {
        assert!(run(receive::<FromClient, _>(&mut &bytes[..cut], Limits::DATA, |n| vec![0; n])).is_err(), "cut at {cut}");
    }
    assert!(run(receive::<FromClient, _>(&mut &[][..], Limits::DATA, |n| vec![0; n])).expect("an end").is_none());
}

#[test]
fn lengths_are_checked_before_memory_is_taken() {
    let open = FromClient::Open { session: SessionId([1; 16]) };
    let mut bytes = frame(&open, &[]);
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(run(receive::<FromClient, _>(&mut &bytes[..], Limits::DATA, |n| vec![0; n])), Err(FrameError::TooLong { .. })));
    let bytes = frame(&FromClient::Io { id: 1, io: io(Verb::Write, 4096) }, &[0; 4096]);
    assert!(matches!(
        run(receive::<FromClient, _>(&mut &bytes[..], Limits::DATA_UNOPENED, |n| vec![0; n])),
        Err(FrameError::TooLong { .. })
    ));
    assert!(matches!(run(receive::<FromManager, _>(&mut &bytes[..], Limits::DATA, |n| vec![0; n])), Err(FrameError::Kind(3))));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    assert!(fits(&io(Verb::Read, 4096), &[]).is_ok() && fits(&io(Verb::Write, 4096), &[0; 4096]).is_ok());
    for (bad, payload) in
        [(io(Verb::Read, 0), 0), (io(Verb::Read, 4096), 4096), (io(Verb::Read, 2 << 20), 0), (io(Verb::Write, 4096), 8192)]
    {
        assert!(fits(&bad, &vec![0; payload]).is_err());
    }
    assert!(fits(&io(Verb::Flush, 0), &[]).is_err(), "a flush has no place");
}
