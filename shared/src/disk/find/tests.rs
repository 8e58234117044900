//! Labels decide: swapped, missing, copied, damaged and foreign disks.

use super::*;
use crate::disk::fault::{Fault, FaultDisk, Ops, Rule};
use crate::disk::mem::MemDisk;
use crate::disk::ring::block_on;
use crate::format::label::{CatalogCopy, CatalogPointer, Instance, LabelState};
use crate::format::layout::{DISK_MIN, LABEL_1, Layout};
use crate::ids::{Generation, Seq};
use crate::name::Name;
use crate::units::AuSize;
use std::fs::File;
use std::os::unix::fs::FileExt;

const POOL: PoolId = PoolId([1; 16]);

fn disk_id(n: u8) -> DiskId {
    DiskId([n; 16])
}

fn label_of(pool: PoolId, n: u8) -> DiskLabel {
    let no = DiskNo(u16::from(n));
    DiskLabel {
        pool,
        pool_name: Name::new("san1").unwrap(),
        disk: disk_id(n),
        no,
        au_size: AuSize::DEFAULT,
        aus: Layout::for_disk(AuSize::DEFAULT, DISK_MIN).unwrap().aus,
        state: LabelState::Member,
        generation: Generation(1),
        writer: Instance([7; 16]),
        seq: Seq(1),
        set: vec![CatalogCopy { disk: disk_id(n), no }],
        pointer: CatalogPointer { area: 0, first_seq: Seq(1), quarantine: [None; 4] },
    }
}

/// A file of the smallest size with the label of disk `n`.
fn labelled(path: &Path, pool: PoolId, n: u8) {
    let (file, label) = (File::create(path).unwrap(), label_of(pool, n));
    file.set_len(DISK_MIN).unwrap();
    for at in label.layout().labels() {
        file.write_all_at(&label.encode(at), at.0).unwrap();
    }
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn glob(&self, pattern: &str) -> Places {
        Places { globs: vec![self.path(pattern).display().to_string()], scan: false }
    }
}

fn wanted(n: u8, paths: &[&Path]) -> Wanted {
    Wanted { no: DiskNo(u16::from(n)), id: disk_id(n), paths: paths.iter().map(|p| Address::from(*p)).collect() }
}

fn find_one(w: Wanted, places: &Places) -> Found {
    block_on(find(POOL, &[w], places, OpenMode::ReadWrite)).remove(0)
}

fn path_of(found: Found) -> PathBuf {
    match found {
        Found::Here(here) => match here.disk.address() {
            Address::Path(path) => path,
            Address::Nbd(uri) => panic!("{uri}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn labels_decide_not_paths() {
    let dir = Dir::new();
    let (a, b) = (dir.path("a.img"), dir.path("b.img"));
    labelled(&a, POOL, 2);
    labelled(&b, POOL, 1);
    // The known paths are swapped.
    let all = [wanted(1, &[&a]), wanted(2, &[&b])];
    let found = block_on(find(POOL, &all, &Places::default(), OpenMode::Read));
    assert_eq!(found.into_iter().map(path_of).collect::<Vec<_>>(), [b.clone(), a]);
    assert_eq!(path_of(find_one(wanted(1, &[]), &dir.glob("?.im*"))), b);
}

#[test]
fn missing_says_what_is_there_instead() {
    let dir = Dir::new();
    let (other_pool, foreign, gone) = (dir.path("p.img"), dir.path("x.img"), dir.path("none"));
    labelled(&other_pool, PoolId([2; 16]), 1);
    let file = File::create(&foreign).unwrap();
    file.set_len(DISK_MIN).unwrap();
    file.write_all_at(b"XFSB", 0).unwrap();
    let Found::Missing(why) = find_one(wanted(1, &[&other_pool, &foreign, &gone]), &Places::default()) else { panic!("it is nowhere") };
    for part in ["of pool san1 (02020202", "an xfs filesystem", "No such file"] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn a_copy_beside_the_disk_is_refused_naming_both() {
    let dir = Dir::new();
    let (a, b) = (dir.path("a.img"), dir.path("copy.img"));
    labelled(&a, POOL, 1);
    std::fs::copy(&a, &b).unwrap();
    let Found::Refused(why) = find_one(wanted(1, &[&a]), &dir.glob("*.img")) else { panic!("a copy") };
    assert!(why.contains("a.img") && why.contains("copy.img"), "{why}");
    assert_eq!(path_of(find_one(wanted(1, &[&a]), &Places::default())), a, "a copy that nobody showed is not looked for");
}

#[test]
fn two_names_of_one_disk_are_fine() {
    let dir = Dir::new();
    let (a, link, hard) = (dir.path("a.img"), dir.path("link"), dir.path("hard"));
    labelled(&a, POOL, 1);
    std::os::unix::fs::symlink(&a, &link).unwrap();
    std::fs::hard_link(&a, &hard).unwrap();
    assert_eq!(path_of(find_one(wanted(1, &[&a, &link]), &dir.glob("h*"))), hard, "the user's own choice");
    assert!(same_medium(&a, &link) && same_medium(&a, &hard));
}

#[test]
fn a_damaged_copy_is_said_and_another_used() {
    let dir = Dir::new();
    let a = dir.path("a.img");
    labelled(&a, POOL, 1);
    let file = File::options().write(true).open(&a).unwrap();
    file.write_all_at(&[0xff; 100], 100).unwrap();
    let Found::Here(here) = find_one(wanted(1, &[&a]), &Places::default()) else { panic!("two copies are left") };
    assert_eq!(here.notes.len(), 1);
    assert!(here.notes[0].contains("label copy 0"), "{:?}", here.notes);
    for at in here.label.layout().labels() {
        file.write_all_at(&[0xff; 100], at.0 + 100).unwrap();
    }
    let Found::Missing(why) = find_one(wanted(1, &[&a]), &Places::default()) else { panic!("no copy is left") };
    assert!(why.contains("label"), "{why}");
}

#[test]
fn another_number_is_refused() {
    let dir = Dir::new();
    let a = dir.path("a.img");
    labelled(&a, POOL, 1);
    let w = Wanted { no: DiskNo(9), ..wanted(1, &[&a]) };
    assert!(matches!(find_one(w, &Places::default()), Found::Refused(why) if why.contains("number 1")));
}

#[test]
fn confirm_believes_this_disk_only() {
    let (disk, label) = (MemDisk::new(DISK_MIN), label_of(POOL, 1));
    assert_eq!(block_on(confirm(&disk, POOL, disk_id(1))).unwrap_err().kind(), Kind::Refused);
    label.layout().labels().into_iter().for_each(|at| disk.poke(at, &label.encode(at)));
    assert_eq!(block_on(confirm(&disk, POOL, disk_id(1))).unwrap(), (label.clone(), vec![]));
    for (pool, id) in [(PoolId([2; 16]), disk_id(1)), (POOL, disk_id(2))] {
        assert_eq!(block_on(confirm(&disk, pool, id)).unwrap_err().kind(), Kind::Refused);
    }
    let faulty = FaultDisk::new(disk);
    let fail = Rule::on(Ops::READ, Fault::Fail(libc::EIO, crate::disk::Answer::NotReturned));
    let one_place = faulty.faults().add(fail.clone().within(0..LABEL_1.0));
    assert_eq!(block_on(confirm(&faulty, POOL, disk_id(1))).unwrap().1.len(), 1, "one copy cannot be read, and is said");
    faulty.faults().remove(one_place);
    faulty.faults().add(fail);
    assert_eq!(block_on(confirm(&faulty, POOL, disk_id(1))).unwrap_err().kind(), Kind::Io);
}

fn seen(path: &str, source: Source, identity: Identity) -> Seen {
    let finding = Ok(Finding::Label(Box::new(label_of(POOL, 1)), Vec::new()));
    let medium = Some(Medium::Node(identity));
    Seen { path: path.parse().unwrap(), source, identity: Some(identity), size: DISK_MIN, finding, medium, lower: Vec::new() }
}

#[test]
fn paths_of_one_lun_are_one_disk_and_multipath_is_preferred() {
    let path =
        |n: u64, name: &str, source| Seen { medium: Some(Medium::Named("naa.5".into(), 0)), ..seen(name, source, Identity::Block(n)) };
    let (a, b) = (path(1, "/dev/sda", Source::Known), path(2, "/dev/sdb", Source::Scanned));
    assert_eq!(choose(POOL, &wanted(1, &[]), &[b.clone(), a.clone()]), Choice::Use(1), "the known one");
    let lower = vec![Identity::Block(1), Identity::Block(2)];
    let multipath = Seen { lower, ..seen("/dev/dm-0", Source::Scanned, Identity::Block(9)) };
    assert_eq!(choose(POOL, &wanted(1, &[]), &[a.clone(), b.clone(), multipath]), Choice::Use(2));
    let copy = Seen { medium: Some(Medium::Named("naa.6".into(), 0)), ..seen("/dev/sdc", Source::Given, Identity::Block(3)) };
    assert!(
        matches!(choose(POOL, &wanted(1, &[]), &[a, b, copy]), Choice::Refused(why) if why.contains("/dev/sda and") || why.contains("and /dev/sda"))
    );
}

#[test]
fn paths_that_only_a_multipath_device_joins_are_one_disk() {
    let (a, b) = (seen("/dev/sda", Source::Scanned, Identity::Block(1)), seen("/dev/sdb", Source::Scanned, Identity::Block(2)));
    assert!(matches!(choose(POOL, &wanted(1, &[]), &[a.clone(), b.clone()]), Choice::Refused(_)), "nothing says that they are one");
    let lower = vec![Identity::Block(1), Identity::Block(2)];
    let multipath = Seen { lower, ..seen("/dev/dm-0", Source::Scanned, Identity::Block(9)) };
    assert_eq!(choose(POOL, &wanted(1, &[]), &[a, b, multipath]), Choice::Use(2));
}

#[test]
fn patterns() {
    for (pattern, name, fits) in [
        ("*", "x", true),
        ("a*b*c", "aXbbYc", true),
        ("a*b*c", "aXbbY", false),
        ("?", "é", true),
        ("?", "", false),
        ("a", "ab", false),
        ("*.img", "d0.img", true),
    ] {
        assert_eq!(host::fits(pattern, name), fits, "{pattern} {name}");
    }
    assert_eq!(host::expand("/no/such/file"), [PathBuf::from("/no/such/file")]);
    assert_eq!(host::expand("/proc/sel?/stat*").first(), Some(&PathBuf::from("/proc/self/stat")));
}

#[test]
fn a_loop_device_and_its_file_are_one_disk() {
    let dir = Dir::new();
    let a = dir.path("a.img");
    labelled(&a, POOL, 1);
    let Some(device) = crate::disk::file::tests::Loop::attach(&a) else {
        eprintln!("no loop device here: not tried");
        return;
    };
    let both = Places { globs: vec![device.0.display().to_string()], scan: false };
    assert_eq!(path_of(find_one(wanted(1, &[&a]), &both)), device.0);
    let scanned = Places { globs: Vec::new(), scan: true };
    assert_eq!(path_of(find_one(wanted(1, &[&a]), &scanned)), a);
    assert_eq!(path_of(find_one(wanted(1, &[]), &scanned)), device.0);
}

#[test]
fn a_scan_reads_every_device_of_this_host_and_ends() {
    let seen = block_on(survey(&[], &Places { globs: Vec::new(), scan: true }));
    assert_eq!(seen.len(), seen.iter().map(|s| (s.identity, &s.path)).collect::<std::collections::HashSet<_>>().len());
    assert!(seen.len() <= block_devices().len());
}
