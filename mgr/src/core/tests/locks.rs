//! Byte-range locks: who gets them, who is told, and what becomes of them when a session or the manager ends.

use super::harness::*;
use crate::core::{AdminRequest, ConnId, Event};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::lock::{LAST_BYTE, LockKind, LockTable, Span};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::wire::lock::{GetLock, HeldLock, LOCKS_PER_SESSION, LockState, RetakeLocks, SetLock};
use fusevol_shared::wire::messages::{Ack, Detach, Goodbye, Push};
use std::collections::BTreeMap;
use std::time::Duration;

const READ: Option<LockKind> = Some(LockKind::Read);
const WRITE: Option<LockKind> = Some(LockKind::Write);

fn lock(volume: VolumeId, owner: u64, start: u64, end: u64, kind: Option<LockKind>) -> SetLock {
    SetLock { volume, owner, span: Span::new(start, end).expect("a span"), kind, pid: 9, wait: true }
}

/// Whether it is had; `None` where that is not known yet.
fn had(answer: &LockState) -> Option<bool> {
    (!answer.unknown).then_some(answer.conflict.is_none())
}

/// Two clients that have one volume open, for writing and for reading.
fn two() -> (World, VolumeId, ConnId, ConnId) {
    let mut w = World::new(2, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    w.client(2, "db", "read");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    w.attach(a, v);
    w.read(b, v);
    (w, v, a, b)
}

fn told(w: &World, conn: ConnId) -> Option<u64> {
    w.find(conn, |p| matches!(p, Push::LocksFreed(_)).then_some(())).map(|(n, ())| n)
}

#[test]
fn the_second_is_refused_and_told_when_it_may_ask_again() {
    let (mut w, v, a, b) = two();
    assert_eq!(had(&w.ok(a, lock(v, 1, 100, 199, READ))), Some(true));
    assert_eq!(had(&w.ok(b, lock(v, 1, 100, 100, READ))), Some(true), "readers beside each other");
    let refused = w.ok(b, lock(v, 1, 50, 120, WRITE));
    assert_eq!(refused.conflict.map(|p| (p.span.start(), p.span.end(), p.pid)), Some((100, 199, 9)));
    let asked = GetLock { volume: v, owner: 1, span: Span::ALL, kind: LockKind::Write };
    assert_eq!(w.ok(b, asked).conflict, refused.conflict);
    assert_eq!(told(&w, b), None);
    w.ok(a, lock(v, 1, 0, 99, None));
    assert_eq!(told(&w, b), None, "nothing was given back");
    w.ok(a, lock(v, 1, 100, 150, None));
    let push = told(&w, b).expect("told");
    w.ok(a, lock(v, 1, 151, 199, None));
    w.ack(b, push, Ack::Done);
    assert_eq!(told(&w, b), None, "told once for each time that it asked");
    assert_eq!(had(&w.ok(b, lock(v, 1, 50, 120, WRITE))), Some(true));
    assert_eq!(had(&w.ok(b, lock(v, 1, 50, 120, WRITE))), Some(true), "asked twice, it is done once");
    assert_eq!(had(&w.ok(b, lock(v, 2, 50, 50, READ))), Some(false), "another owner of the same session");
}

#[test]
fn the_end_of_a_session_gives_its_locks_back_and_a_detach_does_not() {
    let (mut w, v, a, b) = two();
    w.ok(a, lock(v, 1, 0, LAST_BYTE, WRITE));
    w.ok(a, Detach { volume: v });
    assert_eq!(had(&w.ok(b, lock(v, 1, 0, 0, READ))), Some(false), "it may be on its way to attach in another way");
    w.ok(a, Goodbye {});
    assert!(told(&w, b).is_some());
    assert_eq!(had(&w.ok(b, lock(v, 1, 0, 0, READ))), Some(true));
}

#[test]
fn a_session_that_is_dead_holds_nothing() {
    let (mut w, v, a, b) = two();
    w.ok(a, lock(v, 1, 0, 0, READ));
    w.ok(b, lock(v, 1, 0, 0, READ));
    assert_eq!(had(&w.ok(a, lock(v, 1, 0, 0, WRITE))), Some(false));
    w.disconnect(b);
    w.wait(Duration::from_secs(1));
    let probed = *w.probes().last().expect("its byte lock is asked for");
    w.step(Event::LockProbed { session: probed, held: false });
    assert!(told(&w, a).is_some());
    assert_eq!(had(&w.ok(a, lock(v, 1, 0, 0, WRITE))), Some(true));
}

#[test]
fn who_has_to_give_the_volume_back_holds_nothing() {
    let (mut w, v, a, b) = two();
    w.ok(b, lock(v, 1, 7, 9, READ));
    assert_eq!(had(&w.ok(a, lock(v, 1, 8, 8, WRITE))), Some(false));
    w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host2".into(), rights: Some("read".parse().expect("a right")) });
    let (recall, ()) = w.find(b, |p| matches!(p, Push::Recall(_)).then_some(())).expect("recalled");
    assert_eq!(had(&w.ok(b, lock(v, 1, 7, 7, None))), Some(true), "an unlock needs no right");
    w.ack(b, recall, Ack::Done);
    assert_eq!(had(&w.ok(a, lock(v, 1, 8, 8, WRITE))), Some(true));
}

/// The grace period: nobody gets a lock where somebody may hold one of whom the new manager knows nothing.
#[test]
fn a_new_manager_gives_no_lock_away_before_it_knows_who_holds_what() {
    let (mut w, v, a, _) = two();
    assert_eq!(had(&w.ok(a, lock(v, 1, 100, 100, WRITE))), Some(true));
    let held = HeldLock { volume: v, owner: 1, piece: piece() };
    w.restart();
    let b = w.resume(2, 2);
    assert_eq!(had(&w.ok(b, lock(v, 1, 5, 5, READ))), None);
    assert_eq!(w.ok(b, RetakeLocks { locks: vec![] }).lost, []);
    assert_eq!(had(&w.ok(b, lock(v, 1, 5, 5, READ))), None, "the other is not heard yet");
    w.wait(LEASE * 20);
    let (a, b) = (w.resume(1, 1), w.resume(2, 2));
    assert_eq!(had(&w.ok(a, lock(v, 1, 5, 5, READ))), None, "also for itself");
    assert_eq!(w.ok(a, RetakeLocks { locks: vec![held.clone()] }).lost, []);
    assert_eq!(w.ok(a, RetakeLocks { locks: vec![held.clone()] }).lost, [], "asked twice, it is done once");
    assert_eq!(had(&w.ok(b, lock(v, 1, 100, 100, READ))), Some(false));
    assert_eq!(had(&w.ok(b, lock(v, 1, 99, 99, READ))), Some(true));
    assert_eq!(w.ok(b, RetakeLocks { locks: vec![held.clone()] }).lost, [held], "what another has is not taken");
}

fn piece() -> fusevol_shared::lock::Piece {
    fusevol_shared::lock::Piece { span: Span::new(100, 100).expect("a span"), kind: LockKind::Write, pid: 9 }
}

/// Who is told when the last of whom nothing was known is over, and by which way that comes: its byte lock.
#[test]
fn a_holder_that_died_with_the_manager_is_not_waited_for_for_ever() {
    let (mut w, v, a, _) = two();
    w.ok(a, lock(v, 1, 0, 0, WRITE));
    w.restart();
    let b = w.resume(2, 2);
    w.ok(b, RetakeLocks { locks: vec![] });
    assert_eq!(had(&w.ok(b, lock(v, 1, 0, 0, READ))), None);
    w.wait(Duration::from_secs(1));
    for session in w.probes() {
        w.step(Event::LockProbed { session, held: false });
    }
    assert!(told(&w, b).is_some());
    assert_eq!(had(&w.ok(b, lock(v, 1, 0, 0, READ))), Some(true));
}

/// One of another host that only reads: it is sealed, since somebody wants what it holds.
#[test]
fn a_lost_reader_of_another_host_is_sealed_for_its_locks() {
    let mut w = World::new(2, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    w.client(2, "db", "read");
    let a = w.open(1, 1);
    w.attach(a, v);
    let b = w.connect(2);
    w.hello(b, 2, OTHER_BOOT, false).expect("welcome");
    w.read(b, v);
    w.ok(b, lock(v, 1, 0, 0, READ));
    w.disconnect(b);
    let renew = |w: &mut World| w.ok(a, fusevol_shared::wire::messages::Renew {});
    for _ in 0..40 {
        renew(&mut w);
        w.wait(LEASE / 4);
    }
    assert_eq!(had(&w.ok(a, lock(v, 1, 0, 0, WRITE))), Some(false), "held, until somebody wants it");
    for _ in 0..40 {
        renew(&mut w);
        w.wait(LEASE / 4);
    }
    assert_eq!(had(&w.ok(a, lock(v, 1, 0, 0, WRITE))), Some(true));
}

#[test]
fn limits_and_nonsense() {
    let (mut w, v, a, _) = two();
    for n in 0..LOCKS_PER_SESSION as u64 {
        assert_eq!(had(&w.ok(a, lock(v, 1, 2 * n, 2 * n, READ))), Some(true));
    }
    assert_eq!(w.refused(a, lock(v, 1, LAST_BYTE, LAST_BYTE, READ)), Kind::NoSpace);
    assert_eq!(had(&w.ok(a, lock(v, 1, 0, LAST_BYTE, None))), Some(true));
    assert_eq!(had(&w.ok(a, lock(v, 1, LAST_BYTE, LAST_BYTE, READ))), Some(true));
    let one = HeldLock { volume: v, owner: 1, piece: piece() };
    assert_eq!(w.refused(a, RetakeLocks { locks: vec![one.clone(); LOCKS_PER_SESSION + 1] }), Kind::Refused);
    let elsewhere = HeldLock { volume: VolumeId([99; 16]), ..one };
    assert_eq!(w.ok(a, RetakeLocks { locks: vec![elsewhere.clone()] }).lost, [elsewhere]);
}

/// What one session believes to hold.
type Believed = LockTable<u64>;

/// Sessions lock and unlock at random, the manager is restarted, each retakes what it believes to hold: no two ever believe what conflicts, and
/// the manager gives exactly what a table of all beliefs would.
#[test]
fn random_lockers_and_restarts_agree_with_one_table() {
    for seed in 0..40 {
        let mut r = SeededRandom(seed);
        let mut w = World::new(2, 64);
        let v = w.volume("db", 1 << 30);
        let keys = [1_u8, 2, 3];
        let mut conns = BTreeMap::new();
        for key in keys {
            w.client(key, "db", "read,write");
            let c = w.open(key, key);
            if key == 1 {
                _ = w.attach(c, v)
            } else {
                _ = w.read(c, v)
            };
            conns.insert(key, c);
        }
        let mut believed: BTreeMap<u8, Believed> = keys.into_iter().map(|k| (k, Believed::default())).collect();
        let mut unknown: Vec<u8> = Vec::new();
        for _ in 0..200 {
            if r.below(40) == 0 {
                w.restart();
                for key in keys {
                    conns.insert(key, w.resume(key, key));
                }
                unknown = keys.to_vec();
            }
            let key = keys[usize::try_from(r.below(3)).expect("small")];
            let conn = conns[&key];
            if unknown.contains(&key) && r.below(2) == 0 {
                let locks = believed[&key].iter().map(|(owner, piece)| HeldLock { volume: v, owner, piece }).collect();
                assert_eq!(w.ok(conn, RetakeLocks { locks }).lost, [], "seed {seed}");
                unknown.retain(|k| *k != key);
                continue;
            }
            let (owner, x, y) = (r.below(2), r.below(16), r.below(16));
            let span = Span::new(x.min(y), x.max(y)).expect("a span");
            let kind = [None, READ, WRITE][usize::try_from(r.below(3)).expect("small")];
            let answer = w.ok(conn, SetLock { volume: v, owner, span, kind, pid: 1, wait: false });
            let all = all(&believed);
            let expected = match kind {
                None => Some(true),
                // Before it has said what it holds, a manager does not know that it holds it.
                Some(k) if !unknown.contains(&key) && all.covers((key, owner), span, k) => Some(true),
                Some(k) if unknown.is_empty() => Some(all.conflict((key, owner), span, k).is_none()),
                Some(_) => had(&answer).filter(|h| !h),
            };
            assert_eq!(had(&answer), expected, "seed {seed}: {key} {owner} {span:?} {kind:?}, unknown {unknown:?}");
            if expected == Some(true) {
                believed.get_mut(&key).expect("known").set(owner, span, kind, 1);
            }
            w.effects.clear();
        }
    }
}

fn all(believed: &BTreeMap<u8, Believed>) -> LockTable<(u8, u64)> {
    let mut all = LockTable::default();
    for (key, table) in believed {
        for (owner, p) in table.iter() {
            assert!(all.conflict((*key, owner), p.span, p.kind).is_none(), "two hold what conflicts");
            all.set((*key, owner), p.span, Some(p.kind), p.pid);
        }
    }
    all
}
