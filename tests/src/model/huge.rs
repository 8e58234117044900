//! A volume of millions of AUs that is mapped to its last block: its map is laid into the catalog as a checkpoint would bring it. For tests
//! of what a map costs who attaches it.

use super::manager::Manager;
use super::run::print;
use fusevol_mgr::catalog::Catalog;
use fusevol_mgr::catalog::record::{Base, MapOf, Record};
use fusevol_mgr::core::{AdminReply, AdminRequest};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::ids::{DiskId, VolumeId};
use fusevol_shared::map::{Leg, MapRun};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{AuNo, AuSize, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::rights::{Right, Rights};
use std::sync::Arc;

/// AUs at the start of the first disk that the map leaves free: for journals, reserves, preserve segments.
const FREE: u32 = 4096;
/// AUs in one record of the map.
const PART: u32 = 4096;

/// How a volume lies on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Written from one end to the other.
    Whole,
    /// AU by AU side by side; no two masks alike.
    Masks,
    /// No two AUs side by side, no two masks alike.
    Torn,
}

impl Layout {
    /// Where an AU of the volume lies on the first disk.
    #[must_use]
    pub fn au(self, au: VolAu, aus: u32) -> AuNo {
        let at = match self {
            Layout::Whole | Layout::Masks => au.0,
            // The even ones, then the odd ones.
            Layout::Torn => au.0 % 2 * aus.div_ceil(2) + au.0 / 2,
        };
        AuNo(FREE + at)
    }

    fn runs(self, part: std::ops::Range<u32>, aus: u32, random: &mut SeededRandom) -> Vec<MapRun> {
        // The last block of each AU is written, whatever else is.
        let mut mask = || if self == Layout::Whole { u64::MAX } else { random.below(u64::MAX) | 1 << 63 };
        let legs = |au: u32| vec![Leg::single(DiskAu { disk: DiskNo(0), au: self.au(VolAu(au), aus) })];
        match self {
            Layout::Torn => part.map(|au| MapRun { first: VolAu(au), legs: legs(au), written: vec![mask()] }).collect(),
            _ => vec![MapRun { first: VolAu(part.start), legs: legs(part.start), written: part.map(|_| mask()).collect() }],
        }
    }
}

/// A manager of two disks, with a volume of so many AUs of 1 MiB that lies like this, and two clients that have all rights on it.
///
/// # Panics
/// If the core or the catalog refuses any of it.
#[must_use]
pub fn mapped(aus: u32, layout: Layout) -> (Arc<Manager>, VolumeId, Vec<(DiskId, MemDisk)>) {
    let au_size = AuSize::DEFAULT;
    let disks = [(DiskId([11; 16]), aus + 2 * FREE), (DiskId([12; 16]), FREE)];
    let manager = Manager::new(1, au_size, &disks);
    let size = u64::from(aus) * au_size.bytes();
    let made = manager.admin(AdminRequest::VolumeCreate { name: "vol".into(), size }).expect("a volume is made");
    let AdminReply::Volume(volume) = made else { panic!("{made:?}") };
    let rights = Right::ALL.into_iter().fold(Rights::NONE, Rights::with);
    for n in [1, 2] {
        let client = format!("host{n}");
        manager.admin(AdminRequest::ClientAdd { name: client.clone(), print: print(n) }).expect("a client is added");
        manager.admin(AdminRequest::AccessGrant { volume: "vol".into(), client, rights }).expect("rights are granted");
    }
    let mut catalog = Catalog::fold(&manager.dump()).expect("what was dumped can be folded");
    let mut random = SeededRandom(2);
    for first in (0..aus).step_by(PART as usize) {
        let runs = layout.runs(first..aus.min(first.saturating_add(PART)), aus, &mut random);
        catalog.apply(&Record::Base(Base::Map { of: MapOf::Volume(volume.id), runs })).expect("a part of the map fits");
    }
    let memory = disks.map(|(id, aus)| (id, MemDisk::new(u64::from(aus) * au_size.bytes()))).to_vec();
    (Manager::over(catalog, 1), volume.id, memory)
}
