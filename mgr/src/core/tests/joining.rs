//! Disks that join while sessions live.

use super::harness::{BOOT, World};
use crate::core::{AdminReply, AdminRequest, ConnId, Effect};
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::ids::DiskId;
use fusevol_shared::units::{AuNo, DiskNo};
use fusevol_shared::wire::messages::{Ack, DiskInfo, Grant, Push};
use std::time::Duration;

fn add(id: u8) -> AdminRequest {
    AdminRequest::DiskAdd { id: DiskId([id; 16]), aus: 100, first_data: AuNo(19), end_data: AuNo(99), paths: vec!["/dev/x".into()] }
}

fn told(w: &World, conn: ConnId) -> Option<(u64, DiskInfo)> {
    w.find(conn, |p| if let Push::NewDisk(m) = p { Some(m.disk.clone()) } else { None })
}

fn said(effects: &[Effect]) -> Option<Result<AdminReply, WireError>> {
    effects.iter().find_map(|e| if let Effect::AdminReply { result, .. } = e { Some(result.clone()) } else { None })
}

fn disks(w: &mut World) -> usize {
    let AdminReply::Disks(all) = w.admin(AdminRequest::DiskList) else { panic!() };
    all.len()
}

#[test]
fn a_disk_is_used_once_all_who_live_know_it() {
    let mut w = World::new(1, 8);
    let db = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    w.client(2, "db", "read");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let wr = w.attach(a, db);
    assert_eq!(w.try_admin(add(9)), None, "it waits");
    let (push, info) = told(&w, a).expect("it is told");
    assert_eq!((info.no, info.id), (DiskNo(1), DiskId([9; 16])));
    assert_eq!(w.try_admin(add(8)).and_then(Result::err).map(|e| e.kind), Some(Kind::Busy), "one at a time");
    assert_eq!(said(&w.ack(a, push, Ack::Done)), None, "the other one does not know it yet");
    assert_eq!(disks(&mut w), 1);
    let grant = Grant { volume: db, token: wr.token, no: 1, want: 64, back: vec![], apart: vec![] };
    assert_eq!(w.refused(a, grant.clone()), Kind::NoSpace, "it is not used yet");
    let (push, _) = told(&w, b).expect("it is told");
    let answer = said(&w.ack(b, push, Ack::Done));
    assert!(matches!(answer, Some(Ok(AdminReply::Disk(d))) if d.no == DiskNo(1)));
    let granted = w.ok(a, Grant { no: 1, ..grant });
    assert!(granted.places.iter().flat_map(|p| &p.legs).any(|l| l.disk == DiskNo(1)), "it has room");
}

#[test]
fn who_is_gone_is_not_waited_for_and_hears_it_when_it_is_back() {
    let mut w = World::new(1, 64);
    w.volume("db", 1 << 30);
    w.client(1, "db", "read");
    let a = w.open(1, 1);
    w.disconnect(a);
    assert_eq!(w.try_admin(add(9)), None, "it may come back, and ask for something");
    w.wait(Duration::from_secs(60));
    assert_eq!(disks(&mut w), 2, "its lease is over");
    let conn = w.connect(1);
    let welcome = w.hello(conn, 1, BOOT, true).expect("it is back");
    assert_eq!(welcome.disks.len(), 2);
}

#[test]
fn who_opens_a_session_meanwhile_is_told_and_who_does_not_answer_refuses() {
    let mut w = World::new(1, 64);
    w.volume("db", 1 << 30);
    w.client(1, "db", "read");
    let a = w.open(1, 1);
    assert_eq!(w.try_admin(add(9)), None);
    let c = w.open(1, 2);
    let (push, _) = told(&w, c).expect("it is told");
    assert_eq!(said(&w.ack(c, push, Ack::Done)), None);
    for _ in 0..40 {
        w.wait(Duration::from_secs(1));
        w.ok(a, fusevol_shared::wire::messages::Renew {});
        w.ok(c, fusevol_shared::wire::messages::Renew {});
    }
    assert_eq!(disks(&mut w), 1, "one that lives does not answer");
    assert_eq!(w.try_admin(add(9)), None, "it may be asked again");
    w.ack_all(a);
    w.ack_all(c);
    assert_eq!(disks(&mut w), 2);
}
