//! The figures of one round.

use super::super::args::Failure;
use super::super::fio::{self, Figures, Job, Lists};
use super::super::signal::Interrupt;
use super::super::work::Work;
use super::bed::{Bed, CLIENT, Plan, VOLUME};
use anyhow::{Context, Result, ensure};
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{PAGE, PAGE_U64};
use fusevol_tests::real::wait::pause;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

const MIB: f64 = 1048576.0;
const AU: u64 = 1 << 20;
/// Seconds of a load that are not counted: by then the exports' buckets are empty.
const RAMP: u32 = 4;
/// Before that of a load that must come within a rebuild.
const SOON: u32 = 1;
/// Seconds of the limit that are rebuilt before it is counted.
const BUCKET: u64 = 3;
/// Of what is rebuilt, so much at the end is not counted: the last AUs are waited for.
const TAIL: u64 = 16;
/// What a database, say, writes beside its fill; the rest of the volume is at rest.
const HOT: u64 = 64 << 20;

/// One value in another.
pub struct Sample {
    /// Of the figure.
    pub name: &'static str,
    /// The value.
    pub of: f64,
    /// What it is measured against.
    pub to: f64,
}

/// What all figures are measured with.
pub struct Measure<'a> {
    args: &'a Failure,
    interrupt: Interrupt,
}

fn rate(f: &Figures, work: &Work) -> f64 {
    let amount = if work.stream { f.bytes as f64 / MIB } else { f.ios as f64 };
    amount / f.seconds
}

fn sample(name: &'static str, of: f64, to: f64) -> Sample {
    Sample { name, of, to }
}

impl<'a> Measure<'a> {
    /// With these options.
    #[must_use]
    pub fn new(args: &'a Failure, interrupt: Interrupt) -> Self {
        Self { args, interrupt }
    }

    /// Measures those that are named, once.
    ///
    /// # Errors
    /// Where something fails.
    pub fn round(&self, round: u32, names: &[&str]) -> Result<Vec<Sample>> {
        let any = |part: &str| names.iter().any(|n| n.starts_with(part));
        let mut all = Vec::new();
        if any("mirrored") {
            all.extend(self.mirrored(round)?);
        }
        if any("rebuild") {
            all.extend(self.rebuild(round)?);
        }
        if any("resync") {
            all.push(self.resync(round)?);
        }
        if any("proxied") {
            all.extend(self.proxied(round)?);
        }
        all.retain(|s| names.contains(&s.name));
        Ok(all)
    }

    fn plan(&self, disks: usize, copies: u8) -> Plan {
        Plan { disks, spares: 0, copies, size: self.args.size, tcp: false }
    }

    fn load(&self, bed: &Bed, work: &str, size: u64, ramp: u32, round: u32) -> Result<Figures> {
        let work = Work::named(work).context("it is one of the works")?;
        let (image, lists) = (bed.image(), Lists { writes: PathBuf::new(), fsyncs: PathBuf::new() });
        let (seconds, mount) = (self.args.seconds, Some(bed.mounted().path()));
        let job = Job { file: &image, size, seconds, ramp, seed: round.into(), lists: &lists, servers: &[bed.mounted().pid()], mount };
        fio::measure(work, &job, &self.interrupt)
    }

    /// Each of these works on one bed and the other, by turns.
    fn beside(&self, beds: [&Bed; 2], works: [(&'static str, &str); 2], ramp: u32, round: u32) -> Result<Vec<Sample>> {
        let mut all = Vec::new();
        for (name, work) in works {
            let mut rates = [0.0; 2];
            let order = if round.is_multiple_of(2) { [0, 1] } else { [1, 0] };
            for i in order {
                let figures = self.load(beds[i], work, self.args.size, ramp, round)?;
                rates[i] = rate(&figures, Work::named(work).context("it is one of the works")?);
            }
            all.push(sample(name, rates[0], rates[1]));
        }
        Ok(all)
    }

    fn mirrored(&self, round: u32) -> Result<Vec<Sample>> {
        let (two, one) = (Bed::new(&self.plan(2, 2), &self.interrupt)?, Bed::new(&self.plan(1, 1), &self.interrupt)?);
        two.limit(self.args.rate)?;
        one.limit(self.args.rate)?;
        self.beside([&two, &one], [("mirrored-stream", "seqwrite"), ("mirrored-random", "randwrite-qd32")], RAMP, round)
    }

    fn rebuild(&self, round: u32) -> Result<Vec<Sample>> {
        let bed = Bed::new(&Plan { spares: 3, ..self.plan(2, 2) }, &self.interrupt)?;
        bed.limit(self.args.rate)?;
        bed.mgr(&["disk", "fail", "1"])?;
        let idle = self.idle_rebuild(&bed)?;
        let limit = self.args.rate as f64 / MIB;
        let mut all = vec![sample("rebuild", idle, limit)];
        for (name, work, disk) in [("rebuild-read-p99", "randread-qd1", "2"), ("rebuild-write-p99", "randwrite-qd1", "3")] {
            let before = self.load(&bed, work, self.args.size, RAMP, round)?;
            bed.mgr(&["disk", "fail", disk])?;
            let begun = || bed.todo().ok().filter(|n| *n > 0 && *n < self.args.size / AU);
            bed.until("the rebuild to be under way", begun)?;
            let within = self.load(&bed, work, self.args.size, SOON, round)?;
            ensure!(bed.todo()? > 0, "the rebuild was over too early; hint: a larger --size");
            bed.until("the rebuild to end", || (bed.todo().ok() == Some(0)).then_some(()))?;
            all.push(sample(name, within.p99_us, before.p99_us));
        }
        Ok(all)
    }

    /// MiB a second.
    fn idle_rebuild(&self, bed: &Bed) -> Result<f64> {
        let all = self.args.size / AU;
        let (first, last) = (all.saturating_sub(BUCKET * self.args.rate / AU), all / TAIL);
        ensure!(first > 2 * last, "too small a volume for this rate; hint: a larger --size");
        let reaches = |most: u64| -> Result<(u64, BootTime)> {
            bed.until("the rebuild to go on", || bed.todo().ok().filter(|n| *n > 0 && *n <= most).map(|n| (n, SystemClock.now())))
        };
        let ((a, begun), (b, ended)) = (reaches(first)?, reaches(last)?);
        bed.until("the rebuild to end", || (bed.todo().ok() == Some(0)).then_some(()))?;
        Ok((a - b) as f64 * AU as f64 / MIB / ended.since(begun).as_secs_f64())
    }

    /// MiB that are looked at, of the volume's.
    fn resync(&self, round: u32) -> Result<Sample> {
        let mut bed = Bed::new(&self.plan(2, 2), &self.interrupt)?;
        bed.limit(self.args.rate)?;
        // What the fill has written is at rest from then on.
        bed.umount();
        bed.mount("before")?;
        bed.mgr(&["job", "pause", VOLUME])?;
        let file = OpenOptions::new().write(true).open(bed.image()).context("the volume")?;
        let mut random = SeededRandom(round.into());
        // Until the client is dead.
        let writer = std::thread::spawn(move || while file.write_all_at(&[7; PAGE], random.below(HOT / PAGE_U64) * PAGE_U64).is_ok() {});
        pause(Duration::from_secs(self.args.seconds.into()));
        bed.kill();
        writer.join().ok().context("a thread that writes")?;
        bed.until("the client's death to be believed", || bed.mgr(&["client", "confirm-dead", CLIENT, "-y"]).ok())?;
        bed.mount("again")?;
        bed.mgr(&["job", "resume", VOLUME])?;
        bed.until("the resync to end", || (bed.todo().ok() == Some(0)).then_some(()))?;
        let said = bed.mounted().fusevol(&["status", VOLUME, "--json"]).json();
        let bytes = |what: &str| said["volumes"][0]["copies"][what].as_u64().with_context(|| format!("no {what} in {said}"));
        let (copied, equal) = (bytes("copied")?, bytes("equal")?);
        eprintln!("resync: {copied} bytes copied, {equal} found equal");
        Ok(sample("resync", (copied + equal) as f64 / MIB, self.args.size as f64 / MIB))
    }

    fn proxied(&self, round: u32) -> Result<Vec<Sample>> {
        let plan = Plan { tcp: true, ..self.plan(1, 1) };
        let (through, direct) = (Bed::new(&plan, &self.interrupt)?, Bed::new(&plan, &self.interrupt)?);
        let _said = through.mounted().fusevol(&["paths", "fail", "0"]).ok();
        self.beside([&through, &direct], [("proxied-read", "seqread"), ("proxied-write", "seqwrite")], SOON, round)
    }
}
