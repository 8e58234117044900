//! Client, manager and disk servers are killed in random order under a load that describes itself. The servers have write-back caches, which
//! the pool writes through: without that what was not flushed is gone with them, and read so, before an fsync says so. `FUSEVOL_CHAOS_SECONDS` says for how long; a minute, a quarter of an hour in the long form.

use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::random::SeededRandom;
use fusevol_tests::real::load::{Load, Oracle, SYNC, THREADS};
use fusevol_tests::real::mount::{Mount, Transport};
use fusevol_tests::real::nbd::NbdServer;
use fusevol_tests::real::pool::{Pool, scratch};
use fusevol_tests::real::rounds_of;
use fusevol_tests::real::wait::{pause, until};
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
/// What a process that was killed had sent to a server has landed after so long.
const LANDED: Duration = Duration::from_millis(500);
const SERVERS: usize = 2;

struct Stand {
    pool: Pool,
    servers: Vec<NbdServer>,
    key: PathBuf,
    mount: Option<Mount>,
    load: Option<Load>,
    random: SeededRandom,
    lives: u64,
    /// Of clients, managers, servers.
    kills: [u64; 3],
    failed_fsyncs: u64,
    /// Managers that ended by themselves, and those that needed the administrator's word.
    ended: u64,
    forced: u64,
    _dir: tempfile::TempDir,
}

impl Stand {
    fn new(seed: u64) -> Self {
        let dir = scratch();
        let server = |n: usize| {
            let file = dir.path().join(format!("d{n}.raw"));
            std::fs::File::create(&file).and_then(|f| f.set_len(8 << 30)).expect("an image");
            NbdServer::nbdkit(dir.path(), &format!("d{n}"), &["--filter=cache", "file", &file.to_string_lossy(), "cache=writeback"])
        };
        let servers: Vec<NbdServer> = (0..SERVERS).map(server).collect();
        let pool = Pool::on(servers.iter().map(|s| format!("{}&write-through=1", s.uri()).into()).collect());
        pool.volume("db", "256M");
        let key = pool.client("host1", &[("db", "read,write")]);
        let (mount, load, random) = (None, None, SeededRandom(seed));
        let mut stand =
            Self { pool, servers, key, mount, load, random, lives: 0, kills: [0; 3], failed_fsyncs: 0, ended: 0, forced: 0, _dir: dir };
        stand.mount(Oracle::new(seed, THREADS), "at the start");
        stand
    }

    fn mount(&mut self, oracle: Oracle, when: &str) {
        let dir = self.pool.path().join(format!("fv{}", self.lives));
        self.mount = Some(Mount::over(Transport::of_round(self.lives), &self.key, &dir));
        self.live(oracle, when);
    }

    /// Makes durable what is there, looks at everything, and lets the load live again.
    fn live(&mut self, mut oracle: Oracle, when: &str) {
        let image = self.mount.as_ref().expect("it is mounted").image("db");
        let file = until("the volume to be given", PATIENCE, || OpenOptions::new().write(true).open(&image).ok());
        until("an fsync to be answered", PATIENCE, || file.sync_all().ok());
        oracle.verify(when, &image);
        self.lives += 1;
        self.load = Some(Load::start(&image, oracle, self.random.next_u64()));
    }

    fn load(&self) -> &Load {
        self.load.as_ref().expect("it lives")
    }

    fn kill(&mut self, victim: usize) {
        let moment = Duration::from_millis(self.random.below(500));
        pause(moment);
        self.kills[victim] += 1;
        match victim {
            0 => {
                self.mount.take().expect("it is mounted").kill();
                let oracle = self.load.take().expect("it lives").wreck();
                pause(LANDED);
                let dead = || (self.pool.mgr(&["client", "confirm-dead", "host1", "-y"]).code == 0).then_some(());
                until("the client's death to be believed", PATIENCE, dead);
                self.mount(oracle, &format!("after kill {} of the client", self.kills[0]));
            }
            1 => {
                self.pool.kill();
                pause(LANDED);
                self.forced += u64::from(self.pool.serve_at_any_rate());
            }
            _ => {
                let which = usize::try_from(self.random.below(SERVERS as u64)).expect("few");
                self.servers[which].kill();
                let down = Duration::from_millis(self.random.below(1500));
                pause(down);
                self.servers[which].start();
            }
        }
    }

    /// The load goes on, or an fsync has failed: then it begins a new life with what is there.
    fn settle(&mut self, when: &str) {
        let before = self.load().acked();
        until("the load to go on", PATIENCE, || {
            self.ended += u64::from(self.pool.revive());
            let load = self.load();
            (!load.errors().is_empty() || load.acked() > before + 50).then_some(())
        });
        let errors = self.load().errors();
        assert!(errors.iter().all(|e| e.starts_with(SYNC)), "{when}: nothing but an fsync may fail: {errors:?}");
        if !errors.is_empty() {
            self.failed_fsyncs += 1;
            let oracle = self.load.take().expect("it lives").wreck();
            self.live(oracle, &format!("{when}, an fsync had failed"));
        }
    }
}

/// > Data acknowledged by fsync survives `kill -9` of the client, the manager, and the servers of the disks, in any order.
#[test]
fn of_client_manager_and_disk_servers() {
    let seconds = std::env::var("FUSEVOL_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or_else(|| rounds_of(60, 900)));
    let mut stand = Stand::new(303);
    let until = SystemClock.now().plus(time);
    for n in 0usize.. {
        // Each of the three at least once.
        let victim = if n < 3 { 2 - n } else { usize::try_from(stand.random.below(3)).expect("small") };
        stand.settle(&format!("before kill {n}"));
        stand.kill(victim);
        if n >= 3 && SystemClock.now() > until {
            break;
        }
    }
    stand.settle("at the end");
    let mut oracle = stand.load.take().expect("it lives").finish();
    let mount = stand.mount.take().expect("it is mounted");
    oracle.verify("at the end", &mount.image("db"));
    mount.umount();
    println!(
        "kills of clients, managers, servers: {:?}; {} fsyncs failed, {} managers ended by themselves, {} served by the administrator's word; {} MiB verified",
        stand.kills,
        stand.failed_fsyncs,
        stand.ended,
        stand.forced,
        oracle.verified >> 20
    );
    stand.pool.revive();
    stand.pool.check();
}
