//! Slots that move, in virtual time: which disks carry them, and that a SEAL that counts is heard by the session whichever set it uses.

use super::harness::*;
use crate::core::{AdminRequest, ConnId, Effect};
use fusevol_shared::format::slot::{Answer, enough};
use fusevol_shared::ids::{Generation, SessionNo};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{Ack, MoveSlot, Push, Renew, SlotDisk, Welcome};
use std::collections::BTreeMap;
use std::time::Duration;

const S: SessionNo = SessionNo(0);

/// A session's slot as its client has it.
#[derive(Clone, Debug)]
pub struct Slot {
    pub no: u64,
    pub places: Vec<SlotDisk>,
}

impl Slot {
    pub fn of(welcome: &Welcome) -> Self {
        Self { no: welcome.moves, places: welcome.slots.clone() }
    }

    pub fn hear(&mut self, m: &MoveSlot) {
        if m.no > self.no {
            (self.no, self.places) = (m.no, m.slots.clone());
        }
    }

    /// Whether the client could go on by some disks, though others are not reached.
    pub fn could_go_on(&self, seals: &BTreeMap<(SessionNo, DiskNo), (Generation, bool)>, no: SessionNo) -> bool {
        let clear = self.places.iter().filter(|p| seals.get(&(no, p.disk)) == Some(&(p.opened, false))).count();
        clear >= enough(self.places.len())
    }
}

struct Rig {
    w: World,
    conn: ConnId,
    slot: Slot,
}

fn rig(disks: u8) -> Rig {
    let mut w = World::new(disks, 40);
    w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    let conn = w.connect(1);
    let welcome = w.hello(conn, 1, OTHER_BOOT, false).expect("welcome");
    Rig { w, conn, slot: Slot::of(&welcome) }
}

impl Rig {
    fn lose(&mut self, lost: &[u16]) {
        self.w.core.set_lost(lost.iter().map(|d| (DiskNo(*d), "gone".to_owned())).collect());
    }

    /// Time goes by; it keeps its lease.
    fn wait(&mut self, d: Duration) {
        for _ in 0..8 {
            self.w.wait(d / 8);
            self.w.ok(self.conn, Renew {});
        }
    }

    /// The move that it is told of.
    fn told(&self) -> Option<(u64, MoveSlot)> {
        self.w.find(self.conn, |p| if let Push::MoveSlot(m) = p { Some(m.clone()) } else { None })
    }

    fn answer(&mut self) {
        let (push, m) = self.told().expect("it is told");
        self.slot.hear(&m);
        self.w.ack(self.conn, push, Ack::Done);
    }

    fn moves(&mut self) {
        self.wait(LEASE);
        self.answer();
    }

    fn now(&self) -> Vec<u16> {
        self.w.shadow.session(S).expect("there").slots.now.iter().map(|s| s.disk.0).collect()
    }

    fn next(&self) -> Vec<u16> {
        self.w.shadow.session(S).expect("there").slots.next.iter().map(|s| s.disk.0).collect()
    }

    fn uses(&self) -> Vec<u16> {
        self.slot.places.iter().map(|s| s.disk.0).collect()
    }

    /// The administrator says that it is dead: it is sealed, if that can be.
    fn seal(&mut self) -> bool {
        self.w.disconnect(self.conn);
        self.w.wait(LEASE * 2);
        let _ = self.w.try_admin(AdminRequest::ClientConfirmDead { name: "host1".into() });
        self.w.wait(LEASE * 3);
        let sealed = self.w.disks.slots[&S];
        assert!(!sealed || !self.slot.could_go_on(&self.w.disks.seals, S), "it could go on by {:?}", self.uses());
        sealed
    }

    fn restart(&mut self, lost: &[u16]) {
        self.w.restart();
        self.lose(lost);
        self.conn = self.w.connect(1);
        self.w.hello(self.conn, 1, OTHER_BOOT, true).expect("welcome");
    }
}

#[test]
fn a_slot_moves_when_a_disk_stays_lost_and_again_at_the_next_loss() {
    let mut r = rig(5);
    assert_eq!(r.uses(), [0, 1, 2]);
    r.lose(&[0]);
    r.wait(LEASE / 6);
    r.lose(&[]);
    r.wait(LEASE * 3);
    assert!(r.told().is_none() && r.now() == [0, 1, 2], "it was away for a moment only");
    r.lose(&[0]);
    r.wait(LEASE);
    assert_eq!((r.now(), r.next()), (vec![0, 1, 2], vec![1, 2, 3]));
    let m = r.told().expect("told").1;
    assert_eq!(m.disks.iter().map(|d| d.no.0).collect::<Vec<_>>(), [1, 2, 3]);
    r.lose(&[0, 1]);
    r.wait(LEASE * 2);
    assert_eq!(r.next(), [1, 2, 3], "one move at a time");
    r.answer();
    assert_eq!((r.now(), r.next()), (vec![1, 2, 3], vec![2, 3, 4]), "the next one at once");
    r.answer();
    assert_eq!((r.now(), r.next()), (vec![2, 3, 4], vec![]));
    r.lose(&[]);
    r.wait(LEASE * 4);
    assert!(r.told().is_none() && r.now() == [2, 3, 4], "disks that come back make no slot move");
    assert!(r.seal());
}

/// Of two disks one is lost: nothing could be sealed. Then both have been.
#[test]
fn a_slot_has_as_many_disks_as_are_usable() {
    let mut r = rig(2);
    r.lose(&[0]);
    r.moves();
    assert_eq!(r.now(), [1], "what is lost is in nobody's way");
    r.lose(&[]);
    r.moves();
    assert_eq!(r.now(), [0, 1]);
    r.lose(&[1]);
    r.moves();
    assert_eq!(r.now(), [0]);
    r.lose(&[0, 1]);
    r.wait(LEASE * 2);
    assert_eq!((r.now(), r.next()), (vec![0], vec![]), "there is nothing better");
    r.lose(&[1]);
    r.wait(LEASE * 2);
    assert!(r.seal());
}

#[test]
fn disks_that_are_given_up_carry_no_slot() {
    let mut r = rig(4);
    r.w.admin(AdminRequest::DiskFail { disk: "1".into(), failed: true });
    r.moves();
    assert_eq!(r.now(), [0, 2, 3]);
    r.lose(&[0]);
    r.w.wait(Duration::ZERO);
    let conn = r.w.connect(1);
    let other = r.w.hello(conn, 2, OTHER_BOOT, false).expect("welcome");
    assert_eq!(other.slots.iter().map(|s| s.disk.0).collect::<Vec<_>>(), [2, 3], "a new one keeps off it at once");
}

/// Whoever dies within a move: a SEAL that counts is heard by the session, whichever of the two sets it uses.
#[test]
fn a_seal_within_a_move_needs_both_sets() {
    // (disks of the pool, lost before the move, lost within it, the client has moved, it is sealed)
    type Case = (u8, &'static [u16], &'static [u16], bool, bool);
    let worlds: [Case; 8] = [
        (2, &[0], &[0], false, false),
        (2, &[0], &[], false, true),
        (2, &[0], &[0], true, false),
        (4, &[0], &[0], false, true),
        (4, &[0], &[0], true, true),
        (4, &[0], &[0, 1], false, false),
        (4, &[0], &[0, 1], true, false),
        (4, &[0], &[3], true, true),
    ];
    for world in worlds {
        let (disks, before, within, moved, sealed) = world;
        let mut r = rig(disks);
        r.w.disks.broken = before.iter().map(|d| (DiskNo(*d), true)).collect();
        r.lose(before);
        r.wait(LEASE);
        if moved {
            let (_, m) = r.told().expect("told");
            r.slot.hear(&m);
        }
        r.w.disks.broken = within.iter().map(|d| (DiskNo(*d), true)).collect();
        assert_eq!(r.seal(), sealed, "{world:?}");
    }
}

/// A manager dies after each step; another one brings the move to its end.
#[test]
fn a_move_is_carried_on_by_the_next_manager() {
    let mut r = rig(4);
    r.w.disks.slow = true;
    r.lose(&[0]);
    r.wait(LEASE);
    assert!(r.told().is_none() && r.next().is_empty(), "the SEAL is not known to be clear there");
    r.w.questions.clear();
    r.restart(&[0]);
    r.wait(LEASE);
    r.w.answer_questions();
    let (_, m) = r.told().expect("told");
    assert_eq!(m.slots[2], SlotDisk { disk: DiskNo(3), opened: Generation(2) }, "under this manager's generation");
    r.slot.hear(&m);
    r.restart(&[0]);
    let (_, again) = r.told().expect("told again");
    assert_eq!(again, m, "the same move, though another manager serves");
    r.restart(&[0]);
    r.answer();
    assert_eq!((r.now(), r.next()), (vec![1, 2, 3], vec![]));
    r.restart(&[]);
    assert!(r.told().is_none());
    assert!(r.seal());
}

/// The answer comes through the disks.
#[test]
fn a_silent_session_is_told_by_letter() {
    let mut r = rig(4);
    r.lose(&[0]);
    r.wait(LEASE);
    let (push, m) = r.told().expect("told");
    r.w.disconnect(r.conn);
    r.w.disks.alive.insert(S);
    r.w.wait(LEASE);
    let (_, letter) = r.w.disks.letters.get(&S).expect("written");
    assert_eq!(letter.push, push);
    let to = r.w.effects.iter().rev().find_map(|e| if let Effect::WriteLetter { slots, .. } = e { Some(slots.clone()) } else { None });
    assert_eq!(to.expect("written").iter().map(|d| d.0).collect::<Vec<_>>(), [0, 1, 2, 3], "on the disks of both sets");
    r.slot.hear(&m);
    r.w.disks.answers.insert(S, Answer { push, done: true });
    r.w.wait(LEASE);
    assert_eq!((r.now(), r.next()), (vec![1, 2, 3], vec![]));
}

/// The clear SEAL was asked for; then the session is being sealed, or over.
#[test]
fn nothing_is_added_once_a_seal_may_be_set() {
    let mut r = rig(4);
    r.w.disks.slow = true;
    r.lose(&[0]);
    r.wait(LEASE);
    assert_eq!(r.w.questions.len(), 1);
    assert!(r.seal());
    r.w.answer_questions();
    assert!(r.w.shadow.session(S).is_none_or(|s| s.slots.next.is_empty()));
}

#[test]
fn a_disk_that_does_not_take_the_seal_is_left_out() {
    let mut r = rig(6);
    r.w.disks.broken = [(DiskNo(3), true), (DiskNo(4), false)].into();
    r.lose(&[0, 1]);
    r.moves();
    assert_eq!(r.now(), [2], "what is lost is left at once");
    r.wait(LEASE * 2);
    r.answer();
    assert_eq!(r.now(), [2, 5], "where it could be opened");
    r.w.disks.broken.clear();
    (0..16).for_each(|_| r.wait(LEASE));
    r.answer();
    assert_eq!(r.now(), [2, 3, 5], "not where a clear SEAL may still land");
    r.restart(&[0, 1, 3]);
    r.moves();
    assert_eq!(r.now(), [2, 4, 5], "one of a manager of the past ends the session, if it lands: it is of another generation");
}

#[test]
fn a_welcome_names_what_a_session_begins_with() {
    let mut r = rig(4);
    r.lose(&[0]);
    r.wait(LEASE);
    let conn = r.w.connect(1);
    let welcome = r.w.hello(conn, 1, OTHER_BOOT, false).expect("it never had one");
    assert_eq!((welcome.moves, welcome.slots.len(), welcome.slots[0].disk.0), (0, 3, 0));
    let (push, m) = r.w.find(conn, |p| if let Push::MoveSlot(m) = p { Some(m.clone()) } else { None }).expect("and is told then");
    let mut slot = Slot::of(&welcome);
    slot.hear(&m);
    assert_eq!(slot.no, 1);
    r.w.ack(conn, push, Ack::Done);
    let late = r.w.hello(conn, 1, OTHER_BOOT, true).expect("welcome");
    assert_eq!((late.moves, late.slots), (1, m.slots));
}
