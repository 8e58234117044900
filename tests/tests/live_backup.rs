//! Backup of a volume while it is written, from another host than the writer's.

use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::netns::Netns;
use fusevol_tests::real::pool::{Options, Pool, free_port};
use fusevol_tests::real::run::{Ran, program, run};
use fusevol_tests::real::wait::until;
use fusevol_tests::real::writer::Writer;
use std::path::Path;
use std::time::Duration;

/// 16 MiB are written at random, over 16 AUs on both disks.
const GRAINS: u64 = 4096;
const BLOCK: u64 = 16 << 10;

fn backup(host: &Netns, key: &Path, args: &[&str]) -> Ran {
    run(host.command(&program("fusevol-backup")).args(args).arg("--key").arg(key)).ok()
}

fn wait_for(writer: &Writer, more: u64) {
    let goal = writer.acked() + more;
    until("the writer to go on", Duration::from_secs(60), || (writer.acked() >= goal).then_some(()));
}

/// > A snapshot is the volume at one instant: a reader on another host sees exactly the writes acknowledged before it, while the writer goes on.
///
/// > The list of modified blocks of a snapshot is exactly the blocks that were written since.
#[test]
fn a_snapshot_read_from_another_host_is_one_instant() {
    let (writing, reading) = (Netns::new(), Netns::new());
    let port = free_port();
    let listen = [format!("{}:{port}", writing.here()), format!("{}:{port}", reading.here()), format!("127.0.0.1:{port}")];
    let mut pool = Pool::with(&Options { disks: &[1 << 30, 1 << 30], listen: &listen, lease: 5 });
    pool.volume("db", "1G");
    let host1 = pool.client("host1", &[("db", "read,write")]);
    let host2 = pool.client("host2", &[("db", "read,snapshot,backup")]);
    let repo = pool.path().join("repo").to_string_lossy().into_owned();
    let mount = Mount::with(&host1, &pool.path().join("fv"), Some(&writing), &[]);
    let reader = Mount::with(&host2, &pool.path().join("fv2"), Some(&reading), &[]);

    let writer = Writer::start(&mount.image("db"), GRAINS, 7);
    wait_for(&writer, 2000);
    let before = writer.acked();
    let _said = pool.mgr(&["snapshot", "create", "db@s1"]).ok();
    let after = writer.acked();
    wait_for(&writer, 500);
    let out = pool.path().join("s1.img");
    backup(&reading, &host2, &["dump", "db@s1", "--to", &out.to_string_lossy()]);
    wait_for(&writer, 500);
    let in_mount = reader.snapshot("db", "s1");
    until("the snapshot to appear in the mount", Duration::from_secs(10), || in_mount.exists().then_some(()));

    let _said = run(host_command(&reading).args(["init", "--repo", &repo, "--no-encryption"])).ok();
    let began = writer.acked();
    backup(&reading, &host2, &["backup", "db", "--repo", &repo]);
    let ended = writer.acked();
    wait_for(&writer, 500);
    let history = writer.finish();

    let k = history.prefix_of(&out, GRAINS);
    assert!((before..=after + 1).contains(&k), "the snapshot holds {k} writes; {before} before it was asked for, {after} after");
    assert_eq!(history.prefix_of(&in_mount, GRAINS), k, "read through the mount");
    let modified = reader.fusevol(&["map", "db@s1", "--modified", "--json"]).ok().json();
    assert_eq!(blocks_of(&modified), history.blocks_after(k, BLOCK));

    let restored = pool.path().join("restored.img").to_string_lossy().into_owned();
    let _said = run(host_command(&reading).args(["restore", "latest", "--repo", &repo, "--to", &restored])).ok();
    let k2 = history.prefix_of(Path::new(&restored), GRAINS);
    assert!((began..=ended).contains(&k2), "the backup holds {k2} writes; {began} before it, {ended} at its end");
    assert_eq!(history.prefix_of(&mount.image("db"), GRAINS), history.len(), "the live volume");
    let _said = run(host_command(&reading).args(["check", "--repo", &repo, "--read-data"])).ok();

    let _said = pool.mgr(&["snapshot", "rm", "db@s1", "-y"]).ok();
    reader.umount();
    mount.umount();
    pool.check();
}

fn host_command(host: &Netns) -> std::process::Command {
    host.command(&program("fusevol-backup"))
}

/// Numbers of the blocks in `{"extents": [{"start": bytes, "length": bytes}]}`.
fn blocks_of(json: &serde_json::Value) -> Vec<u64> {
    let extents = json["extents"].as_array().expect("a list of extents");
    let range = |e: &serde_json::Value| (e["start"].as_u64().expect("bytes"), e["length"].as_u64().expect("bytes"));
    extents.iter().map(range).flat_map(|(start, length)| start / BLOCK..(start + length).div_ceil(BLOCK)).collect()
}
