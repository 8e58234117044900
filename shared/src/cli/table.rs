//! Lists in plain columns: two blanks between columns, names in capitals, numbers to the right; no colour, no lines.
//! `-o COL,...` chooses columns, `-H` gives rows only, tab-separated, `-p` exact numbers (bytes, seconds since 1970).

use super::{out, time};
use crate::error::{Error, Kind, Result};
use crate::size;

/// Options of every list.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ListArgs {
    /// Columns to show, separated by commas
    #[arg(short = 'o', value_name = "COL,...", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// No header; tabs between columns
    #[arg(short = 'H')]
    pub bare: bool,
    /// Exact numbers: sizes in bytes, times in seconds since 1970
    #[arg(short = 'p')]
    pub exact: bool,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    name: &'static str,
    right: bool,
    extra: bool,
}

impl Column {
    /// Text, to the left. `name` is lower case, as `-o` takes it.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, right: false, extra: false }
    }

    /// Numbers, to the right.
    #[must_use]
    pub const fn number(name: &'static str) -> Self {
        Self { name, right: true, extra: false }
    }

    /// Shown only where `-o` names it.
    #[must_use]
    pub const fn extra(mut self) -> Self {
        self.extra = true;
        self
    }
}

/// One value of a row.
#[derive(Clone, Debug)]
pub enum Cell {
    /// As it is.
    Text(String),
    /// Bytes: `20G`, exact `21474836480`.
    Size(u64),
    /// A count.
    Count(u64),
    /// Seconds since 1970: RFC 3339, exact the number.
    Time(u64),
    /// Nothing to say: `-`.
    None,
}

impl Cell {
    /// Text of anything that prints.
    pub fn of(value: impl ToString) -> Self {
        Self::Text(value.to_string())
    }

    fn show(&self, exact: bool) -> String {
        match self {
            // A list has one row a line: what a peer named must not break it.
            Cell::Text(t) if t.is_empty() => "-".to_owned(),
            Cell::Text(t) => t.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
            Cell::Size(n) if !exact => size::show(*n),
            Cell::Time(n) if !exact => time::rfc3339(*n),
            Cell::Size(n) | Cell::Time(n) | Cell::Count(n) => n.to_string(),
            Cell::None => "-".to_owned(),
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// With these columns and no row.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: one cell for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// Prints it. An empty list prints its header only.
    ///
    /// # Errors
    /// As `render`; `Io` where it cannot be written.
    pub fn print(&self, args: &ListArgs) -> Result<()> {
        let text = self.render(args)?;
        if text.is_empty() { Ok(()) } else { out::line(&text) }
    }

    /// The lines, without a newline at the end.
    ///
    /// # Errors
    /// `Refused` for a column that is not there.
    pub fn render(&self, args: &ListArgs) -> Result<String> {
        let chosen = self.choose(&args.columns)?;
        let mut lines: Vec<Vec<String>> = Vec::with_capacity(self.rows.len() + 1);
        if !args.bare {
            lines.push(chosen.iter().map(|c| self.columns[*c].name.to_ascii_uppercase()).collect());
        }
        lines.extend(self.rows.iter().map(|r| chosen.iter().map(|c| r[*c].show(args.exact)).collect()));
        if args.bare {
            return Ok(lines.iter().map(|l| l.join("\t")).collect::<Vec<_>>().join("\n"));
        }
        let widths: Vec<usize> = (0..chosen.len()).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
        let pad = |line: &Vec<String>| {
            let cells = line.iter().enumerate().map(|(i, cell)| match self.columns[chosen[i]].right {
                true => format!("{cell:>w$}", w = widths[i]),
                false => format!("{cell:<w$}", w = widths[i]),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        Ok(lines.iter().map(pad).collect::<Vec<_>>().join("\n"))
    }

    /// Indices of the columns to show.
    fn choose(&self, names: &[String]) -> Result<Vec<usize>> {
        if names.is_empty() {
            return Ok((0..self.columns.len()).filter(|i| !self.columns[*i].extra).collect());
        }
        let find = |name: &String| {
            let wanted = name.trim().to_ascii_lowercase();
            self.columns.iter().position(|c| c.name == wanted).ok_or_else(|| {
                let known: Vec<_> = self.columns.iter().map(|c| c.name).collect();
                Error::new(Kind::Refused, format!("there is no column '{}'", name.trim())).hint(format!("columns: {}", known.join(",")))
            })
        };
        names.iter().map(find).collect()
    }
}
