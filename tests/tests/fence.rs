//! A lost client of another host is succeeded: by a fence agent, by an administrator's word, or not at all.

use fusevol_shared::disk::file::{FileDisk, OpenMode};
use fusevol_shared::disk::reservations::{HostKey, NotReserved, Reservations};
use fusevol_shared::ids::{BootId, PoolId};
use fusevol_tests::real::locker::Holder;
use fusevol_tests::real::loopdev::LoopDevice;
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::pool::{Pool, scratch};
use fusevol_tests::real::run::{Ran, program, run};
use fusevol_tests::real::wait::{pause, timed, until};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// An agent that is a power switch: it kills the process of the client's mount, whose number stands in a file.
const SWITCH: &str = r#"
echo "$*" >> calls
[ -e "$2.pid" ] || exit 3
pid=$(cat "$2.pid")
alive() { kill -0 "$pid" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$pid/status"; }
case $1 in
off) kill -9 "$pid"; while alive; do sleep 0.05; done; echo "outlet of $2 is off" ;;
on) : > "$2.on" ;;
status) if alive || [ -e "$2.on" ]; then echo on; else echo off; fi ;;
esac
"#;

fn power_switch(pool: &Pool) {
    let folder = pool.dir().join("fence.d");
    fs::create_dir_all(&folder).expect("a folder");
    let agent = folder.join("switch");
    fs::write(&agent, format!("#!/bin/sh\ncd '{}' || exit 1{SWITCH}", pool.path().display())).expect("written");
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("may be run");
}

fn calls(pool: &Pool) -> String {
    fs::read_to_string(pool.path().join("calls")).unwrap_or_default()
}

/// A client with a synced write, frozen while a program has the volume open there; and another client.
///
/// The file is open in that program alone: a process of this test that inherited it would wait for the frozen mount when it closes it.
fn frozen(pool: &Pool) -> (Mount, Holder, Mount) {
    pool.volume("vm", "64M");
    let keys = ["host1", "host2"].map(|n| pool.client(n, &[("vm", "read,write")]));
    let one = Mount::new(&keys[0], &pool.path().join("one"));
    let other = Mount::new(&keys[1], &pool.path().join("other"));
    let mut file = OpenOptions::new().write(true).open(one.image("vm")).expect("opened");
    file.write_all(&[7; 8192]).and_then(|()| file.sync_all()).expect("synced");
    let holder = Holder::idle(&one.image("vm"));
    drop(file);
    fs::write(pool.path().join("host1.pid"), one.pid().to_string()).expect("written");
    let pid = rustix::process::Pid::from_raw(one.pid().cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it is ours");
    (one, holder, other)
}

fn open(image: &Path) -> Option<fs::File> {
    OpenOptions::new().read(true).write(true).open(image).ok()
}

fn is_there(file: &mut fs::File) {
    let mut back = [0; 8192];
    file.read_exact(&mut back).expect("read");
    assert!(back.iter().all(|b| *b == 7), "what was synced is there");
}

/// > A lost client of another host is cut off by its fence agent, and only then succeeded: its volume is there for the next writer, with all that it had synced.
#[test]
fn a_frozen_client_is_fenced_and_succeeded() {
    let pool = Pool::elsewhere();
    power_switch(&pool);
    let (one, holder, other) = frozen(&pool);
    let (mut file, took) = timed(|| until("the volume to be succeeded", LONG, || open(&other.image("vm"))));
    println!("frozen to attached by another, with a lease of 2 s: {took:?}");
    is_there(&mut file);
    assert!(calls(&pool).starts_with("off host1\nstatus host1\n"), "{}", calls(&pool));
    assert!(!calls(&pool).contains("on host1"), "never by itself: {}", calls(&pool));
    let _said = pool
        .mgr(&["events"])
        .ok()
        .says("fenced by agent switch: outlet of host1 is off")
        .says("fenced by agent switch, and its lease is over");
    let _said = pool.mgr(&["client", "unfence", "host1"]).ok();
    assert!(calls(&pool).ends_with("on host1\nstatus host1\n"), "{}", calls(&pool));
    let _said = pool.mgr(&["client", "unfence", "host2"]).code(4).says("fence.d");
    drop(file);
    one.kill();
    holder.kill();
    other.umount();
}

/// > With `fencing=required` nothing of a lost client of another host is given away without a fence or an administrator's word.
#[test]
fn required_waits_for_a_fence_or_a_word() {
    let pool = Pool::elsewhere();
    let _said = pool.mgr(&["pool", "set", "--fencing", "required"]).ok();
    let shown = pool.mgr(&["--json", "pool", "show"]).ok().json();
    assert_eq!(shown["pool"]["fencing"], "required");
    let (one, holder, other) = frozen(&pool);
    for _ in 0..16 {
        assert!(open(&other.image("vm")).is_none());
        pause(Duration::from_millis(500));
    }
    let _said = pool.mgr(&["status"]).says("no fence agent knows its client").says("confirm-dead host1");
    let _said = pool.mgr(&["client", "unfence", "host1"]).code(2).says("not over yet");
    let _said = pool.mgr(&["client", "confirm-dead", "host1", "-y"]).ok();
    is_there(&mut until("the volume to be succeeded", LONG, || open(&other.image("vm"))));
    let _said = pool.mgr(&["events"]).ok().says("the administrator says so");
    one.kill();
    holder.kill();
    other.umount();
}

/// A qemu-storage-daemon with one export for each of two clients.
struct Exports {
    daemon: Child,
    scratch: tempfile::TempDir,
}

impl Exports {
    fn new() -> Self {
        let scratch = fusevol_tests::real::pool::scratch();
        let at = |name: &str| scratch.path().join(name).display().to_string();
        fs::File::create(at("disk")).and_then(|f| f.set_len(1 << 20)).expect("a disk");
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &format!("driver=file,node-name=d0,filename={}", at("disk"))]);
        command.args(["--nbd-server", &format!("addr.type=unix,addr.path={},max-connections=10", at("nbd"))]);
        command.args(["--chardev", &format!("socket,id=c,path={},server=on,wait=off", at("qmp")), "--monitor", "chardev=c"]);
        for (id, name) in [("e1", "host1"), ("e2", "host2")] {
            command.args(["--export", &format!("type=nbd,id={id},node-name=d0,name={name},writable=on")]);
        }
        let daemon = command.stdin(Stdio::null()).spawn().expect("it starts");
        let line = |host: &str, id: &str| {
            let arguments = format!(r#"{{"type":"nbd","id":"{id}","node-name":"d0","name":"{host}","writable":true}}"#);
            format!("{host} {} {id} {arguments}\n", at("qmp"))
        };
        fs::write(at("conf"), line("host1", "e1") + &line("host2", "e2")).expect("written");
        until("the daemon to listen", LONG, || scratch.path().join("nbd").exists().then_some(()));
        Self { daemon, scratch }
    }

    fn agent(&self, verb: &str, client: &str) -> Ran {
        let agent = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/fence.d/qsd");
        run(Command::new(agent).args([verb, client]).env("FUSEVOL_FENCE_CONF", self.scratch.path().join("conf")))
    }

    fn writes(&self, client: &str) -> bool {
        let url = format!("nbd+unix:///{client}?socket={}", self.scratch.path().join("nbd").display());
        run(Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4k", &url])).code == 0
    }
}

impl Drop for Exports {
    fn drop(&mut self) {
        self.daemon.kill().and_then(|()| self.daemon.wait()).map(drop).unwrap_or_default();
    }
}

/// The agent that comes with the program, on a real daemon: one client is cut off in the midst of its writes, the other is not.
#[test]
fn the_agent_for_qemu_storage_daemon() {
    let e = Exports::new();
    assert!(e.writes("host1") && e.writes("host2"));
    let _said = e.agent("status", "host1").ok().says("on");
    let url = format!("nbd+unix:///host1?socket={}", e.scratch.path().join("nbd").display());
    let mut busy = Command::new("qemu-img");
    let mut busy = busy
        .args(["bench", "-w", "-f", "raw", "-c", "100000000", &url])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    pause(Duration::from_millis(300));
    assert!(busy.try_wait().expect("it is ours").is_none(), "it writes");
    let (said, took) = timed(|| e.agent("off", "host1"));
    println!("cut off within {took:?}");
    let _said = said.ok().says("off");
    until("who was cut off to end", LONG, || busy.try_wait().expect("it is ours"));
    assert!(!e.writes("host1") && e.writes("host2"));
    let _said = e.agent("off", "host1").ok();
    let _said = e.agent("status", "host1").ok().says("off");
    let _said = e.agent("on", "host1").ok().says("on");
    assert!(e.writes("host1"));
    let _said = e.agent("off", "host9").code(3);
}

/// > A disk that knows no reservations is not used where the pool wants them.
///
/// The kernel's own answer, for a loop device; and a pool of files.
#[test]
fn what_knows_no_reservations_is_not_used_where_they_are_wanted() {
    let dir = scratch();
    let file = dir.path().join("disk");
    fs::File::create(&file).and_then(|f| f.set_len(1 << 20)).expect("a file");
    let device = LoopDevice::new(&file, false);
    let disk = FileDisk::open(device.path(), OpenMode::ReadWrite).expect("opened");
    let key = HostKey::of(PoolId([1; 16]), BootId([2; 16]));
    assert_eq!(disk.register(key), Err(NotReserved::Unknown));
    assert_eq!(disk.reserve(key), Err(NotReserved::Unknown));
    assert_eq!(disk.expel(key, HostKey::of(PoolId([1; 16]), BootId([3; 16]))), Err(NotReserved::Unknown));

    let pool = Pool::new();
    let _said = pool.mgr(&["volume", "create", "db", "--size", "64M"]).ok();
    let _said = pool.mgr(&["pool", "set", "--reservations", "on"]).ok();
    let _said = pool.mgr(&["pool", "show"]).ok().says("reservations");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mut mount = Command::new(program("fusevol"));
    let _said = run(mount.args(["mount", "--key"]).arg(key).arg(pool.path().join("fv"))).code(2).says("hint:").says("cannot be registered");
}
