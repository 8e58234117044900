//! The administrator's verbs.

use super::harness::*;
use crate::core::admin_api::Level;
use crate::core::{AdminReply, AdminRequest, Effect};
use fusevol_shared::change::WhenFull;
use fusevol_shared::error::Kind;
use fusevol_shared::ids::DiskId;
use fusevol_shared::units::AuNo;
use fusevol_shared::wire::messages::Push;

fn create(name: &str, size: u64) -> AdminRequest {
    AdminRequest::VolumeCreate { name: name.into(), size }
}

#[test]
fn sizes_of_volumes() {
    let mut w = World::new(1, 64);
    for (size, kind) in [(0, Kind::Refused), (u64::MAX, Kind::Refused), (u64::MAX - 4096, Kind::Refused), (1 << 62, Kind::Refused)] {
        let e = w.admin_refused(create("v", size));
        assert!(e.kind == kind && !e.hint.is_empty(), "{e:?}");
    }
    let AdminReply::Volume(v) = w.admin(create("odd", 5000)) else { panic!() };
    assert_eq!((v.size, v.notes.len()), (8192, 1));
    let AdminReply::Volume(v) = w.admin(create("large", 1 << 40)) else { panic!() };
    assert!(v.notes[0].contains("the pool holds 64M"), "{:?}", v.notes);
    assert_eq!(w.admin_refused(create("odd", 4096)).kind, Kind::Exists);
    assert_eq!(w.admin_refused(create("../x", 4096)).kind, Kind::Refused);
}

#[test]
fn a_volume_that_is_in_use_stays() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    let rm = AdminRequest::VolumeRemove { name: "db".into() };
    let a = w.open(1, 1);
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..1);
    let e = w.admin_refused(rm.clone());
    assert!(e.kind == Kind::Busy && e.message.contains("host1"), "{e:?}");
    wr.detach(&mut w);
    w.admin(AdminRequest::SnapshotCreate { volume: "db".into(), name: "one".into() });
    assert_eq!(w.admin_refused(rm.clone()).kind, Kind::Busy);
    assert_eq!(w.admin_refused(AdminRequest::SnapshotCreate { volume: "db".into(), name: "one".into() }).kind, Kind::Exists);
    w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: "one".into() });
    w.ack_all(a);
    w.admin(rm.clone());
    assert!(w.find(a, |p| matches!(p, Push::VolumesChanged(_)).then_some(())).is_some(), "who could see it is told");
    assert_eq!(w.shadow.free_aus(), 64);
    assert_eq!(w.admin_refused(rm).kind, Kind::NotFound);
}

#[test]
fn disks_join_once() {
    let mut w = World::new(1, 64);
    let add =
        AdminRequest::DiskAdd { id: DiskId([9; 16]), aus: 100, first_data: AuNo(19), end_data: AuNo(99), paths: vec!["/dev/x".into()] };
    w.admin(add.clone());
    let log = w.log.len();
    let AdminReply::Disk(d) = w.admin(add) else { panic!() };
    assert_eq!((d.no.0, d.free, w.log.len()), (1, 80 << 20, log));
    w.admin(AdminRequest::DiskPaths { id: DiskId([9; 16]), paths: vec!["/dev/y".into()] });
    let small = AdminRequest::DiskAdd { id: DiskId([8; 16]), aus: 10, first_data: AuNo(19), end_data: AuNo(9), paths: vec![] };
    assert_eq!(w.admin_refused(small).kind, Kind::Refused);
    assert_eq!(w.admin_refused(AdminRequest::DiskPaths { id: DiskId([7; 16]), paths: vec![] }).kind, Kind::NotFound);
}

#[test]
fn clients_and_access() {
    let mut w = World::new(1, 64);
    w.volume("db", 1 << 30);
    w.client(1, "db", "read");
    assert_eq!(w.admin_refused(AdminRequest::ClientAdd { name: "host1".into(), print: print(9) }).kind, Kind::Exists);
    assert_eq!(w.admin_refused(AdminRequest::ClientAdd { name: "x".into(), print: print(1) }).kind, Kind::Exists);
    w.client(1, "db", "backup");
    let AdminReply::Access(all) = w.admin(AdminRequest::AccessList { volume: None, client: None }) else { panic!() };
    assert_eq!(all[0].rights.to_string(), "read,backup");
    w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host1".into(), rights: Some("read".parse().expect("a right")) });
    let AdminReply::Access(all) = w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host1".into(), rights: None }) else {
        panic!()
    };
    assert!(all.is_empty());
    w.open(1, 1);
    assert_eq!(w.admin_refused(AdminRequest::ClientRemove { name: "host1".into() }).kind, Kind::Busy);
}

#[test]
fn a_volumes_settings_are_kept_and_shown() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    let set = |when_full| AdminRequest::VolumeSet { name: "db".into(), when_full };
    let log = w.log.len();
    w.admin(set(WhenFull::BreakSnapshot));
    assert_eq!(w.log.len(), log, "it is so already");
    let AdminReply::Volume(view) = w.admin(set(WhenFull::StopWriter)) else { panic!() };
    assert_eq!((view.when_full, view.notes.len()), (WhenFull::StopWriter, 0));
    w.restart();
    let a = w.open(1, 1);
    let at = w.ok(a, fusevol_shared::wire::messages::AttachWrite { volume: v });
    assert_eq!(at.when_full, WhenFull::StopWriter);
    let AdminReply::Volume(view) = w.admin(set(WhenFull::BreakSnapshot)) else { panic!() };
    assert!(view.notes[0].contains("former setting") && view.attached[0].journal.len() == 1 && view.attached[0].reserve > 0, "{view:?}");
    assert_eq!(w.admin_refused(AdminRequest::VolumeSet { name: "x".into(), when_full: WhenFull::StopWriter }).kind, Kind::NotFound);
}

#[test]
fn status_and_events() {
    let mut w = World::new(1, 12);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!() };
    assert_eq!((s.level, s.findings.len()), (Level::Ok, 0));
    let a = w.open(1, 1);
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..6);
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!() };
    assert!(s.level == Level::Critical && s.findings[0].action.contains("disk add"), "{s:?}");
    let AdminReply::Events(all) = w.admin(AdminRequest::Events { after: 0, limit: 100 }) else { panic!() };
    assert!(all.iter().any(|n| n.what == "session-opened" && n.text.contains("host1")));
    let told = w.effects.iter().filter(|e| matches!(e, Effect::Notice(_))).count();
    assert_eq!(told, all.len());
    let AdminReply::Events(last) = w.admin(AdminRequest::Events { after: all[0].no, limit: 1 }) else { panic!() };
    assert_eq!(last, all[all.len() - 1..]);
    // What is asked and answered is JSON.
    for r in [AdminReply::Status(s), AdminReply::Events(all)] {
        let text = serde_json::to_string(&r).expect("JSON");
        assert_eq!(serde_json::from_str::<AdminReply>(&text).expect("back"), r);
    }
    let r = AdminRequest::AccessRevoke { volume: "db".into(), client: "c".into(), rights: None };
    assert_eq!(serde_json::from_str::<AdminRequest>(&serde_json::to_string(&r).expect("JSON")).expect("back"), r);
}
