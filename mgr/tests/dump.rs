//! `dump` on a pool in files: what was written is found, and what is damaged says so.

#[allow(dead_code)] // what the other tests use of it
mod rig;

use rig::{Rig, text};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

#[test]
fn what_stands_on_the_disks_is_printed() {
    let mut rig = Rig::served();
    rig.mgr(&["volume", "create", "db", "--size", "1G"]).ok();
    rig.mgr(&["dump", "owners"]).code(5).says("stop it first");
    rig.stop();
    let disks: Vec<String> = rig.disks().iter().map(|d| text(d)).collect();

    let labels = rig.mgr(&["dump", "label", "--json"]).ok().json();
    let lines = labels["lines"].as_array().expect("a list").clone();
    assert_eq!(lines.len(), 6, "three copies on each disk: {lines:?}");
    assert!(lines.iter().all(|l| l["damaged"] == false && l["says"].as_str().is_some_and(|s| s.contains("of pool san1"))));
    let owners = rig.anywhere(&["dump", "owners", &disks[0], &disks[1], "--dir", "/no/such/dir"]).ok();
    assert!(owners.out.contains("Ended, on ") && owners.out.contains(": clear"), "{}", owners.out);
    rig.mgr(&["dump", "catalog"]).ok().says("last of the checkpoint").says("VolumeCreated");
    for empty in ["slots", "journal", "preserve"] {
        assert_eq!(rig.mgr(&["dump", empty]).ok().out, "", "{empty}");
    }
    rig.mgr(&["dump", "journal", "--volume", "none"]).code(4);
    rig.mgr(&["dump", "slots", "--volume", "db"]).code(2);

    // The second copy of a label rots.
    OpenOptions::new().write(true).open(&disks[0]).and_then(|f| f.write_all_at(&[0xee], (64 << 10) + 200)).expect("a file");
    let said = rig.mgr(&["dump", "label"]).ok().out;
    assert_eq!(said.matches("DAMAGED: ").count(), 1, "{said}");
    assert!(said.lines().any(|l| l.starts_with(&format!("{} 0x0000010000", disks[0])) && l.contains("checksum")), "{said}");
}
