//! `bench failure`: what failures cost. In each round every figure is measured once, what it is measured against right beside it.
//!
//! - [`bed`]: exports with a limit, a pool on them, a volume that is written. [`measure`]: the figures.

mod bed;
mod measure;

use super::args::Failure;
use super::report::Machine;
use super::signal::Interrupt;
use super::stats;
use super::table::{Sheet, number};
use anyhow::{Context, Result, ensure};
use fusevol_shared::size;
use measure::{Measure, Sample};

/// What a figure shall be.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Goal {
    Least(f64),
    Most(f64),
    None,
}

/// A figure: one measured value in another.
struct Figure {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    goal: Goal,
}

const fn figure(name: &'static str, title: &'static str, unit: &'static str, goal: Goal) -> Figure {
    Figure { name, title, unit, goal }
}

/// All of them, in the order of the table.
const FIGURES: [Figure; 8] = [
    figure("mirrored-stream", "1 MiB writes to two copies, in those to one", "MiB/s", Goal::Least(0.8)),
    figure("mirrored-random", "4 KiB writes, depth 32, to two copies, in those to one", "IOPS", Goal::Least(0.8)),
    figure("rebuild", "rebuild of an idle volume, in the disks' limit", "MiB/s", Goal::Least(0.7)),
    figure("rebuild-read-p99", "p99 of 4 KiB reads, depth 1, within a rebuild, in that before", "us", Goal::Most(3.0)),
    figure("rebuild-write-p99", "p99 of 4 KiB writes, depth 1, within a rebuild, in that before", "us", Goal::Most(3.0)),
    figure("resync", "looked at after a client's crash, in the volume", "MiB", Goal::None),
    figure("proxied-read", "1 MiB reads through the manager, in direct ones", "MiB/s", Goal::Least(0.5)),
    figure("proxied-write", "1 MiB writes through the manager, in direct ones", "MiB/s", Goal::Least(0.5)),
];

/// Runs it; false where a goal was missed.
///
/// # Errors
/// Where it cannot begin, something fails, or it is interrupted.
pub fn run(args: &Failure) -> Result<bool> {
    if args.list {
        FIGURES.iter().for_each(|f| println!("{:<18} {}", f.name, f.title));
        return Ok(true);
    }
    let wanted = |f: &&Figure| args.only.as_deref().is_none_or(|p| f.name.contains(p));
    let figures: Vec<&Figure> = FIGURES.iter().filter(wanted).collect();
    ensure!(!figures.is_empty(), "no figure has '{}' in its name; hint: --list", args.only.as_deref().unwrap_or_default());
    let names: Vec<&str> = figures.iter().map(|f| f.name).collect();
    let (machine, measure) = (Machine::here(), Measure::new(args, Interrupt::new()?));
    let mut samples = Vec::new();
    for round in 1..=args.rounds {
        for sample in measure.round(round, &names)? {
            let Sample { name, of, to } = sample;
            let unit = FIGURES.iter().find(|f| f.name == name).map_or("", |f| f.unit);
            eprintln!("{round}/{}  {name:<18} {of:>9.1} {unit} in {to:>9.1}: {:.3}", args.rounds, of / to);
            samples.push(sample);
        }
    }
    println!("Linux {}, {} CPUs (load {} before), fusevol {}", machine.kernel, machine.cpus, machine.load, machine.fusevol);
    println!(
        "{} rounds of {} s, volume {}, exports of {}/s; medians",
        args.rounds,
        args.seconds,
        size::show(args.size),
        size::show(args.rate)
    );
    let (sheet, met) = sheet(&figures, &samples)?;
    print!("{}", if args.markdown { sheet.markdown() } else { sheet.plain()? });
    Ok(met)
}

fn sheet(figures: &[&Figure], samples: &[Sample]) -> Result<(Sheet, bool)> {
    let (mut rows, mut all) = (Vec::new(), true);
    for f in figures {
        let of = |value: fn(&Sample) -> f64| samples.iter().filter(|s| s.name == f.name).map(value).collect::<Vec<f64>>();
        let ratios = of(|s| s.of / s.to);
        let ratio = stats::median(&ratios).with_context(|| format!("{} was not measured", f.name))?;
        let (low, high) = stats::spread(&ratios).unwrap_or((ratio, ratio));
        let (goal, met) = match f.goal {
            Goal::Least(least) => (format!(">= {least:.2}"), Some(ratio >= least)),
            Goal::Most(most) => (format!("<= {most:.2}"), Some(ratio <= most)),
            Goal::None => ("-".to_owned(), None),
        };
        all &= met != Some(false);
        let word = met.map_or("-", |m| if m { "met" } else { "missed" });
        rows.push(vec![
            f.title.to_owned(),
            number(stats::median(&of(|s| s.of))),
            number(stats::median(&of(|s| s.to))),
            f.unit.to_owned(),
            format!("{ratio:.2}"),
            format!("{low:.2}..{high:.2}"),
            goal,
            word.to_owned(),
        ]);
    }
    Ok((Sheet::new(vec!["figure", "value", "in", "", "ratio", "min..max", "goal", ""], 1, rows), all))
}
