//! Each fault does what its rule says, and is counted.

use super::super::mem::MemDisk;
use super::super::ring::block_on;
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::units::{PAGE, PAGE_U64};
use futures_util::future::{Either, join, select};
use std::pin::pin;

fn disk() -> (FaultDisk<MemDisk>, Faults) {
    let disk = FaultDisk::new(MemDisk::new(16 * PAGE_U64));
    let faults = disk.faults();
    (disk, faults)
}

fn page(b: u8) -> IoBytes {
    IoBuf::copy_of(&[b; PAGE]).freeze()
}

fn at(page: u64) -> DiskOff {
    DiskOff(page * PAGE_U64)
}

fn first(d: &FaultDisk<MemDisk>, page: u64) -> u8 {
    d.inner().peek(at(page), 1)[0]
}

#[test]
fn fails_by_direction_range_and_count() {
    let (d, faults) = disk();
    let no = faults.add(Rule::on(Ops::WRITE, Fault::Fail(libc::EIO, Answer::NotReturned)).within(PAGE_U64..2 * PAGE_U64).times(2));
    block_on(async {
        d.write(at(0), page(1)).await.unwrap();
        d.write(at(2), page(1)).await.unwrap();
        d.read(at(1), IoBuf::zeroed(PAGE)).await.0.unwrap();
        let e = d.write(at(1), page(1)).await.unwrap_err();
        assert_eq!((e.errno, e.answer), (libc::EIO, Answer::NotReturned));
        assert!(d.write_durable(at(0), IoBuf::zeroed(2 * PAGE).freeze()).await.is_err(), "touches the range");
        d.write(at(1), page(3)).await.unwrap();
        d.flush().await.unwrap();
    });
    assert_eq!((first(&d, 0), first(&d, 1)), (1, 3));
    assert_eq!(faults.counts(), Counts { passed: 5, failed: 2, ..Counts::default() });
    faults.remove(no);
}

#[test]
fn a_lost_answer_lands() {
    let (d, faults) = disk();
    faults.add(Rule::on(Ops::ALL, Fault::LandThenFail(libc::ETIMEDOUT, Answer::NotReturned)));
    assert_eq!(block_on(d.write(at(1), page(4))).unwrap_err().errno, libc::ETIMEDOUT);
    assert!(block_on(d.flush()).is_err());
    assert_eq!(first(&d, 1), 4);
    faults.clear();
    block_on(d.flush()).unwrap();
}

#[test]
fn delays_in_the_ring_without_holding_up_others() {
    let (d, faults) = disk();
    let delay = Duration::from_millis(20);
    faults.add(Rule::on(Ops::WRITE, Fault::Delay(delay)).times(1));
    let before = SystemClock.now();
    let order = std::cell::RefCell::new(Vec::new());
    block_on(join(
        async {
            d.write(at(0), page(1)).await.unwrap();
            order.borrow_mut().push("delayed");
        },
        async {
            d.write(at(1), page(2)).await.unwrap();
            order.borrow_mut().push("prompt");
        },
    ));
    assert_eq!(order.into_inner(), ["prompt", "delayed"]);
    assert!(SystemClock.now().since(before) >= delay);
    assert_eq!(faults.counts().delayed, 1);
}

#[test]
fn a_hung_write_lands_late() {
    let (d, faults) = disk();
    let no = faults.add(Rule::on(Ops::WRITE, Fault::Hang));
    let handle = faults.clone();
    let releaser = std::thread::spawn(move || {
        while handle.counts().hanging == 0 {
            std::thread::yield_now();
        }
        handle.remove(no);
    });
    block_on(d.write(at(0), page(5))).unwrap();
    releaser.join().unwrap();
    assert_eq!(first(&d, 0), 5);
    assert_eq!(faults.counts(), Counts { released: 1, ..Counts::default() });
}

#[test]
fn a_hung_write_can_be_given_up_or_dropped() {
    let (d, faults) = disk();
    let no = faults.add(Rule::on(Ops::WRITE, Fault::Hang));
    block_on(async {
        let hung = pin!(d.write(at(0), page(5)));
        let Either::Right((_, hung)) = select(hung, pin!(d.flush())).await else { panic!("it hangs") };
        assert_eq!(faults.counts().hanging, 1);
        faults.give_up(no, libc::ENODEV);
        let e = hung.await.unwrap_err();
        assert_eq!((e.errno, e.answer), (libc::ENODEV, Answer::NotReturned));
        faults.add(Rule::on(Ops::WRITE, Fault::Hang));
        let Either::Right(_) = select(pin!(d.write(at(0), page(6))), pin!(d.flush())).await else { panic!("it hangs") };
    });
    assert_eq!(faults.counts().hanging, 0, "dropped");
    faults.clear();
    assert_eq!(first(&d, 0), 0);
}
