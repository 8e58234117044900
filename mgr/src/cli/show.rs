//! Output that several verbs share: properties as two columns, and times in JSON as RFC 3339.

use fusevol_shared::cli::{json as out_json, time};
use fusevol_shared::error::{Context, Kind, Result};
use serde::Serialize;
use serde_json::Value;

/// Fields that hold seconds since 1970 in what the manager answers.
const TIMES: [&str; 2] = ["created", "opened"];

/// Prints `value` as `--json` does, times as RFC 3339.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut value = serde_json::to_value(value).context(Kind::Internal, || "the answer cannot be written as JSON")?;
    with_times(&mut value);
    out_json::print(&value)
}

fn with_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_u64() {
                    Some(seconds) if TIMES.contains(&name.as_str()) => *field = time::rfc3339(seconds).into(),
                    _ => with_times(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(with_times),
        _ => {}
    }
}

/// Properties, one a line.
pub fn properties(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:<width$}  {}", if value.is_empty() { "-" } else { value });
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `one thing`, `2 things`.
pub fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_wherever_they_stand() {
        let mut v = serde_json::json!({ "volumes": [{ "created": 0, "size": 5, "snapshots": [{ "created": 1 }] }] });
        with_times(&mut v);
        assert_eq!(v["volumes"][0]["created"], "1970-01-01T00:00:00Z");
        assert_eq!(v["volumes"][0]["snapshots"][0]["created"], "1970-01-01T00:00:01Z");
        assert_eq!(v["volumes"][0]["size"], 5);
    }

    #[test]
    fn properties_align() {
        assert_eq!(properties(&[("a", "1".into()), ("long", String::new())]), "a     1\nlong  -");
        assert_eq!((count(1, "disk"), count(0, "disk")), ("1 disk".into(), "0 disks".into()));
    }
}
