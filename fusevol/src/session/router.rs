//! The manager's pushes, on a thread of their own with its own ring: each to the object that it speaks of.
//!
//! Pushes about different objects are handled beside each other; those about one object begin in the order in which they
//! came. Invariant: this thread takes no lock that is held by a thread that waits for the manager.

use super::inbox::Place;
use super::{Reader, Session, Volume};
use crate::link::Pushed;
use crate::slot::carriers;
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Error, Kind, WireError};
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::wire::messages::{Ack, Hold, MoveSlot, Push};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Weak;
use std::task::Poll;
use tokio::sync::mpsc;

/// What the push thread is told: another manager serves, and readers get their maps again. It ends when nobody can tell it any more.
pub(super) struct Refresh;

type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The push thread's life.
pub(super) fn run(session: &Weak<Session>, mut pushes: mpsc::Receiver<Pushed>, mut jobs: mpsc::Receiver<Refresh>) {
    ring::block_on(async {
        let mut under_way: FuturesUnordered<Work<'_>> = FuturesUnordered::new();
        loop {
            let mut work: Work<'_> = tokio::select! {
                push = pushes.recv() => match push {
                    Some(push) => Box::pin(route(session, push)),
                    None => return,
                },
                job = jobs.recv() => match job {
                    Some(Refresh) => Box::pin(refresh(session)),
                    None => return,
                },
                Some(()) = under_way.next() => continue,
            };
            // Begun at once, so that pushes about one object begin in their order.
            if poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await {
                under_way.push(work);
            }
        }
    });
}

/// What a push speaks of.
enum About {
    Volume(VolumeId),
    Snapshot(SnapshotId),
    List,
    Locks,
    Legs,
    Disks,
    Slot,
}

fn about(push: &Push) -> About {
    match push {
        Push::Hold(m) => About::Volume(m.volume),
        Push::Release(m) => About::Volume(m.volume),
        Push::MapChanged(m) => About::Volume(m.volume),
        Push::Recall(m) => About::Volume(m.volume),
        Push::SegmentAdded(m) => About::Snapshot(m.snapshot),
        Push::VolumesChanged(_) => About::List,
        Push::LocksFreed(_) => About::Locks,
        Push::LegFailed(_) => About::Legs,
        Push::NewDisk(_) => About::Disks,
        Push::MoveSlot(_) => About::Slot,
    }
}

async fn route(session: &Weak<Session>, push: Pushed) {
    let Some(session) = session.upgrade() else { return to_nobody(push) };
    tracing::debug!("push: {push:?}");
    match about(&push.body) {
        About::List => {
            push.ack(Ack::Done);
            session.opened().volumes.values().filter_map(|f| f.attached()).for_each(|v| v.ask_for_orders());
            renew(&session).await;
        }
        About::Locks => {
            session.locks.freed();
            push.ack(Ack::Done);
        }
        About::Legs => {
            if let Push::LegFailed(failed) = &push.body {
                session.engine.outs.failed(failed.volume, failed.disk);
            }
            push.ack(Ack::Done);
        }
        About::Disks => {
            if let Push::NewDisk(new) = &push.body {
                session.about.known.hear(std::slice::from_ref(&new.disk));
            }
            push.ack(Ack::Done);
        }
        About::Slot => {
            let ack = if let Push::MoveSlot(m) = &push.body { move_slot(&session, m) } else { Ack::Done };
            push.ack(ack);
        }
        About::Volume(id) => {
            if let Push::MapChanged(change) = &push.body {
                let readers: Vec<_> = session.opened().snapshots.values().filter_map(|f| f.reader()).collect();
                readers.iter().filter(|r| r.volume() == id).for_each(|r| r.places_changed(change));
            }
            let file = session.opened().volumes.get(&id).cloned();
            let place = match file {
                Some(file) => file.inbox.place(push),
                None => Place::Nobody(push),
            };
            match place {
                Place::To(volume, push) => to_volume(&volume, push).await,
                Place::Kept => {}
                Place::Nobody(push) => to_nobody(push),
            }
        }
        About::Snapshot(id) => {
            let file = session.opened().snapshots.get(&id).cloned();
            let place = match file {
                Some(file) => file.inbox.place(push),
                None => Place::Nobody(push),
            };
            match place {
                Place::To(reader, push) => to_snapshot(&reader, push).await,
                Place::Kept => {}
                Place::Nobody(push) => to_nobody(push),
            }
        }
    }
}

/// The slot lies on other disks from now on; nothing is to be read for that.
fn move_slot(session: &Session, m: &MoveSlot) -> Ack {
    let welcome = &session.about.welcome;
    session.about.known.hear(&m.disks);
    match carriers(welcome.pool, welcome.au_size, welcome.session, &m.slots, &m.disks) {
        Ok(places) => {
            tracing::info!("the session's slot moves to {:?}", m.slots.iter().map(|s| s.disk.0).collect::<Vec<_>>());
            session.engine.slot.move_to(m.no, &places);
            Ack::Done
        }
        Err(e) => failed("the session's slot cannot be moved", &e),
    }
}

/// A push about an attached volume.
pub(super) async fn to_volume(volume: &Volume, push: Pushed) {
    let ack = match &push.body {
        Push::Hold(hold) => match volume.hold(hold).await {
            Ok(held) => {
                // The answer is on the link before any later change can be.
                push.ack(Ack::Held { seq: held.seq(), held_us: held.held_us() });
                return;
            }
            Err(e) => failed(&format!("writes of volume {} could not be held for a snapshot", volume.id()), &e),
        },
        Push::MapChanged(change) => match volume.map_changed(change).await {
            Ok(()) => Ack::Done,
            Err(e) => failed(&format!("the new map of volume {}", volume.id()), &e),
        },
        Push::Recall(recall) => {
            tracing::warn!("the manager takes volume {} back: {}", volume.id(), recall.reason);
            match volume.give_back().await {
                Ok(()) => Ack::Done,
                Err(e) => failed(&format!("volume {} could not be given back in order", volume.id()), &e),
            }
        }
        Push::Release(release) => {
            tracing::info!("snapshot {}: {}", release.snapshot, if release.taken { "taken" } else { "dropped" });
            Ack::Done
        }
        Push::SegmentAdded(_)
        | Push::VolumesChanged(_)
        | Push::LocksFreed(_)
        | Push::LegFailed(_)
        | Push::NewDisk(_)
        | Push::MoveSlot(_) => Ack::Done,
    };
    push.ack(ack);
}

/// A push about an open snapshot.
pub(super) async fn to_snapshot(reader: &Reader, push: Pushed) {
    if let Push::SegmentAdded(added) = &push.body {
        reader.add_segment(&added.segment).await;
    }
    push.ack(Ack::Done);
}

/// A push about something that is not attached here (any more): nothing under it is in flight.
pub(super) fn to_nobody(push: Pushed) {
    let ack = match &push.body {
        Push::Hold(Hold { volume, .. }) => {
            Ack::Failed(WireError::from(&Error::new(Kind::Refused, format!("volume {volume} is not attached for writing here"))))
        }
        Push::Release(_)
        | Push::MapChanged(_)
        | Push::SegmentAdded(_)
        | Push::Recall(_)
        | Push::VolumesChanged(_)
        | Push::LocksFreed(_)
        | Push::LegFailed(_)
        | Push::NewDisk(_)
        | Push::MoveSlot(_) => Ack::Done,
    };
    push.ack(ack);
}

fn failed(what: &str, e: &Error) -> Ack {
    tracing::warn!("{what}: {e}");
    Ack::Failed(WireError::from(e))
}

async fn renew(session: &Session) {
    if let Err(e) = session.granted.renew(&session.link).await {
        tracing::warn!("the list of volumes could not be renewed: {e}");
    }
}

async fn refresh(session: &Weak<Session>) {
    let Some(session) = session.upgrade() else { return };
    session.locks.retake().await;
    renew(&session).await;
    let volumes: Vec<_> = session.opened().volumes.values().filter_map(|f| f.attached()).collect();
    for v in volumes.iter().filter(|v| v.mode() == crate::volume::Mode::Read) {
        if let Err(e) = v.refresh_map().await {
            tracing::warn!("the map of volume {} could not be renewed: {e}", v.id());
        }
    }
}
