//! The verbs' end of the admin socket. A manager that is starting is waited for.

use super::api::{Line, Question};
use super::dir::Dir;
use super::wire;
use crate::core::AdminReply;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::error::{Context, Error, Kind, Result};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// How often a manager that is starting is tried.
const RETRY: Duration = Duration::from_millis(50);

/// A connection to the manager.
pub struct Client {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Client {
    /// Connects to the manager that works from `dir`, trying for `wait`.
    ///
    /// # Errors
    /// `NotFound` where there is no pool in `dir`; `Denied` where the socket is another user's; `Unreachable`.
    pub async fn connect(dir: &Dir, wait: Duration) -> Result<Self> {
        let until = SystemClock.now().plus(wait);
        loop {
            let e = match connect(dir).await {
                Ok(stream) => {
                    let (from, to) = stream.into_split();
                    return Ok(Self { from: BufReader::new(from), to });
                }
                Err(e) => e,
            };
            match e.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused if !dir.is_made() => return Err(dir.no_pool()),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused if SystemClock.now() < until => tokio::time::sleep(RETRY).await,
                ErrorKind::PermissionDenied => {
                    return Err(Error::new(Kind::Denied, format!("{}: not yours", dir.socket().display()))
                        .because(e)
                        .hint("run it as root"));
                }
                _ => return Err(Self::unreachable(dir).because(e)),
            }
        }
    }

    fn unreachable(dir: &Dir) -> Error {
        let dir = dir.root().display();
        Error::new(Kind::Unreachable, format!("no manager answers on {dir}/admin.sock"))
            .hint(format!("start it with `fusevol-mgr serve --dir {dir}`"))
    }

    /// Asks, without waiting for the answer.
    ///
    /// # Errors
    /// `Unreachable` where the manager has gone.
    pub async fn send(&mut self, question: &Question) -> Result<()> {
        wire::write(&mut self.to, question).await.map_err(gone)
    }

    /// The next answer.
    ///
    /// # Errors
    /// What the manager answered, or `Unreachable` where it has gone before it did.
    pub async fn next(&mut self) -> Result<AdminReply> {
        let line: Option<Line> = wire::read(&mut self.from, wire::ANSWER_MAX).await.map_err(gone)?;
        line.ok_or_else(|| gone(Error::new(Kind::Io, "admin socket: closed")))?.map_err(Error::from)
    }

    /// Asks and waits for the one answer.
    ///
    /// # Errors
    /// As `send` and `next`.
    pub async fn ask(&mut self, question: &Question) -> Result<AdminReply> {
        self.send(question).await?;
        self.next().await
    }
}

async fn connect(dir: &Dir) -> std::io::Result<UnixStream> {
    let (short, _folder) = dir.short()?;
    UnixStream::connect(short.join("admin.sock")).await
}

/// A broken connection: whether the manager did what it was asked is not known.
fn gone(e: Error) -> Error {
    match e.kind() {
        Kind::Io => Error::new(Kind::Unreachable, "the manager ended before it answered")
            .because(e)
            .hint("look whether it was done before you ask again; its log says why it ended"),
        _ => e,
    }
}

/// Runs `future` on a small runtime of its own: the verbs have nothing else to do meanwhile.
///
/// # Errors
/// Those of `future`; `Io` where the runtime cannot be made.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(Kind::Io, || "the runtime")?;
    runtime.block_on(future)
}
