//! Golden bytes of owner records and SEALs.

use super::*;
use crate::format::envelope::HEADER;
use crate::units::PAGE;

const POOL: PoolId = PoolId([1; 16]);
const DISK: DiskId = DiskId([2; 16]);

fn record() -> OwnerRecord {
    OwnerRecord {
        generation: Generation(9),
        instance: Instance([3; 16]),
        boot: BootId([4; 16]),
        host: "nodeA".to_owned(),
        pid: 77,
        state: OwnerState::Serving,
        area: 2,
        lease: Duration::from_secs(10),
        beat: Seq(5),
    }
}

#[test]
fn golden_bytes_of_an_owner_record() {
    let page = record().encode(POOL, DISK);
    let mut body = vec![3; 16];
    body.extend([4; 16]);
    body.extend([2, 2, 5, 0, 77, 0, 0, 0, 0x10, 0x27, 0, 0, 0, 0, 0, 0]);
    body.extend(b"nodeA");
    body.resize(48 + 64 + 128, 0);
    assert_eq!(page[HEADER..HEADER + body.len()], body);
    assert_eq!(page[8..12], [2, 0, 1, 0]);
    assert_eq!(page[48..56], ((128u64 << 10) + 8192).to_le_bytes());
    assert_eq!(page.len(), PAGE);
    assert_eq!(OwnerRecord::decode(&page, POOL, DISK, 1), Ok(record()));
    assert!(OwnerRecord::decode(&page, POOL, DISK, 2).is_err());
    assert!(OwnerRecord::decode(&page, POOL, DiskId([9; 16]), 1).is_err());
}

#[test]
fn golden_bytes_of_a_seal() {
    let sealed = Seal { generation: Generation(9), instance: Instance([3; 16]), by: Some(Generation(10)) };
    let page = sealed.encode(POOL, DISK);
    let mut body = vec![3; 16];
    body.extend([10, 0, 0, 0, 0, 0, 0, 0]);
    body.extend([0; 128]);
    assert_eq!(page[HEADER..HEADER + body.len()], body);
    assert_eq!(page[8..12], [3, 0, 1, 0]);
    assert_eq!(Seal::decode(&page, POOL, DISK, 1), Ok(sealed));
}

#[test]
fn only_its_own_clear_seal_lets_a_manager_go_on() {
    let (g, me) = (Generation(9), Instance([3; 16]));
    let clear = Seal { generation: g, instance: me, by: None };
    assert!(clear.is_clear_for(g, me));
    assert!(!clear.is_clear_for(Generation(1), me));
    assert!(!clear.is_clear_for(g, Instance([4; 16])));
    assert!(!Seal { by: Some(Generation(10)), ..clear }.is_clear_for(g, me));
}

#[test]
fn a_long_host_name_is_cut_at_a_character() {
    let host = "é".repeat(40);
    let page = OwnerRecord { host, ..record() }.encode(POOL, DISK);
    assert_eq!(OwnerRecord::decode(&page, POOL, DISK, 1).map(|r| r.host), Ok("é".repeat(32)));
}
