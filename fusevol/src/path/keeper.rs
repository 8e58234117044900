//! Who tries failed paths again: one task, on the ring of a thread of its own. A path that hangs while it is tried holds up no other one.

use super::machine::State;
use crate::disks::{Disks, Member};
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often paths that are not direct are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How often the manager is asked for the lives of its paths.
const ASK: Duration = Duration::from_secs(1);
/// The same where they have none: another manager may have.
const LASTING: Duration = Duration::from_secs(10);

/// Opens a path to a disk anew.
pub trait Opener<D> {
    /// A disk that is the pool's: its label read by this path, and the manager's word that it is the one that it sees.
    ///
    /// # Errors
    /// Why there is none.
    fn open(&self, member: &Member<D>) -> impl Future<Output = Result<D>>;

    /// Which lives the manager's paths have now; `None` where it is not there.
    fn lives(&self) -> impl Future<Output = Option<Told>>;

    /// Sleeps.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;
}

/// Lives of a manager's paths.
pub type Told = fusevol_shared::wire::messages::Lives;

/// Tries failed paths again until `end` is ready.
pub async fn keep<D: Disk>(disks: Arc<Disks<D>>, opener: impl Opener<D>, end: impl Future<Output = ()>) {
    let mut end = pin!(end);
    let mut tries = FuturesUnordered::new();
    let mut ask = pin!(ask(&disks, &opener));
    loop {
        let all = disks.present();
        for member in &all {
            if member.path().tend() {
                tries.push(attempt(member.clone(), &opener));
            }
        }
        let resting = all.iter().all(|m| m.path().shown().state == State::Direct);
        let look = async {
            let moved = disks.moved();
            if resting {
                moved.notified().await;
            } else {
                opener.sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = &mut end => return,
            () = ask.as_mut() => {}
            Some(()) = tries.next() => {}
            () = look => {}
        }
    }
}

/// Asks the manager for the lives of its paths again and again: what is written from then on is covered by a flush through it.
async fn ask<D: Disk>(disks: &Disks<D>, opener: &impl Opener<D>) {
    loop {
        let pause = match opener.lives().await {
            Some(told) => {
                disks.heard(&told);
                if told.lives.iter().all(|(_, life)| life.is_lasting()) { LASTING } else { ASK }
            }
            None => ASK,
        };
        opener.sleep(pause).await;
    }
}

async fn attempt<D: Disk>(member: Arc<Member<D>>, opener: &impl Opener<D>) {
    let opened = match select(pin!(opener.open(&member)), pin!(opener.sleep(PATIENCE))).await {
        Either::Left((opened, _)) => opened,
        Either::Right(_) => Err(Error::new(Kind::Io, format!("it did not open within {} s", PATIENCE.as_secs()))),
    };
    let no = member.no();
    match &opened {
        Ok(_) => tracing::info!("disk {no}: a path to it is good again"),
        Err(e) => tracing::info!("disk {no}: its path is not good yet: {e}"),
    }
    if member.path().tried(opened.map_err(|e| e.to_string())) {
        member.is_back();
    }
}
