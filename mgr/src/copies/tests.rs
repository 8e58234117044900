//! Copies on disks in memory.

use super::*;
use fusevol_shared::disk::fault::{Fault, FaultDisk, Ops, Rule};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::ring;
use fusevol_shared::ids::DiskId;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::AuNo;
use std::sync::Arc;

const AU: u64 = 1 << 20;

fn at(disk: u16, au: u32) -> DiskAu {
    DiskAu { disk: DiskNo(disk), au: AuNo(au) }
}

fn fill(disk: &impl Disk, au: u64, byte: u8) {
    let data = IoBuf::copy_of(&vec![byte; usize::try_from(AU).expect("small")]);
    ring::block_on(disk.write(DiskOff(au * AU), data.freeze())).expect("written");
}

fn bytes(disk: &impl Disk, au: u64) -> Vec<u8> {
    let (read, buf) = ring::block_on(disk.read(DiskOff(au * AU), IoBuf::zeroed(usize::try_from(AU).expect("small"))));
    read.expect("read");
    buf.to_vec()
}

#[test]
fn what_differs_is_written_and_nothing_else() {
    let disks: Vec<Member<Arc<MemDisk>>> = (0..3).map(|n| (DiskNo(n), DiskId([1; 16]), Arc::new(MemDisk::new(8 * AU)))).collect();
    fill(&disks[0].2, 1, 7);
    fill(&disks[1].2, 2, 9);
    let copies = Copies { disks: &disks, au_size: AuSize::DEFAULT };
    let job = CopyJob { from: vec![at(0, 1)], to: vec![at(1, 2), at(2, 3)], blocks: BlockMask(0b101) };
    let end = ring::block_on(copies.copy(&job));
    let block = AU / 64;
    assert_eq!((end.done.clone(), end.written, end.unreadable), (job.to.clone(), 4 * block, false));
    let of = |disk: usize, au: u64, b: u64| bytes(&disks[disk].2, au)[usize::try_from(b * block).expect("small")];
    assert_eq!((of(1, 2, 0), of(1, 2, 1), of(1, 2, 2), of(2, 3, 0), of(2, 3, 1)), (7, 9, 7, 7, 0));
    // Again: all of it is equal.
    assert_eq!(ring::block_on(copies.copy(&job)).written, 0);
}

#[test]
fn a_source_that_cannot_be_read_is_no_zeros_and_a_target_that_does_not_answer_is_said() {
    let disks: Vec<Member<FaultDisk<MemDisk>>> =
        (0..4).map(|n| (DiskNo(n), DiskId([1; 16]), FaultDisk::new(MemDisk::new(8 * AU)))).collect();
    fill(&disks[0].2, 1, 7);
    fill(&disks[1].2, 1, 7);
    let copies = Copies { disks: &disks, au_size: AuSize::DEFAULT };
    let job = CopyJob { from: vec![at(0, 1), at(1, 1)], to: vec![at(2, 3), at(3, 3)], blocks: BlockMask(1) };
    // The first source is bad: the second serves.
    disks[0].2.faults().add(Rule::on(Ops::READ, Fault::Fail(libc::EIO, Answer::Answered)));
    let end = ring::block_on(copies.copy(&job));
    assert_eq!((end.done, end.unreadable), (job.to.clone(), false));
    assert_eq!(bytes(&disks[3].2, 3)[0], 7);
    // One target answers with an error, the other does not answer.
    fill(disks[1].2.inner(), 1, 8);
    disks[2].2.faults().add(Rule::on(Ops::WRITE, Fault::Fail(libc::ENODATA, Answer::Answered)));
    disks[3].2.faults().add(Rule::on(Ops::FLUSH, Fault::Fail(libc::EIO, Answer::NotReturned)));
    let end = ring::block_on(copies.copy(&job));
    assert_eq!((end.done.len(), end.late.clone(), end.unreadable), (0, vec![at(3, 3)], false));
    assert!(!end.why.is_empty());
    // No source at all: nothing is written.
    disks[1].2.faults().add(Rule::on(Ops::READ, Fault::Fail(libc::EIO, Answer::Answered)));
    disks[2].2.faults().clear();
    let end = ring::block_on(copies.copy(&job));
    assert!(end.unreadable && end.done.is_empty() && end.written == 0);
    assert_eq!(bytes(&disks[2].2, 3)[0], 7, "as it was");
}
