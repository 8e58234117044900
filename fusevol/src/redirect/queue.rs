//! What waits to be done through the manager, and what is under way.

use super::{BYTES, DEAD, WAITING};
use crate::path::door::{BACK, Got};
use crate::path::lives::ManagerLife;
use crate::path::spare::Spare;
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, DiskError};
use fusevol_shared::error::{Error, WireError};
use fusevol_shared::ids::{Generation, VolumeId};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::data::{Claim, Failure, IN_FLIGHT, Io, Verb};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// What comes of a request.
pub type Outcome = Result<Got, DiskError>;

/// One request.
struct Pending {
    io: Io,
    data: IoBytes,
    /// The manager to which it was sent last.
    sent: Option<Generation>,
    until: BootTime,
    answer: oneshot::Sender<Outcome>,
}

/// The volume for which something is asked.
fn volume_of(io: &Io) -> Option<VolumeId> {
    match io.claim {
        Claim::Live { volume, .. } | Claim::Segment { volume } | Claim::Journal { volume } => Some(volume),
        Claim::Frozen { .. } | Claim::Slot => None,
    }
}

/// A disk to which the manager has no path either: since when, and when it said so last.
#[derive(Clone, Copy)]
struct Pathless {
    since: BootTime,
    last: BootTime,
}

impl Pending {
    fn writes(&self) -> bool {
        matches!(self.io.verb, Verb::Write | Verb::WriteDurable)
    }

    /// The manager's own path was lost, and nothing of this can land: why.
    fn is_to_be_asked_again(&self, result: &Result<ManagerLife, Failure>) -> Option<String> {
        match result {
            Err(Failure::NoPath(why)) => Some(why.clone()),
            // It was asked, and the path was lost before it was answered: a read that is late changes nothing.
            Err(Failure::Disk { answered: false, errno: libc::ENOTCONN | libc::ETIMEDOUT, what }) if self.io.verb == Verb::Read => {
                Some(what.clone())
            }
            _ => None,
        }
    }

    /// How it ends without an answer.
    fn fail(self, errno: i32, why: &str) {
        let answer = if self.sent.is_some() && self.writes() { Answer::NotReturned } else { Answer::Answered };
        let what = format!("{:?} on disk {} at {} through the manager: {why}", self.io.verb, self.io.disk, self.io.at);
        // Who has gone away does not hear it.
        let _ = self.answer.send(Err(DiskError { answer, errno, what }));
    }
}

#[derive(Default)]
struct Books {
    last: u64,
    bytes: usize,
    all: BTreeMap<u64, Pending>,
    /// In the order in which they are sent.
    queued: VecDeque<u64>,
    /// The manager had no path for these: they are queued again at the next look.
    later: Vec<u64>,
    under_way: usize,
    /// Disks to which the manager has no path.
    pathless: BTreeMap<DiskNo, Pathless>,
    /// What mirrored volumes can do without.
    spares: BTreeMap<VolumeId, Weak<Spare>>,
    /// Why nothing could be done last.
    trouble: Option<String>,
    closed: bool,
}

impl Books {
    /// The manager said that it has no path to this disk, or has done something there.
    fn path_of_manager(&mut self, disk: DiskNo, has: bool, now: BootTime) {
        if has {
            self.pathless.remove(&disk);
            return;
        }
        let known = self.pathless.get(&disk).filter(|p| p.last.plus(DEAD) > now);
        let since = known.map_or(now, |p| p.since);
        self.pathless.insert(disk, Pathless { since, last: now });
    }

    /// Whether a request that the manager had no path for has waited long enough, as its volume can do without the disk.
    fn is_dead(&self, id: u64, now: BootTime) -> bool {
        let Some(p) = self.all.get(&id).filter(|p| p.sent.is_none()) else { return false };
        let is_late = self.pathless.get(&p.io.disk).is_some_and(|d| d.since.plus(DEAD) <= now);
        is_late && volume_of(&p.io).and_then(|v| self.spares.get(&v)?.upgrade()).is_some_and(|s| s.takes(p.io.disk))
    }
}

/// The requests. The lock is never held across an await.
pub struct Queue {
    clock: Arc<dyn Clock>,
    books: Mutex<Books>,
    /// Something is queued, or there is room on the connection.
    pub work: Notify,
}

impl Default for Queue {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl Queue {
    /// An empty one; who waits too long is known by this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, books: Mutex::default(), work: Notify::new() }
    }

    /// Queues a request; its answer comes by the receiver.
    ///
    /// # Errors
    /// Too much waits already, or nothing is taken any more.
    pub fn add(&self, io: Io, data: IoBytes, patience: Duration) -> Result<oneshot::Receiver<Outcome>, DiskError> {
        let refused = |errno, why: &str| Err(DiskError::answered(errno, format!("I/O through the manager: {why}")));
        let mut b = self.books();
        if b.closed {
            return refused(libc::ESHUTDOWN, "the mount is being ended");
        }
        if b.all.len() >= WAITING || b.bytes + data.len() > BYTES {
            return refused(libc::EIO, "too much waits for it");
        }
        let (answer, coming) = oneshot::channel();
        b.last += 1;
        b.bytes += data.len();
        let id = b.last;
        b.all.insert(id, Pending { io, data, sent: None, until: self.clock.now().plus(patience), answer });
        b.queued.push_back(id);
        drop(b);
        self.work.notify_one();
        Ok(coming)
    }

    /// See [`Door::spare`](crate::path::door::Door::spare).
    pub fn spare(&self, volume: VolumeId, spare: Weak<Spare>) {
        let mut b = self.books();
        b.spares.retain(|_, s| s.strong_count() > 0);
        b.spares.insert(volume, spare);
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.books().all.is_empty()
    }

    /// A connection to this manager stands: what was sent before and not answered is sent again, or has not returned.
    pub fn opened(&self, generation: Generation, drained: bool) {
        let mut b = self.books();
        let again = |p: &Pending| p.sent.is_none_or(|sent| sent == generation || drained || !p.writes());
        let (kept, lost): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut b.all).into_iter().partition(|(_, p)| again(p));
        b.queued = kept.keys().copied().collect();
        b.later.clear();
        b.all = kept;
        b.under_way = 0;
        b.trouble = None;
        b.bytes -= lost.values().map(|p| p.data.len()).sum::<usize>();
        drop(b);
        for (_, p) in lost {
            p.fail(libc::ENOTCONN, "the manager has ended before it answered");
        }
    }

    /// The next request to be sent to this manager.
    #[must_use]
    pub fn next(&self, to: Generation) -> Option<(u64, Io, IoBytes)> {
        let mut b = self.books();
        while b.under_way < IN_FLIGHT {
            let id = b.queued.pop_front()?;
            if let Some(p) = b.all.get_mut(&id) {
                p.sent = Some(to);
                let next = (id, p.io, p.data.clone());
                b.under_way += 1;
                return Some(next);
            }
        }
        None
    }

    /// An answer has come, of a flush with the life by which it was done; whether it was waited for.
    pub fn answered(&self, id: u64, result: Result<ManagerLife, Failure>, payload: IoBuf) -> bool {
        let now = self.clock.now();
        let mut b = self.books();
        b.under_way = b.under_way.saturating_sub(1);
        if let Some(disk) = b.all.get(&id).map(|p| p.io.disk) {
            match &result {
                Err(Failure::NoPath(_)) => b.path_of_manager(disk, false, now),
                Ok(_) => b.path_of_manager(disk, true, now),
                Err(_) => {}
            }
        }
        let Books { all, later, trouble, last, .. } = &mut *b;
        if let Some(p) = all.get_mut(&id)
            && let Some(why) = p.is_to_be_asked_again(&result)
        {
            p.sent = None;
            later.push(id);
            *trouble = Some(format!("the manager has no path either: {why}"));
            return true;
        }
        let Some(p) = all.remove(&id) else { return *last >= id };
        b.bytes -= p.data.len();
        drop(b);
        let outcome = result.map(|life| (payload, life)).map_err(explained);
        // Who has gone away does not hear it.
        let _ = p.answer.send(outcome);
        self.work.notify_one();
        true
    }

    /// The direct path to this disk is back: nothing that was not sent is, and reads are asked there.
    pub fn release(&self, disk: DiskNo) {
        let mut b = self.books();
        let free = |p: &Pending| p.io.disk == disk && (p.sent.is_none() || p.io.verb == Verb::Read);
        let ids: Vec<u64> = b.all.iter().filter(|(_, p)| free(p)).map(|(id, _)| *id).collect();
        let freed: Vec<Pending> = ids.iter().filter_map(|id| b.all.remove(id)).collect();
        b.bytes -= freed.iter().map(|p| p.data.len()).sum::<usize>();
        drop(b);
        for p in freed {
            let what = format!("{:?} on disk {} at {}: its direct path is back", p.io.verb, p.io.disk, p.io.at);
            // Who has gone away does not hear it.
            let _ = p.answer.send(Err(DiskError::answered(BACK, what)));
        }
    }

    /// Queues again what the manager had no path for, and ends what has waited for too long.
    pub fn look(&self) {
        let now = self.clock.now();
        let mut b = self.books();
        let (dead, again): (Vec<u64>, Vec<u64>) = std::mem::take(&mut b.later).into_iter().partition(|id| b.is_dead(*id, now));
        let dead: Vec<Pending> = dead.iter().filter_map(|id| b.all.remove(id)).collect();
        let any = !again.is_empty();
        b.queued.extend(again);
        let late: Vec<u64> = b.all.iter().filter(|(_, p)| p.until <= now).map(|(id, _)| *id).collect();
        let late: Vec<Pending> = late.iter().filter_map(|id| b.all.remove(id)).collect();
        b.bytes -= late.iter().chain(&dead).map(|p| p.data.len()).sum::<usize>();
        let why = b.trouble.clone().unwrap_or_else(|| "it took too long".to_owned());
        drop(b);
        late.into_iter().for_each(|p| p.fail(libc::ETIMEDOUT, &why));
        dead.into_iter().for_each(|p| p.fail(libc::ENOTCONN, &why));
        if any {
            self.work.notify_one();
        }
    }

    /// Nothing can be done now; said by those whose time is over.
    pub fn trouble(&self, why: &Error) {
        self.books().trouble = Some(why.to_string());
    }

    /// The manager does nothing for this session: all that waits fails.
    pub fn refused(&self, why: &WireError) {
        self.fail_all(libc::EIO, &why.message);
    }

    /// Nothing is taken any more.
    pub fn close(&self) {
        self.books().closed = true;
        self.fail_all(libc::ESHUTDOWN, "the mount is being ended");
    }

    fn fail_all(&self, errno: i32, why: &str) {
        let mut b = self.books();
        let all = std::mem::take(&mut b.all);
        b.queued.clear();
        b.later.clear();
        b.bytes = 0;
        drop(b);
        all.into_values().for_each(|p| p.fail(errno, why));
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn explained(failure: Failure) -> DiskError {
    match failure {
        // It waits in the queue; here for completeness.
        Failure::NoPath(why) => DiskError::answered(libc::ENOTCONN, why),
        Failure::Refused(e) => DiskError::answered(libc::EACCES, format!("the manager refuses it: {}", e.message)),
        Failure::Disk { answered, errno, what } => {
            let answer = if answered { Answer::Answered } else { Answer::NotReturned };
            DiskError { answer, errno, what: format!("through the manager: {what}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::units::DiskOff;
    use fusevol_shared::wire::data::Claim;

    fn io(verb: Verb) -> Io {
        Io { verb, disk: DiskNo(0), at: DiskOff(0), len: 4096, claim: Claim::Slot }
    }

    fn add(q: &Queue, verb: Verb, patience: Duration) -> oneshot::Receiver<Outcome> {
        q.add(io(verb), IoBuf::zeroed(4096).freeze(), patience).expect("there is room")
    }

    const LONG: Duration = Duration::from_secs(100);

    #[test]
    fn a_write_is_sent_again_only_where_nothing_of_it_can_land() {
        let q = Queue::default();
        let (mut write, mut read) = (add(&q, Verb::Write, LONG), add(&q, Verb::Read, LONG));
        assert_eq!((q.next(Generation(1)).map(|n| n.0), q.next(Generation(1)).map(|n| n.0)), (Some(1), Some(2)));
        // The same manager says that nothing is in flight.
        q.opened(Generation(1), false);
        assert_eq!((q.next(Generation(1)).map(|n| n.0), q.next(Generation(1)).map(|n| n.0)), (Some(1), Some(2)));
        // Another one, which has seen the end of the former.
        q.opened(Generation(2), true);
        assert_eq!(q.next(Generation(2)).map(|n| n.0), Some(1));
        assert!(write.try_recv().is_err(), "it waits");
        // One that knows nothing of it.
        q.opened(Generation(3), false);
        assert_eq!(write.try_recv().expect("told").expect_err("lost").answer, Answer::NotReturned);
        assert_eq!(q.next(Generation(3)).map(|n| n.0), Some(2), "a read is asked again");
        q.answered(2, Ok(ManagerLife::default()), IoBuf::zeroed(4096));
        assert_eq!(read.try_recv().expect("told").expect("read").0.len(), 4096);
        assert!(q.is_empty());
    }

    #[test]
    fn what_waits_too_long_fails_and_says_whether_it_was_sent() {
        let q = Queue::default();
        let mut sent = add(&q, Verb::Write, Duration::ZERO);
        let _ = q.next(Generation(1));
        let mut queued = add(&q, Verb::Write, Duration::ZERO);
        q.look();
        assert_eq!(sent.try_recv().expect("told").expect_err("late").answer, Answer::NotReturned);
        assert_eq!(queued.try_recv().expect("told").expect_err("late").answer, Answer::Answered);
        assert!(q.answered(1, Ok(ManagerLife::default()), IoBuf::zeroed(0)), "its answer comes late, and is passed over");
    }

    #[test]
    fn what_the_manager_has_no_path_for_is_asked_again() {
        let q = Queue::default();
        let mut write = add(&q, Verb::Write, LONG);
        assert_eq!(q.next(Generation(1)).map(|n| n.0), Some(1));
        assert!(q.answered(1, Err(Failure::NoPath("lost".into())), IoBuf::zeroed(0)));
        assert!(q.next(Generation(1)).is_none(), "not at once");
        q.look();
        assert_eq!(q.next(Generation(1)).map(|n| n.0), Some(1));
        assert!(write.try_recv().is_err(), "it waits");
        let lost = || Err(Failure::Disk { answered: false, errno: libc::ENOTCONN, what: "lost".into() });
        let mut read = add(&q, Verb::Read, LONG);
        assert_eq!(q.next(Generation(1)).map(|n| n.0), Some(2));
        assert!(q.answered(2, lost(), IoBuf::zeroed(0)) && q.answered(1, lost(), IoBuf::zeroed(0)));
        q.look();
        assert_eq!(q.next(Generation(1)).map(|n| n.0), Some(2), "a read is asked again, too");
        assert!(read.try_recv().is_err(), "it waits");
        assert_eq!(write.try_recv().expect("told").expect_err("lost").answer, Answer::NotReturned);
    }

    #[test]
    fn a_disk_that_nobody_reaches_is_not_waited_for_where_it_can_be_done_without() {
        let (q, volume) = (Queue::default(), VolumeId([1; 16]));
        let spare = std::sync::Arc::new(Spare::new(true));
        q.spare(volume, std::sync::Arc::downgrade(&spare));
        let ask = |disk| {
            let io = Io { claim: Claim::Journal { volume }, disk: DiskNo(disk), ..io(Verb::Write) };
            q.add(io, IoBuf::zeroed(4096).freeze(), LONG).expect("there is room")
        };
        let (mut mine, mut more, mut others) = (ask(0), ask(1), add(&q, Verb::Write, LONG));
        let no_path = |q: &Queue| {
            while let Some((id, ..)) = q.next(Generation(1)) {
                q.answered(id, Err(Failure::NoPath("lost".into())), IoBuf::zeroed(0));
            }
            q.look();
        };
        no_path(&q);
        assert!(mine.try_recv().is_err(), "the manager may have a path again in a moment");
        // As if that had been a while ago.
        q.books().pathless.values_mut().for_each(|p| p.since = BootTime(0));
        no_path(&q);
        let e = mine.try_recv().expect("told").expect_err("nobody has a path");
        assert_eq!((e.answer, e.errno), (Answer::Answered, libc::ENOTCONN), "it was never sent");
        assert!(more.try_recv().is_err(), "what is on both is on neither: the second one is waited for");
        assert!(others.try_recv().is_err(), "there is no other way for it");
        for _ in 0..2 {
            let (id, ..) = q.next(Generation(1)).expect("asked again");
            q.answered(id, Ok(ManagerLife::default()), IoBuf::zeroed(0));
        }
        assert!(q.books().pathless.is_empty(), "they have a path");
    }

    #[test]
    fn what_was_never_sent_goes_back_to_the_direct_path() {
        let q = Queue::default();
        let (mut sent, mut asked) = (add(&q, Verb::Write, LONG), add(&q, Verb::Read, LONG));
        let _ = (q.next(Generation(1)), q.next(Generation(1)));
        let (mut queued, mut refused) = (add(&q, Verb::Write, LONG), add(&q, Verb::Write, LONG));
        let back = |r: &mut oneshot::Receiver<Outcome>| r.try_recv().ok().map(|r| r.expect_err("back").errno == BACK);
        q.release(DiskNo(1));
        assert_eq!(back(&mut queued), None, "it is of another disk");
        assert_eq!(q.next(Generation(1)).map(|n| n.0), Some(3));
        q.answered(3, Err(Failure::NoPath("lost".into())), IoBuf::zeroed(0));
        q.release(DiskNo(0));
        assert_eq!([back(&mut queued), back(&mut refused), back(&mut asked)], [Some(true); 3]);
        assert!(sent.try_recv().is_err(), "what was sent may land: it waits for its answer");
        assert!(q.next(Generation(1)).is_none() && q.answered(2, Ok(ManagerLife::default()), IoBuf::zeroed(0)));
    }

    #[test]
    fn there_is_a_limit() {
        let q = Queue::default();
        let kept: Vec<_> = (0..WAITING).map(|_| add(&q, Verb::Read, LONG)).collect();
        assert_eq!(q.add(io(Verb::Read), IoBuf::zeroed(0).freeze(), LONG).expect_err("full").errno, libc::EIO);
        assert_eq!(kept.len(), WAITING);
    }
}
