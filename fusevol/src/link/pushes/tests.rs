//! Pushes are handed on once and answered as often as they are repeated.

use super::*;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::wire::messages::{Recall, VolumesChanged};

const SESSION: SessionId = SessionId([1; 16]);

fn changed() -> Push {
    Push::VolumesChanged(VolumesChanged {})
}

fn recall(n: u8) -> Push {
    Push::Recall(Recall { volume: VolumeId([n; 16]), reason: String::new() })
}

fn out(pushes: &mut Pushes) -> usize {
    std::iter::from_fn(|| pushes.next()).count()
}

fn new() -> Pushes {
    let mut pushes = Pushes::new();
    pushes.connected(Generation(1), SESSION);
    pushes
}

#[test]
fn handed_on_once_and_answered_from_memory() {
    let mut pushes = new();
    let Receive::Deliver(life) = pushes.received(1, &changed()).unwrap() else { panic!() };
    pushes.answer(life, 1, Ack::Done);
    assert_eq!(out(&mut pushes), 1);
    for _ in 0..3 {
        pushes.connected(Generation(1), SESSION);
        assert_eq!(out(&mut pushes), 0, "not before it has come on this connection");
        assert_eq!(pushes.received(1, &changed()).unwrap(), Receive::Known);
        assert_eq!(out(&mut pushes), 1);
    }
}

#[test]
fn an_answer_without_its_connection_waits_for_the_repetition() {
    let mut pushes = new();
    let Receive::Deliver(life) = pushes.received(1, &changed()).unwrap() else { panic!() };
    pushes.connected(Generation(1), SESSION);
    pushes.answer(life, 1, Ack::Done);
    assert_eq!(out(&mut pushes), 0);
    assert_eq!(pushes.received(1, &changed()).unwrap(), Receive::Known);
    assert_eq!(out(&mut pushes), 1);
}

#[test]
fn repeated_while_it_is_handled_it_is_answered_there() {
    let mut pushes = new();
    let Receive::Deliver(life) = pushes.received(1, &changed()).unwrap() else { panic!() };
    pushes.connected(Generation(1), SESSION);
    assert_eq!(pushes.received(1, &changed()).unwrap(), Receive::Known);
    assert_eq!(out(&mut pushes), 0);
    pushes.answer(life, 1, Ack::Done);
    assert_eq!(out(&mut pushes), 1);
}

#[test]
fn another_manager_or_session_begins_anew() {
    for (generation, session) in [(Generation(2), SESSION), (Generation(1), SessionId([2; 16]))] {
        let mut pushes = new();
        let Receive::Deliver(old) = pushes.received(1, &changed()).unwrap() else { panic!() };
        pushes.connected(generation, session);
        let Receive::Deliver(life) = pushes.received(1, &changed()).unwrap() else { panic!() };
        pushes.answer(old, 1, Ack::Done);
        assert_eq!(out(&mut pushes), 0, "the old answer is not for this push");
        pushes.answer(life, 1, Ack::Done);
        assert_eq!(out(&mut pushes), 1);
    }
}

#[test]
fn one_number_for_two_pushes_is_the_managers_fault() {
    let mut pushes = new();
    pushes.received(1, &recall(1)).unwrap();
    assert!(pushes.received(1, &recall(1)).is_err(), "twice on one connection");
    pushes.connected(Generation(1), SESSION);
    assert!(pushes.received(1, &recall(2)).is_err(), "another body");
}

#[test]
fn memory_is_bounded_and_forgets_what_is_answered() {
    let mut pushes = new();
    for push in 0..MEMORY as u64 {
        pushes.received(push, &changed()).unwrap();
    }
    assert!(pushes.received(9999, &changed()).is_err(), "all wait");
    pushes.answer(1, 5, Ack::Done);
    pushes.received(9999, &changed()).unwrap();
    assert_eq!(pushes.known.len(), MEMORY);
    assert!(!pushes.known.contains_key(&5));
}
