//! fio: its command line, a run of it that cannot hang, and what its JSON says.
//!
//! A run has three limits: fio's own run time; then it is killed, by pid; then the FUSE connection under it is aborted, for
//! what waits in the kernel for a dead server cannot be killed.

use super::cpu;
use super::signal::Interrupt;
use super::work::{Places, Work};
use anyhow::{Context, Result, bail, ensure};
use fusevol_tests::real::mount::watchdog;
use fusevol_tests::real::wait::pause;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// How often a running fio is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// After its run time fio may take this long to end.
const ENDING: Duration = Duration::from_secs(30);
/// After its kill, before the connection is aborted.
const DYING: Duration = Duration::from_secs(10);
/// A fill has no run time of its own.
const FILLING: Duration = Duration::from_secs(300);

/// One measurement.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Requests that were answered (fsyncs not counted).
    pub ios: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// fsyncs that were answered.
    pub fsyncs: u64,
    /// Completion latency in µs: median.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// User and system time of fio and of the server, µs a request.
    pub cpu_us: f64,
}

/// What is run, and on what.
pub struct Job<'a> {
    /// The file or device.
    pub file: &'a Path,
    /// The area: from the start, bytes.
    pub size: u64,
    /// Seconds.
    pub seconds: u32,
    /// Seconds before those, which are not counted.
    pub ramp: u32,
    /// For fio's random places.
    pub seed: u64,
    /// The lists of places: without and with fsyncs.
    pub lists: &'a Lists,
    /// Processes that serve the file.
    pub servers: &'a [u32],
    /// A mount that is aborted where it hangs: the file itself or a folder above it.
    pub mount: Option<&'a Path>,
}

/// Files with lists of places, as fio replays them.
#[derive(Clone, Debug)]
pub struct Lists {
    /// Writes only.
    pub writes: PathBuf,
    /// With an fsync now and then.
    pub fsyncs: PathBuf,
}

/// Measures `work`.
///
/// # Errors
/// Where fio fails, is late, or is interrupted.
pub fn measure(work: &Work, job: &Job<'_>, interrupt: &Interrupt) -> Result<Figures> {
    let before = cpu::used(job.servers)?;
    let said = run(&mut command(work, job), job.mount, Duration::from_secs((job.seconds + job.ramp).into()), interrupt)?;
    let used = cpu::used(job.servers)?.saturating_sub(before);
    let mut figures = parse(&said, work.reads)?;
    figures.cpu_us = used.as_secs_f64() * 1e6 / figures.ios as f64;
    Ok(figures)
}

/// Writes the whole area once and syncs it.
///
/// # Errors
/// As `measure`.
pub fn fill(file: &Path, size: u64, mount: Option<&Path>, interrupt: &Interrupt) -> Result<()> {
    let mut fio = common(file);
    fio.args(["--rw=write", "--bs=1m", "--iodepth=8", "--end_fsync=1", &format!("--size={size}"), "--refill_buffers=1"]);
    let said = run(&mut fio, mount, FILLING, interrupt)?;
    let figures = parse(&said, false)?;
    ensure!(figures.bytes == size, "{} bytes of {size} were written to {}", figures.bytes, file.display());
    Ok(())
}

fn common(file: &Path) -> Command {
    let mut fio = Command::new("fio");
    fio.args(["--name=bench", "--direct=1", "--ioengine=io_uring", "--allow_file_create=0", "--output-format=json"]);
    fio.arg(format!("--filename={}", file.display()));
    fio
}

fn command(work: &Work, job: &Job<'_>) -> Command {
    let mut fio = common(job.file);
    fio.args([format!("--iodepth={}", work.depth), format!("--runtime={}", job.seconds), format!("--randseed={}", job.seed)]);
    if job.ramp > 0 {
        fio.arg(format!("--ramp_time={}", job.ramp));
    }
    match work.places {
        Places::Fio(rw, bs) => {
            fio.args([&format!("--rw={rw}"), &format!("--bs={bs}"), "--time_based", &format!("--size={}", job.size)]);
        }
        // Not by time alone: each place once, so that it ends with the area where it is that fast.
        Places::List { fsync } => {
            let list = if fsync { &job.lists.fsyncs } else { &job.lists.writes };
            fio.args([format!("--read_iolog={}", list.display()), format!("--replay_redirect={}", job.file.display())]);
            fio.arg("--replay_no_stall=1");
        }
    }
    fio
}

/// A child that is gone when its owner is.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or_default();
        }
    }
}

/// Runs it to its end, within its limits; what it said.
fn run(fio: &mut Command, mount: Option<&Path>, time: Duration, interrupt: &Interrupt) -> Result<String> {
    let limit = time + ENDING;
    let _watchdog = mount.map(|m| watchdog(m, limit + DYING));
    let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let said = |mut f: std::fs::File| -> Result<String> {
        use std::io::{Read, Seek};
        f.rewind()?;
        let mut text = String::new();
        f.read_to_string(&mut text).context("what fio said")?;
        Ok(text)
    };
    fio.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let mut child = Owned(fio.spawn().context("fio cannot be started; hint: apt-get install fio")?);
    let mut waited = Duration::ZERO;
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        interrupt.check()?;
        ensure!(waited < limit, "fio did not end within {limit:?} and is killed: {fio:?}");
        pause(LOOK);
        waited += LOOK;
    };
    interrupt.check()?;
    let (out, err) = (said(out)?, said(err)?);
    if !status.success() {
        bail!("{fio:?} ended with {status}:\n{err}\n{}", out.get(..2000).unwrap_or(&out));
    }
    Ok(out)
}

/// What the JSON of a run with one job says; CPU is left at nothing.
///
/// # Errors
/// Where it is not such a JSON, the job failed, or nothing was answered.
pub fn parse(said: &str, reads: bool) -> Result<Figures> {
    // Notes stand before it.
    let start = if said.starts_with('{') { 0 } else { said.find("\n{").context("fio said no JSON")? };
    let all: Fio = serde_json::from_str(&said[start..]).context("fio's JSON")?;
    let [job] = all.jobs.as_slice() else { bail!("fio ran {} jobs, not one", all.jobs.len()) };
    ensure!(job.error == 0, "fio's job ended with error {}", job.error);
    let side = if reads { &job.read } else { &job.write };
    ensure!(side.total_ios > 0 && side.runtime > 0, "fio did nothing");
    let percentile = |p: &str| {
        let at = side.clat_ns.percentile.as_ref().and_then(|all| all.get(p));
        at.map(|ns| ns / 1000.0).with_context(|| format!("fio tells no percentile {p}"))
    };
    Ok(Figures {
        ios: side.total_ios,
        bytes: side.io_bytes,
        seconds: side.runtime as f64 / 1000.0,
        fsyncs: job.sync.total_ios,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
        p999_us: percentile("99.900000")?,
        cpu_us: 0.0,
    })
}

#[derive(Deserialize)]
struct Fio {
    jobs: Vec<FioJob>,
}

#[derive(Deserialize)]
struct FioJob {
    error: i64,
    read: Side,
    write: Side,
    sync: Syncs,
}

#[derive(Deserialize)]
struct Side {
    io_bytes: u64,
    /// Milliseconds.
    runtime: u64,
    total_ios: u64,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Syncs {
    total_ios: u64,
}

#[derive(Deserialize)]
struct Latency {
    percentile: Option<std::collections::BTreeMap<String, f64>>,
}
