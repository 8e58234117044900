//! From a key file to a session that stands: link, welcome, disks by their labels, byte locks, the list of volumes.
//!
//! The lease is renewed from the welcome on, so that looking for disks may take its time. Nothing is attached before the
//! session's byte lock is held on every disk that knows locks: a free lock proves to the manager that a dead session has drained; nor before the session's
//! SEAL was read clear: a session that was sealed while it opened never begins.

use super::driver::{Beaten, Driver, End, Shown};
use super::keeper::Keeper;
use super::known::{self, Known};
use super::locker::{Locker, Way};
use super::machine::{Event, Machine};
use super::paths::Paths;
use super::{About, Caller, Granted, Open, Session, router};
use crate::disks::Disks;
use crate::lease::Lease;
use crate::link::{Link, LinkConfig, Owner, Phase, Pushed};
use crate::locks::Locks;
use crate::path::keeper::{Opener as _, keep};
use crate::redirect::{self, Redirect};
use crate::slot::{Slot, carriers};
use crate::stale::Stale;
use crate::volume::Engine;
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::disk::any::{Address, PoolDisk};
use fusevol_shared::disk::find::Found;
use fusevol_shared::disk::reservations::HostKey;
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::ids::{BootId, SessionId};
use fusevol_shared::net::SystemNet;
use fusevol_shared::random::{Random, SystemRandom};
use fusevol_shared::wire::keyfile::KeyFile;
use fusevol_shared::wire::messages::{Hello, PROTOCOL, Welcome};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long a program that has just begun tries to reach the manager.
const REACH: Duration = Duration::from_secs(10);

/// What a session is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The client's key.
    pub key: Arc<KeyFile>,
    /// Where to look for disks first: paths, with `*` and `?`.
    pub disks: Vec<String>,
    /// How long I/O waits for a lease that has run out.
    pub io_timeout: Duration,
    /// What this is, for people: `fusevol mount`, `fusevol-backup`.
    pub program: String,
}

/// Who speaks on the link.
struct Speaker {
    hello: Hello,
    welcomed: AtomicBool,
    first: Mutex<Option<Welcome>>,
    events: mpsc::UnboundedSender<Event>,
    known: Arc<Known>,
}

impl Owner for Speaker {
    fn hello(&self) -> Hello {
        Hello { resume: self.welcomed.load(Ordering::SeqCst), ..self.hello.clone() }
    }

    fn welcomed(&self, welcome: &Welcome, sent_at: BootTime) {
        self.welcomed.store(true, Ordering::SeqCst);
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| welcome.clone());
        // Before anything is asked on this connection: what is answered may name them.
        self.known.hear(&welcome.disks);
        let lease = Duration::from_millis(u64::from(welcome.lease_ms));
        // The driver has ended where nobody hears it: the session is closed.
        let _ = self.events.send(Event::Welcomed { sent: sent_at, lease, generation: welcome.generation });
    }
}

/// Opens a session.
///
/// # Errors
/// `Unreachable` without a manager, `Denied` where it does not know the key, `NotFound` where a disk is missing, `Refused`
/// where one is not what it should be, `Version`, `Io`.
pub fn open(options: &Options) -> Result<Arc<Session>> {
    // Short without a limit: one event for each connection, and the driver waits for nothing while it handles one.
    let (events_in, events) = mpsc::unbounded_channel();
    let (jobs_in, jobs) = mpsc::channel(1);
    let (failing, is_failing) = watch::channel(false);
    let id = SessionId::from_random(SystemRandom.id());
    let speaker = Arc::new(Speaker {
        hello: hello(id, &options.program)?,
        welcomed: AtomicBool::new(false),
        first: Mutex::new(None),
        events: events_in.clone(),
        known: Arc::default(),
    });
    let (link, pushes) = Link::start(LinkConfig::new(options.key.clone()), speaker.clone())?;
    let lease = Arc::new(Lease::new(Arc::new(SystemClock), options.io_timeout));
    let machine = Machine::new(SystemClock.now(), options.io_timeout);
    let (shown, slot) = (Arc::new(Mutex::new(Shown::of(&machine))), Beaten::default());
    let stale: Arc<Stale> = Arc::default();
    let end = End { events: events_in };
    let driver = Driver {
        machine,
        link: link.clone(),
        lease: lease.clone(),
        events,
        failing,
        shown: shown.clone(),
        slot: slot.clone(),
        jobs: jobs_in,
        stale: stale.clone(),
    };
    let driver = spawn("fusevol-session", move || driver.run())?;

    let way = Way { link: link.clone(), lease: lease.clone(), failing: is_failing.clone() };
    let stands = stand(options, id, &link, &lease, &speaker, is_failing, &stale).and_then(|(about, engine, redirect)| {
        // From now on the driver keeps the lease by the disks, too.
        let _ = slot.set((engine.slot.clone(), engine.disks.clone()));
        let patience = Duration::from_millis(u64::from(about.welcome.lease_ms)) * 5 / 4;
        let locks = Arc::new(Locks::new(way, patience));
        let locker = Locker::start(locks.clone())?;
        Ok((about, engine, redirect, Keeper::start()?, locks, locker))
    });
    let (about, engine, redirect, keeper, locks, locker) = match stands {
        Ok(stands) => stands,
        Err(e) => {
            // The session may be known to the manager: it is told that nothing of it is left.
            if speaker.welcomed.load(Ordering::SeqCst) && !lease.is_over() {
                let _ = ring::block_on(link.call(fusevol_shared::wire::messages::Goodbye {}, Some(super::GOODBYE)));
            }
            drop(end);
            link.close();
            let _ = driver.join();
            return Err(e);
        }
    };
    let paths = paths_of(options, &about.welcome, id, &link, &about.known)?;
    // Before anything is written: a flush through the manager covers it then. Where it does not answer, the paths' keeper asks again.
    if let Some(told) = ring::block_on(paths.lives()) {
        engine.disks.heard(&told);
    }
    let session = Arc::new(Session {
        about,
        link,
        engine,
        granted: Granted::default(),
        open: Mutex::new(Open::default()),
        shown,
        end: Mutex::new(Some(end)),
        keeper,
        locks,
        locker,
        redirect,
        threads: Mutex::new(vec![driver]),
    });
    start_pushes(&session, pushes, jobs)?;
    start_paths(&session, paths)?;
    if let Err(e) = session.granted.refresh(&session.link) {
        let _ = session.close();
        return Err(e);
    }
    Ok(session)
}

fn start_pushes(session: &Arc<Session>, pushes: mpsc::Receiver<Pushed>, jobs: mpsc::Receiver<router::Refresh>) -> Result<()> {
    let weak = Arc::downgrade(session);
    let thread = spawn("fusevol-push", move || router::run(&weak, pushes, jobs))?;
    session.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    Ok(())
}

/// I/O through the manager, should a path fail.
fn redirect(options: &Options, welcome: &Welcome, id: SessionId, link: &Link) -> Result<Arc<Redirect>> {
    let state = link.state();
    let at = move || if let Phase::Connected { address } = &state.borrow().phase { Some(address.clone()) } else { None };
    let patience = options.io_timeout;
    let how = redirect::Options { key: options.key.clone(), net: Arc::new(SystemNet), au_size: welcome.au_size, patience };
    Ok(Arc::new(Redirect::start(&how, id, Box::new(at))?))
}

/// Who tries failed paths again, until the session is closed.
fn start_paths(session: &Arc<Session>, paths: Paths) -> Result<()> {
    let disks = session.engine.disks.clone();
    let mut link = session.link.state();
    let end = async move {
        // The link's end is the session's.
        let _ = link.wait_for(|s| s.phase == Phase::Closed).await;
    };
    let thread = spawn("fusevol-paths", move || ring::block_on(keep(disks, paths, end)))?;
    session.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    Ok(())
}

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).context(Kind::Internal, || "no thread")
}

/// Waits for the welcome, finds and locks the disks.
fn stand(
    options: &Options,
    id: SessionId,
    link: &Link,
    lease: &Arc<Lease>,
    speaker: &Speaker,
    failing: watch::Receiver<bool>,
    stale: &Arc<Stale>,
) -> Result<(About, Engine<PoolDisk, Caller>, Arc<Redirect>)> {
    ring::block_on(link.opened(REACH)).map_err(|e| explain(e, &options.key))?;
    let welcome = speaker.first.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let welcome = welcome.ok_or_else(|| Error::new(Kind::Internal, "welcomed without a welcome"))?;
    if welcome.pool != options.key.pool_id {
        return Err(Error::new(Kind::Denied, format!("the manager serves pool {}, the key is for another", welcome.pool_name)));
    }
    let disks = Arc::new(Disks::new());
    let by = paths_of(options, &welcome, id, link, &speaker.known)?;
    let found = take_disks(&by, &disks)?;
    speaker.known.begin(disks.clone(), found);
    let redirect = redirect(options, &welcome, id, link)?;
    disks.redirect_by(redirect.clone());
    let slot = slot(&welcome, id)?;
    ring::block_on(slot.check(&disks))?;
    let engine = Engine {
        disks,
        control: Arc::new(Caller::new(link.clone(), lease.clone(), failing)),
        lease: lease.clone(),
        pool: welcome.pool,
        session: welcome.session,
        au_size: welcome.au_size,
        slot: Arc::new(slot),
        unsettled: Arc::default(),
        stale: stale.clone(),
        outs: Arc::default(),
    };
    Ok((About { id, welcome, known: speaker.known.clone() }, engine, redirect))
}

/// Finds, locks and opens the disks. One that is not reached from here is used through the manager until it is; at least one must be.
fn take_disks(by: &Paths, disks: &Disks<PoolDisk>) -> Result<Vec<known::Found>> {
    for text in &by.globs {
        text.parse::<Address>().map_err(|e| Error::new(Kind::Refused, e).hint("as --disk nbd://HOST/EXPORT, or a path"))?;
    }
    let infos = &by.welcome.disks;
    let found = ring::block_on(by.find(infos, &[]));
    let (mut paths, mut missing, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for (info, found) in infos.iter().zip(found) {
        let why = match found {
            Found::Here(here) => {
                let path = here.disk.address().to_string();
                here.notes.iter().for_each(|n| tracing::warn!("disk {} ({path}): {n}", info.no));
                match ring::block_on(by.take(&here.disk, info)) {
                    Ok(()) => {
                        disks.set_present(info.no, info.id, Arc::new(here.disk));
                        paths.push((info.clone(), path));
                        continue;
                    }
                    Err(e) if e.kind() == Kind::Io => format!("{path}: {e}"),
                    Err(e) => return Err(e.within(&path)),
                }
            }
            Found::Missing(why) => why,
            Found::Refused(why) => {
                refused.push(format!("disk {} ({}): {why}", info.no, info.id));
                continue;
            }
        };
        missing.push(format!("disk {} ({}): {why}", info.no, info.id));
        // Where the manager has it: some name for people.
        paths.push((info.clone(), info.paths.first().cloned().unwrap_or_default()));
        disks.set_unreached(info.no, info.id, format!("not found on this host: {why}"));
    }
    if !refused.is_empty() {
        return Err(
            Error::new(Kind::Refused, refused.join("; ")).hint("fusevol-mgr disk scan shows what the labels of this host's disks say")
        );
    }
    if missing.len() == infos.len() {
        return Err(Error::new(Kind::NotFound, format!("not found on this host: {}", missing.join("; ")))
            .hint("attach the disk to this host, or name it: --disk PATH (or a pattern such as '/dev/disk/by-id/scsi-*')"));
    }
    missing.iter().for_each(|what| tracing::warn!("not found on this host, its I/O goes through the manager until it is: {what}"));
    Ok(paths)
}

/// The session's slot on the disks that the welcome names.
fn slot(welcome: &Welcome, id: SessionId) -> Result<Slot> {
    let places = carriers(welcome.pool, welcome.au_size, welcome.session, &welcome.slots, &welcome.disks)?;
    Ok(Slot::new(welcome.pool, welcome.session, id, welcome.moves, places))
}

fn boot() -> Result<BootId> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context(Kind::Io, || "the boot id cannot be read")?;
    boot.trim().parse().context(Kind::Internal, || "the boot id is no UUID")
}

fn paths_of(options: &Options, welcome: &Welcome, id: SessionId, link: &Link, known: &Arc<Known>) -> Result<Paths> {
    let host = HostKey::of(welcome.pool, boot()?);
    Ok(Paths { link: link.clone(), welcome: welcome.clone(), id, host, globs: options.disks.clone(), known: known.clone() })
}

fn hello(session: SessionId, program: &str) -> Result<Hello> {
    Ok(Hello {
        protocol: PROTOCOL,
        session,
        boot: boot()?,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        program: format!("{program} {}", env!("CARGO_PKG_VERSION")),
        resume: false,
    })
}

/// What the link says, with what the user can do about it.
fn explain(e: Error, key: &KeyFile) -> Error {
    let hinted = e.hint_text().is_some();
    let e = e.within(format_args!("client {} of pool {}", key.client, key.pool));
    match e.kind() {
        Kind::Unreachable if !hinted => {
            e.hint("see whether fusevol-mgr serve runs, and whether its address in the key file is reached from here")
        }
        Kind::Denied if !hinted => {
            e.hint("the key may be revoked or of another pool; fusevol-mgr client ls shows, client add makes a new one")
        }
        _ => e,
    }
}
