//! Medians, spreads and ratios of a few numbers. Pure.

#[cfg(test)]
mod tests;

/// The middle one; the mean of the two in the middle where the count is even; none of none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[half]),
        _ => Some(f64::midpoint(sorted[half - 1], sorted[half])),
    }
}

/// Smallest and largest.
#[must_use]
pub fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().min_by(f64::total_cmp)?;
    let high = values.iter().copied().max_by(f64::total_cmp)?;
    Some((low, high))
}

/// The median of `a[i] / b[i]` over the rounds that have both: what drifts from round to round does so for both. `a` and `b`
/// are (round, value).
#[must_use]
pub fn ratio(a: &[(u32, f64)], b: &[(u32, f64)]) -> Option<f64> {
    let of = |round: u32| b.iter().find(|(r, v)| *r == round && *v > 0.0).map(|(_, v)| *v);
    let ratios: Vec<f64> = a.iter().filter_map(|(round, v)| of(*round).map(|base| v / base)).collect();
    median(&ratios)
}
