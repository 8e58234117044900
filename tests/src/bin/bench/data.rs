//! `bench data`: the rounds. In each round every work is done by every target, one right after the other, in an order that
//! rotates; so what the machine does beside hits all alike, and each ratio is taken within a round.

use super::args::Data;
use super::disk::{Disk, DiskKind};
use super::places;
use super::report::{Machine, Report, SCHEMA, Sample};
use super::signal::Interrupt;
use super::table;
use super::target::fusevol::{Fusevol, Served};
use super::target::qemu::{QsdQcow2, QsdRaw};
use super::target::raw::Raw;
use super::target::{Setting, Target, TargetKind};
use super::work::{WORKS, Work};
use anyhow::{Context, Result, ensure};
use fusevol_shared::cli::time;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::size;
use fusevol_tests::real::pool;
use std::path::Path;
use std::rc::Rc;

/// What stays free beside our disks.
const SPARE: u64 = 1 << 30;
/// In a second.
const NANOS: u64 = 1_000_000_000;

/// Runs it; false where something failed on the way.
///
/// # Errors
/// Where it cannot begin, is interrupted, or nothing is left to measure.
pub fn run(data: &Data) -> Result<bool> {
    if data.list {
        WORKS.iter().for_each(|w| println!("{:<16} {}", w.name, w.title));
        return Ok(true);
    }
    let older = data.compare.as_deref().map(Report::load).transpose()?;
    let (report, whole) = match &data.show {
        Some(file) => (Report::load(file)?, true),
        None => measure(data)?,
    };
    if let Some(file) = data.json.as_ref().filter(|_| data.show.is_none()) {
        report.save(file)?;
    }
    print(&report, older.as_ref(), data.markdown)?;
    Ok(whole)
}

fn measure(data: &Data) -> Result<(Report, bool)> {
    let works = data.works()?;
    let interrupt = Interrupt::new()?;
    let mut report = Report {
        schema: SCHEMA,
        date: time::rfc3339(SystemClock.wall() / NANOS),
        command: std::iter::once("scripts/bench".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" "),
        machine: Machine::here(),
        size: data.size,
        seconds: data.seconds(),
        rounds: data.rounds(),
        samples: Vec::new(),
        left_out: Vec::new(),
    };
    let mut failed = 0;
    for disk in data.disks() {
        let scratch = pool::scratch();
        enough(scratch.path(), data)?;
        let setting = Rc::new(Setting {
            dir: scratch.path().to_owned(),
            disk: *disk,
            size: data.size,
            seconds: data.seconds(),
            lists: places::write(scratch.path(), data.size, 1)?,
            interrupt: interrupt.clone(),
        });
        let mut targets = targets(&data.targets(), &setting, &mut report)?;
        ensure!(!targets.is_empty(), "no target is left to be measured");
        failed += rounds(&works, &mut targets, &setting, &mut report)?;
    }
    Ok((report, failed == 0))
}

/// Demands the space of all disks at once, ahead: a full filesystem would hurt more than this run.
fn enough(dir: &Path, data: &Data) -> Result<()> {
    let targets = data.targets();
    let any = |f: fn(&TargetKind) -> bool| targets.iter().any(f);
    let mut needed = SPARE;
    needed += if any(|t| matches!(t, TargetKind::Raw | TargetKind::QsdRaw)) { data.size } else { 0 };
    needed += if any(|t| t.is_ours()) { Served::space(data.size) } else { 0 };
    needed += if any(|t| *t == TargetKind::QsdQcow2) { QsdQcow2::space(data.size) } else { 0 };
    let at = rustix::fs::statvfs(dir).with_context(|| dir.display().to_string())?;
    let free = at.f_bavail * at.f_frsize;
    ensure!(
        free >= needed,
        "{} has {} free, of {} that are needed; hint: a smaller --size, or another FUSEVOL_TEST_DIR",
        dir.display(),
        size::show(free),
        size::show(needed)
    );
    Ok(())
}

/// Builds and fills them. Our mount is left out, and said so, where it refuses the transport.
fn targets(kinds: &[TargetKind], setting: &Rc<Setting>, report: &mut Report) -> Result<Vec<Box<dyn Target>>> {
    let mut targets: Vec<Box<dyn Target>> = Vec::new();
    let (mut plain, mut served) = (None::<Rc<Disk>>, None::<(Rc<Served>, bool)>);
    let disk = |plain: &mut Option<Rc<Disk>>| -> Result<Rc<Disk>> {
        if plain.is_none() {
            *plain = Some(Rc::new(Disk::new(&setting.dir, "raw.img", setting.size, setting.disk, &setting.interrupt)?));
        }
        plain.clone().context("it was made")
    };
    for kind in kinds {
        eprintln!("{}: {kind} is prepared", setting.disk);
        match kind {
            TargetKind::Raw => targets.push(Box::new(Raw { disk: disk(&mut plain)?, setting: setting.clone() })),
            TargetKind::QsdRaw => targets.push(Box::new(QsdRaw::new(disk(&mut plain)?, setting.clone())?)),
            TargetKind::QsdQcow2 => targets.push(Box::new(QsdQcow2::new(setting.clone())?)),
            TargetKind::Uring | TargetKind::Classic => {
                if served.is_none() {
                    served = Some((Rc::new(Served::new(setting)?), false));
                }
                let (pool, filled) = served.as_mut().context("it was made")?;
                match Fusevol::new(*kind, pool.clone(), setting.clone(), !*filled) {
                    Ok(target) => {
                        *filled = true;
                        targets.push(Box::new(target));
                    }
                    Err(e) => leave_out(report, format!("{}: {kind}: {e:#}", setting.disk)),
                }
            }
        }
        setting.interrupt.check()?;
    }
    Ok(targets)
}

fn leave_out(report: &mut Report, why: String) {
    eprintln!("left out: {why}");
    report.left_out.push(why);
}

/// All rounds; how many targets have failed. One that fails is measured no further.
fn rounds(works: &[&'static Work], targets: &mut Vec<Box<dyn Target>>, setting: &Setting, report: &mut Report) -> Result<usize> {
    let mut failed = 0;
    for round in 1..=report.rounds {
        for (n, work) in works.iter().enumerate() {
            let turn = round as usize + n;
            let mut broken = None;
            for i in 0..targets.len() {
                let at = (turn + i) % targets.len();
                let target = &mut targets[at];
                if !work.is_of(target.kind()) {
                    continue;
                }
                match target.measure(work, round) {
                    Ok(figures) => {
                        let sample = Sample { disk: setting.disk, target: target.kind(), work: work.name.to_owned(), round, figures };
                        said(&sample, work, report.rounds);
                        report.samples.push(sample);
                    }
                    Err(e) => {
                        setting.interrupt.check()?;
                        leave_out(report, format!("{}: {}: {}, from round {round} on: {e:#}", setting.disk, target.kind(), work.name));
                        broken = Some(at);
                        break;
                    }
                }
            }
            if let Some(at) = broken {
                drop(targets.remove(at));
                failed += 1;
            }
        }
    }
    Ok(failed)
}

fn said(sample: &Sample, work: &Work, rounds: u32) {
    let Sample { disk, target, round, figures, .. } = sample;
    eprintln!(
        "{disk} {round}/{rounds}  {:<16} {:<15} {:>8.0} {:<5}  p50 {:>7.1} us  p99 {:>8.1} us  cpu {:>6.1} us/io",
        work.name,
        target.title(),
        sample.rate(),
        work.unit(),
        figures.p50_us,
        figures.p99_us,
        figures.cpu_us
    );
}

fn print(report: &Report, older: Option<&Report>, markdown: bool) -> Result<()> {
    let Machine { kernel, fio, qemu, fusevol, cpus, load } = &report.machine;
    println!("{}: Linux {kernel}, {cpus} CPUs (load {load} before), {fio}, qemu {qemu}, fusevol {fusevol}", report.date);
    println!("{} rounds of {} s, area {}; medians; {}", report.rounds, report.seconds, size::show(report.size), report.command);
    for why in &report.left_out {
        println!("left out: {why}");
    }
    let show = |what: String, sheet: &table::Sheet| -> Result<()> {
        let text = if markdown { format!("\n### {what}\n\n{}", sheet.markdown()) } else { format!("\n{what}\n{}", sheet.plain()?) };
        println!("{}", text.trim_end());
        Ok(())
    };
    for disk in report.disks() {
        let on = match disk {
            DiskKind::File => "a file",
            DiskKind::Loop => "a loop device",
        };
        show(format!("Figures, disk = {on}"), &table::figures(report, disk))?;
        show(format!("Goals, disk = {on}"), &table::goals(report, disk))?;
        if let Some(old) = older {
            show(format!("Against {}, disk = {on}", old.date), &table::compared(report, old, disk))?;
        }
    }
    Ok(())
}
