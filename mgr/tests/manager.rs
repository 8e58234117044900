//! The real program on file disks: made, served, asked, killed, served again, checked; and every wrong command line.

mod rig;

use rig::{Rig, text};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};

#[test]
fn a_pool_is_made_served_asked_and_checked() {
    let mut rig = Rig::new();
    let made = rig.init_with(&[&text(&rig.disks()[0]), &text(&rig.disks()[1]), "--json"]).ok().json();
    assert_eq!((made["schema"].as_u64(), made["pool"].as_str()), (Some(1), Some("san1")));
    let recovery = fs::read_to_string(rig.dir().join("recovery.key")).expect("written");
    assert!(recovery.contains(made["recovery_key"].as_str().expect("shown once")));
    for secret in ["recovery.key", "authority.pem", "config.toml"] {
        let mode = fs::metadata(rig.dir().join(secret)).expect(secret).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    assert_eq!(fs::metadata(rig.dir()).expect("made").permissions().mode() & 0o777, 0o700);

    rig.serve();
    let mode = fs::metadata(rig.dir().join("admin.sock")).expect("it serves").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let created = rig.mgr(&["volume", "create", "db", "--size", "20G", "--json"]).ok().json();
    assert_eq!(created["volume"]["size"], 20u64 << 30);
    assert!(created["volume"]["notes"].as_array().is_some_and(|n| !n.is_empty()), "more than the pool holds is said: {created}");
    assert!(created["volume"]["created"].as_str().is_some_and(|t| t.ends_with('Z')), "RFC 3339: {created}");
    rig.mgr(&["volume", "create", "tiny", "--size", "16M"]).ok();
    let listed = rig.mgr(&["volume", "ls", "--json"]).ok().json();
    let names: Vec<_> = listed["volumes"].as_array().expect("a list").iter().map(|v| v["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["db", "tiny"]);
    assert_eq!(rig.mgr(&["volume", "ls", "-H", "-p", "-o", "name,size"]).ok().out, format!("db\t{}\ntiny\t{}\n", 20u64 << 30, 16 << 20));

    let key = rig.path("host1.key");
    rig.mgr(&["client", "add", "host1", "--out", &text(&key)]).ok();
    assert_eq!(fs::metadata(&key).expect("written").permissions().mode() & 0o777, 0o600);
    rig.mgr(&["access", "grant", "san1/db", "host1", "read,write,snapshot"]).ok();
    assert_eq!(rig.mgr(&["access", "ls", "-H"]).ok().out, "db\thost1\tread,write,snapshot\n");
    rig.mgr(&["snapshot", "create", "db@s1"]).ok();
    assert_eq!(rig.mgr(&["snapshot", "ls", "-H", "-o", "name,state"]).ok().out, "db@s1\texact\n");
    assert_eq!(rig.mgr(&["snapshot", "rm", "db@s1", "-n", "--json"]).ok().json()["schema"], 1);
    rig.mgr(&["snapshot", "rm", "db@s1", "-y"]).ok();
    assert_eq!(rig.mgr(&["pool", "show", "--json"]).ok().json()["pool"]["volumes"], 2);
    assert_eq!(rig.mgr(&["disk", "ls", "--json"]).ok().json()["disks"].as_array().map(Vec::len), Some(2));
    rig.mgr(&["status"]).ok().says("san1");
    rig.mgr(&["volume", "show", "db"]).ok().says("20G");
    rig.mgr(&["events", "--json"]).ok();

    rig.mgr(&["check"]).code(5).says("hint:");
    rig.stop();
    let report = rig.mgr(&["check", "--json"]).ok().json();
    assert_eq!((report["clean"].as_bool(), report["report"]["volumes"].as_u64()), (Some(true), Some(2)));
    let disks: Vec<String> = rig.disks().iter().map(|d| text(d)).collect();
    rig.anywhere(&["check", "--dir", "/no/such/dir", &disks[0], &disks[1]]).ok().says("clean");
}

#[test]
fn a_killed_manager_is_followed_by_a_new_one() {
    let mut rig = Rig::served();
    for i in 0..3 {
        rig.mgr(&["volume", "create", &format!("v{i}"), "--size", "1G"]).ok();
        rig.kill();
        rig.serve();
    }
    assert_eq!(rig.mgr(&["volume", "ls", "-H", "-o", "name"]).ok().out, "v0\nv1\nv2\n");
    assert!(rig.mgr(&["pool", "show", "--json"]).ok().json()["pool"]["generation"].as_u64() >= Some(4));
    rig.stop();
    rig.mgr(&["check"]).ok().says("clean");
}

#[test]
fn a_second_manager_is_refused_while_the_first_lives() {
    let mut rig = Rig::served();
    // From the same folder, and from another folder on the same disks.
    rig.mgr(&["serve"]).code(5).says("hint:");
    let copy = rig.path("copy");
    fs::create_dir(&copy).expect("scratch");
    for file in ["config.toml", "authority.pem"] {
        fs::copy(rig.dir().join(file), copy.join(file)).expect("scratch");
    }
    rig.anywhere(&["serve", "--dir", &text(&copy)]).code(5).says("hint:");
    rig.mgr(&["volume", "create", "still", "--size", "1G"]).ok();
    rig.stop();
    rig.mgr(&["check"]).ok();
}

#[test]
fn a_pool_is_adopted_from_its_disks() {
    let mut rig = Rig::served();
    rig.mgr(&["volume", "create", "db", "--size", "1G"]).ok();
    let key = rig.path("recovery");
    fs::rename(rig.dir().join("recovery.key"), &key).expect("kept elsewhere");
    let disks: Vec<String> = rig.disks().iter().map(|d| text(d)).collect();
    let new = text(&rig.path("new"));
    let port = rig.listen().to_owned();
    let adopt = |rig: &Rig, disks: &[String]| {
        let mut args = vec!["adopt", "--dir", &new, "--listen", &port, "--recovery-key", key.to_str().expect("UTF-8")];
        args.extend(disks.iter().map(String::as_str));
        rig.anywhere(&args)
    };
    adopt(&rig, &disks).code(5).says("stop it first");
    rig.kill();
    adopt(&rig, &disks[..1]).code(4).says("missing");
    adopt(&rig, &[disks[0].clone(), disks[0].clone()]).code(2).says("same disk");
    rig.anywhere(&["adopt", "--dir", &new, "--listen", &port, &disks[0], &disks[1]]).code(2).says("--recovery-key");
    fs::remove_dir_all(rig.dir()).expect("the host is gone");
    adopt(&rig, &disks).ok();
    rig.move_to(rig.path("new"));
    rig.serve();
    assert_eq!(rig.mgr(&["volume", "ls", "-H", "-o", "name"]).ok().out, "db\n");
    rig.mgr(&["client", "add", "host2", "--out", &text(&rig.path("host2.key"))]).ok();
    rig.stop();
    rig.mgr(&["check"]).ok();
}

#[test]
fn a_disk_joins_the_pool() {
    let mut rig = Rig::served();
    let more = rig.disk("d2.img", 256 << 20);
    let before = rig.mgr(&["pool", "show", "--json"]).ok().json()["pool"]["space"]["total"].as_u64();
    let said = rig.mgr(&["disk", "add", &text(&more), "--json"]).ok().json();
    assert_eq!(said["disk"]["no"], 2);
    rig.mgr(&["disk", "add", &text(&more)]).code(2).says("of this pool already");
    assert!(rig.mgr(&["pool", "show", "--json"]).ok().json()["pool"]["space"]["total"].as_u64() > before);
    let scanned = rig.mgr(&["disk", "scan", &text(&more), "--json"]).ok().json();
    assert_eq!((scanned["disks"][0]["state"].as_str(), scanned["disks"][0]["pool"].as_str()), (Some("member"), Some("san1")));
    rig.kill();
    rig.serve();
    assert_eq!(rig.mgr(&["disk", "ls", "--json"]).ok().json()["disks"].as_array().map(Vec::len), Some(3));
    rig.stop();
    rig.mgr(&["check"]).ok();
}

#[test]
fn wrong_disks_are_named_and_nothing_is_written() {
    let rig = Rig::new();
    let good = text(&rig.disks()[0]);
    let small = rig.disk("small.img", 1 << 20);
    let foreign = rig.disk("foreign.img", 128 << 20);
    let swap = OpenOptions::new().write(true).open(&foreign).expect("scratch");
    swap.write_all_at(b"SWAPSPACE2", 4086).expect("scratch");
    let link = rig.path("link.img");
    std::os::unix::fs::symlink(&rig.disks()[0], &link).expect("scratch");
    let fifo = rig.path("folder");
    fs::create_dir(&fifo).expect("scratch");
    for (bad, code, why) in [
        (text(&small), 2, "too small"),
        (text(&foreign), 2, "a swap area"),
        (text(&link), 2, "the same disk as"),
        (text(&fifo), 2, "neither a block device nor a plain file"),
        ("/no/such/disk".to_owned(), 4, "/no/such/disk"),
    ] {
        rig.init_with(&[&good, &bad]).code(code).says(why).says(&bad);
    }
    rig.init_with(&[&text(&small), &text(&foreign)]).code(2).says("too small").says("a swap area");
    let untouched = |disk: &str| fs::read(disk).expect("scratch").iter().all(|b| *b == 0);
    assert!(untouched(&good) && untouched(&text(&small)));
    assert!(!rig.dir().join("config.toml").exists());
    rig.init().ok();
    rig.init().code(2).says("already");
    let other = text(&rig.path("m2"));
    rig.anywhere(&["init", "--dir", &other, "--pool", "p2", "--listen", "127.0.0.1:1", &good]).code(2).says("san1");
}

#[test]
fn a_missing_or_changed_disk_keeps_the_manager_from_starting() {
    let rig = Rig::new();
    rig.init().ok();
    let (disk, away) = (rig.disks()[1].clone(), rig.path("away.img"));
    fs::rename(&disk, &away).expect("scratch");
    rig.mgr(&["serve"]).code(4).says(&text(&disk)).says("hint:");
    File::create(&disk).and_then(|f| f.set_len(128 << 20)).expect("scratch");
    rig.mgr(&["serve"]).code(4).says("no label").says("hint:");
    assert!(fs::read(&disk).expect("scratch").iter().all(|b| *b == 0), "nothing was written to it");
    fs::rename(&away, &disk).expect("scratch");
    rig.mgr(&["check"]).ok();
}

#[test]
fn every_wrong_command_line_is_refused_clearly() {
    let rig = Rig::served();
    rig.mgr(&["volume", "create", "db", "--size", "64M"]).ok();
    rig.mgr(&["client", "add", "host1", "--out", &text(&rig.path("host1.key"))]).ok();
    let (key, new) = (text(&rig.path("host1.key")), text(&rig.path("host2.key")));
    for (args, code, why) in [
        (&["volume", "create", "zero", "--size", "0"][..], 2, "size"),
        (&["volume", "create", "absurd", "--size", "9E"], 2, "9E"),
        (&["volume", "create", "bad name", "--size", "1G"], 2, "is not a name"),
        (&["volume", "create", "db", "--size", "1G"], 2, "db"),
        (&["volume", "create", "db2", "--size", "many"], 2, "is not a size"),
        (&["volume", "create", "db2"], 2, "--size"),
        (&["volume", "show", "nosuch"], 4, "nosuch"),
        (&["volume", "show", "db@s1"], 2, "a volume is meant"),
        (&["volume", "show", "otherpool/db"], 4, "otherpool"),
        (&["volume", "rm", "db"], 2, "would be lost"),
        (&["volume", "rm", "nosuch", "-y"], 4, "nosuch"),
        (&["volume", "ls", "-o", "colour"], 2, "colour"),
        (&["snapshot", "create", "db"], 2, "a snapshot is meant"),
        (&["snapshot", "create", "nosuch@s1"], 4, "nosuch"),
        (&["snapshot", "create", "db@a", "db@b"], 2, "one instant"),
        (&["snapshot", "rm", "db@nosuch", "-y"], 4, "nosuch"),
        (&["snapshot", "ls", "nosuch"], 4, "nosuch"),
        (&["client", "add", "host1", "--out", "/tmp/no/such/folder/k"], 1, "/tmp/no/such/folder"),
        (&["client", "add", "host2", "--out", &key], 2, "exists"),
        (&["client", "add", "host2", "--out", &new, "--address", "nonsense"], 2, "nonsense"),
        (&["client", "rm", "nosuch", "-y"], 4, "nosuch"),
        (&["client", "revoke", "nosuch", "-y"], 4, "nosuch"),
        (&["client", "revoke", "host1"], 2, "-y"),
        (&["client", "confirm-dead", "nosuch", "-y"], 4, "nosuch"),
        (&["access", "grant", "db", "nosuch", "read"], 4, "nosuch"),
        (&["access", "grant", "nosuch", "host1", "read"], 4, "nosuch"),
        (&["access", "grant", "db", "host1", "fly"], 2, "fly"),
        (&["access", "ls", "nosuch"], 4, "nosuch"),
        (&["disk", "add", "/no/such/disk"], 4, "/no/such/disk"),
        (&["nonsense"], 2, "nonsense"),
        (&["volume"], 2, "Usage"),
    ] {
        let said = rig.mgr(args).code(code).says(why);
        assert!(said.err.contains("hint:") || said.err.contains("Usage:"), "{args:?} gives no hint: {}", said.err);
        if args.contains(&"-o") {
            continue; // columns are a matter of tables
        }
        let mut with_json = args.to_vec();
        with_json.push("--json");
        let json = rig.mgr(&with_json).code(code).json();
        assert_eq!(json["schema"], 1, "{args:?}");
        assert!(json["error"]["message"].is_string() && json["error"]["kind"].is_string(), "{args:?}: {json}");
    }
    assert!(!rig.path("host2.key").exists());
    rig.mgr(&["volume", "show", "db"]).ok();
}

#[test]
fn without_a_manager() {
    let rig = Rig::new();
    rig.mgr(&["status"]).code(4).says("fusevol-mgr init");
    rig.mgr(&["serve"]).code(4).says("hint:");
    rig.init().ok();
    rig.mgr(&["--wait", "0", "volume", "ls"]).code(7).says(&format!("fusevol-mgr serve --dir {}", text(&rig.dir())));
    rig.mgr(&["--wait", "0", "status", "--check"]).code(2).says("CRITICAL");
    rig.anywhere(&["--help"]).ok().says("serve").says("--dir");
}
