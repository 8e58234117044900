//! The manager's end of the admin socket: one task a connection, one question at a time on each.

use super::api::{Line, Question};
use super::config::{Config, ConfigDisk};
use super::dir::{Dir, DirLock};
use super::{disks, wire};
use crate::core::AdminReply;
use crate::driver::Handle;
use fusevol_shared::disk::any::Address;
use fusevol_shared::error::{Context, Kind, Result, WireError};
use fusevol_shared::ids::PoolId;
use fusevol_shared::units::AuSize;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Most connections at once; more wait in the socket's queue.
const CONNECTIONS_MAX: usize = 64;
/// A connection on which nobody asks for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// What a connection of an administrator works with.
#[derive(Clone, Debug)]
pub struct Admins {
    /// To the driver.
    pub driver: Handle,
    /// The pool.
    pub pool: PoolId,
    /// Of the pool: a disk that is too small for it is refused.
    pub au_size: AuSize,
    /// Whose configuration gets a disk that joined.
    pub dir: Dir,
}

/// Makes the socket, mode 0600, in place of one that a dead manager has left (the lock says that it is dead).
///
/// # Errors
/// `Io`.
pub fn bind(dir: &Dir, _held: &DirLock) -> Result<UnixListener> {
    // Bound under another name and renamed once its mode is right: nobody can connect in between.
    let new = dir.file("admin.sock.new");
    let what = || dir.socket().display().to_string();
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(Kind::Io, what),
        _ => {}
    }
    let (short, _folder) = dir.short().context(Kind::Io, what)?;
    let listener = UnixListener::bind(short.join("admin.sock.new")).context(Kind::Io, what)?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o600)).context(Kind::Io, what)?;
    std::fs::rename(&new, dir.socket()).context(Kind::Io, what)?;
    Ok(listener)
}

/// Serves until it is dropped.
pub async fn serve(listener: UnixListener, admins: Admins) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admins = admins.clone();
                tokio::spawn(async move {
                    if let Err(e) = converse(stream, admins).await {
                        tracing::debug!("admin socket: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                tracing::warn!("admin socket: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, admins: Admins) -> Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    loop {
        let question: Question = match tokio::time::timeout(IDLE, wire::read(&mut from, wire::QUESTION_MAX)).await {
            Err(_) | Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(q))) => q,
            Ok(Err(e)) => return wire::write(&mut to, &Line::Err(WireError::from(&e))).await,
        };
        answer(question, &admins, &mut to).await?;
    }
}

async fn answer(question: Question, admins: &Admins, to: &mut OwnedWriteHalf) -> Result<()> {
    let answer = match question {
        Question::Core(request) => admins.driver.ask(request).await,
        Question::DiskAdd { path } => add_disk(path, admins).await,
    };
    wire::write(to, &answer.map_err(|e| WireError::from(&e))).await
}

async fn add_disk(path: Address, admins: &Admins) -> Result<AdminReply> {
    let (au_size, pool, at) = (admins.au_size, admins.pool, path.clone());
    // Opening and reading a disk may take its time: not on the runtime's own threads, and not on the driver's.
    let opened = tokio::task::spawn_blocking(move || disks::open_joining(&at, au_size, pool)).await;
    let answer = admins.driver.add_disk(opened.context(Kind::Internal, || "opening the disk")??).await?;
    if let AdminReply::Disk(view) = &answer {
        let (dir, new) = (admins.dir.clone(), ConfigDisk { id: view.id, path });
        let written = tokio::task::spawn_blocking(move || Config::add_disk(&dir, new)).await;
        if let Err(e) = written.context(Kind::Internal, || "config.toml").flatten() {
            // The disk has joined all the same: the next manager finds it by the catalog, and writes it down.
            tracing::warn!("{e}");
        }
    }
    Ok(answer)
}
