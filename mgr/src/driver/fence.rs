//! What cuts a client off from its disks, on a thread of its own: the disks themselves, where its host is registered with each of them
//! (`shared::disk::reservations`); where they cannot, fence agents.
//!
//! Agents are programs in the folder `fence.d`, called one after the other in the order of their names.
//!
//! ```text
//!  fence.d/NAME off CLIENT      cuts the client off from the disks that this agent knows of, and returns when nothing of it can land any more
//!  fence.d/NAME on CLIENT       lets it in again
//!  fence.d/NAME status CLIENT   says `off` or `on` in its first line
//!  exit code: 0 done, 3 this agent does not know the client, anything else: it failed
//! ```
//! After `off` and `on` the agent is asked for the status, which must say so: what a program believes to have done is not done yet.
//! A client may be known to several agents, each for its disks: all of them must have done it.
//!
//! Invariants: an agent has [`LIMIT`] for each call, then it is killed with its whole process group, and has failed; of what it says [`SAID_MAX`]
//! bytes are kept; a program that others than its owner may write is not run; when this is dropped, no agent runs any more.

use super::Input;
use crate::core::{Event, FenceFor, Fenced};
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::reservations::{HostKey, Reservations, cut_off};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::units::DiskNo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// The disks' own fence, as it is called for people.
const RESERVATIONS: &str = "persistent-reservations";
/// The folder of the agents, beside the configuration.
pub const FOLDER: &str = "fence.d";
/// For one call of an agent.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether the manager ends.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes that are kept of what an agent says.
const SAID_MAX: usize = 512;
/// Requests that wait.
const WAITING_MAX: usize = 64;
/// Most agents.
const AGENTS_MAX: usize = 64;
/// What an agent answers that does not know the client.
const NOT_MINE: i32 = 3;

/// Who is to be cut off, or let in.
pub(super) struct Job {
    pub asked: FenceFor,
    pub client: String,
    pub on: bool,
    /// By the disks themselves, if they can.
    pub cut: Option<CutOff>,
}

/// A host that is registered with all disks of the pool.
pub(super) struct CutOff {
    pub disks: Vec<(DiskNo, Arc<dyn Reservations>)>,
    /// Of the manager's host.
    pub own: HostKey,
    pub other: HostKey,
}

impl CutOff {
    /// All of them, or it is not known what the host can reach.
    fn carry_out(&self) -> Result<Fenced> {
        for (no, disk) in &self.disks {
            cut_off(disk.as_ref(), self.own, self.other).map_err(|e| Error::new(Kind::Io, format!("disk {no}: {e}")))?;
        }
        let said = format!("its host cannot write to any of {} disks", self.disks.len());
        Ok(Fenced::Done { agents: RESERVATIONS.to_owned(), said })
    }
}

/// The driver's end of the thread.
pub(super) struct Fencer {
    jobs: Option<SyncSender<Job>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fencer {
    /// Starts the thread; it answers to `to`.
    ///
    /// # Errors
    /// `Internal` without a thread.
    pub fn start(folder: PathBuf, to: mpsc::Sender<Input>) -> Result<Self> {
        let (jobs, todo) = sync_channel(WAITING_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let agents = Agents { folder, stop: stop.clone(), limit: LIMIT };
        let work = move || serve(&agents, &todo, &to);
        let thread = std::thread::Builder::new().name("fence".to_owned()).spawn(work).context(Kind::Internal, || "no thread")?;
        Ok(Self { jobs: Some(jobs), stop, thread: Some(thread) })
    }

    /// Hands a request over. Gives its answer where that cannot be.
    pub fn begin(&self, job: Job) -> Option<Event> {
        let asked = job.asked;
        let begun = self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok());
        let busy = || Fenced::Failed { why: "too many wait for the fence agents".to_owned() };
        (!begun).then(|| Event::Fenced { asked, fenced: busy() })
    }
}

impl Drop for Fencer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.jobs = None;
        // A panic of it was reported where it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(agents: &Agents, todo: &Receiver<Job>, to: &mpsc::Sender<Input>) {
    while let Ok(Job { asked, client, on, cut }) = todo.recv() {
        if agents.stop.load(Ordering::SeqCst) {
            return;
        }
        let by_disks = cut.map_or_else(|| Ok(Fenced::NoAgent), |cut| cut.carry_out());
        let fenced = match by_disks {
            Ok(done @ Fenced::Done { .. }) => done,
            by_disks => agents.after(by_disks.err(), &client, on),
        };
        tracing::info!("fence agents, {} {client}: {fenced:?}", word(on));
        if to.blocking_send(Input::Event(Event::Fenced { asked, fenced })).is_err() {
            return;
        }
    }
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

struct Agents {
    folder: PathBuf,
    stop: Arc<AtomicBool>,
    limit: Duration,
}

/// How a call of an agent ended.
struct Said {
    status: ExitStatus,
    text: String,
}

impl Agents {
    /// Asks all of them, where the disks could not do it; what those said counts where no agent knows the client.
    fn after(&self, disks: Option<Error>, client: &str, on: bool) -> Fenced {
        match (self.carry_out(client, on), disks) {
            (Fenced::NoAgent, Some(e)) => Fenced::Failed { why: format!("{RESERVATIONS}: {e}") },
            (fenced, _) => fenced,
        }
    }

    /// Asks all of them.
    fn carry_out(&self, client: &str, on: bool) -> Fenced {
        let (mut done, mut said) = (Vec::new(), Vec::new());
        let programs = match self.programs() {
            Ok(programs) => programs,
            Err(e) => return Fenced::Failed { why: e.to_string() },
        };
        for program in programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match self.one(&program, client, on) {
                Ok(None) => {}
                Ok(Some(text)) => {
                    done.push(name);
                    said.push(text);
                }
                // The others are not asked: without this one nothing is proven.
                Err(e) => return Fenced::Failed { why: format!("agent {name}: {e}") },
            }
        }
        if done.is_empty() {
            return Fenced::NoAgent;
        }
        said.retain(|s| !s.is_empty());
        Fenced::Done { agents: done.join(", "), said: if said.is_empty() { word(on).to_owned() } else { said.join("; ") } }
    }

    /// The agents, by name.
    fn programs(&self) -> Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::new(Kind::Io, format!("{}", self.folder.display())).because(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.context(Kind::Io, || format!("{}", self.folder.display()))?.path();
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            let mode = meta.permissions().mode();
            if !meta.is_file() || mode & 0o111 == 0 {
                continue;
            }
            if mode & 0o022 != 0 || meta.uid() != rustix::process::geteuid().as_raw() {
                return Err(Error::new(Kind::Refused, format!("{} may be written by others: it is not run", path.display())));
            }
            found.push(path);
        }
        if found.len() > AGENTS_MAX {
            return Err(Error::new(Kind::Refused, format!("more than {AGENTS_MAX} fence agents")));
        }
        found.sort();
        Ok(found)
    }

    /// One agent: what it said, or nothing where it does not know the client.
    fn one(&self, program: &Path, client: &str, on: bool) -> Result<Option<String>> {
        let said = self.call(program, word(on), client)?;
        match said.status.code() {
            Some(0) => {}
            Some(NOT_MINE) => return Ok(None),
            _ => return Err(failed(word(on), &said)),
        }
        let status = self.call(program, "status", client)?;
        let is = status.text.lines().next().unwrap_or_default().trim();
        if !status.status.success() || is != word(on) {
            return Err(Error::new(Kind::Io, format!("it has said that it is done, but its status is {is:?}")));
        }
        Ok(Some(said.text.lines().next().unwrap_or_default().trim().to_owned()))
    }

    fn call(&self, program: &Path, verb: &str, client: &str) -> Result<Said> {
        let mut command = Command::new(program);
        command.args([verb, client]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context(Kind::Io, || "it cannot be run")?;
        let ended = self.wait(&mut child);
        if ended.is_err() {
            // What it has begun must not go on beside the next one.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        }
        let status = child.wait().context(Kind::Io, || "it cannot be waited for")?;
        let text = ended?;
        Ok(Said { status, text: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Waits for its end, and gives what it said: the beginning.
    fn wait(&self, child: &mut Child) -> Result<Vec<u8>> {
        let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context(Kind::Io, || "it cannot be watched")?;
        let until = SystemClock.now().plus(self.limit);
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let mut said = Vec::new();
        loop {
            let mut fds = vec![PollFd::new(&end, PollFlags::IN)];
            fds.extend(out.iter().map(|o| PollFd::new(o, PollFlags::IN)));
            let of_out = fds.len();
            fds.extend(err.iter().map(|e| PollFd::new(e, PollFlags::IN)));
            let wait = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
            let ready = match poll(&mut fds, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => fds.iter().map(|f| !f.revents().is_empty()).collect::<Vec<_>>(),
                Err(e) => return Err(Error::new(Kind::Io, "it cannot be watched").because(e)),
            };
            // What it said before its end is read before its end counts. Each pipe is ready, or at its end: neither waits.
            let from_out = out.is_some() && ready[1];
            let from_err = err.is_some() && ready[of_out];
            let more = (from_out && take(&mut out, &mut said)) | (from_err && take(&mut err, &mut said));
            if ready[0] && !more {
                return Ok(said);
            }
            if self.stop.load(Ordering::SeqCst) {
                return Err(Error::new(Kind::Interrupted, "the manager ends"));
            }
            if SystemClock.now() >= until {
                let text = String::from_utf8_lossy(&said).trim().to_owned();
                return Err(Error::new(
                    Kind::Io,
                    format!("it did not end within {} s and was killed; it said {text:?}", self.limit.as_secs()),
                ));
            }
        }
    }
}

/// Reads what is there; `false` at the end of the pipe.
fn take(pipe: &mut Option<impl Read>, said: &mut Vec<u8>) -> bool {
    let mut buf = [0; 4096];
    let read = pipe.as_mut().map_or(0, |p| p.read(&mut buf).unwrap_or(0));
    if read == 0 {
        *pipe = None;
    }
    let room = SAID_MAX.saturating_sub(said.len());
    said.extend_from_slice(&buf[..read.min(room)]);
    read > 0
}

fn failed(verb: &str, said: &Said) -> Error {
    let how = match (said.status.code(), said.status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    Error::new(Kind::Io, format!("{verb} failed ({how}): {}", said.text.trim()))
}

#[cfg(test)]
mod tests;
