//! Jobs, disks that are given up, spares and domains, as administrators see them.

use super::harness::*;
use super::mirror::{mirrored, out};
use crate::core::admin_api::JobState;
use crate::core::{AdminReply, AdminRequest, Effect};
use fusevol_shared::change::Places;
use fusevol_shared::error::Kind;
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{Grant, Renew};
use fusevol_shared::wire::recovery::Recovery;
use std::time::Duration;

fn jobs(w: &mut World) -> Vec<crate::core::admin_api::JobView> {
    let AdminReply::Jobs(jobs) = w.admin(AdminRequest::JobList) else { panic!() };
    jobs
}

#[test]
fn a_job_says_how_far_its_volume_is_and_is_steered() {
    let (mut w, v, wr, _) = mirrored(3);
    assert!(jobs(&mut w).is_empty());
    w.ok(wr.conn, out(&wr, 0, &[0]));
    let job = jobs(&mut w).remove(0);
    assert!(job.state == JobState::Waiting && job.why.contains("disk 0 may return") && job.by.contains("host1"), "{job:?}");
    assert!(job.todo > 0 && job.todo <= job.total && job.total == 5);
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!() };
    assert!(s.findings.iter().any(|f| f.text.contains("lacks copies") && f.action.contains("job show db")), "{:?}", s.findings);
    // By the word of an administrator it is given up at once, and the writer is told.
    w.admin(AdminRequest::DiskFail { disk: "0".into(), failed: true });
    let ask = |says: &str| Recovery { volume: v, token: wr.token, says: says.into() };
    let orders = w.ok(wr.conn, ask(""));
    assert_eq!((orders.given_up, orders.todo, orders.paused, orders.limit), (vec![DiskNo(0)], job.todo, false, 0));
    w.wait(Duration::from_secs(1));
    w.ok(wr.conn, Renew {});
    w.ok(wr.conn, ask("no other disk has room"));
    assert_eq!((jobs(&mut w)[0].state, jobs(&mut w)[0].why.as_str()), (JobState::Waiting, "no other disk has room"));
    w.admin(AdminRequest::JobSet { volume: "db".into(), paused: Some(true), limit: Some(5000) });
    let orders = w.ok(wr.conn, ask(""));
    assert_eq!((orders.paused, orders.limit), (true, 5000));
    assert_eq!(jobs(&mut w)[0].state, JobState::Paused);
    w.checkpoint();
    w.admin(AdminRequest::JobSet { volume: "db".into(), paused: Some(false), limit: None });
    assert_eq!((jobs(&mut w)[0].state, jobs(&mut w)[0].limit), (JobState::Running, 5000));
    assert!(w.effects.iter().any(|e| matches!(e, Effect::Notice(n) if n.what == "leg-out")));
    assert_eq!(w.admin_refused(AdminRequest::JobSet { volume: "none".into(), paused: None, limit: None }).kind, Kind::NotFound);
    assert_eq!(w.admin_refused(AdminRequest::DiskFail { disk: "9".into(), failed: true }).kind, Kind::NotFound);
}

#[test]
fn a_disk_that_is_given_up_is_out_for_all_whom_nobody_writes() {
    let (mut w, v, wr, b) = mirrored(3);
    let other = w.mirror("other", 2);
    w.client(2, "other", "all");
    let at = w.ok(b, fusevol_shared::wire::messages::AttachRead { volume: other });
    assert!(at.out.is_empty());
    w.admin(AdminRequest::DiskFail { disk: "/dev/d1".into(), failed: true });
    assert_eq!(w.shadow.volume(other).expect("there").out, [DiskNo(1)]);
    assert!(w.shadow.volume(v).expect("there").out.is_empty(), "its writer knows what it misses");
    // A writer waits until the reader has heard of it.
    w.client(1, "other", "all");
    let (id, answer) = w.send(wr.conn, fusevol_shared::wire::messages::AttachWrite { volume: other });
    assert_eq!(answer, None);
    w.ack_all(b);
    assert!(matches!(w.answer(wr.conn, id), Some(Ok(_))));
    // Nothing new lies there.
    let granted = w.ok(wr.conn, Grant { ..wr.grant_request(50) });
    assert!(granted.places.iter().flat_map(|p| &p.legs).all(|l| l.disk.0 != 1), "{granted:?}");
    w.admin(AdminRequest::DiskFail { disk: "1".into(), failed: false });
    assert!(!w.shadow.disk(DiskNo(1)).expect("there").failed);
}

#[test]
fn spares_serve_copies_alone_and_domains_keep_copies_apart() {
    let mut w = World::new(4, 100);
    w.admin(AdminRequest::DiskSet { disk: "3".into(), spare: Some(true), domain: None });
    for d in ["0", "1"] {
        w.admin(AdminRequest::DiskSet { disk: d.into(), spare: None, domain: Some("rack1".into()) });
    }
    w.checkpoint();
    let v = w.mirror("db", 2);
    w.client(1, "db", "all");
    let a = w.open(1, 1);
    let mut wr = w.attach(a, v);
    wr.fill(&mut w, 40);
    let racks = |legs: &[fusevol_shared::units::DiskAu]| legs.iter().filter(|l| l.disk.0 < 2).count();
    assert!(wr.reserve.iter().all(|l| l.iter().all(|p| p.disk.0 != 3) && racks(l) <= 1), "{:?}", wr.reserve);
    // In place of what lies in the rack: on neither of its disks; the spare serves.
    let m = Grant { apart: vec![DiskNo(0)], ..wr.grant_request(30) };
    let places: Vec<_> = w.ok(a, m).places.iter().flat_map(Places::each).collect();
    assert!(places.len() == 30 || !places.is_empty());
    assert!(places.iter().all(|l| l.len() == 1 && l[0].disk.0 >= 2), "{places:?}");
    assert!(places.iter().any(|l| l[0].disk.0 == 3));
    let AdminReply::Disks(disks) = w.admin(AdminRequest::DiskList) else { panic!() };
    assert!(disks[3].spare && disks[0].domain.as_ref().is_some_and(|d| d.as_str() == "rack1"));
}
