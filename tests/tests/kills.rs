//! Client, manager and backup reader are killed at random moments under a load that describes itself, over one disk and
//! over two; snapshots are taken between the kills and compared at the end.

use fusevol_shared::random::SeededRandom;
use fusevol_tests::real::load::{Frame, Load, Oracle, SPAN, THREADS};
use fusevol_tests::real::mount::{Mount, Transport};
use fusevol_tests::real::pool::{Options, Pool};
use fusevol_tests::real::reader::Reader;
use fusevol_tests::real::rounds;
use fusevol_tests::real::run::{program, run};
use fusevol_tests::real::wait::{pause, timed, until};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Kills of each of the three.
const KILLS: u64 = 20;
/// Every so many kills a snapshot is taken.
const SNAPSHOT_EVERY: u64 = 6;
/// Snapshots that are kept; the oldest one goes when there are more.
const SNAPSHOTS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Client,
    Manager,
    Reader,
}

/// Who is killed, in which order: each as often; every fourth time two at once.
fn plan(random: &mut SeededRandom) -> Vec<Vec<Victim>> {
    let of_each = rounds(KILLS);
    let mut all: Vec<_> = (0..of_each).flat_map(|_| [Victim::Client, Victim::Manager, Victim::Reader]).collect();
    for i in (1..all.len()).rev() {
        all.swap(i, usize::try_from(random.below(i as u64 + 1)).expect("small"));
    }
    let mut plan: Vec<Vec<Victim>> = Vec::new();
    for victim in all {
        let last = plan.len();
        match plan.last_mut() {
            Some(pair) if last.is_multiple_of(4) && pair.len() == 1 && pair[0] != victim => pair.push(victim),
            _ => plan.push(vec![victim]),
        }
    }
    plan
}

struct Stand {
    pool: Pool,
    mount: Option<Mount>,
    load: Option<Load>,
    frames: Vec<Frame>,
    random: SeededRandom,
    writer: PathBuf,
    backup: PathBuf,
    taken: u64,
    /// Bytes of snapshots that were compared.
    looked: u64,
    kills: u64,
    lives: u64,
    ended_before: u64,
    stuck: u64,
    slowest: Duration,
}

impl Stand {
    fn new(disks: &[u64], seed: u64) -> Self {
        let pool = Pool::with(&Options { disks, listen: &[], lease: 2 });
        pool.volume("db", "256M");
        let writer = pool.client("host1", &[("db", "read,write")]);
        let backup = pool.client("host2", &[("db", "read,snapshot,backup")]);
        let repo = pool.path().join("repo");
        let _said = run(Command::new(program("fusevol-backup")).args(["init", "--no-encryption", "--repo"]).arg(&repo)).ok();
        let mut stand = Self {
            pool,
            mount: None,
            load: None,
            frames: Vec::new(),
            random: SeededRandom(seed),
            writer,
            backup,
            taken: 0,
            looked: 0,
            kills: 0,
            lives: 0,
            ended_before: 0,
            stuck: 0,
            slowest: Duration::ZERO,
        };
        stand.mount(Oracle::new(seed, THREADS), "at the start");
        stand
    }

    /// Mounts, looks at everything, and lets the load live again.
    fn mount(&mut self, mut oracle: Oracle, when: &str) {
        let mount = Mount::over(Transport::of_round(self.lives), &self.writer, &self.pool.path().join("fv"));
        self.lives += 1;
        let image = mount.image("db");
        oracle.verify(when, &image);
        // The last life's attachment is over when the next may write.
        let open = || std::fs::OpenOptions::new().write(true).open(&image).ok();
        drop(until("the volume to be given to the next life", PATIENCE, open));
        self.load = Some(Load::start(&image, oracle, self.random.next_u64()));
        self.mount = Some(mount);
    }

    fn load(&mut self) -> &mut Load {
        self.load.as_mut().expect("it lives")
    }

    fn random_ms(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.random.below(most))
    }

    fn snapshot(&mut self) {
        if self.frames.len() == SNAPSHOTS {
            let oldest = self.frames.remove(0);
            self.look_at(&oldest);
            self.pool.remove_snapshot(&format!("db@{}", oldest.name));
        }
        self.taken += 1;
        let name = format!("s{}", self.taken);
        let load = self.load.as_ref().expect("it lives");
        let frame = load.frame(&name, || {
            let _said = self.pool.mgr(&["snapshot", "create", &format!("db@{name}")]).ok();
        });
        self.frames.push(frame);
    }

    /// Dumps the snapshot through the backup tool and compares it.
    fn look_at(&mut self, frame: &Frame) {
        let to = self.pool.path().join("look.img");
        let mut dump = Command::new(program("fusevol-backup"));
        dump.args(["dump", &format!("db@{}", frame.name), "-y", "--to"]).arg(&to).arg("--key").arg(&self.backup);
        let _said = run(&mut dump).ok();
        frame.verify(&self.load().oracle(), &to);
        self.looked += SPAN;
    }

    fn reader(&mut self) -> Reader {
        let dir = self.pool.path().to_string_lossy().into_owned();
        let (to, repo) = (format!("{dir}/dump.img"), format!("{dir}/repo"));
        let snapshot = self.frames.last().map(|f| format!("db@{}", f.name));
        let args = match snapshot {
            Some(snapshot) if self.random.below(2) == 0 => vec!["dump".to_owned(), snapshot, "-y".to_owned(), "--to".to_owned(), to],
            _ => vec!["backup".to_owned(), "db".to_owned(), "--repo".to_owned(), repo],
        };
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        Reader::start(&self.backup, &args, &self.pool.path().join("backup.log"))
    }

    /// Kills these at a random moment, brings back what must be there, and looks at everything.
    fn kill(&mut self, victims: &[Victim]) {
        let when = format!("after kill {} ({victims:?})", self.kills);
        let reader = victims.contains(&Victim::Reader).then(|| self.reader());
        let moment = self.random_ms(500);
        pause(moment);
        if let Some(mut reader) = reader {
            self.ended_before += u64::from(reader.ended().is_some());
            self.stuck += u64::from(!reader.kill());
        }
        let mut oracle = None;
        for victim in victims {
            self.kills += 1;
            match victim {
                Victim::Client => {
                    self.mount.take().expect("it is mounted").kill();
                    oracle = Some(self.load.take().expect("it lives").wreck());
                }
                Victim::Manager => self.pool.kill(),
                Victim::Reader => {}
            }
        }
        if victims.contains(&Victim::Manager) {
            let ((), took) = timed(|| self.pool.serve());
            self.slowest = self.slowest.max(took);
        }
        match oracle {
            Some(oracle) => self.mount(oracle, &when),
            None => self.load().verify(&when),
        }
    }

    /// Everything is looked at once more, taken down, and counted.
    fn end(mut self, what: &str, free: u64) {
        let mut oracle = self.load.take().expect("it lives").finish();
        let mount = self.mount.take().expect("it is mounted");
        oracle.verify("at the end", &mount.image("db"));
        mount.umount();
        let reader = Mount::new(&self.backup, &self.pool.path().join("fv2"));
        for frame in &self.frames {
            frame.verify(&oracle, &reader.snapshot("db", &frame.name));
            self.looked += SPAN;
        }
        reader.umount();
        let beside: usize = self.frames.iter().map(Frame::beside).sum();
        println!(
            "{what}: {} kills, {} MiB verified, manager kill to serving at most {:?}, {} snapshots with {beside} writes beside the last {}, \
             {} readers had ended before their kill, {} were gone only when their connection was aborted",
            self.kills,
            (oracle.verified + self.looked) >> 20,
            self.slowest,
            self.taken,
            self.frames.len(),
            self.ended_before,
            self.stuck
        );
        assert_eq!(self.stuck, 0, "{what}: a killed reader's own mount kept it from going away");
        self.pool.adds_up();
        self.pool.remove("db", free);
        self.pool.check();
    }
}

fn kills(what: &str, disks: &[u64], seed: u64) {
    let mut stand = Stand::new(disks, seed);
    let free = stand.pool.space("total");
    for (n, victims) in plan(&mut SeededRandom(seed)).iter().enumerate() {
        until("some load", PATIENCE, || stand.load().error().is_some().then_some(()).or((stand.load().acked() > 50).then_some(())));
        if (n as u64).is_multiple_of(SNAPSHOT_EVERY) {
            stand.snapshot();
        }
        let ((), took) = timed(|| stand.kill(victims));
        println!("{what}: kill {} of {victims:?} and back: {took:?}", stand.kills);
    }
    stand.end(what, free);
}

/// > Data acknowledged by fsync survives `kill -9` of the client, the manager, or both.
///
/// > A snapshot is the volume at one instant: a reader on another host sees exactly the writes acknowledged before it, while the writer goes on.
#[test]
fn of_everybody_over_one_disk() {
    kills("one disk", &[1 << 30], 101);
}

/// As over one disk; journal, preserve log and catalog have two copies here.
#[test]
fn of_everybody_over_two_disks() {
    kills("two disks", &[1 << 30, 1 << 30], 202);
}
