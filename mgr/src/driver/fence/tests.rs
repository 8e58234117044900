//! Real programs as agents: what they are asked, what counts as done, and that none outlives its time.

use super::*;
use fusevol_shared::disk::file::{FileDisk, OpenMode};
use fusevol_shared::disk::reservations::model::Target;
use fusevol_shared::ids::{BootId, PoolId};
use std::fs;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("fence.d")
    }

    /// An agent of this name; it notes in `calls` what it is asked, and keeps its state in a file.
    fn agent(&self, name: &str, body: &str) {
        fs::create_dir_all(self.path()).expect("a folder");
        let (path, at) = (self.path().join(name), self.0.path().display());
        fs::write(&path, format!("#!/bin/sh\ncd '{at}'\necho \"{name} $*\" >> calls\n{body}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("may be run");
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.path().join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn ask(&self, on: bool) -> Fenced {
        self.agents(LIMIT).carry_out("host1", on)
    }

    fn agents(&self, limit: Duration) -> Agents {
        Agents { folder: self.path(), stop: Arc::default(), limit }
    }
}

fn job(asked: FenceFor, client: &str) -> Job {
    Job { asked, client: client.to_owned(), on: false, cut: None }
}

const KEEPS: &str = "case $1 in status) cat state ;; *) echo $1 > state; echo \"port 7 is $1\" ;; esac";

fn why(f: Fenced) -> String {
    let Fenced::Failed { why } = f else { panic!("{f:?}") };
    why
}

#[test]
fn off_and_on_are_done_and_looked_at() {
    let f = Folder::new();
    assert_eq!(f.ask(false), Fenced::NoAgent, "no folder");
    f.agent("10-port", KEEPS);
    f.agent("20-other", "exit 3");
    fs::write(f.path().join("30-notes"), "no program").expect("written");
    assert_eq!(f.ask(false), Fenced::Done { agents: "10-port".into(), said: "port 7 is off".into() });
    assert_eq!(f.calls(), ["10-port off host1", "10-port status host1", "20-other off host1"]);
    assert_eq!(f.ask(true), Fenced::Done { agents: "10-port".into(), said: "port 7 is on".into() });
    f.agent("20-other", KEEPS);
    assert_eq!(f.ask(false), Fenced::Done { agents: "10-port, 20-other".into(), said: "port 7 is off; port 7 is off".into() });
}

#[test]
fn one_that_fails_or_lies_proves_nothing() {
    let f = Folder::new();
    f.agent("a", KEEPS);
    f.agent("b", "echo no such port >&2; exit 1");
    assert_eq!(why(f.ask(false)), "agent b: off failed (exit code 1): no such port");
    f.agent("b", "echo on");
    assert!(why(f.ask(false)).contains("its status is \"on\""));
    f.agent("b", "exit 3");
    assert!(matches!(f.ask(false), Fenced::Done { .. }));
    fs::set_permissions(f.path().join("b"), fs::Permissions::from_mode(0o777)).expect("set");
    assert!(why(f.ask(false)).contains("may be written by others"));
}

#[test]
fn one_that_hangs_is_killed_with_all_that_it_began() {
    let f = Folder::new();
    f.agent("slow", "echo begun; sh -c 'echo $$ > child; exec sleep 1000' & wait");
    let said = why(f.agents(Duration::from_millis(600)).carry_out("host1", false));
    assert!(said.contains("was killed; it said \"begun\""), "{said}");
    let child = fs::read_to_string(f.0.path().join("child")).expect("it began");
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        stat.is_err() || stat.is_ok_and(|s| s.contains(") Z "))
    };
    assert!((0..1000).any(|_| gone()), "the child of the agent lives");
}

#[test]
fn one_that_says_much_or_leaves_something_behind_is_not_waited_for() {
    let f = Folder::new();
    f.agent("much", "case $1 in status) echo off ;; *) head -c 1000000 /dev/zero | tr '\\0' x; sleep 5 & ;; esac");
    let began = SystemClock.now();
    let Fenced::Done { said, .. } = f.ask(false) else { panic!("done") };
    assert_eq!(said.len(), SAID_MAX);
    assert!(SystemClock.now().since(began) < Duration::from_secs(4));
}

#[test]
fn the_thread_answers_and_ends_in_the_midst_of_a_call() {
    let f = Folder::new();
    f.agent("port", "case $2 in slow) sleep 1000 ;; *) echo off ;; esac");
    let (to, mut answers) = mpsc::channel(4);
    let fencer = Fencer::start(f.path(), to).expect("a thread");
    let asked = FenceFor::Session(fusevol_shared::ids::SessionNo(3));
    assert_eq!(fencer.begin(job(asked, "host1")), None);
    let Some(Input::Event(event)) = answers.blocking_recv() else { panic!("no answer") };
    assert_eq!(event, Event::Fenced { asked, fenced: Fenced::Done { agents: "port".into(), said: "off".into() } });
    assert_eq!(fencer.begin(job(asked, "slow")), None);
    while f.calls().len() < 3 {
        std::thread::yield_now();
    }
    let began = SystemClock.now();
    drop(fencer);
    assert!(SystemClock.now().since(began) < Duration::from_secs(10));
}

/// Two disks; host 1 is registered with both.
fn reserved() -> (Vec<Target>, CutOff) {
    let key = |host| HostKey::of(PoolId([1; 16]), BootId([host; 16]));
    let targets: Vec<Target> = (0..2).map(|_| Target::default()).collect();
    targets.iter().for_each(|t| t.seen_by(1).register(key(1)).expect("registered"));
    let disks = (0..).zip(&targets).map(|(no, t)| (DiskNo(no), Arc::new(t.seen_by(9)) as Arc<dyn Reservations>)).collect();
    (targets, CutOff { disks, own: key(9), other: key(1) })
}

fn answer(f: &Folder, cut: CutOff) -> Fenced {
    let (to, mut answers) = mpsc::channel(4);
    let fencer = Fencer::start(f.path(), to).expect("a thread");
    let asked = FenceFor::Session(fusevol_shared::ids::SessionNo(3));
    assert_eq!(fencer.begin(Job { cut: Some(cut), ..job(asked, "host1") }), None);
    match answers.blocking_recv() {
        Some(Input::Event(Event::Fenced { fenced, .. })) => fenced,
        _ => panic!("no answer"),
    }
}

#[test]
fn disks_that_know_hosts_are_asked_before_any_agent() {
    let f = Folder::new();
    f.agent("port", KEEPS);
    let (targets, cut) = reserved();
    let Fenced::Done { agents, .. } = answer(&f, cut) else { panic!("not done") };
    assert_eq!((agents.as_str(), f.calls()), (RESERVATIONS, vec![]));
    assert!(targets.iter().all(|t| !t.accepts(1) && t.accepts(9)));
}

#[test]
fn one_disk_that_does_not_is_not_enough() {
    let f = Folder::new();
    let file = f.0.path().join("disk");
    fs::write(&file, [0; 4096]).expect("a file");
    let plain = || (DiskNo(7), Arc::new(FileDisk::open(&file, OpenMode::ReadWrite).expect("opened")) as Arc<dyn Reservations>);
    let (_, mut cut) = reserved();
    cut.disks.push(plain());
    assert_eq!(why(answer(&f, cut)), "persistent-reservations: disk 7: it knows no persistent reservations");
    f.agent("port", KEEPS);
    let (_, mut cut) = reserved();
    cut.disks.push(plain());
    let Fenced::Done { agents, .. } = answer(&f, cut) else { panic!("not done") };
    assert_eq!(agents, "port", "the next rung");
}
