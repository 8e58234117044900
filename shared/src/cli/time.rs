//! Instants for people and scripts: RFC 3339, UTC, whole seconds.

use jiff::Timestamp;

/// Seconds since 1970 UTC as `2026-01-31T12:00:00Z`; a number beyond the calendar is printed as it is.
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).map_or_else(|| seconds.to_string(), |t| t.to_string())
}

/// For `#[serde(serialize_with = "fusevol_shared::cli::time::serialize")]` on seconds.
///
/// # Errors
/// The serialiser's own.
pub fn serialize<S: serde::Serializer>(seconds: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339(*seconds))
}
