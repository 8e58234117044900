//! The thread that marks the disks, on its own ring (`marks`): twice a lease each disk that is not lost gets its next mark, durable. It is a thread of its own so
//! that a disk that hangs holds up nothing: its mark stays under way, and it gets no other one meanwhile.
//!
//! Invariants: of one disk one mark at most is under way; its number goes on only once it was durable, so that a mark that may be torn never meets the only
//! whole one; what a superseded manager marks is true, and lies in pages of its own generation.

use crate::data::Table;
use crate::marks::{self, Marks};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::{Disk, DiskResult, ring};
use fusevol_shared::error::{Context, Kind, Result};
use fusevol_shared::format::mark::{Age, mark_at};
use fusevol_shared::ids::{DiskId, Generation, PoolId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// The least time between two marks of a disk.
const LEAST: Duration = Duration::from_millis(500);

/// The thread; it ends when this is dropped.
pub(super) struct Marker {
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Marker {
    /// Marks the disks of `table` that are not `lost` for this generation; what was durable is told to `marks`.
    ///
    /// # Errors
    /// `Internal` without a thread.
    pub fn start<D>(of: Marking<D>, lost: impl Fn(&D) -> bool + Send + 'static) -> Result<Self>
    where
        D: Disk + Clone + Send + Sync + 'static,
    {
        let (end, ends) = watch::channel(false);
        let work = move || ring::block_on(run(of, lost, ends));
        let thread = std::thread::Builder::new().name("marker".to_owned()).spawn(work).context(Kind::Internal, || "no thread")?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.end.send_replace(true);
        // A panic of it was reported where it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What is marked.
pub(super) struct Marking<D> {
    pub pool: PoolId,
    pub generation: Generation,
    pub lease: Duration,
    pub table: Table<D>,
    /// What was durable is told to these.
    pub marks: Arc<Marks>,
}

async fn run<D: Disk + Clone>(of: Marking<D>, lost: impl Fn(&D) -> bool, mut ends: watch::Receiver<bool>) {
    let (mut under_way, mut busy) = (FuturesUnordered::new(), BTreeSet::new());
    // Of the next mark of each disk.
    let mut ages: BTreeMap<DiskId, Age> = BTreeMap::new();
    loop {
        let table = of.table.load_full();
        let ids: Vec<DiskId> = table.iter().map(|(_, id, _)| *id).collect();
        for (at, (_, id, disk)) in table.iter().enumerate() {
            if !lost(disk) && busy.insert(*id) {
                let age = *ages.entry(*id).or_insert(marks::first(of.generation));
                let page = of.marks.next(age, at, &ids).encode(of.pool, *id);
                under_way.push(mark(*id, age, disk.clone(), page));
            }
        }
        let mut pause = pin!(ring::sleep((of.lease / 2).max(LEAST)));
        loop {
            tokio::select! {
                _ = ends.wait_for(|end| *end) => return,
                Some((id, age, done)) = under_way.next() => {
                    busy.remove(&id);
                    match done {
                        Ok(()) => {
                            of.marks.was_durable(id, age);
                            ages.insert(id, Age { number: age.number.next(), ..age });
                        }
                        Err(e) => tracing::debug!("disk {id} was not marked: {e}"),
                    }
                }
                // A kernel that refuses a timer serves no disk either.
                slept = &mut pause => match slept {
                    Ok(()) => break,
                    Err(_) => return,
                },
            }
        }
    }
}

async fn mark<D: Disk>(id: DiskId, age: Age, disk: D, page: Vec<u8>) -> (DiskId, Age, DiskResult<()>) {
    let done = disk.write_durable(mark_at(age.page()), IoBuf::copy_of(&page).freeze()).await;
    (id, age, done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // real threads live in real time

    use super::*;
    use arc_swap::ArcSwap;
    use fusevol_shared::clock::{Clock, SystemClock};
    use fusevol_shared::disk::fault::{Fault, FaultDisk, Ops, Rule};
    use fusevol_shared::disk::mem::MemDisk;
    use fusevol_shared::ids::Seq;
    use fusevol_shared::units::DiskNo;

    const POOL: PoolId = PoolId([1; 16]);

    fn newest(disk: &MemDisk, id: DiskId) -> Option<u64> {
        ring::block_on(marks::read(disk, POOL, id)).expect("memory").newest.map(|a| a.number.0)
    }

    /// One hangs, one is lost, two are well: these are marked again and again.
    #[test]
    fn a_disk_that_hangs_holds_up_no_other() {
        let mem: Vec<MemDisk> = (0..4).map(|_| MemDisk::new(64 << 20)).collect();
        let disks: Vec<_> = mem.iter().map(|m| Arc::new(FaultDisk::new(m.clone()))).collect();
        disks[0].faults().add(Rule::on(Ops::ALL, Fault::Hang));
        let id = |n: usize| DiskId([u8::try_from(n).expect("few") + 1; 16]);
        let member = |n: usize| (DiskNo(u16::try_from(n).expect("few")), id(n), disks[n].clone());
        let table: Table<_> = Arc::new(ArcSwap::from_pointee((0..4).map(member).collect()));
        let (marks, gone) = (Arc::new(Marks::default()), disks[3].clone());
        let of = Marking { pool: POOL, generation: Generation(2), lease: Duration::ZERO, table, marks: marks.clone() };
        let marker = Marker::start(of, move |d| Arc::ptr_eq(d, &gone)).expect("a thread");
        let until = SystemClock.now().plus(Duration::from_secs(20));
        while newest(&mem[1], id(1)) < Some(3) || newest(&mem[2], id(2)) < Some(3) {
            assert!(SystemClock.now() < until, "they are not marked");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(marker);
        assert_eq!((newest(&mem[0], id(0)), newest(&mem[3], id(3))), (None, None));
        // What one lost since, it is refused for; and the other one says so, too.
        assert!(marks.judge(id(1), Some(Age { generation: Generation(2), number: Seq(0) })).is_some());
        let told = ring::block_on(marks::read(&mem[2], POOL, id(2))).expect("memory").told;
        assert!(told.iter().any(|(d, a)| *d == id(1) && a.number >= Seq(2)), "{told:?}");
    }
}
