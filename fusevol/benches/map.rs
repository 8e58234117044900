//! What the map costs a request: look-ups and plans, and scans of the written masks. No disk, no manager.
//!
//! `cargo bench -p fusevol --bench map`
//!
//! Each case says first what it must answer, so that a fast wrong one is not measured. The map of a look-up is larger than the caches of
//! most processors, and is asked at random, in an order that is made before.

use criterion::{Criterion, Throughput};
use fusevol::volume::bench::Map;
use fusevol_shared::map::{Leg, MapEntry};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{AuNo, AuSize, DiskAu, DiskNo, VolAu};
use std::hint::black_box;
use std::ops::Range;

const MIB: u64 = 1 << 20;
/// A volume of 4 TiB.
const AUS: u32 = 4 << 20;
/// A volume that is scanned from one end to the other.
const SCANNED: u32 = 1024;
/// Requests that a case goes through in turn.
const REQUESTS: usize = 1 << 16;
/// Every other block: no two neighbours are alike.
const TORN: u64 = 0x5555_5555_5555_5555;

fn entry(au: u32, written: u64) -> (VolAu, MapEntry) {
    let at = DiskAu { disk: DiskNo(0), au: AuNo(au) };
    (VolAu(au), MapEntry::new(&[Leg::single(at)], BlockMask(written)).expect("one leg"))
}

/// All written, neighbours on disk.
fn whole(aus: u32) -> Map {
    Map::new(AuSize::DEFAULT, aus, (0..aus).map(|au| entry(au, u64::MAX)))
}

/// All written, no two neighbours of the volume are neighbours on disk.
fn scattered(aus: u32) -> Map {
    let apart = |au: u32| (VolAu(au), entry(au * 2, u64::MAX).1);
    Map::new(AuSize::DEFAULT, aus, (0..aus).map(apart))
}

/// `len` bytes at a random multiple of `step`, so that they end within the volume.
fn requests(len: u64, step: u64, shift: u64) -> Vec<Range<u64>> {
    let mut random = SeededRandom(4);
    let places = (u64::from(AUS) * MIB - len - shift) / step;
    let mut one = || random.below(places) * step + shift;
    (0..REQUESTS).map(|_| one()).map(|at| at..at + len).collect()
}

fn in_turn(c: &mut Criterion, name: &str, requests: &[Range<u64>], expect: usize, plan: impl Fn(Range<u64>) -> usize) {
    assert!(requests.iter().all(|r| plan(r.clone()) == expect), "{name}: not {expect} I/Os");
    let mut all = requests.iter().cycle().cloned();
    c.bench_function(name, |b| b.iter(|| plan(black_box(all.next().expect("it goes round")))));
}

fn plans(c: &mut Criterion) {
    let (near, far) = (whole(AUS), scattered(AUS));
    println!("{} bytes an AU", near.bytes() as f64 / f64::from(AUS));
    let small = requests(4096, 4096, 0);
    // A request of 1 MiB that begins in the middle of an AU.
    let large = requests(MIB, MIB, MIB / 2);
    let write = |map: &Map, r| map.plan_write(r).expect("all AUs have space");
    in_turn(c, "read 4 KiB", &small, 1, |r| near.plan_read(r));
    in_turn(c, "write 4 KiB", &small, 1, |r| write(&near, r));
    in_turn(c, "read 1 MiB over a border, neighbours", &large, 1, |r| near.plan_read(r));
    in_turn(c, "read 1 MiB over a border, apart", &large, 2, |r| far.plan_read(r));
    in_turn(c, "write 1 MiB over a border, neighbours", &large, 1, |r| write(&near, r));
    in_turn(c, "write 1 MiB over a border, apart", &large, 2, |r| write(&far, r));
}

/// How many runs of written blocks a volume has, as a program finds them that copies it.
fn runs(map: &Map) -> u64 {
    let (mut at, mut found) = (0, 0);
    while let Some(data) = map.seek(at, true) {
        found += 1;
        let Some(hole) = map.seek(data, false) else { break };
        at = hole;
    }
    found
}

fn scans(c: &mut Criterion) {
    let torn = Map::new(AuSize::DEFAULT, SCANNED, (0..SCANNED).map(|au| entry(au, TORN)));
    // Space everywhere, and nothing written but the last block.
    let last = |au| if au == AUS - 1 { 1 << 63 } else { 0 };
    let empty = Map::new(AuSize::DEFAULT, AUS, (0..AUS).map(|au| entry(au, last(au))));
    let blocks = u64::from(SCANNED) * 64;
    assert_eq!((runs(&torn), torn.extents().len() as u64), (blocks / 2, blocks));
    assert_eq!(empty.seek(0, true), Some(u64::from(AUS) * MIB - MIB / 64));
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Elements(u64::from(SCANNED)));
    group.bench_function("data and holes, every other block", |b| b.iter(|| runs(black_box(&torn))));
    group.bench_function("extents, every other block", |b| b.iter(|| black_box(&torn).extents()));
    group.throughput(Throughput::Elements(u64::from(AUS)));
    group.sample_size(10);
    group.bench_function("to the last block of 4 TiB", |b| b.iter(|| black_box(&empty).seek(0, true)));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    plans(&mut criterion);
    scans(&mut criterion);
    criterion.final_summary();
}
