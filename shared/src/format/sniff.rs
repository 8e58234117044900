//! Whose a disk is that carries no label of ours: the signatures of partition tables, volume managers, filesystems and
//! images, as their own on-disk formats define them (libblkid knows the same places). Whatever is found keeps us from
//! writing; a disk without any of them counts as blank.

/// Bytes from the start of the disk that hold every signature looked for there.
pub const HEAD: usize = 256 << 10;
/// Bytes up to the end of the disk that hold every signature looked for there.
pub const TAIL: usize = 128 << 10;

/// A signature at a fixed byte from the start.
const AT_START: &[(usize, &[u8], &str)] = &[
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (0, b"LABELONE", "an LVM2 physical volume"),
    (512, b"LABELONE", "an LVM2 physical volume"),
    (1024, b"LABELONE", "an LVM2 physical volume"),
    (1536, b"LABELONE", "an LVM2 physical volume"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 filesystem"),
    (0, b"XFSB", "an xfs filesystem"),
    (0x10040, b"_BHRfS_M", "a btrfs filesystem"),
    (4096 - 10, b"SWAPSPACE2", "a swap area"),
    (4096 - 10, b"SWAP-SPACE", "a swap area"),
    (16384 - 10, b"SWAPSPACE2", "a swap area"),
    (65536 - 10, b"SWAPSPACE2", "a swap area"),
    (4096 - 10, b"S1SUSPEND\0", "a hibernated system"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"),
    (4120, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "a bcachefs filesystem"),
    (0x400, b"\x10\x20\xf5\xf2", "an f2fs filesystem"),
    (0x400, b"\xe2\xe1\xf5\xe0", "an erofs filesystem"),
    (0, b"hsqs", "a squashfs filesystem"),
    (3, b"NTFS    ", "an NTFS filesystem"),
    (3, b"EXFAT   ", "an exFAT filesystem"),
    (0x36, b"FAT12   ", "a FAT filesystem"),
    (0x36, b"FAT16   ", "a FAT filesystem"),
    (0x52, b"FAT32   ", "a FAT filesystem"),
    (32769, b"CD001", "an ISO 9660 image"),
    (65536, b"\x01\x16\x19\x70", "a GFS2 filesystem"),
    (1024, b"OCFSV2", "an OCFS2 filesystem"),
    (2048, b"OCFSV2", "an OCFS2 filesystem"),
    (4096, b"OCFSV2", "an OCFS2 filesystem"),
    (8192, b"OCFSV2", "an OCFS2 filesystem"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0, b"dmvdo001", "a VDO volume"),
    (516, b"!Stra0tis", "a Stratis pool member"),
    (0, b"bluestore block device", "a Ceph BlueStore device"),
    // Last: boot sectors of filesystems carry it too, and are named above.
    (510, b"\x55\xaa", "an MBR partition table"),
];

/// A signature at a fixed byte before the end.
const BEFORE_END: &[(usize, &[u8], &str)] = &[
    (512, b"EFI PART", "a GPT partition table (its backup)"),
    (4096, b"EFI PART", "a GPT partition table (its backup)"),
    (8192, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (12288, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (65536, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
];

/// zfs: the uberblocks lie at 128 KiB of each label, one a KiB at least; magic 0x00bab10c in either byte order.
const ZFS: [&[u8]; 2] = [b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c"];

/// What the disk carries, if its first bytes `head` (up to [`HEAD`]) or its last bytes `tail` (up to [`TAIL`]) show it.
#[must_use]
pub fn foreign(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    let zfs = |area: &[u8]| area.chunks(1024).any(|c| ZFS.iter().any(|m| c.starts_with(m)));
    // The uberblocks of the last label end with the disk.
    if head.get(HEAD / 2..).is_some_and(zfs) || zfs(tail) {
        return Some("a member of a zfs pool");
    }
    let (_, _, what) = AT_START
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|b| b.starts_with(magic)))
        .or_else(|| BEFORE_END.iter().find(|(back, magic, _)| from_end(tail, *back).is_some_and(|b| b.starts_with(magic))))?;
    Some(what)
}

fn from_end(tail: &[u8], back: usize) -> Option<&[u8]> {
    tail.get(tail.len().checked_sub(back)?..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_each_signature_at_its_place_only() {
        for (at, magic, what) in AT_START {
            let mut head = vec![0; HEAD];
            head[*at..*at + magic.len()].copy_from_slice(magic);
            assert_eq!(foreign(&head, &[]), Some(*what));
            head.rotate_right(13);
            assert_eq!(foreign(&head, &[]), None, "{what} shifted");
        }
        for (back, magic, what) in BEFORE_END {
            let mut tail = vec![0; TAIL];
            tail[TAIL - back..][..magic.len()].copy_from_slice(magic);
            assert_eq!(foreign(&[], &tail), Some(*what));
        }
        let mut head = vec![0; HEAD];
        head[(128 << 10) + 5 * 1024..][..8].copy_from_slice(ZFS[0]);
        assert_eq!(foreign(&head, &[]), Some("a member of a zfs pool"));
    }

    #[test]
    fn blank_and_short_disks_are_nobodys() {
        assert_eq!(foreign(&[], &[]), None);
        assert_eq!(foreign(&vec![0; HEAD], &vec![0; TAIL]), None);
        assert_eq!(foreign(&[0x55], &[0xaa]), None);
    }
}
