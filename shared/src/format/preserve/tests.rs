//! Golden bytes of the preserve log, and what is refused.

use super::*;

fn log() -> LogId {
    LogId {
        pool: PoolId([1; 16]),
        volume: VolumeId([2; 16]),
        session: SessionNo(3),
        token: FenceToken(4),
        segment: 5,
        epoch: VolumeEpoch(6),
    }
}

const AT: At = At { disk: DiskId([7; 16]), off: DiskOff(1 << 20) };

fn kept() -> Vec<Kept> {
    (0..64).map(|b| Kept { at: DiskAu { disk: DiskNo(1), au: AuNo(9) }, block: b, crc: b * 3 }).collect()
}

fn successor() -> Successor {
    let legs = vec![DiskAu { disk: DiskNo(0), au: AuNo(77) }, DiskAu { disk: DiskNo(2), au: AuNo(78) }];
    Successor { next: LogId { segment: 8, epoch: VolumeEpoch(7), ..log() }, legs, records: 12 }
}

#[test]
fn pages_open_as_they_were_sealed() {
    let mut page = [0; PAGE];
    seal_record(&log(), AT, Seq(10), &kept(), &mut page);
    assert_eq!(open_record(&page, &log(), AT), Ok((Seq(10), kept())));
    assert_eq!(open_successor(&page, &log(), AT), Err(NotPreserve::OtherLog));
    seal_successor(&log(), AT, Seq(11), &successor(), &mut page);
    assert_eq!(open_successor(&page, &log(), AT), Ok((Seq(11), successor())));
    assert_eq!(open_record(&page, &log(), AT), Err(NotPreserve::OtherLog));
}

#[test]
fn a_page_of_any_other_log_or_place_is_refused() {
    let mut page = [0; PAGE];
    seal_record(&log(), AT, Seq(10), &kept()[..1], &mut page);
    let others = [
        LogId { volume: VolumeId([0; 16]), ..log() },
        LogId { session: SessionNo(0), ..log() },
        LogId { token: FenceToken(0), ..log() },
        LogId { segment: 0, ..log() },
        LogId { epoch: VolumeEpoch(0), ..log() },
    ];
    for other in others {
        assert_eq!(open_record(&page, &other, AT), Err(NotPreserve::OtherLog));
    }
    assert!(open_record(&page, &LogId { pool: PoolId([0; 16]), ..log() }, AT).is_err());
    assert!(open_record(&page, &log(), At { off: DiskOff(0), ..AT }).is_err());
    assert!(open_record(&page, &log(), At { disk: DiskId([0; 16]), ..AT }).is_err());
    assert!(open_record(&page[..100], &log(), AT).is_err());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut page = [0; PAGE];
    seal_record(&log(), AT, Seq(10), &kept()[..2], &mut page);
    for byte in 0..256 {
        let mut bad = page;
        bad[byte] ^= 0x10;
        assert!(open_record(&bad, &log(), AT).is_err(), "byte {byte}");
    }
}

#[test]
fn records_end_before_the_successor() {
    for log2 in 18..=26 {
        let size = AuSize::from_log2(log2).expect("in range");
        let mut pos = 0;
        loop {
            let n = room(size, pos);
            if n == 0 {
                break;
            }
            assert!(pos + record_len(size, n) <= successor_at(size));
            pos += record_len(size, 1);
        }
        assert!(pos + record_len(size, 1) > successor_at(size));
    }
}

/// Bytes of format version 1: must never change.
#[test]
fn golden_record() {
    let mut page = [0; PAGE];
    seal_record(&log(), AT, Seq(10), &kept()[1..2], &mut page);
    let payload = &page[envelope::HEADER..envelope::HEADER + 60];
    let mut want = vec![1, 0, 0, 0, 1, 0, 0, 0];
    want.extend([2; 16]);
    want.extend([4, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0]);
    want.extend([1, 0, 1, 0, 9, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(payload, want);
}

#[test]
fn golden_successor() {
    let mut page = [0; PAGE];
    seal_successor(&log(), AT, Seq(11), &successor(), &mut page);
    let payload = &page[envelope::HEADER..envelope::HEADER + 80];
    let mut want = vec![2, 0, 0, 0, 2, 0, 0, 0];
    want.extend([2; 16]);
    want.extend([4, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0]);
    want.extend([7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 12, 0, 0, 0]);
    want.extend([0, 0, 0, 0, 77, 0, 0, 0, 2, 0, 0, 0, 78, 0, 0, 0]);
    assert_eq!(payload, want);
}

#[test]
fn a_break_is_one_only_of_its_own_log_and_place() {
    let mut page = vec![0; PAGE];
    seal_break(&log(), AT, Seq(4), &mut page);
    assert!(is_break(&page, &log(), AT));
    assert!(open_successor(&page, &log(), AT).is_err() && open_record(&page, &log(), AT).is_err());
    assert!(!is_break(&page, &LogId { segment: 99, ..log() }, AT));
    assert!(!is_break(&page, &log(), At { off: DiskOff(0), ..AT }));
    page[200] ^= 1;
    assert!(!is_break(&page, &log(), AT));
}
