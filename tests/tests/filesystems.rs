//! Real filesystems on a loop device on a volume over two disks: real files, remount, checked clean.

use fusevol_tests::real::loopdev::LoopDevice;
use fusevol_tests::real::mount::{Mount, Mounted, Transport};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::run::tool;
use std::path::Path;

const REAL_FILES: &str = "/usr/include";

fn holds_real_files(transport: Transport, mkfs: &[&str], fsck: &[&str]) {
    let mut pool = Pool::new();
    pool.volume("db", "3G");
    let key = pool.client("host1", &[("db", "read,write")]);
    let (fv, srv) = (pool.path().join("fv"), pool.path().join("srv"));
    let on = |program: &[&str], device: &Path| {
        let mut args: Vec<_> = program[1..].to_vec();
        let device = device.to_string_lossy();
        args.push(&device);
        let _said = tool(program[0], &args);
    };
    let same = |copy: &Path| {
        let _said = tool("diff", &["-r", "--no-dereference", REAL_FILES, &copy.to_string_lossy()]);
    };

    let mount = Mount::over(transport, &key, &fv);
    let device = LoopDevice::new(&mount.image("db"), true);
    on(mkfs, device.path());
    let files = Mounted::new(&["-o", "discard"], device.path(), &srv);
    let _said = tool("cp", &["-a", REAL_FILES, &srv.join("first").to_string_lossy()]);
    let _said = tool("cp", &["-a", REAL_FILES, &srv.join("second").to_string_lossy()]);
    let _said = tool("rm", &["-r", &srv.join("first").to_string_lossy()]);
    let _said = tool("fstrim", &[srv.as_os_str()]);
    let _said = tool("cp", &["-a", REAL_FILES, &srv.join("third").to_string_lossy()]);
    drop(files);
    drop(device);
    mount.umount();

    let mount = Mount::over(transport, &key, &fv);
    let device = LoopDevice::new(&mount.image("db"), false);
    on(fsck, device.path());
    let files = Mounted::new(&[], device.path(), &srv);
    same(&srv.join("second"));
    same(&srv.join("third"));
    drop(files);
    on(fsck, device.path());
    drop(device);
    mount.umount();
    pool.check();
}

#[test]
fn ext4_holds_real_files() {
    holds_real_files(Transport::Uring, &["mkfs.ext4", "-q"], &["e2fsck", "-f", "-n"]);
}

#[test]
fn ext4_holds_real_files_over_classic() {
    holds_real_files(Transport::Classic, &["mkfs.ext4", "-q"], &["e2fsck", "-f", "-n"]);
}

#[test]
fn xfs_holds_real_files() {
    holds_real_files(Transport::Uring, &["mkfs.xfs", "-q"], &["xfs_repair", "-n"]);
}

#[test]
fn xfs_holds_real_files_over_classic() {
    holds_real_files(Transport::Classic, &["mkfs.xfs", "-q"], &["xfs_repair", "-n"]);
}
