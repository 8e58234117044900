//! The matrix of denials: every request there is, from everyone who may not ask it, is denied and changes nothing.

use super::harness::*;
use crate::core::{AdminRequest, ConnId};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::wire::messages::{Object, Request};
use fusevol_shared::wire::rights::{Need, Right, Rights};

const SNAPSHOT: SnapshotId = SnapshotId([9; 16]);

/// A pool with volume `db` that has a snapshot, another volume, and one client that may do all on `db`.
fn world() -> (World, VolumeId) {
    let mut w = World::new(2, 64);
    let v = w.volume("db", 1 << 30);
    w.volume("other", 1 << 30);
    w.client(1, "db", "all");
    let a = w.open(1, 1);
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    (w, v)
}

fn denied(w: &mut World, conn: ConnId, request: Request, kinds: &[Kind]) -> (Kind, String) {
    let (before, log) = (w.shadow.clone(), w.log.len());
    let what = format!("{request:?}");
    let (_, answer) = w.send(conn, request);
    let e = answer.unwrap_or_else(|| panic!("{what} waits")).expect_err(&what);
    assert!(kinds.contains(&e.kind), "{what} was answered by {e:?}");
    assert!(before == w.shadow && log == w.log.len(), "{what} was denied and changed something");
    (e.kind, e.message)
}

#[test]
fn a_key_that_is_not_known() {
    let (mut w, v) = world();
    for r in Request::samples(v, SNAPSHOT) {
        let c = w.connect(77);
        denied(&mut w, c, r, &[Kind::Denied]);
    }
}

#[test]
fn a_client_that_is_revoked_with_and_without_a_session() {
    let (mut w, v) = world();
    w.client(2, "db", "all");
    let with = w.open(2, 2);
    w.admin(AdminRequest::ClientRevoke { name: "host2".into() });
    for r in Request::samples(v, SNAPSHOT) {
        let without = w.connect(2);
        denied(&mut w, without, r.clone(), &[Kind::Denied]);
        denied(&mut w, with, r, &[Kind::Denied]);
    }
}

#[test]
fn a_connection_without_a_session() {
    let (mut w, v) = world();
    let c = w.connect(1);
    for r in Request::samples(v, SNAPSHOT).into_iter().filter(|r| r.need() != Need::Client) {
        denied(&mut w, c, r, &[Kind::Denied]);
    }
}

#[test]
fn no_right_or_one_on_another_volume_looks_as_if_there_were_none() {
    let (mut w, v) = world();
    w.client(3, "other", "all");
    w.admin(AdminRequest::ClientAdd { name: "host4".into(), print: print(4) });
    for key in [3, 4] {
        let c = w.open(key, key);
        for r in Request::samples(v, SNAPSHOT).into_iter().filter(|r| matches!(r.need(), Need::On(_))) {
            let (_, here) = denied(&mut w, c, r.clone(), &[Kind::NotFound]);
            let nowhere = match r.object() {
                Object::Snapshot(_) => Request::samples(v, SnapshotId([200; 16])),
                _ => Request::samples(VolumeId([200; 16]), SNAPSHOT),
            };
            let same = nowhere.into_iter().find(|n| n.name() == r.name()).expect("the same request");
            let (_, there) = denied(&mut w, c, same, &[Kind::NotFound]);
            assert_eq!(here, there, "a volume that is not granted looks as one that is not there");
        }
    }
}

#[test]
fn every_right_but_the_one_that_is_needed() {
    let (mut w, v) = world();
    for (n, r) in (10u8..).zip(Request::samples(v, SNAPSHOT)) {
        let Need::On(right) = r.need() else { continue };
        let others = Right::ALL
            .into_iter()
            .filter(|o| *o != right && !(right == Right::Read && *o == Right::Write))
            .fold(Rights::NONE, Rights::with);
        w.client(n, "db", &others.to_string());
        let c = w.open(n, n);
        denied(&mut w, c, r, &[Kind::Denied]);
    }
}

#[test]
fn the_list_shows_granted_volumes_only() {
    let (mut w, _) = world();
    w.client(3, "other", "backup");
    let c = w.open(3, 3);
    let all = w.ok(c, fusevol_shared::wire::messages::ListVolumes {});
    assert_eq!(all.volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["other"]);
}
