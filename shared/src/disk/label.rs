//! Reads whose a disk is: gathers the bytes that `format::label` judges.
//!
//! A place that cannot be read counts as a damaged copy; only a disk on which none of them can be read is an error.

use super::buf::IoBuf;
use super::{Disk, DiskError, DiskResult};
use crate::format::label::{Finding, Probe, examine};
use crate::format::layout::LABEL_1;
use crate::format::sniff;
use crate::units::{DiskOff, PAGE, PAGE_U64};

/// Tells whose the disk is.
///
/// # Errors
/// The first error of the disk, if it can be read nowhere that matters.
pub async fn probe<D: Disk>(disk: &D) -> DiskResult<Finding> {
    let size = disk.size() / PAGE_U64 * PAGE_U64;
    let mut probe = Probe { size: disk.size(), ..Probe::default() };
    let mut first_error: Option<DiskError> = None;
    let mut readable = false;

    let head = usize::try_from(size).unwrap_or(usize::MAX).min(sniff::HEAD);
    match read(disk, DiskOff(0), head).await {
        Ok(bytes) => (probe.head, readable) = (bytes, true),
        Err(e) => {
            first_error = Some(e);
            probe.head = vec![0; head];
            for at in [DiskOff(0), LABEL_1] {
                let from = usize::try_from(at.0).expect("the first copies lie in the first MiB");
                let Some(place) = probe.head.get_mut(from..from + PAGE) else { continue };
                if let Ok(page) = read(disk, at, PAGE).await {
                    place.copy_from_slice(&page);
                    readable = true;
                }
            }
        }
    }
    for at in Probe::places(size) {
        if let Ok(page) = read(disk, at, PAGE).await {
            probe.last.push((at, page));
            readable = true;
        }
    }
    let tail = size.min(sniff::TAIL as u64);
    if let (Some(at), Ok(len)) = (size.checked_sub(tail), usize::try_from(tail)) {
        probe.tail = read(disk, DiskOff(at), len).await.unwrap_or_default();
    }
    if let (false, Some(e)) = (readable, first_error) {
        return Err(e);
    }
    let found = examine(&probe);
    // A disk that has grown since it was labelled: the third copy lies where the old end was.
    if let Finding::Label(label, _) = &found {
        let at = label.layout().labels()[2];
        if probe.last.iter().all(|(a, _)| *a != at) {
            probe.last.extend(read(disk, at, PAGE).await.ok().map(|page| (at, page)));
            return Ok(examine(&probe));
        }
    }
    Ok(found)
}

async fn read<D: Disk>(disk: &D, at: DiskOff, len: usize) -> DiskResult<Vec<u8>> {
    let (result, buf) = disk.read(at, IoBuf::zeroed(len)).await;
    result.map(|()| buf.to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::mem::MemDisk;
    use super::super::ring::block_on;
    use super::*;

    #[test]
    fn small_blank_and_foreign_disks() {
        for bytes in [0, 4096, 100_000, 64 << 20] {
            assert_eq!(block_on(probe(&MemDisk::new(bytes))), Ok(Finding::Blank), "{bytes}");
        }
        let disk = MemDisk::new(64 << 20);
        disk.poke(DiskOff(0), b"XFSB");
        assert_eq!(block_on(probe(&disk)), Ok(Finding::Foreign("an xfs filesystem")));
        let disk = MemDisk::new(64 << 20);
        disk.poke(DiskOff((64 << 20) - 512), b"EFI PART");
        assert!(matches!(block_on(probe(&disk)), Ok(Finding::Foreign(_))));
    }
}
