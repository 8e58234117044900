//! `fusevol attach` and `detach`: block devices over volumes and snapshots, on real mounts. Volumes have names of their own here: the
//! links in `/dev/fusevol` are the host's.

use fusevol_tests::real::attached::Attached;
use fusevol_tests::real::mount::{Mount, Mounted};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::run::{program, run, tool};
use fusevol_tests::real::wait::until;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn fusevol(args: &[&str]) -> fusevol_tests::real::run::Ran {
    run(Command::new(program("fusevol")).args(args))
}

fn open_by_nobody(mount: &Mount, volume: &str) {
    let given_back = || mount.fusevol(&["status", volume, "--json"]).ok().json()["volumes"][0]["attached"].is_null().then_some(());
    until("the volume to be given back", PATIENCE, given_back);
}

/// > `fusevol attach VOL` makes a block device with direct I/O of a volume; what was written to it is there after `detach` and the next `attach`.
#[test]
fn a_filesystem_on_an_attached_volume() {
    let mut pool = Pool::new();
    pool.volume("att1", "512M");
    let key = pool.client("host1", &[("att1", "read,write,snapshot,backup")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let srv = pool.path().join("srv");

    let device = Attached::new(&mount, "att1", &[]);
    assert_eq!(device.path(), Path::new("/dev/fusevol/att1"));
    assert_eq!(
        (device.says("loop/dio"), device.says("queue/logical_block_size"), device.says("ro")),
        ("1".into(), "512".into(), "0".into())
    );
    let node = fs::canonicalize(device.path()).expect("it leads to a device");
    let _said = tool("mkfs.ext4", &["-q".as_ref(), device.path().as_os_str()]);
    let files = Mounted::new(&[], device.path(), &srv);
    fs::write(srv.join("hello"), vec![7; 1 << 20]).expect("it writes");
    // Twice is once.
    let again = mount.fusevol(&["attach", "att1", "--json"]).ok().json();
    assert_eq!((again["loop"].as_str(), again["already"].as_bool()), (node.to_str(), Some(true)));
    let _said = mount.fusevol(&["attach", "att1", "--ro"]).code(5).says("already, for writing");
    let _said = mount.fusevol(&["attach", "att1", "--sector-size", "4096"]).code(5).says("sectors of 512");
    // In use: by a filesystem, by a program; and the mount below by the device.
    let _said = fusevol(&["detach", "att1"]).code(5).says(&format!("the mount at {}", srv.display()));
    let _said = fusevol(&["umount", &mount.path().to_string_lossy()]).code(5).says("/dev/fusevol/att1").says("fusevol detach att1");
    drop(files);
    let held = fs::File::open(device.path()).expect("it opens");
    let _said = fusevol(&["detach", "att1"]).code(5).says(&format!("pid {}", std::process::id()));
    assert_eq!(device.says("loop/dio"), "1", "it is whole after what was refused");
    drop(held);
    device.detach();
    assert!(!Path::new("/dev/fusevol/att1").exists());
    let _said = fusevol(&["detach", "att1"]).code(4).says("not attached");
    open_by_nobody(&mount, "att1");

    // The snapshot of it, and it again.
    let _said = pool.mgr(&["snapshot", "create", "att1@s1"]).ok();
    let device = Attached::new(&mount, "att1", &[]);
    let _said = tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), device.path().as_os_str()]);
    let files = Mounted::new(&[], device.path(), &srv);
    assert_eq!(fs::read(srv.join("hello")).expect("it is there"), vec![7; 1 << 20]);
    fs::remove_file(srv.join("hello")).expect("it is removed");
    drop(files);
    let frozen = Attached::new(&mount, "att1@s1", &[]);
    assert_eq!((frozen.path(), frozen.says("ro").as_str()), (Path::new("/dev/fusevol/att1@s1"), "1"));
    let files = Mounted::new(&["-o", "ro"], frozen.path(), &srv);
    assert_eq!(fs::read(srv.join("hello")).expect("it is there"), vec![7; 1 << 20]);
    drop(files);
    frozen.detach();
    device.detach();
    mount.umount();
    pool.check();
}

#[test]
fn what_cannot_be_attached_is_said() {
    let mut pool = Pool::new();
    pool.volume("att2", "64M");
    pool.volume("att3", "64M");
    let key = pool.client("host1", &[("att2", "read,write"), ("att3", "read")]);
    let other = pool.client("host2", &[("att2", "read,write")]);
    let mount = Mount::new(&key, &pool.path().join("fv"));
    let _said = mount.fusevol(&["attach", "att9"]).code(4).says("no volume att9");
    let _said = mount.fusevol(&["attach", "att2@s9"]).code(4).says("no snapshot att2@s9");
    let _said = mount.fusevol(&["attach", "other/att2"]).code(4);
    let _said = mount.fusevol(&["attach", "bad name"]).code(2);
    let _said = mount.fusevol(&["attach", "att2", "--sector-size", "1024"]).code(2).says("512 or 4096");
    // Without the right to write: a device that cannot be written.
    let device = Attached::new(&mount, "att3", &[]);
    assert_eq!(device.says("ro"), "1");
    device.detach();
    let device = Attached::new(&mount, "att2", &["--sector-size", "4096", "--ro"]);
    assert_eq!((device.says("ro"), device.says("queue/logical_block_size")), ("1".into(), "4096".into()));
    device.detach();
    // Written by another host.
    let there = Mount::new(&other, &pool.path().join("there"));
    let device = Attached::new(&there, "att2", &["--sector-size", "4096"]);
    assert_eq!((device.says("loop/dio"), device.says("queue/logical_block_size")), ("1".into(), "4096".into()));
    let _said = mount.fusevol(&["attach", "att2"]).code(5).says("of another mount");
    device.detach();
    there.umount();
    mount.umount();
    pool.check();
}

/// > A device of `attach` whose mount has died fails its I/O, and `detach` gives it back all the same, before and after `fusevol mount` has replaced the mount.
#[test]
fn a_device_on_a_dead_mount_is_given_back() {
    let mut pool = Pool::new();
    for volume in ["att4", "att5"] {
        pool.volume(volume, "64M");
    }
    let key = pool.client("host1", &[("att4", "read,write"), ("att5", "read,write")]).to_string_lossy().into_owned();
    let dir = pool.path().join("fv");
    let place = dir.to_string_lossy().into_owned();
    let said = fusevol(&["--json", "mount", "--key", &key, &place]).ok().json();
    let attach = |volume: &str| PathBuf::from(fusevol(&["attach", volume, "--mount", &place]).ok().out.trim());
    let devices = [attach("att4"), attach("att5")];
    let held = fs::OpenOptions::new().read(true).write(true).open(dir.join("att5.img")).expect("it opens");
    kill(said["pid"].as_i64());
    until("the device to fail", PATIENCE, || read_directly(&devices[0]).is_err().then_some(()));
    let _said = fusevol(&["detach", "att4"]).ok();
    assert!(!devices[0].exists());
    // The other one and an open file are still on the dead mount when it is replaced.
    let said = fusevol(&["--json", "mount", "--key", &key, &place]).ok().json();
    let mut back = [0; 512];
    assert!(std::os::unix::fs::FileExt::read_at(&held, &mut back, 0).is_err(), "what was open on it fails");
    assert!(read_directly(&devices[1]).is_err());
    let _said = fusevol(&["attach", "att5", "--mount", &place]).code(5).says("one that is gone").says("fusevol detach att5");
    let _said = fusevol(&["detach", "att5"]).ok();
    let device = attach("att5");
    read_directly(&device).expect("it reads");
    let _said = fusevol(&["detach", "att5"]).ok();
    drop(held);
    let _said = fusevol(&["umount", &place]).ok();
    drop(said);
    pool.check();
}

fn kill(pid: Option<i64>) {
    let pid = pid.and_then(|p| i32::try_from(p).ok()).and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
}

fn read_directly(device: &Path) -> std::io::Result<()> {
    let said = run(Command::new("dd").args(["iflag=direct", "bs=4096", "count=1", "of=/dev/null"]).arg(format!("if={}", device.display())));
    if said.code == 0 { Ok(()) } else { Err(std::io::Error::other(said.err)) }
}
