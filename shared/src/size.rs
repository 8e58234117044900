//! Sizes as this field types them: `G` is GiB, in and out.

use crate::error::{Error, Kind, Result};

const UNITS: [(char, u32); 6] = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50), ('E', 60)];

/// Parses `4096`, `16K`, `1.5G`, `20GiB`, `20GB` (also GiB). Bytes.
///
/// # Errors
/// `Refused` on anything else, on a fraction of a byte and on overflow.
pub fn parse(text: &str) -> Result<u64> {
    let bad =
        || Error::new(Kind::Refused, format!("'{text}' is not a size")).hint("write bytes or a number with K, M, G, T or P, as 20G (GiB)");
    let t = text.trim();
    let digits = t.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(t.len());
    let (number, unit) = t.split_at(digits);
    let shift = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        u => {
            let (letter, rest) = u.split_at(1);
            if !matches!(rest, "" | "B" | "IB") {
                return Err(bad());
            }
            UNITS.iter().find(|(c, _)| letter.starts_with(*c)).ok_or_else(bad)?.1
        }
    };
    let (whole, frac) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || frac.len() > 9 {
        return Err(bad());
    }
    let scale = 10u128.pow(u32::try_from(frac.len()).map_err(|_| bad())?);
    let value: u128 = format!("{whole}{frac}").parse::<u128>().map_err(|_| bad())?;
    let bytes = value.checked_mul(1 << shift).ok_or_else(bad)?;
    if bytes % scale != 0 && shift == 0 {
        return Err(bad());
    }
    u64::try_from(bytes / scale).map_err(|_| bad())
}

/// Prints with three significant digits, as zfs does: `20.0G`, `512K`, `0B`.
#[must_use]
#[allow(clippy::cast_precision_loss)] // for people
pub fn show(bytes: u64) -> String {
    let Some((unit, shift)) = UNITS.iter().rev().find(|(_, s)| bytes >> s > 0) else {
        return format!("{bytes}B");
    };
    let v = bytes as f64 / (1u64 << shift) as f64;
    match v {
        _ if bytes.trailing_zeros() >= *shift => format!("{}{unit}", bytes >> shift),
        v if v < 10.0 => format!("{v:.2}{unit}"),
        v if v < 100.0 => format!("{v:.1}{unit}"),
        v => format!("{v:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_the_field_types_them() {
        for (t, n) in
            [("0", 0), ("4096", 4096), ("16K", 16 << 10), ("1.5G", 3 << 29), ("20GiB", 20 << 30), ("20gb", 20 << 30), ("2T", 2 << 40)]
        {
            assert_eq!(parse(t).ok(), Some(n), "{t}");
        }
        for t in ["", "G", "-1", "1.5", "1X", "99999999P", "1.0000000001G", "0x10", "1 2"] {
            assert!(parse(t).is_err(), "{t}");
        }
    }

    #[test]
    fn prints_back() {
        for (n, t) in [(0, "0B"), (1023, "1023B"), (1 << 30, "1G"), (3 << 29, "1.50G"), (20 << 30, "20G"), (123_456_789, "118M")] {
            assert_eq!(show(n), t);
        }
    }
}
