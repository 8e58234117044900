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

#[test]
fn by_letter_or_by_connection_it_is_the_same_push() {
    let mut pushes = new();
    let Receive::Deliver(life) = pushes.by_letter(Generation(1), 1, &recall(1)).unwrap() else { panic!() };
    assert_eq!((pushes.by_letter(Generation(1), 1, &recall(1)).unwrap(), pushes.mailed()), (Receive::Known, None));
    pushes.answer(life, 1, Ack::Done);
    let done = Some(slot::Answer { push: 1, done: true });
    assert_eq!((out(&mut pushes), pushes.mailed()), (0, done), "nobody has asked over a connection");
    pushes.connected(Generation(1), SESSION);
    assert_eq!((pushes.received(1, &recall(1)).unwrap(), out(&mut pushes)), (Receive::Known, 1), "answered from memory");
    // The other way round: it is being handled, or was answered, when the letter comes.
    for answered in [false, true] {
        let mut pushes = new();
        let Receive::Deliver(life) = pushes.received(1, &recall(1)).unwrap() else { panic!() };
        let failed = || Ack::Failed(WireError { kind: Kind::Io, message: String::new(), hint: String::new() });
        if answered {
            pushes.answer(life, 1, failed());
            assert_eq!(pushes.mailed(), None);
        }
        assert_eq!(pushes.by_letter(Generation(1), 1, &recall(1)).unwrap(), Receive::Known);
        if !answered {
            pushes.answer(life, 1, failed());
        }
        assert_eq!(pushes.mailed(), Some(slot::Answer { push: 1, done: false }));
    }
}

#[test]
fn a_letter_of_a_manager_of_the_past_is_nobodys_and_one_of_the_next_begins_its_life() {
    let mut pushes = Pushes::new();
    assert_eq!(pushes.by_letter(Generation(1), 1, &recall(1)).unwrap(), Receive::Known, "no session was ever welcomed");
    pushes.connected(Generation(2), SESSION);
    assert_eq!(pushes.by_letter(Generation(1), 1, &recall(1)).unwrap(), Receive::Known);
    assert!(pushes.known.is_empty());
    assert!(matches!(pushes.by_letter(Generation(2), 5, &recall(1)).unwrap(), Receive::Deliver(_)));
    assert!(pushes.by_letter(Generation(2), 5, &recall(2)).is_err(), "another body");
    let Receive::Deliver(life) = pushes.by_letter(Generation(3), 9, &recall(1)).unwrap() else { panic!() };
    assert_eq!(pushes.by_letter(Generation(2), 6, &recall(3)).unwrap(), Receive::Known);
    pushes.answer(life, 9, Ack::Done);
    pushes.connected(Generation(3), SESSION);
    assert_eq!(
        (pushes.received(9, &recall(1)).unwrap(), out(&mut pushes)),
        (Receive::Known, 1),
        "its connection knows what its letters asked"
    );
}
