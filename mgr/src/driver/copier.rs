//! The thread that makes copies for volumes that nobody writes, on its own ring: a batch at a time is read, compared, written where it
//! differs, and flushed; several batches beside each other. It also looks at disks that may be back.
//!
//! Invariants: a batch is answered when nothing of it is under way any more, but for what a disk has not answered, which is said (it may land
//! yet); what is said to be done was flushed after its last write; when this is dropped, nothing is under way.

use super::Input;
use super::log::File;
use crate::copies;
use crate::core::{CopyEnd, Effect, Event, LayEnd};
use crate::session_io::Member;
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Context, Kind, Result};
use fusevol_shared::ids::PoolId;
use fusevol_shared::units::AuSize;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Errands that wait: the core has a few batches and a look a disk under way.
const QUEUE: usize = 2048;

struct Errand {
    effect: Effect,
    disks: Vec<Member<File>>,
}

/// The driver's end of the thread.
pub(super) struct Copier {
    errands: Option<mpsc::Sender<Errand>>,
    thread: Option<JoinHandle<()>>,
}

impl Copier {
    /// Starts the thread; it answers to `to`.
    ///
    /// # Errors
    /// `Internal` without a thread.
    pub fn start(pool: PoolId, au_size: AuSize, to: mpsc::Sender<Input>) -> Result<Self> {
        let (errands, todo) = mpsc::channel(QUEUE);
        let work = move || ring::block_on(run(pool, au_size, todo, &to));
        let thread = std::thread::Builder::new().name("copier".to_owned()).spawn(work).context(Kind::Internal, || "no thread")?;
        Ok(Self { errands: Some(errands), thread: Some(thread) })
    }

    /// Hands an errand over. Gives its answer where that cannot be.
    pub fn begin(&self, effect: Effect, disks: Vec<Member<File>>) -> Option<Event> {
        let not_done = |effect: &Effect| match effect {
            Effect::Copy { batch, jobs } => {
                let none =
                    CopyEnd { done: vec![], late: vec![], written: 0, unreadable: false, why: "too much is being copied".to_owned() };
                Some(Event::BlocksCopied { batch: *batch, ends: jobs.iter().map(|_| none.clone()).collect() })
            }
            Effect::LayAgain { lay, .. } => {
                let end = LayEnd::Failed { why: "too much is being copied".to_owned(), late: false };
                Some(Event::LaidAgain { lay: *lay, end })
            }
            Effect::LookAtDisk { disk } => Some(Event::DiskLooked { disk: *disk, well: false }),
            _ => None,
        };
        let Some(errands) = &self.errands else { return not_done(&effect) };
        errands.try_send(Errand { effect, disks }).err().and_then(|e| not_done(&e.into_inner().effect))
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.errands = None;
        // A panic of it was reported where it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn run(pool: PoolId, au_size: AuSize, mut todo: mpsc::Receiver<Errand>, to: &mpsc::Sender<Input>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            errand = todo.recv() => match errand {
                Some(errand) => under_way.push(carry_out(pool, au_size, errand)),
                None => break,
            },
            Some(event) = under_way.next() => {
                // The driver is gone: nobody is told.
                let _ = to.send(Input::Event(event)).await;
            }
        }
    }
    while under_way.next().await.is_some() {}
}

async fn carry_out(pool: PoolId, au_size: AuSize, errand: Errand) -> Event {
    copies::carry_out(pool, au_size, &errand.disks, &errand.effect).await.unwrap_or(Event::Tick)
}
