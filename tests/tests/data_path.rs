//! The data path through the real mount: the field's own exercisers against a volume over two disks.

use fusevol_tests::real::mount::{Mount, Transport};
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::run::{run, test_tool, tool};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Random reads, writes, punches, syncs and mapped reads at any byte, each read compared with what must be there.
const FSX: &str = "
flen = 67108864
blockmode = true
[opsize]
max = 262144
[weights]
read = 10.0
write = 10.0
punch_hole = 3.0
fsync = 1.0
fdatasync = 1.0
mapread = 2.0
mapwrite = 0.0
truncate = 0.0
";

fn fio(image: &Path, args: &[&str]) {
    let mut command = Command::new("fio");
    command.arg("--name=verify").arg(format!("--filename={}", image.display())).args([
        "--direct=1",
        "--group_reporting",
        "--output-format=terse",
        "--verify_state_save=0",
    ]);
    let _said = run(command.args(args)).ok();
}

#[test]
fn fsx_20000_operations_over_uring() {
    fsx_20000_operations(Transport::Uring);
}

#[test]
fn fsx_20000_operations_over_classic() {
    fsx_20000_operations(Transport::Classic);
}

fn fsx_20000_operations(transport: Transport) {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = Mount::over(transport, &key, &pool.path().join("fv"));
    let config = pool.path().join("fsx.toml");
    fs::write(&config, FSX).expect("a scratch file");
    for seed in ["1", "2"] {
        let mut fsx = Command::new(test_tool("fsx"));
        fsx.arg("-f").arg(&config).args(["-N", "10000", "-S", seed, "-P"]).arg(pool.path()).arg(mount.image("db"));
        let _said = run(&mut fsx).ok();
    }
    mount.umount();
    pool.check();
}

/// > A volume reads back what was written, at any offset and length, whatever was written, discarded and flushed before.
#[test]
fn fio_verifies_what_it_wrote() {
    verified_by_fio(Transport::Uring);
}

#[test]
fn fio_verifies_what_it_wrote_over_classic() {
    verified_by_fio(Transport::Classic);
}

fn verified_by_fio(transport: Transport) {
    let mut pool = Pool::new();
    pool.volume("db", "1G");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = Mount::over(transport, &key, &pool.path().join("fv"));
    let image = mount.image("db");
    fio(
        &image,
        &["--size=256M", "--rw=randwrite", "--bsrange=4k-256k", "--ioengine=io_uring", "--iodepth=16", "--verify=crc32c", "--fsync=64"],
    );
    fio(&image, &["--size=64M", "--offset=512M", "--rw=randwrite", "--bs=512", "--ioengine=psync", "--io_size=2M", "--verify=crc32c"]);
    fio(
        &image,
        &[
            "--size=32M",
            "--offset=768M",
            "--rw=randrw",
            "--bs=16k",
            "--numjobs=4",
            "--offset_increment=32M",
            "--ioengine=psync",
            "--io_size=16M",
            "--verify=meta",
            "--verify_backlog=64",
        ],
    );
    mount.umount();
    pool.check();
}

/// > Holes are exact: `SEEK_HOLE`, `SEEK_DATA`, `st_blocks` and discards agree with what was written, to the block.
#[test]
fn holes_are_seen_by_the_tools_of_the_field() {
    [Transport::Uring, Transport::Classic].into_iter().for_each(holes_are_seen);
}

fn holes_are_seen(transport: Transport) {
    let mut pool = Pool::new();
    pool.volume("db", "64M");
    let key = pool.client("host1", &[("db", "read,write")]);
    let mount = Mount::over(transport, &key, &pool.path().join("fv"));
    let (image, copy) = (mount.image("db"), pool.path().join("copy.img"));
    fs::File::create(&copy).and_then(|f| f.set_len(64 << 20)).expect("a sparse file");
    for target in [&image, &copy] {
        let of = format!("of={}", target.display());
        for (at, blocks) in [("0", "1"), ("64", "64"), ("1000", "3"), ("4095", "1")] {
            let _said = tool(
                "dd",
                &["if=/dev/urandom", &of, "bs=16k", &format!("seek={at}"), &format!("count={blocks}"), "conv=notrunc,fsync", "status=none"],
            );
        }
        let _said = tool(
            "fallocate",
            &["--punch-hole", "--offset", &(80u32 << 14).to_string(), "--length", &(16u32 << 14).to_string(), &target.to_string_lossy()],
        );
    }
    let map = |path: &Path| {
        let json = run(Command::new("qemu-img").args(["map", "-f", "raw", "--output=json"]).arg(path)).ok().json();
        let extents = json.as_array().expect("a list").iter().map(|e| (e["start"].as_u64(), e["length"].as_u64(), e["data"].as_bool()));
        extents.collect::<Vec<_>>()
    };
    assert_eq!(map(&image), map(&copy));
    let blocks = |path: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).expect("it is there"));
    // 1 + 64 + 3 + 1 blocks were written, 16 of them punched; the copy's own filesystem counts blocks of its map, too.
    assert_eq!(blocks(&image), (1 + 64 + 3 + 1 - 16) * (16 << 10) / 512);
    let _said = tool("cp", &["--sparse=always", &image.to_string_lossy(), &copy.to_string_lossy()]);
    let _said = tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image.to_string_lossy(), &copy.to_string_lossy()]);
    mount.umount();
    pool.check();
}
