//! A client and a disk that die together: the manager does without the disk in the client's stead, once the client is sealed.

use super::harness::*;
use super::mirror::states;
use super::writer::{Writer, mask};
use crate::catalog::record::{Fencing, Record};
use crate::core::ConnId;
use crate::core::{AdminRequest, Event};
use fusevol_shared::change::Entry;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::map::LegState::InSync;
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{Ack, AttachRead, AttachWrite, Push, Renew};
use std::time::Duration;

/// A writer of another host, with a binding that is folded and one that is only in its journal; and a client that wants its volume.
fn rig(disks: u8, copies: u8) -> (World, VolumeId, Writer, ConnId) {
    let mut w = World::new(disks, 200);
    let v = w.mirror("db", copies);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    w.admin(AdminRequest::PoolSet { fencing: Fencing::LeaseOnly });
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, false).expect("welcome");
    let b = w.open(2, 2);
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..3);
    let bound = wr.bound([7]);
    wr.append(&mut w, vec![bound, Entry::Written { masks: vec![mask(7, 3), mask(0, 1)] }]);
    (w, v, wr, b)
}

/// The client dies, and these disks.
fn die(w: &mut World, wr: &Writer, disks: &[u16]) {
    w.disconnect(wr.conn);
    w.disks.unflushed = disks.iter().map(|d| DiskNo(*d)).collect();
    w.disks.broken = disks.iter().map(|d| (DiskNo(*d), true)).collect();
    w.core.set_lost(disks.iter().map(|d| (DiskNo(*d), "gone".to_owned())).collect());
}

/// Whether the volume is free after a while in which it is wanted.
fn taken(w: &mut World, v: VolumeId, b: ConnId) -> bool {
    for _ in 0..48 {
        w.wait(LEASE / 8);
        let _busy = w.send(b, AttachWrite { volume: v });
        w.ok(b, Renew {});
        w.ack_all(b);
        if w.shadow.writer(v).is_none_or(|a| a.session.0 == 1) {
            return true;
        }
    }
    false
}

fn out(w: &World, v: VolumeId) -> Vec<u16> {
    w.shadow.volume(v).expect("there").out.iter().map(|d| d.0).collect()
}

#[test]
fn a_client_and_a_disk_that_die_together_hold_nothing() {
    let (mut w, v, wr, b) = rig(4, 2);
    let lost = states(&w, v, 0)[0].0;
    die(&mut w, &wr, &[lost]);
    assert!(taken(&mut w, v, b), "{:?}", w.try_admin(AdminRequest::Status));
    assert_eq!(out(&w, v), [lost]);
    let at = |is: fn(&Record) -> bool| w.log.iter().position(is).expect("in the log");
    let sealed = at(|r| matches!(r, Record::SessionSealed { .. }));
    let without = at(|r| matches!(r, Record::LegsOut { .. }));
    assert!(sealed < without && without < at(|r| matches!(r, Record::TakenOver(_))), "only of one that is sealed");
    let map = &w.shadow.volume(v).expect("there").map;
    assert_eq!(map.written_blocks(), 3, "what it had appended is there");
    for au in [0, 7] {
        assert!(states(&w, v, au).iter().any(|(d, s)| *d != lost && *s == InSync), "{:?}", states(&w, v, au));
    }
    w.checkpoint();
}

/// The same, where who writes is drained, by an administrator's word or its own.
#[test]
fn a_disk_that_is_given_up_is_done_without_once_the_client_is_dead() {
    let (mut w, v, wr, _) = rig(4, 2);
    let lost = states(&w, v, 0)[0].0;
    die(&mut w, &wr, &[lost]);
    w.core.set_lost(Vec::new());
    w.wait(LEASE * 2);
    let _ = w.try_admin(AdminRequest::ClientConfirmDead { name: "host1".into() });
    w.wait(LEASE * 2);
    assert_eq!((out(&w, v), w.shadow.writer(v).is_some()), (vec![], true), "it hangs, and may be back");
    w.admin(AdminRequest::DiskFail { disk: lost.to_string(), failed: true });
    w.wait(Duration::from_secs(61));
    assert_eq!((out(&w, v), w.shadow.writer(v).is_some()), (vec![lost], false));
}

#[test]
fn what_is_nowhere_else_is_waited_for() {
    let (mut w, v, wr, b) = rig(4, 1);
    let lost = states(&w, v, 0)[0].0;
    die(&mut w, &wr, &[lost]);
    assert!(!taken(&mut w, v, b));
    assert!(out(&w, v).is_empty());
    let (mut w, v, wr, b) = rig(3, 2);
    let both: Vec<u16> = states(&w, v, 0).iter().map(|(d, _)| *d).collect();
    die(&mut w, &wr, &both);
    assert!(!taken(&mut w, v, b), "of its slot disks one is left: it is not sealed");
    assert!(out(&w, v).is_empty());
}

/// A reader is told before anybody writes there.
#[test]
fn readers_hear_of_it() {
    let (mut w, v, wr, b) = rig(4, 2);
    w.client(3, "db", "read");
    let r = w.open(3, 3);
    w.ok(r, AttachRead { volume: v });
    let lost = states(&w, v, 0)[0].0;
    die(&mut w, &wr, &[lost]);
    let told = (0..48).find_map(|_| {
        w.wait(LEASE / 8);
        let _busy = w.send(b, AttachWrite { volume: v });
        [b, r].iter().for_each(|c| _ = w.ok(*c, Renew {}));
        w.find(r, |p| matches!(p, Push::LegFailed(m) if m.disk.0 == lost).then_some(()))
    });
    let (push, ()) = told.expect("told");
    w.ack(r, push, Ack::Done);
    w.step(Event::Tick);
}
