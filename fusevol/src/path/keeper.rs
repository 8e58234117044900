//! Who tries failed paths again: one thread with its own ring. A path that hangs while it is tried holds up no other one.

use super::machine::State;
use crate::disks::{Disks, Member};
use fusevol_shared::disk::{Disk, ring};
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

/// Opens a path to a disk anew.
pub trait Opener<D> {
    /// A disk that is the pool's: its label read by this path, and the manager's word that it is the one that it sees.
    ///
    /// # Errors
    /// Why there is none.
    fn open(&self, member: &Member<D>) -> impl Future<Output = Result<D>>;
}

/// Tries failed paths again until `end` is ready.
pub async fn keep<D: Disk>(disks: Arc<Disks<D>>, opener: impl Opener<D>, end: impl Future<Output = ()>) {
    let mut end = pin!(end);
    let mut tries = FuturesUnordered::new();
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
                // A kernel that refuses a ring serves no disk either.
                let _ = ring::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = &mut end => return,
            () = look => {}
            Some(()) = tries.next() => {}
        }
    }
}

async fn attempt<D: Disk>(member: Arc<Member<D>>, opener: &impl Opener<D>) {
    let opened = match select(pin!(opener.open(&member)), pin!(ring::sleep(PATIENCE))).await {
        Either::Left((opened, _)) => opened,
        Either::Right(_) => Err(Error::new(Kind::Io, format!("it did not open within {} s", PATIENCE.as_secs()))),
    };
    let no = member.no();
    match &opened {
        Ok(_) => tracing::info!("disk {no}: a path to it is good again"),
        Err(e) => tracing::info!("disk {no}: its path is not good yet: {e}"),
    }
    member.path().tried(opened.map_err(|e| e.to_string()));
}
