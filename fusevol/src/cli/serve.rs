//! The process behind a mount: session, mount, socket, signals; and their end, in order.
//!
//! ```text
//!  open the session -> mount -> listen -> ready -> (unmounted by anyone) -> drain, flush, give back -> Goodbye -> end
//! ```
//!
//! SIGINT and SIGTERM unmount; while the mount is in use they are refused with who uses it, the second one ends it by
//! force: everything is drained and flushed, what is still open fails from then on.

use super::control::{Answer, Answers, Question, Server};
use super::memory::Memory;
use super::report::{self, Process, Who};
use crate::fs::mount::{self, Mount, Teller};
use crate::fs::table;
use crate::session::Session;
use crate::session::open;
use fusevol_shared::error::{Context, Error, Kind, Result, WireError};
use fusevol_shared::name::Target;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long who asked for the end waits for it; the end itself goes on.
const END: Duration = Duration::from_secs(180);
/// How long the process stays for those who wait for the answer.
const LAST_WORD: Duration = Duration::from_secs(2);
/// A log that is larger is begun anew.
const LOG_MAX: u64 = 8 << 20;
/// How often that is looked at.
const LOG_LOOK: Duration = Duration::from_secs(30);

/// What the process serves with.
pub(super) struct Options {
    pub(super) session: open::Options,
    pub(super) mount: mount::Options,
    pub(super) memory: Memory,
    pub(super) dir: PathBuf,
    /// Where standard error goes, if it is a file of ours.
    pub(super) log: Option<PathBuf>,
}

/// What the socket's threads see of the process.
struct Serving {
    session: Arc<Session>,
    who: Who,
    /// How it is served.
    served: Teller,
    memory: Memory,
    /// How it ended, once it has.
    ended: Mutex<Option<std::result::Result<(), WireError>>>,
    end: Condvar,
}

/// Mounts, says so by `ready`, and serves until it is unmounted.
///
/// # Errors
/// Those of opening and mounting, before `ready`; those of the end.
pub(super) fn serve(options: &Options, ready: impl FnOnce(&Who) -> Result<()>) -> Result<()> {
    let session = open::open(&options.session)?;
    let (mount, serving, server) = match stand(options, &session, ready) {
        Ok(stands) => stands,
        Err(e) => {
            // The first error is the one to tell.
            let _ = session.close();
            return Err(e);
        }
    };
    let signals = signals(&serving, options.log.clone())?;
    let served = mount.wait();
    tracing::info!("unmounted: what is open is drained");
    let closed = session.close();
    let result = served.and(closed);
    serving.has_ended(&result, &server);
    signals.shutdown_background();
    result
}

fn stand(options: &Options, session: &Arc<Session>, ready: impl FnOnce(&Who) -> Result<()>) -> Result<(Mount, Arc<Serving>, Server)> {
    let mount = mount::mount(session.clone(), &options.dir, &options.mount)?;
    let pool = session.about().welcome.pool_name.clone();
    let who = Who { pid: std::process::id(), dir: mount.dir().to_owned(), pool };
    let serving = Arc::new(Serving {
        session: session.clone(),
        who,
        served: mount.teller(),
        memory: options.memory.clone(),
        ended: Mutex::new(None),
        end: Condvar::new(),
    });
    let begun = Server::start(serving.clone()).and_then(|server| ready(&serving.who).map(|()| server));
    match begun {
        Ok(server) => Ok((mount, serving, server)),
        Err(e) => {
            let _ = mount.end();
            Err(e)
        }
    }
}

impl Serving {
    /// Unmounts, and waits until the end.
    fn umount(&self) -> Result<Value> {
        table::unmount(&self.who.dir)?;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) = self.end.wait_timeout_while(ended, END, |e| e.is_none()).unwrap_or_else(PoisonError::into_inner);
        match &*ended {
            Some(Ok(())) => Ok(json!({})),
            Some(Err(e)) => Err(e.clone().into()),
            None => Err(Error::new(Kind::Unreachable, "it is unmounted, but what was open is not given back yet")
                .hint("the manager or a disk does not answer; the mount's process goes on trying")),
        }
    }

    /// Tells those who wait how it ended, and lets them be told.
    fn has_ended(&self, result: &Result<()>, server: &Server) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended = Some(result.as_ref().copied().map_err(WireError::from));
        self.end.notify_all();
        let step = LAST_WORD / 20;
        for _ in 0..20 {
            if !server.is_asked() {
                return;
            }
            // Nobody notifies this: it is a pause that lets the others have the lock.
            ended = self.end.wait_timeout(ended, step).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Answers for Serving {
    fn answer(&self, question: Question, out: &mut Answer) -> Result<Value> {
        let plain = |volume, snapshot| Target { pool: None, volume, snapshot };
        match question {
            Question::Who => to_value(&self.who),
            Question::Volumes => {
                report::volumes(&self.session).iter().try_for_each(|v| out.item(v))?;
                Ok(json!({}))
            }
            Question::Status { volume } => {
                let process = Process { who: &self.who, transport: (self.served)(), memory: self.memory.clone() };
                to_value(&report::status(&self.session, process, volume.map(|v| plain(v, None)).as_ref())?)
            }
            Question::Map { volume, snapshot, modified } => {
                let (extents, complete) = report::map(&self.session, &plain(volume, snapshot), modified)?;
                extents.iter().try_for_each(|e| out.item(e))?;
                Ok(json!({ "complete": complete }))
            }
            Question::Drill { disk, fails } => to_value(&report::drill(&self.session, &disk, fails)?),
            Question::Umount => self.umount(),
        }
    }
}

fn to_value(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).context(Kind::Internal, || "an answer")
}

/// A thread that hears signals and keeps the log small.
fn signals(serving: &Arc<Serving>, log: Option<PathBuf>) -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("fusevol-signal")
        .enable_all()
        .build()
        .context(Kind::Internal, || "no runtime")?;
    let (mut int, mut term) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context(Kind::Internal, || "signals cannot be heard");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    let serving = serving.clone();
    runtime.spawn(async move {
        let mut asked = 0;
        loop {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                () = tokio::time::sleep(LOG_LOOK) => {
                    log.iter().for_each(|l| trim(l));
                    continue;
                }
            }
            asked += 1;
            let serving = serving.clone();
            // A panic in it was reported; the next signal tries again.
            let _ = tokio::task::spawn_blocking(move || interrupted(&serving, asked)).await;
        }
    });
    Ok(runtime)
}

/// The `asked`-th wish from outside to end.
fn interrupted(serving: &Serving, asked: u32) {
    let dir = &serving.who.dir;
    if asked == 1 {
        match table::unmount(dir) {
            Ok(()) => return,
            Err(e) => return tracing::warn!("{e}; a second signal ends it by force"),
        }
    }
    tracing::warn!("{} is unmounted by force", dir.display());
    if let Err(e) = serving.session.drain() {
        tracing::error!("not everything could be given back: {e}");
    }
    if let Err(e) = table::unmount_by_force(dir) {
        tracing::error!("{e}");
    }
}

/// Begins a log anew that has grown too large.
fn trim(log: &Path) {
    let grown = std::fs::metadata(log).is_ok_and(|m| m.len() > LOG_MAX);
    if grown && std::fs::OpenOptions::new().write(true).truncate(true).open(log).is_ok() {
        tracing::info!("the log was larger than {LOG_MAX} bytes and begins anew");
    }
}
