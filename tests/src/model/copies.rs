//! The disks of a mirrored volume: they die and come back, and at the end all copies must be equal.

use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::fault::{Fault, Faults, Ops, Rule};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Answer, Disk};
use fusevol_shared::ids::DiskId;
use fusevol_shared::map::{LegState, VolumeMap};
use fusevol_shared::units::DiskNo;
use futures_util::FutureExt;

const EIO: i32 = 5;

/// The disks, and every host's path to each.
pub struct Disks {
    /// Copies of the volume.
    pub copies: u8,
    memory: Vec<(DiskId, MemDisk)>,
    /// By disk, then by host.
    faults: Vec<Vec<Faults>>,
    bad: Option<usize>,
}

impl Disks {
    /// All of them well.
    #[must_use]
    pub fn new(copies: u8, memory: Vec<(DiskId, MemDisk)>, faults: Vec<Vec<Faults>>) -> Self {
        Self { copies, memory, faults, bad: None }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// All their numbers.
    pub fn all(&self) -> impl Iterator<Item = DiskNo> + use<> {
        (0..u16::try_from(self.memory.len()).expect("few")).map(DiskNo)
    }

    /// The one that is dead.
    #[must_use]
    pub fn bad(&self) -> Option<DiskNo> {
        self.bad.map(|d| DiskNo(u16::try_from(d).expect("few")))
    }

    /// It answers nothing but errors, to nobody.
    pub fn kill(&mut self, disk: usize) {
        self.bad = Some(disk);
        for f in &self.faults[disk] {
            f.add(Rule::on(Ops::ALL, Fault::Fail(EIO, Answer::Answered)));
        }
    }

    /// All are well again; what they held is there.
    pub fn heal(&mut self) {
        self.bad = None;
        self.faults.iter().flatten().for_each(Faults::clear);
    }

    /// Every copy in sync of every AU of the live map holds the same in the blocks that are written. (Of a snapshot's, blocks that are preserved
    /// may differ: they are not read there any more.)
    ///
    /// # Panics
    /// If not, naming the first.
    pub fn check_equal(&self, live: &VolumeMap, block: u64) {
        for (au, e) in live.iter() {
            for run in e.written.runs() {
                let len = usize::try_from(u64::from(run.end - run.start) * block).expect("small");
                let copies: Vec<_> = e.legs().iter().filter(|l| l.state == LegState::InSync).map(|l| l.at).collect();
                let read = |at: fusevol_shared::units::DiskAu| {
                    let memory = &self.memory[usize::from(at.disk.0)].1;
                    let from = fusevol_shared::units::DiskOff(u64::from(at.au.0) * 64 * block + u64::from(run.start) * block);
                    let (done, buf) = memory.read(from, IoBuf::zeroed(len)).now_or_never().expect("memory does not wait");
                    done.map(|()| buf.to_vec()).expect("memory does not fail")
                };
                let first = copies.first().map(|at| read(*at));
                for at in &copies {
                    assert!(Some(read(*at)) == first, "AU {au}, blocks {run:?}: the copy at {at} differs from that at {}", copies[0]);
                }
            }
        }
    }
}
