//! The tables: figures of each work and target, goals and what was reached, and a comparison with an older run. Each is a
//! head and rows of text, printed in the look of our lists or as Markdown.

use super::disk::DiskKind;
use super::goals::{Against, GOALS};
use super::report::{Report, Sample};
use super::stats;
use super::target::TargetKind;
use super::work::{WORKS, Work};
use anyhow::Result;
use fusevol_shared::cli::{Cell, Column, ListArgs, Table};

#[cfg(test)]
mod tests;

/// A table of text; the first `left` columns are words, the others numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sheet {
    head: Vec<&'static str>,
    left: usize,
    rows: Vec<Vec<String>>,
}

impl Sheet {
    /// Of these.
    #[must_use]
    pub fn new(head: Vec<&'static str>, left: usize, rows: Vec<Vec<String>>) -> Self {
        Self { head, left, rows }
    }

    /// In plain columns.
    ///
    /// # Errors
    /// None that these columns could have.
    pub fn plain(&self) -> Result<String> {
        let column = |(i, name): (usize, &&'static str)| if i < self.left { Column::text(name) } else { Column::number(name) };
        let columns: Vec<Column> = self.head.iter().enumerate().map(column).collect();
        let mut table = Table::new(&columns);
        for row in &self.rows {
            table.row(row.iter().map(Cell::of).collect());
        }
        Ok(table.render(&ListArgs::default())?)
    }

    /// As Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<String> = self.head.iter().map(|h| (*h).to_owned()).collect();
        let rule: Vec<String> = (0..head.len()).map(|i| if i < self.left { "---" } else { "---:" }.to_owned()).collect();
        let rows: String = self.rows.iter().map(|r| line(r)).collect();
        line(&head) + &line(&rule) + &rows
    }
}

/// A rate, or a time: three digits that count.
#[must_use]
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(v) if v >= 100.0 => format!("{v:.0}"),
        Some(v) if v >= 10.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.2}"),
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"))
}

/// The figures of a disk: medians, and how far the rounds lie apart.
#[must_use]
pub fn figures(report: &Report, disk: DiskKind) -> Sheet {
    let mut rows = Vec::new();
    for work in &WORKS {
        let measured = TargetKind::ALL.into_iter().filter(|t| !report.cell(disk, *t, work.name).is_empty());
        for (n, target) in measured.enumerate() {
            let title = if n == 0 { work.title.to_owned() } else { String::new() };
            rows.push(row(report, disk, work, target, title));
        }
    }
    let head = vec!["work", "target", "rate", "", "min..max", "to raw", "to qsd", "to own", "p50 us", "p99 us", "p99.9 us", "cpu us/io"];
    Sheet { head, left: 2, rows }
}

fn row(report: &Report, disk: DiskKind, work: &Work, target: TargetKind, title: String) -> Vec<String> {
    let median = |figure: fn(&Sample) -> f64| number(report.median(disk, target, work.name, figure));
    let rates: Vec<f64> = report.rates(disk, target, work.name).iter().map(|(_, rate)| *rate).collect();
    let spread =
        stats::spread(&rates).map_or_else(|| "-".to_owned(), |(low, high)| format!("{}..{}", number(Some(low)), number(Some(high))));
    let to = |against| ratio(report.ratio(disk, target, work.name, against));
    let peer = if target.is_ours() { to(Against::Target(peer(work))) } else { "-".to_owned() };
    let raw = if target == TargetKind::Raw { "-".to_owned() } else { to(Against::Target(TargetKind::Raw)) };
    vec![
        title,
        target.title().to_owned(),
        median(Sample::rate),
        work.unit().to_owned(),
        spread,
        raw,
        peer,
        to(Against::Own),
        median(|s| s.figures.p50_us),
        median(|s| s.figures.p99_us),
        median(|s| s.figures.p999_us),
        median(|s| s.figures.cpu_us),
    ]
}

/// The export that our mount is measured against: what can do the work.
fn peer(work: &Work) -> TargetKind {
    if work.is_of(TargetKind::QsdRaw) { TargetKind::QsdRaw } else { TargetKind::QsdQcow2 }
}

/// The goals: what our transports reach on a disk.
#[must_use]
pub fn goals(report: &Report, disk: DiskKind) -> Sheet {
    let mut rows = Vec::new();
    for goal in &GOALS {
        let ours = [TargetKind::Uring, TargetKind::Classic].map(|t| report.reached(disk, t, goal));
        if ours.iter().all(Option::is_none) {
            continue;
        }
        let against = match goal.against {
            Against::Target(t) => t.title(),
            Against::Own => "own overwrites",
        };
        let work = Work::named(goal.work).map_or(goal.work, |w| w.title);
        let mut cells = vec![work.to_owned(), against.to_owned(), format!(">= {:.2}", goal.least)];
        for reached in ours {
            cells.extend([ratio(reached), goal.mark(reached).word().to_owned()]);
        }
        rows.push(cells);
    }
    Sheet { head: vec!["work", "against", "goal", "uring", "", "classic", ""], left: 2, rows }
}

/// New to old, of the medians; and the same of the ratios to the raw disk, from which the machine's noise is gone.
#[must_use]
pub fn compared(new: &Report, old: &Report, disk: DiskKind) -> Sheet {
    let mut rows = Vec::new();
    for work in &WORKS {
        for target in TargetKind::ALL {
            let rate = |r: &Report| r.median(disk, target, work.name, Sample::rate);
            let cpu = |r: &Report| r.median(disk, target, work.name, |s| s.figures.cpu_us);
            let raw = |r: &Report| r.ratio(disk, target, work.name, Against::Target(TargetKind::Raw));
            let both = |f: &dyn Fn(&Report) -> Option<f64>| Some(f(new)? / f(old)?);
            let Some(faster) = both(&rate) else { continue };
            let cells = [number(rate(old)), number(rate(new)), ratio(Some(faster)), ratio(both(&raw)), ratio(both(&cpu))];
            rows.push([vec![work.title.to_owned(), target.title().to_owned()], cells.to_vec()].concat());
        }
    }
    Sheet { head: vec!["work", "target", "old", "new", "rate new/old", "to raw new/old", "cpu new/old"], left: 2, rows }
}
