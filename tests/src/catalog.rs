//! A catalog of numbered commits on crash disks: what the crash proof of the store runs, and how it judges what it finds.
//!
//! Commit `n` is a transaction of several records that name it and each other, so that the judge can tell a lost commit
//! from a half one, an older state from a newer one. A dump is one record: "everything up to `n`".

#![allow(missing_docs)] // of the twins that rkyv derives

use fusevol_mgr::store::{Candidate, Door, Inspection, NewDisk, NewPool, Options, Store, Takeover, Who, create, inspect, open};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::any::Lock;
use fusevol_shared::error::Result;
use fusevol_shared::format::label::Instance;
use fusevol_shared::ids::{BootId, DiskId, PoolId};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuSize, DiskNo};
use std::task::Poll;
use std::time::Duration;

/// Size of each disk: the smallest there is.
pub const DISK: u64 = 64 << 20;

/// A record of the numbered catalog.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, PartialEq, Debug)]
pub enum Rec {
    /// Commits up to this one.
    Upto(u64),
    /// Record `part` of the `parts` of commit `commit`.
    Part {
        /// Which commit.
        commit: u64,
        /// Which record of it.
        part: u32,
        /// How many it has.
        parts: u32,
        /// Makes it large.
        filler: Vec<u8>,
    },
}

/// The records of commit `n`, of `parts` records of about `size` bytes.
#[must_use]
pub fn commit_of(n: u64, parts: u32, size: usize) -> Vec<Rec> {
    let byte = u8::try_from(n % 251).expect("below 251");
    (0..parts).map(|part| Rec::Part { commit: n, part, parts, filler: vec![byte; size] }).collect()
}

/// Folds what was found: the number of the last commit.
///
/// # Panics
/// Where a commit is there in part, twice, or out of order.
#[must_use]
pub fn fold(records: &[Rec], what: &str) -> u64 {
    let (mut upto, mut next, mut based) = (0, 0, false);
    for r in records {
        match r {
            Rec::Upto(n) => {
                assert!(!based && upto == 0, "{what}: a second base");
                (upto, based) = (*n, true);
            }
            Rec::Part { commit, part, parts, .. } => {
                assert_eq!((*commit, *part), (upto + 1, next), "{what}: out of order");
                next = part + 1;
                if next == *parts {
                    (upto, next) = (upto + 1, 0);
                }
            }
        }
    }
    assert_eq!(next, 0, "{what}: half a transaction");
    upto
}

/// Longer sleeps are limits that never run out here; shorter ones are over after some polls.
const LIMIT: Duration = Duration::from_secs(60);

/// A door without locks: whoever asks holds them all. Sleeping takes `polls` polls.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLocks {
    /// How many.
    pub polls: u32,
}

impl<D> Door<D> for NoLocks {
    fn try_lock(&self, _: &D) -> Result<Lock> {
        Ok(Lock::Taken)
    }
    async fn sleep(&self, time: Duration) {
        let mut left = if time >= LIMIT { u32::MAX } else { self.polls };
        std::future::poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            if left != u32::MAX {
                left -= 1;
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }
}

/// Process `process` on host `host`.
#[must_use]
pub fn who(host: u8, process: u8) -> Who {
    Who { instance: Instance([process; 16]), boot: BootId([host; 16]), host: format!("h{host}"), pid: process.into() }
}

/// As the manager opens, with limits that never run out.
#[must_use]
pub fn options() -> Options {
    Options { limit: LIMIT, ..Options::default() }
}

/// Disks as candidates.
pub fn candidates<D: Disk>(disks: impl IntoIterator<Item = D>) -> Vec<Candidate<D>> {
    disks.into_iter().enumerate().map(|(i, disk)| Candidate { disk, path: format!("d{i}") }).collect()
}

/// Disk number `no`.
///
/// # Panics
/// If there are more than 255.
pub fn new_disk<D>(disk: D, no: u16) -> NewDisk<D> {
    let id = DiskId([u8::try_from(no).expect("few disks") + 1; 16]);
    NewDisk { disk, path: format!("d{no}"), id, no: DiskNo(no) }
}

/// Makes the pool.
///
/// # Errors
/// As the store's.
pub async fn make<D: Disk>(disks: Vec<D>, force: bool) -> Result<()> {
    let new = disks.into_iter().zip(0..).map(|(disk, no)| new_disk(disk, no));
    let name = Name::new("p").expect("a name");
    let pool = NewPool { pool: PoolId([7; 16]), name, au_size: AuSize::DEFAULT, lease: Duration::from_secs(2) };
    create(new.collect(), &pool, &who(1, 1), NoLocks::default(), force, &[Rec::Upto(0)]).await
}

/// Wins the pool and folds its catalog.
///
/// # Errors
/// As the store's.
pub async fn win<D: Disk>(disks: Vec<D>, who: Who, door: NoLocks) -> Result<(Takeover<D, NoLocks>, u64)> {
    let (takeover, records) = open::<D, NoLocks, Rec>(candidates(disks), who, door, &options()).await?;
    let upto = fold(&records, "the winner's");
    Ok((takeover, upto))
}

/// Wins the pool and serves it.
///
/// # Errors
/// As the store's.
pub async fn serve<D: Disk>(disks: Vec<D>, who: Who) -> Result<(Store<D, NoLocks>, u64)> {
    let (takeover, upto) = win(disks, who, NoLocks::default()).await?;
    Ok((takeover.start(&[Rec::Upto(upto)]).await?, upto))
}

/// Only looks.
///
/// # Errors
/// As the store's.
pub async fn look<D: Disk>(disks: Vec<D>) -> Result<(Inspection, u64)> {
    let (inspection, records) = inspect::<D, Rec>(candidates(disks), &options()).await?;
    let upto = fold(&records, "the reader's");
    Ok((inspection, upto))
}
