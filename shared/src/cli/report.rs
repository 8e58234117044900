//! An error as people and scripts see it.
//!
//! For people, on standard error: `PROGRAM: error: WHAT: WHY` and, where there is one, `hint: WHAT TO DO`.
//! With `--json`, on standard output: `{"schema":1,"error":{"kind":...,"message":...,"hint":...}}`.

use super::out;
use crate::error::Error;
use std::io::Write;

/// Reports `e` and gives the exit code of its kind.
#[must_use]
pub fn report(program: &str, json: bool, e: &Error) -> u8 {
    if out::is_closed_pipe(e) {
        return out::CLOSED_PIPE;
    }
    if json {
        // Where not even this can be written, the exit code is all that is left.
        let _ = out::line(&to_json(e));
    } else {
        let _ = std::io::stderr().lock().write_all(to_text(program, e).as_bytes());
    }
    e.kind().exit_code()
}

/// The lines for people.
#[must_use]
pub fn to_text(program: &str, e: &Error) -> String {
    let hint = e.hint_text().map(|h| format!("hint: {h}\n")).unwrap_or_default();
    format!("{program}: error: {e}\n{hint}")
}

/// The object for scripts. `hint` is null where there is none.
#[must_use]
pub fn to_json(e: &Error) -> String {
    let body = serde_json::json!({ "kind": e.kind(), "message": e.to_string(), "hint": e.hint_text() });
    serde_json::json!({ "schema": super::json::SCHEMA, "error": body }).to_string()
}
