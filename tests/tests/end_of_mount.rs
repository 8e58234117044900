//! The end of a mount that is in use: refused, or by force; and what its process keeps of the host's memory.

use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::run::{program, run};
use fusevol_tests::real::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// `PF_MEMALLOC_NOIO` and `PF_LOCAL_THROTTLE` (`linux/sched.h`): what `PR_SET_IO_FLUSHER` sets.
const IO_FLUSHER: u64 = 0x0008_0000 | 0x0010_0000;

/// > `fusevol umount` of a mount in use is refused, naming who uses it, and does them no harm; a second SIGTERM ends it by force: everything acknowledged until then is flushed first, then what is open fails.
#[test]
fn a_mount_under_load() {
    let mut pool = Pool::new();
    pool.volume("db", "256M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let dir = pool.path().join("fv");
    for (round, transport) in [(1, "transport=auto"), (2, "transport=classic")] {
        let mount = Mount::with(&key, &dir, None, &["-o", transport]);
        let mut oracle = Oracle::new(round, THREADS);
        let image = mount.image("db");
        if round > 1 {
            let all = ["--punch-hole", "--offset", "0", "--length", "268435456"];
            let _said = run(Command::new("fallocate").args(all).arg(&image)).ok();
        }
        oracle.verify("at the start", &image);
        let opens = || fs::OpenOptions::new().write(true).open(&image).ok();
        drop(until("the volume to be free", PATIENCE, opens));
        let mut load = Load::start(&image, oracle, round);
        until("some load", PATIENCE, || (load.acked() > 200).then_some(()));

        let refused = run(Command::new(program("fusevol")).arg("umount").arg(&dir)).code(5);
        let _said = refused.says(&format!("pid {}", std::process::id())).says("db.img").says("hint:");
        let pid = i32::try_from(mount.pid()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("it is ours");
        until("the signal to be heard", PATIENCE, || mount.log().contains("a second signal ends it by force").then_some(()));
        let before = load.acked();
        until("the load to go on", PATIENCE, || (load.acked() > before + 200).then_some(()));
        load.verify("after what was refused");

        kill_process(pid, Signal::TERM).expect("it is ours");
        until("the load to fail", PATIENCE, || load.error());
        let mut oracle = load.wreck();
        until("it to be unmounted", PATIENCE, || (!mounted(&dir)).then_some(()));
        drop(mount);
        let mount = Mount::with(&key, &dir, None, &["-o", transport]);
        oracle.verify("after the end by force", &mount.image("db"));
        mount.umount();
    }
    pool.check();
}

fn mounted(dir: &std::path::Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    table.lines().any(|l| l.split(' ').nth(4) == dir.to_str())
}

/// > The process that serves a mount stays in memory, and no thread of it waits for its own volumes to get more: `status` says so, or why not.
#[test]
fn the_process_is_prepared_for_a_host_short_of_memory() {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    for transport in ["transport=auto", "transport=classic"] {
        let mount = Mount::with(&key, &pool.path().join("fv"), None, &["-o", transport]);
        let held = fs::OpenOptions::new().write(true).open(mount.image("db")).expect("it opens");
        let status = mount.fusevol(&["status", "--json"]).ok().json();
        let memory = &status["memory"];
        let process = format!("/proc/{}", mount.pid());
        let locked: u64 = field(&process, "VmLck:");
        assert_eq!(memory["locked"].as_bool(), Some(locked > 0), "{memory}: {locked} KiB are locked");
        let mut threads = 0;
        for task in fs::read_dir(format!("{process}/task")).expect("it runs") {
            let path = task.expect("a thread").path();
            // A thread that has just ended has none.
            let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
            // proc_pid_stat(5): the name in brackets, then from the third field on; the flags are the ninth.
            let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u64>().ok());
            let set = flags.expect("flags") & IO_FLUSHER == IO_FLUSHER;
            assert_eq!(memory["io_flusher"].as_bool(), Some(set), "{}: {stat}", path.display());
            threads += 1;
        }
        assert!(threads > 8, "only {threads} threads were seen");
        let whole = memory["missing"].as_array().expect("a list").is_empty();
        assert_eq!(whole, fs::read_to_string(format!("{process}/oom_score_adj")).expect("it runs").trim() == "-900" && locked > 0);
        let text = mount.fusevol(&["status"]).ok();
        let _said = text.says(if whole { "memory: locked" } else { "locked" }).says("transport: ");
        drop(held);
        mount.umount();
    }
    pool.check();
}

/// A number of `/proc/PID/status`.
fn field(process: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("{process}/status")).expect("it runs");
    let line = text.lines().find_map(|l| l.strip_prefix(name)).expect("the kernel tells it");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}
