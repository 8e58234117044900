//! What an AU needs to have all its copies: decided from its legs, the disks that are out, and the manager's orders.

use crate::volume::view::Slot;
use fusevol_shared::map::{Leg, LegState};
use fusevol_shared::units::{DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::RecoveryOrders;
use std::collections::BTreeSet;

/// What one AU needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Task {
    pub au: VolAu,
    /// Copies that it keeps, in the order of its legs.
    pub keep: Vec<DiskAu>,
    /// Of them, those that miss something.
    pub stale: Vec<DiskAu>,
    /// How many more it needs.
    pub more: usize,
}

/// What is to be done about an AU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// It has its copies.
    Nothing,
    /// A disk is out that may come back.
    Disk,
    /// Something is to be copied.
    Copies(Task),
}

impl Task {
    pub fn of(au: VolAu, slot: &Slot<'_>, out: &[DiskNo], orders: &RecoveryOrders) -> Need {
        of_legs(au, &slot.legs().collect::<Vec<_>>(), out, orders)
    }

    /// The disks that new copies must not be on, ascending.
    pub fn disks(&self) -> Vec<DiskNo> {
        let disks: BTreeSet<DiskNo> = self.keep.iter().map(|at| at.disk).collect();
        disks.into_iter().collect()
    }
}

fn of_legs(au: VolAu, legs: &[Leg], out: &[DiskNo], orders: &RecoveryOrders) -> Need {
    let given_up = |l: &Leg| orders.given_up.contains(&l.at.disk);
    let is_out = |l: &Leg| out.contains(&l.at.disk);
    let kept: Vec<&Leg> = legs.iter().filter(|l| l.state != LegState::Gone && !given_up(l)).collect();
    // What lies there misses writes, and may be brought up to date once the disk is back.
    if kept.iter().any(|l| l.state == LegState::Stale && is_out(l)) {
        return Need::Disk;
    }
    let keep: Vec<DiskAu> = kept.iter().map(|l| l.at).collect();
    let stale: Vec<DiskAu> = kept.iter().filter(|l| l.state == LegState::Stale).map(|l| l.at).collect();
    let more = usize::from(orders.copies).saturating_sub(keep.len());
    match stale.is_empty() && more == 0 {
        true => Need::Nothing,
        false => Need::Copies(Task { au, keep, stale, more }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::ids::LegGeneration;
    use fusevol_shared::units::AuNo;

    fn leg(disk: u16, state: LegState) -> Leg {
        Leg { at: DiskAu { disk: DiskNo(disk), au: AuNo(7) }, generation: LegGeneration(0), state }
    }

    fn need(legs: &[Leg], out: &[u16], given_up: &[u16]) -> Need {
        let no = |all: &[u16]| all.iter().copied().map(DiskNo).collect::<Vec<_>>();
        let orders = RecoveryOrders { given_up: no(given_up), todo: 1, paused: false, limit: 0, copies: 2, look_at: Vec::new() };
        of_legs(VolAu(0), legs, &no(out), &orders)
    }

    #[test]
    fn what_an_au_needs() {
        use LegState::{Gone, InSync, Stale};
        let copies = |keep: &[u16], stale: &[u16], more| {
            let at = |all: &[u16]| all.iter().map(|d| leg(*d, InSync).at).collect();
            Need::Copies(Task { au: VolAu(0), keep: at(keep), stale: at(stale), more })
        };
        let whole = [leg(0, InSync), leg(1, InSync)];
        assert_eq!(need(&whole, &[], &[]), Need::Nothing);
        assert_eq!(need(&whole, &[1], &[]), Need::Nothing, "nothing was written to it since");
        assert_eq!(need(&whole, &[1], &[1]), copies(&[0], &[], 1));
        let missed = [leg(0, InSync), leg(1, Stale)];
        assert_eq!(need(&missed, &[1], &[]), Need::Disk);
        assert_eq!(need(&missed, &[], &[]), copies(&[0, 1], &[1], 0));
        assert_eq!(need(&missed, &[1], &[1]), copies(&[0], &[], 1));
        assert_eq!(need(&[leg(0, InSync)], &[], &[]), copies(&[0], &[], 1));
        assert_eq!(need(&[leg(0, Gone), leg(1, InSync), leg(2, InSync)], &[0], &[0]), Need::Nothing);
        assert_eq!(need(&[leg(0, InSync)], &[0], &[0]), copies(&[], &[], 2), "the last copy is on a disk that is given up");
    }
}
