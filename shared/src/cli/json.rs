//! Output for scripts: JSON objects with `"schema": 1`, numbers as numbers, sizes in bytes, times as RFC 3339.
//! One answer is one object; long work and event streams are one object a line.

use super::out;
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// Version of what `--json` prints; a field is added without changing it, but none is taken away or changes its meaning.
pub const SCHEMA: u32 = 1;

/// `value` (which serialises as an object) with the schema in front.
///
/// # Errors
/// `Internal` if it is no object.
pub fn with_schema<T: Serialize + ?Sized>(value: &T) -> Result<Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => {
            let mut all = Map::new();
            all.insert("schema".to_owned(), SCHEMA.into());
            all.extend(fields);
            Ok(Value::Object(all))
        }
        Ok(other) => Err(Error::new(Kind::Internal, format!("the answer is no JSON object: {other}"))),
        Err(e) => Err(Error::new(Kind::Internal, "the answer cannot be written as JSON").because(e)),
    }
}

/// Prints one object, on one line.
///
/// # Errors
/// As `with_schema`; `Io` where it cannot be written.
pub fn print<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    out::line(&with_schema(value)?.to_string())
}

/// Prints `{"schema":1,"NAME":[...]}`.
///
/// # Errors
/// As `print`.
pub fn print_list<T: Serialize>(name: &str, items: &[T]) -> Result<()> {
    let items = serde_json::to_value(items).map_err(|e| Error::new(Kind::Internal, "the list cannot be written as JSON").because(e))?;
    print(&Value::Object(Map::from_iter([(name.to_owned(), items)])))
}
