//! The manager process: opens what it needs, joins it, serves, and ends.
//!
//! Order: the folder's lock; the disks, found by their labels; the catalog, under a generation won on the disks; the
//! listener and the admin socket; then `ready`. A manager that was killed holds its byte locks until its last request
//! has landed: its successor waits for that a little, and says who is in the way if it lasts.

use super::fence;
use super::join::Log;
use super::log::{self, StoreLog, Won};
use super::{Driver, Handle, Input, Outside, QUEUE_MAX};
use crate::admin::config::Config as Settings;
use crate::admin::dir::{Dir, DirLock};
use crate::admin::disks::{self, Found};
use crate::admin::server::{self, Admins};
use crate::authority::Authority;
use crate::catalog::Catalog;
use crate::core::{AdminRequest, Config, Core, Event, Now};
use crate::data::{DataDisks, DataServer, Verdicts};
use crate::listen::{ListenLimits, Listener};
use fusevol_shared::clock::SystemClock;
use fusevol_shared::disk::file::OpenMode;
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::ids::BootId;
use fusevol_shared::random::SystemRandom;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Threads that speak TLS and JSON.
const WORKERS: usize = 2;

/// Serves the pool of `dir` until a signal ends it. `force`: the administrator's word (`store::Options`). `ready` is called once it serves.
///
/// # Errors
/// Why it cannot begin, or not go on.
pub fn serve(dir: &Dir, force: bool, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let lock = dir.lock()?;
    let mut settings = Settings::load(dir)?;
    let authority = Authority::load(dir.root(), settings.pool_id)?;
    let boot = boot_id()?;
    let (to, inputs) = mpsc::channel(QUEUE_MAX);
    let (log, catalog) = open(dir, &mut settings, force, &to)?;
    let missing: Vec<Event> = log.lost().into_iter().map(|(disk, why)| Event::DiskMissing { disk, why }).collect();
    let news = news(&settings, &catalog, &log);
    let pool = catalog.pool().ok_or_else(|| Error::new(Kind::Damaged, "the catalog does not say which pool it is of"))?.clone();
    let lease = Duration::from_millis(pool.lease_ms.into());
    let config = Config { drained: log.is_drained(), ..Config::new(lease, boot) };
    let core = Core::new(catalog, config, log.generation(), Now::of(&SystemClock), Box::new(SystemRandom));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.context(Kind::Io, || "the runtime")?;
    let addresses: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
    let verdicts = Verdicts::default();
    let data = Arc::new(DataServer::new(to.clone(), verdicts.clone(), DataDisks::start(log.table())?));
    let listener = runtime.block_on(Listener::bind(&addresses, authority.tls()?, data, ListenLimits::default(), to.clone()))?;
    let driver = Driver::new(core, log, Outside { connections: listener.connections(), verdicts }, Box::new(SystemClock), inputs);
    let on = runtime.handle().clone();
    let thread = std::thread::Builder::new().name("driver".to_owned()).spawn(move || driver.run(&on));
    let thread = thread.context(Kind::Io, || "the driver's thread")?;
    for event in missing {
        // A driver that is gone says why by itself.
        let _ = runtime.block_on(to.send(event.into()));
    }
    let handle = Handle::new(to);
    for request in news {
        runtime.block_on(handle.ask(request))?;
    }
    speak(&runtime, dir, &lock, Admins { driver: handle, pool: pool.id, au_size: pool.au_size, dir: dir.clone() })?;
    ready()?;
    // Nobody may wait for it: then nobody is told.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let end = thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the driver panicked; its message stands above")));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    // Connections end with the listener; an admin socket that is gone says more than one that refuses.
    drop(listener);
    let _ = std::fs::remove_file(dir.socket());
    runtime.shutdown_timeout(Duration::from_secs(1));
    end.map_err(|e| e.within("the manager has ended"))
}

/// Opens the disks and wins a generation on them. Disks that the configuration does not know are written down, and the
/// pool is won again with all of them. Disks may be missing, or be older copies of themselves, as long as a quorum of the catalog's is here: they are as lost ones then.
fn open(dir: &Dir, settings: &mut Settings, force: bool, to: &mpsc::Sender<Input>) -> Result<(StoreLog, Catalog)> {
    let mut found = disks::find(settings, OpenMode::ReadWrite)?;
    let mut marks = disks::leave_older(&mut found, settings.pool_id, force);
    let mut won = win(&found, settings, force)?;
    let mut catalog = Catalog::fold(&won.records)?;
    if disks::complete(&mut found, settings, &catalog, OpenMode::ReadWrite)? {
        drop(won);
        marks = disks::leave_older(&mut found, settings.pool_id, force);
        won = win(&found, settings, force)?;
        catalog = Catalog::fold(&won.records)?;
        settings.save(dir)?;
    }
    Ok((won.start(&catalog, &found.missing, marks, dir.file(fence::FOLDER), to.clone())?, catalog))
}

/// Where too few of the catalog's disks are here, all that are missing are named, with where they were.
fn win(found: &Found, settings: &Settings, force: bool) -> Result<Won> {
    if found.members.is_empty() {
        return Err(found.lack(settings));
    }
    log::open(&found.members, found.missing.is_empty(), force).map_err(|e| {
        if e.kind() != Kind::Refused || found.missing.is_empty() || !found.is_short() {
            return e;
        }
        let lack = found.lack(settings);
        let hint = format!("{}; {}", lack.hint_text().unwrap_or_default(), e.hint_text().unwrap_or_default());
        lack.because(e).hint(hint)
    })
}

/// What this host knows better than the catalog: where the disks are, and where clients find the manager.
fn news(settings: &Settings, catalog: &Catalog, log: &StoreLog) -> Vec<AdminRequest> {
    let mut news = Vec::new();
    if catalog.addresses() != settings.told() {
        news.push(AdminRequest::ListenSet { addresses: settings.told() });
    }
    for disk in catalog.disks() {
        if let Some(path) = log.path(disk.entry.id).filter(|p| !disk.entry.paths.contains(p)) {
            news.push(AdminRequest::DiskPaths { id: disk.entry.id, paths: vec![path] });
        }
    }
    news
}

/// Opens the admin socket and listens for signals.
fn speak(runtime: &Runtime, dir: &Dir, lock: &DirLock, admins: Admins) -> Result<()> {
    let _on = runtime.enter();
    let socket = server::bind(dir, lock)?;
    let (mut term, mut int) =
        signal(SignalKind::terminate()).and_then(|t| signal(SignalKind::interrupt()).map(|i| (t, i))).context(Kind::Io, || "signals")?;
    let driver = admins.driver.clone();
    runtime.spawn(server::serve(socket, admins));
    runtime.spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("stopping");
        driver.stop().await;
    });
    Ok(())
}

/// Of this boot of this host.
fn boot_id() -> Result<BootId> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).context(Kind::Io, || path)?;
    text.trim().parse().context(Kind::Internal, || path)
}
