//! A slot that moves to other disks while it is asked.

use super::*;

/// On disks 0 and 1 at first, of three.
fn moving() -> World {
    let w = world(3);
    let slot = Slot::new(PoolId([1; 16]), SESSION, ID, 0, w.carriers(&[(0, 4), (1, 4)]));
    World { slot, ..w }
}

impl World {
    fn carriers(&self, on: &[(usize, u64)]) -> Vec<Carrier> {
        let one = |(i, opened): &(usize, u64)| Carrier {
            disk: DiskNo(u16::try_from(*i).expect("small")),
            at: self.places[*i],
            opened: Generation(*opened),
        };
        on.iter().map(one).collect()
    }

    fn moves(&self, no: u64, on: &[(usize, u64)]) {
        self.slot.move_to(no, &self.carriers(on));
    }

    fn uses(&self) -> Vec<u16> {
        self.slot.disks().iter().map(|d| d.0).collect()
    }
}

#[test]
fn a_slot_moves_forward_only_and_each_place_has_its_own_generation() {
    let w = moving();
    w.seal(2, SlotSeal { generation: Generation(7), ..CLEAR });
    w.moves(2, &[(1, 4), (2, 7)]);
    assert!(w.check().is_ok() && w.beat().is_ok());
    assert_eq!((w.uses(), w.beats()), (vec![1, 2], vec![None, Some(1), Some(1)]));
    w.moves(1, &[(0, 4)]);
    w.moves(2, &[(0, 4)]);
    assert_eq!(w.uses(), [1, 2], "what is said late, or again, puts nothing back");
    w.seal(0, SlotSeal { sealed: true, ..CLEAR });
    assert!(w.check().is_ok(), "the former disks say nothing any more");
    w.seal(2, CLEAR);
    assert_eq!(kind(w.check()), Some(Kind::Lapsed), "a clear SEAL of another manager than that which opened this place");
}

/// A check reads the former disks clear; before it concludes the slot moves, the session answers, and it is sealed where it lies now.
fn straddles(w: &World) -> Result<()> {
    let hang = w.faults[0].add(Rule::on(Ops::READ, Fault::Hang));
    let late = w.faults[1].add(Rule::on(Ops::READ, Fault::Hang));
    ring::block_on(async {
        let mut check = std::pin::pin!(w.slot.check(&w.disks));
        assert!(std::future::poll_fn(|cx| Poll::Ready(check.as_mut().poll(cx).is_pending())).await);
        w.moves(1, &[(2, 4)]);
        w.seal(2, SlotSeal { sealed: true, ..CLEAR });
        w.faults[0].remove(hang);
        w.faults[1].remove(late);
        check.await
    })
}

#[test]
fn a_check_that_straddles_a_move_is_made_anew() {
    let w = moving();
    assert_eq!((kind(straddles(&w)), w.slot.is_sealed()), (Some(Kind::Lapsed), true));
    let w = moving();
    assert!(sentence::without(Tag::T1, || straddles(&w)).is_ok(), "what the former disks say would let a sealed session go on");
}

#[test]
fn a_beat_that_straddles_a_move_is_written_anew() {
    let w = moving();
    let hang = w.faults[0].add(Rule::on(Ops::WRITE, Fault::Hang));
    let late = w.faults[1].add(Rule::on(Ops::WRITE, Fault::Hang));
    let result = ring::block_on(async {
        let mut beat = std::pin::pin!(w.slot.beat(&w.disks));
        assert!(std::future::poll_fn(|cx| Poll::Ready(beat.as_mut().poll(cx).is_pending())).await);
        w.moves(1, &[(2, 4)]);
        w.faults[0].remove(hang);
        w.faults[1].remove(late);
        beat.await
    });
    assert!(result.is_ok());
    assert_eq!(w.beats()[2], Some(1), "where the manager looks for it from now on");
}

/// A disk that the slot has left may be opened anew, by a later manager, for the same session.
#[test]
fn what_a_former_disk_says_late_ends_nothing() {
    let w = moving();
    let hang = w.faults[0].add(Rule::on(Ops::READ, Fault::Hang));
    w.faults[1].add(Rule::on(Ops::READ, Fault::Hang));
    let result = ring::block_on(async {
        let mut check = std::pin::pin!(w.slot.check(&w.disks));
        assert!(std::future::poll_fn(|cx| Poll::Ready(check.as_mut().poll(cx).is_pending())).await);
        w.moves(1, &[(2, 4)]);
        w.seal(0, SlotSeal { generation: Generation(9), ..CLEAR });
        w.faults[0].remove(hang);
        check.await
    });
    assert_eq!((kind(result), w.slot.is_sealed()), (None, false));
}
