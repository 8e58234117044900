//! Golden bytes of a label, and whose a disk is found to be.

use super::*;

const SIZE: u64 = 64 << 20;

fn label() -> DiskLabel {
    DiskLabel {
        pool: PoolId([1; 16]),
        pool_name: Name::new("san1").expect("a name"),
        disk: DiskId([2; 16]),
        no: DiskNo(3),
        au_size: AuSize::DEFAULT,
        aus: 64,
        state: LabelState::Member,
        generation: Generation(5),
        writer: Instance([6; 16]),
        seq: Seq(7),
        set: vec![CatalogCopy { disk: DiskId([2; 16]), no: DiskNo(3) }, CatalogCopy { disk: DiskId([8; 16]), no: DiskNo(9) }],
        pointer: CatalogPointer {
            area: 1,
            first_seq: Seq(10),
            quarantine: [None, None, Some(Quarantine { generation: Generation(4), boot: BootId([11; 16]) }), None],
        },
    }
}

fn probe_of(copies: [Option<&DiskLabel>; 3]) -> Probe {
    let mut p = Probe { size: SIZE, head: vec![0; sniff::HEAD], last: Vec::new(), tail: vec![0; sniff::TAIL] };
    for (at, l) in label().layout().labels().into_iter().zip(copies) {
        let page = l.map_or(vec![0; PAGE], |l| l.encode(at));
        match usize::try_from(at.0).ok().filter(|a| *a < sniff::HEAD) {
            Some(a) => p.head[a..a + PAGE].copy_from_slice(&page),
            None => p.last.push((at, page)),
        }
    }
    p
}

#[test]
fn golden_bytes() {
    let mut body = vec![2, 20, 3, 0, 64, 0, 0, 0];
    body.extend([6; 16]);
    body.push(4);
    body.extend(b"san1");
    body.resize(24 + 64, 0);
    body.extend([2, 1, 0, 0, 0, 0, 0, 0]);
    body.extend(10u64.to_le_bytes());
    for (id, no) in [(2, 3), (8, 9), (0, 0)] {
        body.extend([id; 16]);
        body.extend([no, 0, 0, 0, 0, 0, 0, 0]);
    }
    for (generation, boot) in [(0u64, 0), (0, 0), (4, 11), (0, 0)] {
        body.extend(generation.to_le_bytes());
        body.extend([boot; 16]);
    }
    body.extend([0; 256]);
    let page = label().encode(LABEL_1);
    assert_eq!(page.len(), PAGE);
    assert_eq!(page[72..76], u32::try_from(body.len()).expect("small").to_le_bytes());
    assert_eq!(page[envelope::HEADER..envelope::HEADER + body.len()], body);
    assert_eq!(page[12..16], 0xd4de_24f4u32.to_le_bytes());
    assert_eq!(DiskLabel::decode(&page, LABEL_1), Ok(label()));
}

#[test]
fn the_newest_copy_is_the_label() {
    let (old, new) = (label(), DiskLabel { seq: Seq(8), ..label() });
    let zombie = DiskLabel { generation: Generation(4), seq: Seq(99), ..label() };
    for copies in [[Some(&old), Some(&new), Some(&old)], [Some(&zombie), None, Some(&new)], [Some(&new), Some(&zombie), Some(&zombie)]] {
        let Finding::Label(l, said) = examine(&probe_of(copies)) else { panic!("a label") };
        assert_eq!(*l, new);
        assert_eq!(said.len(), copies.iter().filter(|c| c.is_none()).count());
    }
}

#[test]
fn one_copy_is_enough_and_none_is_damaged() {
    let l = label();
    let mut p = probe_of([Some(&l), Some(&l), Some(&l)]);
    p.head[100] ^= 1;
    p.head[65536 + 200] ^= 1;
    let Finding::Label(found, said) = examine(&p) else { panic!("the third copy is whole") };
    assert_eq!((*found, said.len()), (l.clone(), 2));
    p.last[0].1[300] ^= 1;
    assert!(matches!(examine(&p), Finding::Damaged(_)));
    p.last.clear();
    assert!(matches!(examine(&p), Finding::Damaged(_)));
}

#[test]
fn a_copy_from_another_place_or_disk_is_not_believed() {
    let l = label();
    let mut p = probe_of([None, None, None]);
    p.head[..PAGE].copy_from_slice(&l.encode(LABEL_1));
    assert!(matches!(examine(&p), Finding::Damaged(_)));
    let other = DiskLabel { disk: DiskId([77; 16]), ..label() };
    assert!(matches!(examine(&probe_of([Some(&l), Some(&other), Some(&l)])), Finding::Damaged(_)));
    let shrunk = Probe { size: SIZE - 1, ..probe_of([Some(&l), Some(&l), None]) };
    assert!(matches!(examine(&shrunk), Finding::Damaged(_)));
}

#[test]
fn nobodys_and_someone_elses() {
    assert_eq!(examine(&probe_of([None, None, None])), Finding::Blank);
    assert_eq!(examine(&Probe::default()), Finding::Blank);
    let mut p = probe_of([None, None, None]);
    p.head[0x438..0x43a].copy_from_slice(b"\x53\xef");
    assert_eq!(examine(&p), Finding::Foreign("an ext2, ext3 or ext4 filesystem"));
}

#[test]
fn fields_that_make_no_sense_are_refused() {
    let good = label().encode(DiskOff(0));
    // (payload byte, value): state, AU size, name length, set length, area.
    for (at, v) in [(0, 0), (0, 3), (1, 17), (1, 27), (4, 1), (24, 0), (24, 64), (25, b'/'), (88, 0), (88, 4), (89, 4)] {
        let mut payload = good[envelope::HEADER..envelope::HEADER + size_of::<RawLabel>()].to_vec();
        payload[at] = v;
        let l = label();
        let head = Head { kind: BlockKind::Label, pool: l.pool, disk: l.disk, at: DiskOff(0), generation: l.generation, seq: l.seq };
        let found = DiskLabel::decode(&envelope::seal(&head, &payload), DiskOff(0));
        assert!(matches!(found, Err(LabelFlaw::Field(_))), "byte {at} = {v}: {found:?}");
    }
}
