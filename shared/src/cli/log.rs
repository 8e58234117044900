//! Logging: `tracing` to standard error, filtered by `FUSEVOL_LOG` (`info`, `debug`, or a level for one module).
//! Under systemd the journal gives the time, so the lines carry none. `NO_COLOR` and a redirected standard error: plain.

use crate::error::{Error, Kind, Result};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The variable that filters.
pub const VARIABLE: &str = "FUSEVOL_LOG";

/// Begins logging; `default` is the filter where the variable is not set (`warn` for a verb, `info` for a daemon).
/// A second call in the same process changes nothing.
///
/// # Errors
/// `Refused` when the variable holds no filter.
pub fn init(default: &str) -> Result<()> {
    let text = std::env::var(VARIABLE).ok().filter(|t| !t.is_empty()).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|e| {
        Error::new(Kind::Refused, format!("{VARIABLE}={text} is no filter")).because(e).hint(format!("as {VARIABLE}=info, or unset it"))
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).with_target(false);
    // An error of `try_init` says that logging has begun already.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() { lines.without_time().try_init() } else { lines.try_init() };
    Ok(())
}
