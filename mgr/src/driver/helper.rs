//! The thread that seals and reads the slots of sessions, reads the journals of the dead and carries out takeovers, on its own ring: these may take as long as
//! the disks let them, and the driver goes on meanwhile. Jobs are done one after the other; each is answered by its event.
//!
//! Invariants: at most [`JOBS_MAX`] jobs wait; when this is dropped, no job is begun any more, and none is in flight once it is gone.

use super::Input;
use super::log::File;
use crate::core::{Effect, Event, Opened};
use crate::session_io::{LIMIT, Member, SessionIo, Silent, SlotOf};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::error::{Context, Error, Kind, Result, WireError};
use fusevol_shared::ids::{Generation, PoolId};
use fusevol_shared::units::AuSize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Most jobs that wait: a few for each slot.
const JOBS_MAX: usize = 8192;

/// One errand, with the disks as they are now.
pub(super) struct Job {
    pub effect: Effect,
    pub disks: Vec<Member<File>>,
    pub generation: Generation,
}

/// The driver's end of the thread.
pub(super) struct Helper {
    jobs: Option<SyncSender<Job>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// Starts the thread; it answers to `to`.
    ///
    /// # Errors
    /// `Internal` without a thread.
    pub fn start(pool: PoolId, au_size: AuSize, silent: &Arc<Silent>, to: mpsc::Sender<Input>) -> Result<Self> {
        let (jobs, todo) = sync_channel(JOBS_MAX);
        let (stop, silent) = (Arc::new(AtomicBool::new(false)), silent.clone());
        let stopped = stop.clone();
        let work = move || {
            run(&todo, &stopped, &to, |job| {
                let io = SessionIo::new(pool, au_size, &job.disks, LIMIT).knowing(&silent);
                block_on(carry_out(&io, &job.effect, job.generation))
            })
        };
        let thread = std::thread::Builder::new().name("session-io".to_owned()).spawn(work).context(Kind::Internal, || "no thread")?;
        Ok(Self { jobs: Some(jobs), stop, thread: Some(thread) })
    }

    /// Hands a job over. Gives its answer where that cannot be.
    pub fn begin(&self, job: Job) -> Option<Event> {
        let Some(jobs) = &self.jobs else { return not_done(&job.effect) };
        jobs.try_send(job).err().and_then(|e| match e {
            std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job) => not_done(&job.effect),
        })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.jobs = None;
        // A panic of it was reported where it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(todo: &Receiver<Job>, stop: &AtomicBool, to: &mpsc::Sender<Input>, work: impl Fn(&Job) -> Option<Event>) {
    while let Ok(job) = todo.recv() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        if let Some(event) = work(&job)
            && to.blocking_send(Input::Event(event)).is_err()
        {
            return;
        }
    }
}

/// Does one errand, and gives its answer; none for an effect that is no errand.
pub async fn carry_out<D: Disk>(io: &SessionIo<'_, D>, effect: &Effect, generation: Generation) -> Option<Event> {
    match effect {
        Effect::SealSlot { session, id, slots } => {
            let (done, failed) = io.seal_slot(*session, *id, slots, generation).await;
            failed.iter().for_each(|why| tracing::warn!("the slot of session {session} could not be sealed: {why}"));
            Some(Event::Sealed { session: *session, done })
        }
        Effect::OpenPlaces { session, id, slots } => {
            let ends = io.open_places(SlotOf { session: *session, id: *id, slots }, generation).await;
            Some(Event::PlacesOpened { session: *session, ends })
        }
        Effect::ReadSlot { session, id, slots } => {
            let beat = io.read_slot(SlotOf { session: *session, id: *id, slots }).await;
            Some(Event::SlotRead { session: *session, beat })
        }
        Effect::ReadNonce { session, disk } => {
            let found = io.read_nonce(*disk, *session).await;
            Some(Event::NonceRead { session: *session, disk: *disk, found })
        }
        Effect::ReadJournals { session, journals } => {
            Some(Event::JournalsRead { session: *session, tails: io.read_journals(journals).await })
        }
        Effect::Errand { session, errand } => Some(Event::Errand { session: *session, outcome: io.errand(errand).await }),
        Effect::WriteLetter { slots, page, letter } => {
            let done = io.write_letter(slots, *page, letter).await;
            Some(Event::LetterWritten { session: letter.session, done })
        }
        Effect::ReadAnswer { session, id, slots } => {
            let answer = io.read_answer(SlotOf { session: *session, id: *id, slots }).await;
            Some(Event::AnswerRead { session: *session, answer })
        }
        _ => None,
    }
}

/// The answer to an errand that was not done.
fn not_done(effect: &Effect) -> Option<Event> {
    match effect {
        Effect::SealSlot { session, .. } => Some(Event::Sealed { session: *session, done: false }),
        Effect::OpenPlaces { session, slots, .. } => {
            Some(Event::PlacesOpened { session: *session, ends: slots.iter().map(|d| (*d, Opened::Not)).collect() })
        }
        Effect::ReadSlot { session, .. } => Some(Event::SlotRead { session: *session, beat: None }),
        Effect::ReadNonce { session, disk } => Some(Event::NonceRead { session: *session, disk: *disk, found: None }),
        Effect::WriteLetter { letter, .. } => Some(Event::LetterWritten { session: letter.session, done: false }),
        Effect::ReadAnswer { session, .. } => Some(Event::AnswerRead { session: *session, answer: None }),
        Effect::ReadJournals { session, journals } => {
            let busy = WireError::from(&Error::new(Kind::Busy, "too much is being read from the disks"));
            let tails = journals.iter().map(|j| (j.token, Err(busy.clone()))).collect();
            Some(Event::JournalsRead { session: *session, tails })
        }
        Effect::Errand { session, errand } => {
            let busy = WireError::from(&Error::new(Kind::Busy, "too much is asked of the disks"));
            Some(Event::Errand { session: *session, outcome: errand.not_done(busy) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
