//! Fencing: who is cut off and when, what counts as the proof, and what the pool's policy changes.

use super::harness::*;
use super::writer::{Writer, mask};
use crate::catalog::record::Fencing;
use crate::core::{AdminReply, AdminRequest, ConnId, Effect, Event, FenceFor, Fenced};
use fusevol_shared::change::Entry;
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{BootId, SessionNo, VolumeId};
use fusevol_shared::wire::messages::{AttachWrite, Renew};
use std::time::Duration;

const S: SessionNo = SessionNo(0);

fn done() -> Fenced {
    Fenced::Done { agents: "pdu".into(), said: "port 7 is off".into() }
}

/// A writer of another boot, which is lost, with one block that is not folded; and a client of this boot.
fn lost() -> (World, VolumeId, Writer, ConnId) {
    lost_in(World::new(2, 100))
}

fn lost_in(mut w: World) -> (World, VolumeId, Writer, ConnId) {
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, false).expect("welcome");
    let b = w.open(2, 2);
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..1);
    wr.append(&mut w, vec![Entry::Written { masks: vec![mask(0, 1)] }]);
    w.disconnect(a);
    wait(&mut w, b, LEASE * 2);
    (w, v, wr, b)
}

/// Time goes by; `b` keeps its lease.
fn wait(w: &mut World, b: ConnId, d: Duration) {
    let mut left = d;
    while !left.is_zero() {
        let step = left.min(LEASE / 2);
        w.wait(step);
        w.ok(b, Renew {});
        left -= step;
    }
}

/// Who was to be cut off (or let in) since this was asked last.
fn asked(w: &mut World) -> Vec<(FenceFor, String, bool)> {
    let of = |e: &Effect| if let Effect::Fence { asked, client, on, .. } = e { Some((*asked, client.clone(), *on)) } else { None };
    let all = w.effects.iter().filter_map(of).collect();
    w.effects.retain(|e| !matches!(e, Effect::Fence { .. }));
    all
}

fn events(w: &mut World) -> Vec<(String, String)> {
    let AdminReply::Events(all) = w.admin(AdminRequest::Events { after: 0, limit: 1000 }) else { panic!("events") };
    all.into_iter().map(|n| (n.what, n.text)).collect()
}

fn said(w: &mut World, what: &str) -> Option<String> {
    events(w).into_iter().rev().find(|(w, _)| w == what).map(|(_, text)| text)
}

fn off() -> (FenceFor, String, bool) {
    (FenceFor::Session(S), "host1".into(), false)
}

#[test]
fn a_lost_writer_is_cut_off_once_somebody_wants_its_volume_and_then_succeeded() {
    let (mut w, v, _, b) = lost();
    assert_eq!(asked(&mut w), [], "nobody wants it");
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    assert_eq!(asked(&mut w), [off()]);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    assert_eq!(asked(&mut w), [], "it is asked already");
    let began = w.now;
    w.step(Event::Fenced { asked: FenceFor::Session(S), fenced: done() });
    assert!(w.shadow.session(S).is_some(), "what it read is over only with its lease");
    while w.shadow.session(S).is_some() {
        wait(&mut w, b, LEASE / 8);
    }
    assert!(Duration::from_nanos(w.now - began) < LEASE * 2);
    assert!(w.disks.slots[&S], "its slot is sealed, too");
    assert!(said(&mut w, "client-fenced").expect("said").contains("fenced by agent pdu: port 7 is off"));
    assert!(said(&mut w, "session-dead").expect("said").contains("fenced by agent pdu, and its lease is over"));
    assert_eq!(w.shadow.volume(v).expect("there").map.written_blocks(), 1, "what it had answered is there");
    w.attach(b, v);
}

#[test]
fn required_without_an_agent_or_with_one_that_fails_keeps_all_held_and_tries_again() {
    let (mut w, v, _, b) = lost();
    w.admin(AdminRequest::PoolSet { fencing: Fencing::Required });
    w.disks.fence = Some(Fenced::NoAgent);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    assert_eq!(asked(&mut w).len(), 1);
    wait(&mut w, b, Duration::from_secs(600));
    let tries = asked(&mut w).len();
    assert!((10..20).contains(&tries), "at growing intervals: {tries}");
    w.disks.fence = Some(Fenced::Failed { why: "agent pdu: no answer".into() });
    wait(&mut w, b, Duration::from_secs(120));
    assert!(w.shadow.session(S).is_some());
    assert!(said(&mut w, "fence-failed").expect("said").contains("agent pdu: no answer"));
    let AdminReply::Status(status) = w.admin(AdminRequest::Status) else { panic!("status") };
    assert!(status.findings.iter().any(|f| f.text.contains("could not be fenced: agent pdu") && f.action.contains("confirm-dead host1")));
    w.disks.fence = Some(done());
    wait(&mut w, b, Duration::from_secs(120));
    w.attach(b, v);
}

#[test]
fn an_agent_that_is_wrong_is_found_out_by_the_heartbeat() {
    let (mut w, v, _, b) = lost();
    w.disks.alive.insert(S);
    w.disks.fence = Some(done());
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    wait(&mut w, b, LEASE);
    assert!(said(&mut w, "fence-failed").expect("said").contains("its heartbeat on the disks moves"));
    assert!(w.shadow.session(S).is_some_and(|s| !s.sealed));
    w.disks.alive.clear();
    wait(&mut w, b, Duration::from_secs(120));
    w.attach(b, v);
}

#[test]
fn one_that_comes_back_meanwhile_keeps_what_it_has() {
    let (mut w, v, _, b) = lost();
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, true).expect("it comes back");
    w.step(Event::Fenced { asked: FenceFor::Session(S), fenced: done() });
    assert!(said(&mut w, "client-fenced").expect("said").contains("has come back"));
    for _ in 0..10 {
        w.ok(a, Renew {});
        wait(&mut w, b, LEASE / 2);
    }
    assert!(w.shadow.session(S).is_some_and(|s| !s.sealed));
}

#[test]
fn a_client_with_another_session_that_lives_is_not_cut_off() {
    let (mut w, v, _, b) = lost();
    let again = w.connect(1);
    w.hello(again, 9, OTHER_BOOT, false).expect("its host has booted again");
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    assert_eq!(asked(&mut w), []);
}

#[test]
fn another_manager_asks_again() {
    let (mut w, v, _, b) = lost();
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    assert_eq!(asked(&mut w), [off()]);
    w.restart();
    let b = w.resume(2, 2);
    wait(&mut w, b, LEASE * 2);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    assert_eq!(asked(&mut w), [off()]);
}

#[test]
fn lease_only_asks_no_agent() {
    let (mut w, v, _, b) = lost();
    w.admin(AdminRequest::PoolSet { fencing: Fencing::LeaseOnly });
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    wait(&mut w, b, LEASE * 20);
    assert_eq!(asked(&mut w), []);
}

/// A lost reader of another host is in the way of the removal of its volume.
fn lost_reader(fencing: Fencing) -> (World, ConnId) {
    let mut w = World::new(2, 100);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    w.admin(AdminRequest::PoolSet { fencing });
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, false).expect("welcome");
    w.read(a, v);
    let b = w.open(2, 2);
    w.disconnect(a);
    wait(&mut w, b, LEASE * 2);
    assert_eq!(w.admin_refused(AdminRequest::VolumeRemove { name: "db".into() }).kind, Kind::Busy);
    (w, b)
}

#[test]
fn best_seals_a_reader_without_a_fence_and_says_so() {
    let (mut w, b) = lost_reader(Fencing::Best);
    wait(&mut w, b, LEASE * 5);
    assert_eq!(asked(&mut w), []);
    assert!(said(&mut w, "session-dead").expect("said").contains("unfenced: it is sealed, lease and margin were waited"));
    w.admin(AdminRequest::VolumeRemove { name: "db".into() });
}

#[test]
fn required_ends_nobody_without_a_fence() {
    let (mut w, b) = lost_reader(Fencing::Required);
    wait(&mut w, b, LEASE * 50);
    assert_eq!(asked(&mut w), [off()]);
    assert!(w.shadow.session(S).is_some_and(|s| !s.sealed));
    w.step(Event::Fenced { asked: FenceFor::Session(S), fenced: done() });
    wait(&mut w, b, LEASE * 5);
    w.admin(AdminRequest::VolumeRemove { name: "db".into() });
}

#[test]
fn required_keeps_what_a_revoked_client_reads_until_it_is_fenced() {
    let (mut w, b) = lost_reader(Fencing::Required);
    w.admin(AdminRequest::ClientRevoke { name: "host1".into() });
    wait(&mut w, b, LEASE * 50);
    assert!(w.shadow.session(S).is_some_and(|s| s.sealed), "sealed, and not given up");
    assert_eq!(w.admin_refused(AdminRequest::VolumeRemove { name: "db".into() }).kind, Kind::Busy);
    w.step(Event::Fenced { asked: FenceFor::Session(S), fenced: done() });
    wait(&mut w, b, LEASE * 2);
    w.admin(AdminRequest::VolumeRemove { name: "db".into() });
}

#[test]
fn a_client_is_let_in_by_an_administrator_once_nothing_of_it_is_lost() {
    let (mut w, v, _, b) = lost();
    let unfence = AdminRequest::ClientUnfence { name: "host1".into() };
    assert_eq!(w.admin_refused(unfence.clone()).kind, Kind::Refused);
    w.disks.fence = Some(done());
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    wait(&mut w, b, LEASE * 5);
    assert!(asked(&mut w).iter().all(|(.., on)| !on), "never by itself");
    assert_eq!(w.admin(unfence.clone()), AdminReply::Done);
    assert!(matches!(asked(&mut w)[..], [(FenceFor::Admin(_), _, true)]));
    assert!(said(&mut w, "client-unfenced").is_some());
    w.disks.fence = Some(Fenced::NoAgent);
    assert_eq!(w.admin_refused(unfence).kind, Kind::NotFound);
    assert_eq!(w.admin_refused(AdminRequest::ClientUnfence { name: "nobody".into() }).kind, Kind::NotFound);
}

/// By which host's registration its disks could do it, as was asked last.
fn host(w: &World) -> Option<BootId> {
    let of = |e: &Effect| if let Effect::Fence { host, .. } = e { Some(*host) } else { None };
    w.effects.iter().rev().find_map(of).expect("asked")
}

#[test]
fn the_disks_cut_off_a_host_that_is_registered_and_on_which_nobody_lives() {
    let on = AdminRequest::PoolReservations { on: true };
    for (early, beside, expected) in [(true, false, Some(OTHER_BOOT)), (false, false, None), (true, true, None)] {
        let mut w = World::new(2, 100);
        if early {
            w.admin(on.clone());
        }
        let (mut w, v, _, b) = lost_in(w);
        w.admin(on.clone());
        w.checkpoint();
        if beside {
            w.client(3, "db", "all");
            let c = w.connect(3);
            assert!(w.hello(c, 3, OTHER_BOOT, false).expect("welcome").reservations, "it registers from now on");
        }
        assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
        assert_eq!(host(&w), expected, "{early} {beside}");
    }
}
