//! A wrong command line, reported like any other error; and `--help` and `--version`, which are none.

use super::{DONE, out, report};
use crate::error::{Error, Kind};
use clap::error::ErrorKind;

/// What clap answered instead of a command: prints it, and gives the exit code.
#[must_use]
pub fn end(program: &str, json: bool, e: &clap::Error) -> u8 {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match e.print().map_err(out::failed) {
            Ok(()) => DONE,
            Err(e) => report::report(program, json, &e),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !json => {
            // clap writes the help to standard error: there is nothing more to say.
            let _ = e.print();
            Kind::Refused.exit_code()
        }
        _ => report::report(program, json, &as_error(program, e)),
    }
}

/// clap's error as ours: its first paragraph is the sentence, its tip (or the usage line) the hint.
#[must_use]
pub fn as_error(program: &str, e: &clap::Error) -> Error {
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::new(Kind::Refused, "no command is given").hint(format!("see `{program} --help`"));
    }
    let text = e.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut sentence = String::new();
    for line in text.lines().take_while(|l| !l.trim().is_empty()) {
        let glue = if sentence.is_empty() || sentence.ends_with(':') { "" } else { "," };
        let space = if sentence.is_empty() { "" } else { " " };
        sentence.push_str(&format!("{glue}{space}{}", line.trim()));
    }
    let tip = text.lines().find_map(|l| l.trim().strip_prefix("tip: "));
    let usage = text.lines().find_map(|l| l.trim().strip_prefix("Usage: "));
    let hint = match (tip, usage) {
        (Some(t), _) => t.to_owned(),
        (None, Some(u)) => format!("usage: {u}"),
        (None, None) => format!("see `{program} --help`"),
    };
    Error::new(Kind::Refused, sentence).hint(hint)
}
