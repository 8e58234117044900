//! The built binary: what it says, to whom, and how it ends. The volumes themselves are not needed here: an image file
//! stands in for a snapshot's pseudo-device file, stored by the library.

use fusevol_backup::format::manifest::{Manifest, SnapshotRef, VolumeRef};
use fusevol_backup::pipeline::backup::{Job, backup};
use fusevol_backup::pipeline::source::FileSource;
use fusevol_backup::pipeline::{Cancel, Silent};
use fusevol_backup::repo::Repository;
use fusevol_backup::store::{DirStore, LockMode, Store};
use fusevol_shared::clock::SystemClock;
use fusevol_shared::ids::{SnapshotId, VolumeId};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusevol-backup"))
        .args(args)
        .current_dir(dir)
        .env_remove("FUSEVOL_REPO")
        .env_remove("FUSEVOL_KEY")
        .env_remove("FUSEVOL_PASSWORD_FILE")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// Runs, and checks exit code and a piece of what is said on either side.
fn expect(dir: &Path, args: &[&str], code: i32, said: &str) -> String {
    let out = run(dir, args);
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    assert!(text.contains(said), "{args:?}: '{said}' is not in: {text}");
    text
}

/// A folder with a repository `repo` and the image file `image`.
fn made() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    expect(dir.path(), &["init", "--repo", "repo", "--no-encryption", "--chunk-size", "64K"], 0, "made repository");
    let image = fs::File::create(dir.path().join("image")).expect("made");
    image.set_len(3 << 20).expect("sized");
    image.write_all_at(&[7; 100_000], 1 << 20).expect("written");
    image.write_all_at(b"the end", (3 << 20) - 7).expect("written");
    dir
}

/// Stores `image` as a snapshot of volume `db`.
fn stored(dir: &Path) -> Manifest {
    let repo = Repository::open(Box::new(DirStore::new(&dir.join("repo"))), LockMode::Shared).expect("opens");
    let source = FileSource::open(&dir.join("image")).expect("opens");
    let job = Job {
        repo: &repo,
        source: &source,
        volume: VolumeRef { name: "db".into(), id: VolumeId([1; 16]) },
        snapshot: SnapshotRef { name: "monday".into(), id: SnapshotId([2; 16]), epoch: 3, taken: 1_700_000_000 },
        block_size: 16384,
        workers: 2,
        pack_target: Job::PACK_TARGET,
        progress: &Silent,
        cancel: &Cancel::default(),
        clock: &SystemClock,
    };
    backup(&job).expect("stored").manifest
}

#[test]
fn init_never_pretends_to_encrypt() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = expect(dir.path(), &["init", "--repo", "r"], 2, "a password file or --no-encryption is needed");
    assert!(text.contains("hint: --no-encryption"), "{text}");
    expect(dir.path(), &["init", "--repo", "r", "--password-file", "p"], 2, "this version cannot encrypt");
    assert!(!dir.path().join("r").exists(), "nothing was made");
    expect(dir.path(), &["init", "--repo", "r", "--no-encryption", "--chunk-size", "100K"], 2, "a power of two");
    expect(dir.path(), &["init", "--repo", "r", "--no-encryption"], 0, "not encrypted");
    expect(dir.path(), &["init", "--repo", "r", "--no-encryption"], 2, "there is a repository at r");
    fs::write(dir.path().join("file"), "x").expect("written");
    fs::create_dir(dir.path().join("full")).expect("made");
    fs::write(dir.path().join("full/file"), "x").expect("written");
    expect(dir.path(), &["init", "--repo", "full", "--no-encryption"], 2, "holds other files");
}

#[test]
fn a_repository_that_is_not_there_locked_or_damaged() {
    let dir = made();
    let text = expect(dir.path(), &["snapshots", "--repo", "nowhere"], 10, "there is no repository at nowhere");
    assert!(text.contains("hint: make one"), "{text}");
    expect(dir.path(), &["snapshots"], 2, "no repository is named");
    let lock = DirStore::new(&dir.path().join("repo")).lock(LockMode::Exclusive).expect("locked");
    expect(dir.path(), &["snapshots", "--repo", "repo"], 11, &format!("locked by process {}", std::process::id()));
    let again = DirStore::new(&dir.path().join("repo")).lock(LockMode::Exclusive);
    assert_eq!(again.err().map(|e| e.kind().exit_code()), Some(11), "a second exclusive one");
    drop(lock);
    let shared = DirStore::new(&dir.path().join("repo")).lock(LockMode::Shared).expect("locked");
    expect(dir.path(), &["snapshots", "--repo", "repo"], 0, "ID");
    let exclusive = DirStore::new(&dir.path().join("repo")).lock(LockMode::Exclusive);
    assert_eq!(exclusive.err().map(|e| e.kind().exit_code()), Some(11), "beside a reader");
    drop(shared);
    let config = dir.path().join("repo/config");
    let mut bytes = fs::read(&config).expect("read");
    bytes[150] ^= 1;
    fs::write(&config, bytes).expect("written");
    expect(dir.path(), &["snapshots", "--repo", "repo"], 1, "the checksum is wrong");
}

#[test]
fn what_is_stored_is_listed_shown_and_restored() {
    let dir = made();
    let (m, image) = (stored(dir.path()), fs::read(dir.path().join("image")).expect("read"));
    let (id, d) = (m.id.short(), dir.path());
    expect(d, &["snapshots", "--repo", "repo"], 0, &id);
    let list: Value = serde_json::from_slice(&run(d, &["snapshots", "--repo", "repo", "--json"]).stdout).expect("JSON");
    assert_eq!((&list["schema"], &list["snapshots"][0]["size"]), (&1.into(), &(3 << 20).into()));
    assert_eq!(list["snapshots"][0]["snapshot"]["taken"], "2023-11-14T22:13:20Z");
    expect(d, &["show", &id, "--repo", "repo"], 0, "monday");
    expect(d, &["restore", "latest", "--repo", "repo", "--to", "a"], 0, "restored");
    assert!(fs::read(d.join("a")).expect("read") == image);
    for (name, to) in [("db", "b"), ("db@latest", "c"), ("db@monday", "e"), (&id[..4], "f")] {
        expect(d, &["restore", name, "--repo", "repo", "--to", to], 0, "restored");
        assert!(fs::read(d.join(to)).expect("read") == image, "{name}");
    }
    assert!(run(d, &["restore", "latest", "--repo", "repo", "--to", "-"]).stdout == image);
    expect(d, &["restore", "latest", "--repo", "repo", "--to", "-", "--json"], 2, "both want standard output");
    expect(d, &["restore", "db2", "--repo", "repo", "--to", "x"], 4, "no snapshot 'db2'");
    expect(d, &["restore", "latest", "--repo", "repo"], 2, "--to");
    expect(d, &["check", "--repo", "repo", "--read-data"], 0, "0 problems");
    assert!(!d.join("x").exists() && !d.join("a.incomplete").exists());
}

#[test]
fn nothing_is_overwritten_without_a_yes_or_in_use() {
    let dir = made();
    let d = dir.path();
    stored(d);
    fs::write(d.join("old"), "precious").expect("written");
    let text = expect(d, &["restore", "latest", "--repo", "repo", "--to", "old"], 2, "old (8B) would be overwritten");
    assert!(text.contains("hint: add -y"), "{text}");
    expect(d, &["restore", "latest", "--repo", "repo", "--to", "old", "-n"], 0, "lost would be: what is there now");
    assert_eq!(fs::read(d.join("old")).expect("read"), b"precious");
    expect(d, &["restore", "latest", "--repo", "repo", "--to", "old", "-y"], 0, "restored");
    assert!(fs::read(d.join("old")).expect("read") == fs::read(d.join("image")).expect("read"));
    expect(d, &["restore", "latest", "--repo", "repo", "--to", "repo"], 2, "is a folder");
    expect(d, &["restore", "latest", "--repo", "repo", "--to", "no/where"], 4, "no/where");
    fs::write(d.join("new.incomplete"), "").expect("written");
    expect(d, &["restore", "latest", "--repo", "repo", "--to", "new"], 2, "left over from a restore");
}

#[test]
fn a_damaged_chunk_is_named_and_the_rest_comes_back() {
    let dir = made();
    let d = dir.path();
    let (m, image) = (stored(d), fs::read(d.join("image")).expect("read"));
    let packs =
        fs::read_dir(d.join("repo/data")).expect("listed").flatten().flat_map(|x| fs::read_dir(x.path()).expect("listed").flatten());
    for pack in packs {
        let mut bytes = fs::read(pack.path()).expect("read");
        // The first entry of the pack of data: the kind stands in the last row, 48 bytes before the end's 16.
        if bytes[bytes.len() - 64 + 44] == 0 {
            bytes[150] ^= 1;
            fs::write(pack.path(), bytes).expect("written");
        }
    }
    let id = m.id.short();
    expect(d, &["check", "--repo", "repo"], 0, "data not read");
    expect(d, &["check", "--repo", "repo", "--read-data"], 1, &format!("(hurts {id})"));
    let out = run(d, &["check", "--repo", "repo", "--read-data", "--json"]);
    let lines: Vec<Value> = String::from_utf8_lossy(&out.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(lines[0]["problems"][0]["hurts"][0], id);
    assert_eq!(lines[1]["error"]["kind"], "damaged");
    expect(d, &["restore", "latest", "--repo", "repo", "--to", "out"], 1, "out.incomplete is incomplete");
    let got = fs::read(d.join("out.incomplete")).expect("read");
    assert!(!d.join("out").exists() && got.len() == image.len());
    assert!(got.ends_with(b"the end") && got != image);
    let stream = run(d, &["restore", "latest", "--repo", "repo", "--to", "-"]);
    assert_eq!(stream.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stream.stderr).contains("standard output is incomplete"));
}

#[test]
fn errors_for_scripts_are_json() {
    let dir = tempfile::tempdir().expect("a folder");
    for (args, kind, code) in [
        (&["snapshots", "--json", "--repo", "r"][..], "repo-missing", 10),
        (&["restore", "x", "--json"][..], "refused", 2),
        (&["backup", "db", "--json", "--repo", "r"][..], "repo-missing", 10),
        (&["dump", "db", "--to", "f", "--json"][..], "refused", 2),
    ] {
        let out = run(dir.path(), args);
        let v: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"));
        assert_eq!((v["error"]["kind"].as_str(), out.status.code()), (Some(kind), Some(code)), "{args:?}: {v}");
        assert!(v["error"]["hint"].is_string(), "{args:?}: {v}");
    }
    expect(dir.path(), &["backup", "bad name", "--repo", "r"], 2, "is not a name");
}
