//! Sessions, leases, lapse, and the proof of drain.

use super::harness::*;
use crate::core::admin_api::SessionState;
use crate::core::{AdminReply, AdminRequest, Effect, Event};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::SessionNo;
use fusevol_shared::wire::messages::{AttachWrite, Goodbye, Hello, ListVolumes, PROTOCOL, Renew};
use std::time::Duration;

fn state(w: &mut World, key: u8) -> Option<SessionState> {
    let AdminReply::Clients(all) = w.admin(AdminRequest::ClientList) else { panic!("no clients") };
    all.into_iter().find(|c| c.name.as_str() == format!("host{key}"))?.sessions.first().map(|s| s.state)
}

#[test]
fn a_session_lives_lapses_and_is_taken_up_again() {
    let mut w = World::new(1, 64);
    w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    let a = w.open(1, 1);
    for _ in 0..5 {
        w.wait(LEASE / 2);
        w.ok(a, Renew {});
    }
    assert_eq!(state(&mut w, 1), Some(SessionState::Live));
    // The margin is the manager's: the lease is over for the client, not yet here.
    w.wait(LEASE + LEASE / 8);
    w.ok(a, Renew {});
    w.wait(LEASE + LEASE / 4);
    assert_eq!(state(&mut w, 1), Some(SessionState::Lapsed));
    assert_eq!(w.refused(a, Renew {}), Kind::Lapsed);
    assert_eq!(w.refused(a, ListVolumes {}), Kind::Lapsed);
    // Nothing was given away: it may go on.
    w.hello(a, 1, BOOT, true).expect("welcome");
    w.ok(a, ListVolumes {});
    w.ok(a, Goodbye {});
    assert_eq!(w.refused(a, Renew {}), Kind::Denied);
    assert_eq!(state(&mut w, 1), None);
}

#[test]
fn hello_is_done_once_and_by_its_own_client_only() {
    let mut w = World::new(1, 64);
    w.volume("db", 1 << 30);
    w.client(1, "db", "read");
    w.client(2, "db", "read");
    let a = w.connect(1);
    assert_eq!(w.hello(a, 1, BOOT, true).expect_err("never opened").kind, Kind::Lapsed);
    let first = w.hello(a, 1, BOOT, false).expect("welcome");
    // Its answer was lost: asked again on a new connection.
    let again = w.connect(1);
    assert_eq!(w.hello(again, 1, BOOT, false).expect("welcome").session, first.session);
    assert!(w.effects.contains(&Effect::Close { conn: a }), "the half-open connection is closed");
    assert_eq!(w.refused(a, Renew {}), Kind::Denied);
    let b = w.connect(2);
    assert_eq!(w.hello(b, 1, BOOT, false).expect_err("not its own").kind, Kind::Denied);
    let old = Hello {
        protocol: PROTOCOL + 1,
        session: fusevol_shared::ids::SessionId([9; 16]),
        boot: BOOT,
        host: "x\n\u{7}".repeat(500),
        program: String::new(),
        resume: false,
    };
    assert_eq!(w.refused(b, old.clone()), Kind::Version);
    w.ok(b, Hello { protocol: PROTOCOL, ..old });
    let s = w.shadow.sessions().find(|s| s.no != first.session).expect("opened");
    assert!(s.host.len() <= 128 && !s.host.contains('\n'), "a stranger's text is cleaned");
}

#[test]
fn a_dead_process_is_replaced_once_its_lock_is_free() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    w.client(2, "db", "read,write");
    let a = w.open(1, 1);
    w.attach(a, v);
    let b = w.open(2, 2);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    w.disconnect(a);
    w.probes();
    // Its last I/O is in flight: the lock is held.
    w.step(Event::LockProbed { session: SessionNo(0), held: true });
    let (id, answer) = w.send(b, AttachWrite { volume: v });
    assert_eq!((answer, w.probes()), (None, vec![SessionNo(0)]));
    w.step(Event::LockProbed { session: SessionNo(0), held: true });
    assert_eq!(w.answer(b, id).expect("answered").expect_err("held").kind, Kind::Busy);
    // Landed.
    let (id, _) = w.send(b, AttachWrite { volume: v });
    w.step(Event::LockProbed { session: SessionNo(0), held: false });
    w.answer(b, id).expect("answered").expect("attached");
    let again = w.connect(1);
    assert_eq!(w.hello(again, 1, BOOT, true).expect_err("ended").kind, Kind::Lapsed);
}

#[test]
fn a_lock_of_a_live_session_says_nothing() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    let a = w.open(1, 1);
    w.attach(a, v);
    w.disconnect(a);
    assert_eq!(w.probes(), [SessionNo(0)]);
    let a = w.resume(1, 1);
    w.step(Event::LockProbed { session: SessionNo(0), held: false });
    w.ok(a, Renew {});
    assert!(w.shadow.writer(v).is_some());
}

#[test]
fn after_a_restart_every_session_has_a_lease_and_a_margin() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    w.client(2, "db", "read,write");
    let a = w.open(1, 1);
    let token = w.attach(a, v).token;
    let b = w.connect(2);
    w.hello(b, 2, OTHER_BOOT, false).expect("welcome");
    w.wait(LEASE);
    w.restart();
    w.wait(LEASE);
    let a = w.resume(1, 1);
    assert_eq!(w.attach(a, v).token, token, "the attachment stands");
    w.wait(LEASE / 4 + Duration::from_millis(1));
    assert_eq!((state(&mut w, 1), state(&mut w, 2)), (Some(SessionState::Live), Some(SessionState::Lapsed)));
}

#[test]
fn a_revoked_client_is_recalled_and_never_renewed() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    let a = w.open(1, 1);
    w.attach(a, v);
    w.admin(AdminRequest::ClientRevoke { name: "host1".into() });
    assert_eq!(w.refused(a, Renew {}), Kind::Denied);
    let (push, _) = w.find(a, |p| matches!(p, fusevol_shared::wire::messages::Push::Recall(_)).then_some(())).expect("recalled");
    w.ack(a, push, fusevol_shared::wire::messages::Ack::Done);
    assert!(w.shadow.writer(v).is_none(), "it gave the volume back");
    w.wait(LEASE * 2);
    assert!(w.effects.contains(&Effect::Close { conn: a }));
    assert!(w.disks.slots[&SessionNo(0)], "its slot is sealed");
    w.wait(LEASE * 2);
    assert!(w.shadow.session(SessionNo(0)).is_none(), "it could only read");
    w.admin(AdminRequest::ClientRemove { name: "host1".into() });
}
