//! Ratios, goals and the file of a small report.

use super::super::goals::{GOALS, Mark};
use super::*;

fn sample(target: TargetKind, work: &str, round: u32, ios: u64) -> Sample {
    let figures = Figures { ios, bytes: ios << 12, seconds: 2.0, fsyncs: 0, p50_us: 1.0, p99_us: 2.0, p999_us: 3.0, cpu_us: 4.0 };
    Sample { disk: DiskKind::File, target, work: work.to_owned(), round, figures }
}

fn report(samples: Vec<Sample>) -> Report {
    let machine = Machine { kernel: "6".into(), fio: "fio-3".into(), qemu: "10".into(), fusevol: "abc".into(), cpus: 2, load: 0.5 };
    let (date, command) = ("2026-01-01T00:00:00Z".to_owned(), "bench data".to_owned());
    Report { schema: SCHEMA, date, command, machine, size: 1 << 30, seconds: 2, rounds: 2, samples, left_out: vec![] }
}

#[test]
fn ratios_and_goals() {
    use TargetKind::{Raw, Uring};
    let report = report(vec![
        sample(Raw, "randread-qd1", 1, 1000),
        sample(Uring, "randread-qd1", 1, 900),
        sample(Raw, "randread-qd1", 2, 100),
        sample(Uring, "randread-qd1", 2, 80),
        sample(Uring, "overwrite", 1, 1000),
        sample(Uring, "aftersnap", 1, 290),
    ]);
    let file = DiskKind::File;
    assert_eq!(report.rates(file, Raw, "randread-qd1"), [(1, 500.0), (2, 50.0)]);
    let reached: Vec<_> =
        GOALS.iter().map(|g| (g.work, g.mark(report.reached(file, Uring, g)))).filter(|(_, m)| *m != Mark::Unknown).collect();
    assert_eq!(reached, [("randread-qd1", Mark::Met), ("aftersnap", Mark::Missed)]);
    assert_eq!(report.disks(), [file]);
    assert!(report.ratio(DiskKind::Loop, Uring, "randread-qd1", Against::Target(Raw)).is_none());
}

#[test]
fn streams_are_in_bytes() {
    let mut s = sample(TargetKind::Raw, "seqread", 1, 10);
    s.figures.bytes = 100 << 20;
    assert!((s.rate() - 50.0).abs() < 1e-9);
}

#[test]
fn a_file_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("r.json");
    let report = report(vec![sample(TargetKind::QsdQcow2, "newplaces", 1, 7)]);
    report.save(&path).expect("it is written");
    assert_eq!(Report::load(&path).expect("it is read"), report);
    std::fs::write(&path, "{\"schema\": 9}").expect("written");
    assert!(Report::load(&path).is_err());
}
