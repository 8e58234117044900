//! Standard output. A reader that has gone away (`... | head`) is no failure: the error of such a write is recognised
//! by [`is_closed_pipe`], and the command ends quietly with the code that a shell shows for SIGPIPE.

use crate::error::{Error, Kind, Result};
use std::io::{ErrorKind, Write};

/// Exit code after output into a closed pipe: 128 + SIGPIPE.
pub const CLOSED_PIPE: u8 = 141;

/// Writes `text` and a newline to standard output, and flushes it.
///
/// # Errors
/// `Io` when it cannot be written; a closed pipe too (the report of it is silent).
pub fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(failed)
}

/// The error of a failed write to standard output.
#[must_use]
pub fn failed(e: std::io::Error) -> Error {
    Error::new(Kind::Io, "standard output").because(e)
}

/// Whether this is the error of a write into a pipe that nobody reads any more.
#[must_use]
pub fn is_closed_pipe(e: &Error) -> bool {
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>());
    e.context() == "standard output" && source.is_some_and(|s| s.kind() == ErrorKind::BrokenPipe)
}
