//! Reading: pin the slots, plan, read all pieces in parallel, look at the lease again. Takes no lock.

use super::io::{Pieces, Place, middle, push_piece, read_pieces_into};
use super::view::{MapView, Pin};
use super::{Mode, Volume, blocks_within, cut};
use crate::control::Control;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::Result;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{AuSize, DiskAu, PAGE_U64, VolAu};
use fusevol_shared::wire::data::Claim;
use smallvec::SmallVec;
use std::ops::Range;

/// Appends the pieces of `within` (bytes of one AU that lies `at`, ours by `claim`; `None`: no space), holes where `written` has no block.
pub(crate) fn plan_au(size: AuSize, at: Option<(DiskAu, BlockMask)>, claim: Claim, within: Range<u64>, pieces: &mut Pieces) {
    let Some((at, written)) = at else {
        return push_piece(pieces, None, within.end - within.start);
    };
    for b in blocks_within(size, &within) {
        let block = u64::from(b) * size.block_bytes();
        let (start, end) = (within.start.max(block), within.end.min(block + size.block_bytes()));
        let place = written.has(b).then(|| Place { disk: at.disk, at: at.au.start(size).plus(start), claim });
        push_piece(pieces, place, end - start);
    }
}

/// The AUs of one read; most have one.
pub(super) type Pins<'a> = SmallVec<[Option<Pin<'a>>; 2]>;

/// What is to be read where for `bytes` of the volume, with `choose` among the copies of an AU. It holds while the pins are held.
pub(super) fn plan_read<'v>(
    view: &'v MapView,
    size: AuSize,
    volume: VolumeId,
    bytes: Range<u64>,
    mut choose: impl FnMut(VolAu, &Pin<'_>) -> DiskAu,
) -> (Pins<'v>, Pieces) {
    let (mut pins, mut pieces) = (Pins::new(), Pieces::new());
    for (au, within) in cut(size, bytes) {
        let pin = view.pin(au);
        plan_au(size, pin.as_ref().map(|p| (choose(au, p), p.written())), Claim::Live { volume, au }, within, &mut pieces);
        pins.push(pin);
    }
    (pins, pieces)
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Bytes `off..off + len`; shorter where the volume ends, empty past its end. Any alignment.
    ///
    /// # Errors
    /// `Io` where a disk of these bytes failed or is missing; `Lapsed` where the lease did not come back.
    pub async fn read(&self, off: u64, len: usize) -> Result<IoBuf> {
        self.check_open()?;
        let bytes = self.present(off, len);
        if bytes.is_empty() {
            return Ok(IoBuf::zeroed(0));
        }
        let outer = whole_pages(&bytes);
        let buf = IoBuf::zeroed(usize::try_from(outer.end - outer.start).expect("a request is far smaller than memory"));
        let (read, buf) = self.read_pages(outer.clone(), buf).await;
        read.map(|()| middle(buf, bytes.start - outer.start, bytes.end - bytes.start))
    }

    /// The same into the front of `buf`, which is given back whole; how many bytes. Whole pages go from the disk to `buf` without a copy.
    ///
    /// # Errors
    /// As [`Volume::read`].
    pub async fn read_into(&self, off: u64, len: usize, mut buf: IoBuf) -> (Result<usize>, IoBuf) {
        let bytes = self.present(off, len.min(buf.len()));
        let n = usize::try_from(bytes.end - bytes.start).expect("within a buffer");
        if n > 0 && whole_pages(&bytes) == bytes && !self.is_closed() {
            let (read, buf) = self.read_pages(bytes, buf).await;
            return (read.map(|()| n), buf);
        }
        match Box::pin(self.read(off, n)).await {
            Ok(part) => {
                buf[..part.len()].copy_from_slice(&part);
                (Ok(part.len()), buf)
            }
            Err(e) => (Err(e), buf),
        }
    }

    /// What there is of `off..off + len`.
    fn present(&self, off: u64, len: usize) -> Range<u64> {
        let end = off.saturating_add(len as u64).min(self.size);
        off.min(end)..end
    }

    /// Reads whole pages into the front of `buf`, which is given back whole.
    async fn read_pages(&self, bytes: Range<u64>, buf: IoBuf) -> (Result<()>, IoBuf) {
        if let Err(e) = self.engine.lease.wait().await {
            return (Err(e), buf);
        }
        self.copying.pace.use_it();
        let version = self.legs.out.version();
        let mut spread = false;
        let choose = |au: VolAu, pin: &Pin<'_>| {
            let at = self.copy_to_read(au, pin);
            spread |= at != pin.source(&self.legs.out);
            at
        };
        let (pins, pieces) = plan_read(&self.view, self.engine.au_size, self.id, bytes.clone(), choose);
        // A detach says that it has begun before it empties the map: who was overtaken sees it here, and takes no AU for a hole.
        if let Err(e) = self.check_open() {
            return (Err(e), buf);
        }
        let (read, buf) = read_pieces_into(&self.engine.disks, &pieces, buf).await;
        drop(pins);
        match read {
            Ok(()) if self.legs.out.version() == version && !(spread && self.is_dirty(&bytes)) => (self.engine.lease.wait().await, buf),
            Err(e) if !self.legs.is_mirrored() => (Err(e), buf),
            // From the copies one by one, the first one first.
            _ => Box::pin(self.read_elsewhere(bytes, buf)).await,
        }
    }

    /// Which copy of an AU is read: the first one in sync (R3). A writer spreads its reads over all of them where none is being written.
    fn copy_to_read(&self, au: VolAu, pin: &Pin<'_>) -> DiskAu {
        let slot = pin.slot();
        let first = slot.source(&self.legs.out);
        let beside = self.mode == Mode::Read || slot.is_fresh() || self.regions.is_dirty(au.region());
        if !slot.has_more() || beside && sentence::holds(Tag::R3) {
            return first;
        }
        let usable = || slot.in_sync().filter(|at| !self.legs.out.has(at.disk));
        let n = usable().count().max(1);
        usable().nth(au.0 as usize % n).unwrap_or(first)
    }

    fn is_dirty(&self, bytes: &Range<u64>) -> bool {
        let mut aus = self.aus_of(bytes).map(VolAu);
        sentence::holds(Tag::R3) && aus.any(|au| self.regions.is_dirty(au.region()) || self.view.get(au).is_some_and(|s| s.is_fresh()))
    }
}

/// The pages that these bytes touch.
pub(crate) fn whole_pages(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / PAGE_U64 * PAGE_U64..bytes.end.next_multiple_of(PAGE_U64)
}
