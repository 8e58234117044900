//! Golden bytes, and every way for a block to be wrong.

use super::*;

fn head() -> Head {
    Head {
        kind: BlockKind::Catalog,
        pool: PoolId([0x11; 16]),
        disk: DiskId([0x22; 16]),
        at: DiskOff(0x1_2345_6000),
        generation: Generation(7),
        seq: Seq(0x0102_0304_0506_0708),
    }
}

fn place() -> Place {
    let h = head();
    Place { kind: h.kind, pool: Some(h.pool), disk: Some(h.disk), at: h.at }
}

#[test]
fn golden_bytes() {
    let b = seal(&head(), b"payload");
    assert_eq!(b.len(), PAGE);
    let mut want = Vec::new();
    want.extend(b"fusevol\n");
    want.extend([4, 0, 1, 0]);
    want.extend(0x0fb1_b1f9u32.to_le_bytes());
    want.extend([0x11; 16]);
    want.extend([0x22; 16]);
    want.extend([0x00, 0x60, 0x45, 0x23, 0x01, 0, 0, 0]);
    want.extend([7, 0, 0, 0, 0, 0, 0, 0]);
    want.extend([8, 7, 6, 5, 4, 3, 2, 1]);
    want.extend([7, 0, 0, 0]);
    want.extend([0; 20]);
    assert_eq!(want.len(), HEADER);
    want.extend(b"payload");
    want.resize(PAGE, 0);
    assert!(b == want, "{:?}", &b[..HEADER]);
}

#[test]
fn opens_what_it_sealed_of_any_length() {
    for n in [0, 1, PAGE_PAYLOAD, PAGE_PAYLOAD + 1, 3 * PAGE, 1 << 20] {
        let payload: Vec<u8> = (0..n).map(|i| u8::try_from(i % 251).expect("below 251")).collect();
        let b = seal(&head(), &payload);
        assert_eq!(b.len(), frame_len(n));
        assert_eq!(claimed_len(&b[..PAGE]), Ok(b.len()));
        assert_eq!(open(&b, &place()).map(|k| (k.head, k.payload.to_vec())), Ok((head(), payload)));
        assert!(open(&b[..b.len() - 1], &place()).is_err());
    }
}

#[test]
fn every_bit_counts() {
    let b = seal(&head(), &[0xA5; 300]);
    for at in (0..b.len()).step_by(7).chain(0..HEADER) {
        let mut bad = b.clone();
        bad[at] ^= 0x10;
        assert!(open(&bad, &place()).is_err(), "byte {at}");
    }
}

#[test]
fn torn_at_any_sector_is_not_whole() {
    let (old, new) = (seal(&Head { seq: Seq(1), ..head() }, &[1; 3000]), seal(&head(), &[2; 3000]));
    for mask in 1u32..255 {
        let mut torn = old.clone();
        for s in (0..8).filter(|s| mask >> s & 1 == 1) {
            torn[s * 512..(s + 1) * 512].copy_from_slice(&new[s * 512..(s + 1) * 512]);
        }
        // The last two sectors are zeros in both: taking or leaving them makes no difference.
        let whole = torn == old || torn == new;
        assert_eq!(open(&torn, &place()).is_ok(), whole, "{mask:#b}");
    }
}

#[test]
fn says_which_flaw() {
    let b = seal(&head(), b"x");
    let other = |f: fn(&mut Place)| {
        let mut p = place();
        f(&mut p);
        open(&b, &p).map(|_| ()).expect_err("not there")
    };
    assert_eq!(other(|p| p.kind = BlockKind::Label), Flaw::Kind(4));
    assert_eq!(other(|p| p.pool = Some(PoolId([9; 16]))), Flaw::Pool(PoolId([0x11; 16])));
    assert_eq!(other(|p| p.disk = Some(DiskId([9; 16]))), Flaw::Elsewhere(DiskId([0x22; 16]), head().at));
    assert_eq!(other(|p| p.at = DiskOff(0)), Flaw::Elsewhere(DiskId([0x22; 16]), head().at));
    assert_eq!(open(&[0; PAGE], &place()), Err(Flaw::NotOurs));
    assert_eq!(open(&[], &place()), Err(Flaw::NotOurs));
    let mut huge = b.clone();
    huge[72..76].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(open(&huge, &place()), Err(Flaw::Length(u32::MAX)));
    let mut newer = b;
    newer[10] = 2;
    let crc = checksum(&newer);
    newer[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(open(&newer, &place()), Err(Flaw::Version(2)));
}
