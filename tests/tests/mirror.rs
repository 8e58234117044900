//! Mirrored volumes: disks that die, come back and are given up under a volume in use (PROTOCOL.md, "Mirrors and rebuild").

use fusevol::volume::Mode;
use fusevol_mgr::core::AdminRequest;
use fusevol_shared::disk::Answer;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::fault::{Fault, FaultDisk, Ops, Rule};
use fusevol_shared::units::DiskNo;
use fusevol_tests::model::host::Host;
use fusevol_tests::model::run::{World, handles, pool_of, print, settle};
use fusevol_tests::model::run_local;
use std::collections::BTreeMap;

const AU: u64 = 256 << 10;
const ENODATA: i32 = 61;
const EIO: i32 = 5;

/// SEMANTICS: "Durable: ... and the loss of any one leg of a mirror." "Available: one leg ... may fail with no error to the application."
#[test]
fn random_operations_while_disks_die_and_come_back() {
    for seed in 1..=16 {
        for (disks, copies) in [(2, 2), (3, 2), (4, 2), (4, 3)] {
            eprintln!("seed {seed}, {copies} copies on {disks} disks");
            run_local(async { World::of(seed, disks, copies).await.run(250).await });
        }
    }
}

fn page(n: u8) -> IoBytes {
    IoBuf::copy_of(&[n; 4096]).freeze()
}

/// A volume of two copies on three disks that one host writes.
struct Mirror {
    manager: std::sync::Arc<fusevol_tests::model::manager::Manager>,
    id: fusevol_shared::ids::VolumeId,
    memory: Vec<(fusevol_shared::ids::DiskId, fusevol_shared::disk::mem::MemDisk)>,
    faults: Vec<fusevol_shared::disk::fault::Faults>,
    host: std::rc::Rc<Host<FaultDisk<fusevol_shared::disk::mem::MemDisk>>>,
}

impl Mirror {
    async fn new(disks: u8) -> Self {
        let (manager, id, memory) = pool_of(1, 64, 8 * AU, disks, 2);
        let paths = handles(&memory, FaultDisk::new);
        let faults = paths.iter().map(|(_, p)| p.faults()).collect();
        let host = Host::start(&manager, print(1), paths).await;
        Self { manager, id, memory, faults, host }
    }

    /// The disks of the copies of the first AU, in order.
    fn legs(&self) -> Vec<DiskNo> {
        let map = self.manager.maps(self.id).remove(0);
        map.iter().next().map(|(_, e)| e.legs().iter().map(|l| l.at.disk).collect()).unwrap_or_default()
    }

    fn faults(&self, no: DiskNo) -> &fusevol_shared::disk::fault::Faults {
        &self.faults[usize::from(no.0)]
    }

    fn check_equal(&self) {
        let disks = fusevol_tests::model::copies::Disks::new(2, self.memory.clone(), Vec::new());
        disks.check_equal(&self.manager.maps(self.id), AU / 64);
    }
}

/// A bad sector is read from the other copy, and is good afterwards.
#[test]
fn a_bad_sector_is_repaired_from_the_other_copy() {
    run_local(async {
        let m = Mirror::new(3).await;
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
        volume.write(0, page(7)).await.expect("written");
        volume.flush().await.expect("flushed");
        settle().await;
        for no in m.legs() {
            // A medium error: until it is written.
            let bad = Rule::on(Ops::READ, Fault::Fail(ENODATA, Answer::Answered));
            m.faults(no).add(bad.times(1));
            let before = m.faults(no).counts();
            while m.faults(no).counts().failed == before.failed {
                assert_eq!(volume.read(0, 4096).await.expect("from the other copy")[0], 7);
                volume.write(0, page(7)).await.expect("the region is dirty: all read the first copy");
                if m.legs()[0] != no {
                    break;
                }
            }
        }
        assert!(volume.copying().out.is_empty(), "a bad sector is no reason to give a copy up");
        m.check_equal();
        m.host.detach(m.id).await.expect("given back");
        assert_eq!(m.manager.prove(), Vec::<String>::new());
    });
}

/// A disk that is dead: no error; given up: the copies lie elsewhere; and then the other one dies.
#[test]
fn a_dead_disk_is_given_up_and_then_another_one_dies() {
    run_local(async {
        let m = Mirror::new(3).await;
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
        for n in 0..8 {
            volume.write(n * AU, page(1)).await.expect("written");
        }
        volume.flush().await.expect("flushed");
        settle().await;
        let legs = m.legs();
        m.faults(legs[0]).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
        volume.write(0, page(2)).await.expect("on the other copy");
        volume.flush().await.expect("flushed");
        assert_eq!(volume.copying().out, [legs[0].0]);
        assert_eq!(volume.read(0, 4096).await.expect("read")[0], 2);
        m.manager.admin(AdminRequest::DiskFail { disk: legs[0], clear: false }).expect("given up");
        let mut well = BTreeMap::new();
        for _ in 0..8 {
            volume.look_after_copies(&mut well).await.expect("copied");
            volume.flush().await.expect("flushed");
            settle().await;
        }
        assert_eq!(volume.copying().todo, 0, "{:?}", volume.copying());
        m.check_equal();
        m.faults(legs[1]).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
        for n in 0..8 {
            assert_eq!(volume.read(n * AU, 4096).await.expect("from the new copies")[0], if n == 0 { 2 } else { 1 });
        }
        volume.write(AU, page(3)).await.expect("written");
        volume.flush().await.expect("flushed");
        m.host.detach(m.id).await.expect("given back");
        assert_eq!(m.manager.prove(), Vec::<String>::new());
    });
}

/// A disk that comes back gets what it missed, not more.
#[test]
fn a_disk_that_returns_gets_its_dirty_regions_only() {
    run_local(async {
        let m = Mirror::new(2).await;
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached");
        for n in 0..8 {
            volume.write(n * AU, page(1)).await.expect("written");
        }
        volume.flush().await.expect("flushed");
        m.host.detach(m.id).await.expect("given back");
        let volume = m.host.attach(m.id, Mode::Write).await.expect("attached anew: nothing is dirty");
        let bad = m.faults(DiskNo(1)).add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
        volume.write(0, page(2)).await.expect("on the other copy");
        volume.flush().await.expect("flushed");
        assert_eq!(volume.copying().out, [1]);
        m.faults(DiskNo(1)).remove(bad);
        let mut well = BTreeMap::new();
        for _ in 0..8 {
            volume.look_after_copies(&mut well).await.expect("copied");
            volume.flush().await.expect("flushed");
            settle().await;
        }
        let shown = volume.copying();
        assert_eq!((shown.todo, shown.out.len()), (0, 0), "{shown:?}");
        assert_eq!(shown.copied, AU / 64, "one block differed");
        m.check_equal();
        m.host.detach(m.id).await.expect("given back");
        assert_eq!(m.manager.prove(), Vec::<String>::new());
    });
}
