//! The thread that does clients' I/O, on its own ring, beside the manager's own.

use crate::session_io::Member;
use arc_swap::ArcSwap;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::{Answer, Disk, DiskError, ring};
use fusevol_shared::error::{Context, Error, Kind, Result, WireError};
use fusevol_shared::ids::Life;
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::data::{Failure, IN_FLIGHT, Io, Verb};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Requests of all clients that one disk has at once: a disk that hangs keeps no more of the ring from the others.
pub(super) const PER_DISK: usize = 2 * IN_FLIGHT;
/// Requests that wait for the thread.
const QUEUE: usize = 1024;

/// The manager's disks as they are now; swapped when one joins, or one that was lost is open again.
pub type Table<D> = Arc<ArcSwap<Vec<Member<D>>>>;

/// What came of one piece of I/O: by which life of the path it was done; and the buffer.
pub type Done = (std::result::Result<Life, Failure>, IoBuf);

struct Job {
    io: Io,
    buf: IoBuf,
    done: oneshot::Sender<Done>,
}

/// The way to the thread; it ends when this is dropped, once what it has begun is done.
#[derive(Debug)]
pub struct DataDisks {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl DataDisks {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Internal` without a thread.
    pub fn start<D: Disk>(table: Table<D>) -> Result<Self> {
        let (jobs, todo) = mpsc::channel(QUEUE);
        let work = move || ring::block_on(run(&table, todo));
        let thread = std::thread::Builder::new().name("data-io".to_owned()).spawn(work).context(Kind::Internal, || "no thread")?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does it; `buf` is what is written, or where what is read goes, and comes back.
    pub(super) async fn io(&self, io: Io, buf: IoBuf) -> Done {
        let (done, coming) = oneshot::channel();
        let sent = match &self.jobs {
            Some(jobs) => jobs.send(Job { io, buf, done }).await.is_ok(),
            None => false,
        };
        match coming.await {
            Ok(done) => done,
            // What was begun and is not answered may still land.
            Err(_) if sent => {
                (Err(Failure::Disk { answered: false, errno: libc::ESHUTDOWN, what: "the manager is ending".into() }), IoBuf::zeroed(0))
            }
            Err(_) => (Err(ending()), IoBuf::zeroed(0)),
        }
    }
}

fn ending() -> Failure {
    Failure::Refused(WireError::from(&Error::new(Kind::Unreachable, "the manager is ending")))
}

impl Drop for DataDisks {
    fn drop(&mut self) {
        self.jobs = None;
        // A panic of it was reported where it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn run<D: Disk>(table: &Table<D>, mut todo: mpsc::Receiver<Job>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            job = todo.recv() => match job {
                Some(job) => under_way.push(carry_out(table, job)),
                None => break,
            },
            Some(()) = under_way.next() => {}
        }
    }
    while under_way.next().await.is_some() {}
}

async fn carry_out<D: Disk>(table: &Table<D>, job: Job) {
    let Job { io, buf, done } = job;
    let members = table.load_full();
    let answer = match members.iter().find(|(no, ..)| *no == io.disk) {
        Some((.., disk)) => on(disk, &io, buf).await,
        None => (Err(unknown(io.disk)), buf),
    };
    // Who has gone away does not hear it.
    let _ = done.send(answer);
}

fn unknown(no: DiskNo) -> Failure {
    Failure::Refused(WireError::from(&Error::new(Kind::NotFound, format!("the manager has no disk {no}"))))
}

/// Does it on this disk; `buf` is what is written, or where what is read goes.
pub async fn on<D: Disk>(disk: &D, io: &Io, buf: IoBuf) -> Done {
    // Of the very disk that is used: it is another one after a loss.
    let life = disk.life();
    let (done, buf) = match io.verb {
        Verb::Read => disk.read(io.at, buf).await,
        Verb::Write => (disk.write(io.at, buf.freeze()).await, IoBuf::zeroed(0)),
        Verb::WriteDurable => (disk.write_durable(io.at, buf.freeze()).await, IoBuf::zeroed(0)),
        Verb::Flush => (disk.flush().await, buf),
    };
    (done.map(|()| life).map_err(failure), buf)
}

/// A disk that is lost answers so for all that it was not asked (`shared::disk::nbd`).
fn failure(e: DiskError) -> Failure {
    match (e.answer, e.errno) {
        (Answer::Answered, libc::ENOTCONN) => Failure::NoPath(e.to_string()),
        _ => e.into(),
    }
}
