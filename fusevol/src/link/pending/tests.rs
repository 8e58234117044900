//! Requests are sent in order, again after a lost connection, and answered once.

use super::*;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{Done, GetMap, ListVolumes};
use tokio::sync::oneshot::Receiver;

type Waiting = Receiver<Result<(Reply, BootTime)>>;

fn ask(pending: &mut Pending) -> (u64, Waiting) {
    let (answer, waiting) = oneshot::channel();
    (pending.add(ListVolumes {}.into(), answer).unwrap(), waiting)
}

/// Ids of what is sent on this connection, as far as the limit allows.
fn sent(pending: &mut Pending, now: u64) -> Vec<u64> {
    let mut ids = Vec::new();
    while let Some(frame) = pending.next(BootTime(now)) {
        let before = ids.len();
        ids.extend(pending.calls.iter().filter(|(id, e)| e.frame == frame && !ids.contains(*id)).map(|(id, _)| *id).collect::<Vec<_>>());
        assert_eq!(ids.len(), before + 1);
    }
    ids
}

fn done() -> std::result::Result<Reply, WireError> {
    Ok(Done {}.into())
}

#[test]
fn unanswered_requests_go_again_in_order_with_the_same_bytes() {
    let mut pending = Pending::new();
    let mut waiting: Vec<_> = (0..5).map(|_| ask(&mut pending).1).collect();
    assert_eq!(sent(&mut pending, 10), [1, 2, 3, 4, 5]);
    pending.answered(2, done()).unwrap();
    pending.answered(4, done()).unwrap();
    waiting.push(ask(&mut pending).1);
    let first = pending.calls[&1].frame.clone();
    pending.connected();
    assert_eq!(sent(&mut pending, 20), [1, 3, 5, 6]);
    assert_eq!(pending.calls[&1].frame, first);
    for id in [6, 5, 3, 1] {
        pending.answered(id, done()).unwrap();
    }
    let times: Vec<_> = waiting.iter_mut().map(|w| w.try_recv().unwrap().unwrap().1.0).collect();
    assert_eq!(times, [20, 10, 20, 10, 20, 20], "the time is that of the sending that was answered");
    assert!(!pending.owed());
}

#[test]
fn an_answer_to_what_is_not_open_is_the_managers_fault() {
    let mut pending = Pending::new();
    let (id, mut waiting) = ask(&mut pending);
    assert!(pending.answered(id, done()).is_err(), "not sent yet");
    sent(&mut pending, 1);
    pending.answered(id, done()).unwrap();
    assert!(waiting.try_recv().is_ok());
    assert!(pending.answered(id, done()).is_err(), "answered twice");
    assert!(pending.answered(0, done()).is_err());
}

#[test]
fn in_flight_and_waiting_are_limited() {
    let mut pending = Pending::new();
    let waiting: Vec<_> = (0..CALLS_MAX).map(|_| ask(&mut pending)).collect();
    let (answer, _w) = oneshot::channel();
    assert_eq!(pending.add(ListVolumes {}.into(), answer).unwrap_err().kind(), Kind::Busy);
    assert_eq!(sent(&mut pending, 1).len(), IN_FLIGHT_MAX);
    pending.answered(waiting[0].0, done()).unwrap();
    assert_eq!(sent(&mut pending, 1).len(), 1);
}

#[test]
fn an_abandoned_call_fails_once_and_is_not_sent_again() {
    let mut pending = Pending::new();
    let (first, mut waiting) = ask(&mut pending);
    ask(&mut pending);
    assert_eq!(sent(&mut pending, 1), [1, 2]);
    pending.abandon(first, Error::new(Kind::Unreachable, "late"));
    assert_eq!(waiting.try_recv().unwrap().unwrap_err().kind(), Kind::Unreachable);
    pending.answered(first, done()).unwrap();
    pending.connected();
    assert_eq!(sent(&mut pending, 2), [2]);
}

#[test]
fn the_end_fails_all_and_a_new_begin_takes_calls_again() {
    let mut pending = Pending::new();
    let (_, mut waiting) = ask(&mut pending);
    sent(&mut pending, 1);
    let why = WireError { kind: Kind::Lapsed, message: "over".into(), hint: String::new() };
    pending.end(&why);
    assert_eq!(waiting.try_recv().unwrap().unwrap_err().kind(), Kind::Lapsed);
    let (answer, _w) = oneshot::channel();
    assert_eq!(pending.add(ListVolumes {}.into(), answer).unwrap_err().kind(), Kind::Lapsed);
    pending.reopen();
    assert_eq!(ask(&mut pending).0, 2, "ids are not used again");
    pending.connected();
    assert_eq!(sent(&mut pending, 2), [2]);
}

#[test]
fn a_request_too_long_is_refused_where_it_is_made() {
    use fusevol_shared::ids::VolumeId;
    use fusevol_shared::wire::messages::CreateSnapshot;
    let mut pending = Pending::new();
    let (answer, _w) = oneshot::channel();
    let long = CreateSnapshot { volume: VolumeId([1; 16]), id: Default::default(), name: "n".repeat(2 << 20) };
    assert_eq!(pending.add(long.into(), answer).unwrap_err().kind(), Kind::Refused);
    let (answer, _w) = oneshot::channel();
    assert_eq!(pending.add(GetMap { volume: VolumeId([1; 16]), from: VolAu(0) }.into(), answer).unwrap(), 1);
}
