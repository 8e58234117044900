//! Copies on memory disks, equal and not.

use super::super::world::{POOL, World, au};
use super::*;
use crate::catalog::record::{Base, MapOf, Record};
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::map::{Leg, MapRun};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuSize, DiskOff};

const M: VolumeId = VolumeId([7; 16]);

/// A mirrored volume beside the world's own: AU 0 lies at 45 on both disks, three blocks of it written; AU 1 at 46, of which disk 1 misses something.
fn world() -> World {
    let mut w = World::new();
    let made = Record::VolumeCreated { id: M, name: Name::new("mirror").expect("a name"), size: 64 << 20, legs: 2, created: 2 };
    let stale = Leg { state: LegState::Stale, ..Leg::single(au(1, 46)) };
    let runs = vec![
        MapRun { first: VolAu(0), legs: vec![Leg::single(au(0, 45)), Leg::single(au(1, 45))], written: vec![7] },
        MapRun { first: VolAu(1), legs: vec![Leg::single(au(0, 46)), stale], written: vec![1] },
    ];
    for r in [made, Record::Base(Base::Map { of: MapOf::Volume(M), runs })] {
        w.catalog.apply(&r).expect("fits");
    }
    w
}

fn byte(block: u64) -> DiskOff {
    au(0, 45).au.start(AuSize::DEFAULT).plus(block * AuSize::DEFAULT.block_bytes() + 5)
}

#[test]
fn what_is_written_must_be_equal_and_nothing_else() {
    let w = world();
    let look = || block_on(compare(&w.catalog, &SessionIo::new(POOL, AuSize::DEFAULT, &w.disks, crate::session_io::LIMIT)));
    let found = look();
    assert_eq!((found.aus, found.lacking, &found.violations, &found.notes), (1, 1, &vec![], &vec![]));
    assert_eq!(found.bytes, 3 * AuSize::DEFAULT.block_bytes());
    w.disks[0].2.poke(byte(3), &[1]);
    assert_eq!(look().violations, Vec::<String>::new(), "block 3 was never written");
    w.disks[1].2.poke(byte(2), &[1]);
    let said = look().violations;
    assert!(said.len() == 1 && said[0].contains("volume 'mirror': AU 0, blocks 0..3"), "{said:?}");
}
