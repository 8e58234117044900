//! Lines on the admin socket: one JSON document each, with a limit on its length.

use fusevol_shared::error::{Context, Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest question, in bytes.
pub const QUESTION_MAX: u64 = 64 << 10;
/// Longest answer, in bytes: the map of a large volume.
pub const ANSWER_MAX: u64 = 256 << 20;

/// Reads one line; `None` where the other side has closed.
///
/// # Errors
/// `Refused` for a line beyond `max` or one that is not what is expected; `Io`.
pub async fn read<T: DeserializeOwned>(from: &mut (impl AsyncBufRead + Unpin), max: u64) -> Result<Option<T>> {
    let mut line = Vec::new();
    let n = from.take(max).read_until(b'\n', &mut line).await.context(Kind::Io, || "admin socket")?;
    if n == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(Error::new(Kind::Refused, format!("admin socket: a line that is cut, or longer than {max} bytes")));
    }
    serde_json::from_slice(&line).map(Some).context(Kind::Refused, || "admin socket: not understood")
}

/// Writes one line.
///
/// # Errors
/// `Io`.
pub async fn write<T: Serialize + ?Sized>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> Result<()> {
    let mut line = serde_json::to_vec(value).context(Kind::Internal, || "admin socket")?;
    line.push(b'\n');
    to.write_all(&line).await.context(Kind::Io, || "admin socket")?;
    to.flush().await.context(Kind::Io, || "admin socket")
}
