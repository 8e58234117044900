//! The thread that carries the session's decisions out: it keeps the time, renews the lease over the network, writes the heartbeat on its
//! own ring, and hears the link. None of these waits for another: a disk that hangs keeps no renewal back.

use super::machine::{Effect, Event, Extended, Machine, State, Why};
use super::router::Refresh;
use crate::disks::Disks;
use crate::lease::Lease;
use crate::link::{Link, Phase};
use crate::slot::Slot;
use crate::stale::Stale;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::any::PoolDisk;
use fusevol_shared::disk::ring;
use fusevol_shared::error::Kind;
use fusevol_shared::format::slot::Answer;
use fusevol_shared::wire::messages::Renew;
use futures_util::FutureExt;
use futures_util::future::{Fuse, FusedFuture, LocalBoxFuture};
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often those who wait for the lease look at their time-out.
const TICK: Duration = Duration::from_secs(1);

/// What the session shows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Where it stands.
    pub state: State,
    /// What needs the manager fails: none has answered for a lease and the time-out.
    pub failing: bool,
    /// What has extended the lease, and when.
    pub extended: Extended,
}

impl Shown {
    pub(super) fn of(machine: &Machine) -> Self {
        Self { state: machine.state().clone(), failing: machine.is_failing(), extended: machine.extended() }
    }
}

/// The slot with its disks: there once the session's disks are found.
pub(super) type Beaten = Arc<OnceLock<(Arc<Slot>, Arc<Disks<PoolDisk>>)>>;

/// What the driver works with.
pub(super) struct Driver {
    pub(super) machine: Machine,
    pub(super) link: Link,
    pub(super) lease: Arc<Lease>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) failing: watch::Sender<bool>,
    pub(super) shown: Arc<Mutex<Shown>>,
    pub(super) slot: Beaten,
    pub(super) jobs: mpsc::Sender<Refresh>,
    pub(super) stale: Arc<Stale>,
}

/// Ends driver and push thread when dropped.
pub(super) struct End {
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl Drop for End {
    fn drop(&mut self) {
        // Who has ended already does not hear it. The push thread ends with the driver, which alone tells it anything.
        let _ = self.events.send(Event::Close);
    }
}

type Pending = Fuse<LocalBoxFuture<'static, Event>>;
type Mail = Fuse<LocalBoxFuture<'static, ()>>;

impl Driver {
    /// The thread's life: until the session is closed here.
    pub(super) fn run(mut self) {
        ring::block_on(self.drive());
    }

    async fn drive(&mut self) {
        let mut link = self.link.state();
        let mut answer = self.link.answer();
        let (mut renewal, mut beat): (Pending, Pending) = (Fuse::terminated(), Fuse::terminated());
        let mut mail: Mail = Fuse::terminated();
        loop {
            let now = SystemClock.now();
            let wait = self.machine.deadline().map_or(TICK, |t| t.since(now));
            // Those who wait for a lease look at the clock themselves, when they are woken.
            let wait = if self.lease.valid(now) { wait } else { wait.min(TICK) };
            let event = {
                let timer = pin!(ring::sleep(wait));
                tokio::select! {
                    event = self.events.recv() => event.unwrap_or(Event::Close),
                    event = &mut renewal, if !renewal.is_terminated() => event,
                    event = &mut beat, if !beat.is_terminated() => event,
                    () = &mut mail, if !mail.is_terminated() => Event::Tick,
                    changed = answer.changed() => match changed {
                        Ok(()) => self.answered(*answer.borrow_and_update()),
                        Err(_) => Event::Close,
                    },
                    changed = link.changed() => match changed {
                        Ok(()) => match &link.borrow_and_update().phase {
                            Phase::Ended(e) => Event::Ended { kind: e.kind, sentence: e.message.clone() },
                            Phase::Connecting | Phase::Connected { .. } | Phase::Closed => Event::Tick,
                        },
                        Err(_) => Event::Close,
                    },
                    _ = timer => Event::Tick,
                }
            };
            let closed = event == Event::Close;
            self.step(event, &mut renewal, &mut beat, &mut mail);
            if !self.lease.valid(SystemClock.now()) {
                self.lease.tick();
            }
            if closed {
                return;
            }
        }
    }

    fn step(&mut self, event: Event, renewal: &mut Pending, beat: &mut Pending, mail: &mut Mail) {
        let mut effects = Vec::new();
        self.machine.step(SystemClock.now(), event, &mut effects);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Shown::of(&self.machine);
        for effect in effects {
            match effect {
                Effect::Renew => *renewal = renew(&self.link).fuse(),
                Effect::Beat => *beat = write(self.slot.get().cloned()).fuse(),
                // One look at a time: a disk that hangs has its own limit.
                Effect::Mail if mail.is_terminated() => *mail = read_mail(self.slot.get().cloned(), self.link.clone()).fuse(),
                Effect::Mail => {}
                Effect::Reconnect => self.link.reconnect(),
                Effect::Lease(until) => self.lease.extend(until),
                Effect::Fence => {
                    self.stale.all();
                    tracing::warn!("the lease has run out: I/O waits until the manager or the slot disks answer");
                }
                Effect::Fail => {
                    tracing::error!("the manager has not answered in time: what needs it fails");
                    self.failing.send_replace(true);
                }
                Effect::Answers => {
                    tracing::info!("the manager answers again");
                    self.failing.send_replace(false);
                }
                // Where one waits already, it does for this one, too.
                Effect::Refresh => drop(self.jobs.try_send(Refresh)),
                Effect::End(why) => self.end(&why),
            }
        }
    }

    /// A letter was answered.
    fn answered(&self, answer: Option<Answer>) -> Event {
        match (self.slot.get(), answer) {
            (Some((slot, _)), Some(answer)) => {
                slot.answer(answer);
                Event::Answered
            }
            _ => Event::Tick,
        }
    }

    fn end(&self, why: &Why) {
        self.lease.end();
        self.stale.all();
        self.failing.send_replace(true);
        match why {
            Why::Refused { kind, sentence } => {
                tracing::error!(?kind, "the session is over, its volumes are dead until they are mounted again: {sentence}");
            }
            Why::Closed => tracing::debug!("the session is closed"),
        }
    }
}

fn renew(link: &Link) -> LocalBoxFuture<'static, Event> {
    let answer = link.call_timed(Renew {}, None);
    async move {
        match answer.await {
            Ok((_, sent)) => Event::Renewed { sent },
            Err(e) => Event::NotRenewed { kind: e.kind(), sentence: e.to_string() },
        }
    }
    .boxed_local()
}

/// Hands the letters on that stand on the slot disks.
fn read_mail<D: Disk>(slot: Option<(Arc<Slot>, Arc<Disks<D>>)>, link: Link) -> LocalBoxFuture<'static, ()> {
    async move {
        let Some((slot, disks)) = slot else { return };
        let mut letters = slot.letters(&disks).await;
        letters.sort_by_key(|l| (l.generation, l.push));
        letters.iter().for_each(|l| link.by_letter(l));
    }
    .boxed_local()
}

/// One heartbeat, counted from before it is submitted.
fn write<D: Disk>(slot: Option<(Arc<Slot>, Arc<Disks<D>>)>) -> LocalBoxFuture<'static, Event> {
    let sent = SystemClock.now();
    async move {
        let Some((slot, disks)) = slot else { return Event::NotBeaten };
        match slot.beat(&disks).await {
            Ok(()) => Event::Beaten { sent },
            Err(e) if e.kind() == Kind::Lapsed => Event::Sealed { sentence: e.to_string() },
            Err(e) => {
                tracing::warn!("no heartbeat: {e}");
                Event::NotBeaten
            }
        }
    }
    .boxed_local()
}
