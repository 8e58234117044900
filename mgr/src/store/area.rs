//! A catalog area that is being written: where the next unit goes, and its bytes.

use super::door::Door;
use super::group::Group;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::catalog::{self, BLOCK_BYTES, BlockHead, BlockPlace, Role, blocks_for};
use fusevol_shared::format::label::{DiskLabel, Instance};
use fusevol_shared::ids::{Generation, Seq};
use fusevol_shared::units::{DiskOff, PAGE, PAGE_U64};

/// One part in so many of an area is kept for small transactions while the catalog is too large for another area.
const RESERVE: u64 = 16;

/// A unit to be written.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub role: Role,
    pub bytes: &'a [u8],
}

/// Where the log stands.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub no: u8,
    /// Sequence number of page 0.
    pub first_seq: Seq,
    /// Pages, of the smallest copy.
    pub pages: u64,
    /// Next page.
    pub next: u64,
    /// Number of the next unit.
    pub unit: u64,
    /// Pages of the checkpoint.
    pub checkpoint: u64,
}

impl<D: Disk, W: Door<D>> Group<D, W> {
    /// Pages of an area that all these disks have.
    pub fn area_pages(&self, which: &[usize]) -> u64 {
        which.iter().map(|i| self.members[*i].label.layout().area_pages()).min().unwrap_or(0)
    }
}

impl Area {
    pub fn fresh(no: u8, first_seq: Seq, unit: u64, pages: u64) -> Self {
        Self { no, first_seq, pages, next: 0, unit, checkpoint: 0 }
    }

    /// The sequence number that a following area begins with: above every one that this area has or may have had.
    pub fn next_seq(&self) -> Seq {
        Seq(self.first_seq.0 + self.pages)
    }

    fn reserve(&self) -> u64 {
        self.pages / RESERVE
    }

    /// Whether `blocks` more fit without touching the reserve.
    pub fn fits(&self, blocks: u64) -> bool {
        self.next + blocks <= self.pages - self.reserve()
    }

    /// Whether they fit at all.
    pub fn fits_in_reserve(&self, blocks: u64) -> bool {
        self.next + blocks <= self.pages
    }

    /// Whether a checkpoint of these pieces, and room to work, fit in this area.
    pub fn check_fits(&self, pieces: &[Vec<u8>]) -> Result<()> {
        let need: u64 = pieces.iter().map(|p| blocks_for(p.len()) as u64).sum();
        if need + 2 * self.reserve() <= self.pages {
            return Ok(());
        }
        Err(Error::new(Kind::NoSpace, format!("the catalog needs {need} of the {} pages of an area: it does not fit", self.pages))
            .hint("remove snapshots or volumes"))
    }

    pub fn advance(&mut self, blocks: u64) {
        self.next += blocks;
        self.unit += 1;
    }

    /// The bytes of the next unit for the disk with this label, and where they go.
    pub fn lay_out(&self, label: &DiskLabel, generation: Generation, writer: Instance, piece: Piece<'_>) -> (DiskOff, IoBytes) {
        let start = label.layout().area(self.no).expect("areas are chosen below AREAS").plus(self.next * PAGE_U64);
        let parts = blocks_for(piece.bytes.len());
        let mut out = IoBuf::zeroed(parts * PAGE);
        for (part, page) in out.chunks_exact_mut(PAGE).enumerate() {
            let number = |n: usize| u32::try_from(n).expect("a unit has at most UNIT_BLOCKS blocks");
            let head = BlockHead { writer, unit: self.unit, part: number(part), parts: number(parts), role: piece.role };
            let no = self.next + part as u64;
            let place = BlockPlace {
                pool: label.pool,
                disk: label.disk,
                at: start.plus(part as u64 * PAGE_U64),
                generation,
                seq: Seq(self.first_seq.0 + no),
            };
            let bytes = &piece.bytes[part * BLOCK_BYTES..piece.bytes.len().min((part + 1) * BLOCK_BYTES)];
            catalog::encode_into(&head, &place, bytes, page);
        }
        (start, out.freeze())
    }
}
