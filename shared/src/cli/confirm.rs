//! What destroys says what would be lost and asks. Off a terminal it is refused without `-y`.

use crate::error::{Context, Error, Kind, Result};
use std::io::{BufRead, IsTerminal, Read, Write};

/// Longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 256;

/// `-y`, for every verb that destroys.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Yes {
    /// Do not ask: do it
    #[arg(short = 'y', long = "yes")]
    pub yes: bool,
}

/// Says `lost` (a sentence: what would be lost) and asks, unless `yes`.
///
/// # Errors
/// `Refused` when the answer is not yes, or when there is no terminal to ask on.
pub fn confirm(lost: &str, yes: Yes) -> Result<()> {
    if yes.yes {
        return Ok(());
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Error::new(Kind::Refused, format!("not done without a yes: {lost}")).hint("add -y if that is meant"));
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{lost}\nGo on? [y/N] ").and_then(|()| err.flush()).context(Kind::Io, || "the terminal")?;
    let mut answer = String::new();
    std::io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer).context(Kind::Io, || "the terminal")?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::new(Kind::Refused, "nothing was done")),
    }
}
