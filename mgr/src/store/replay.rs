//! Reads a catalog area to its end, from all copies at once.
//!
//! The copies are equal by construction as far as they go: a block of this generation, writer and sequence number was
//! made once. So each page is taken from the first copy that has it valid, and the log ends where *no* copy has. A copy
//! that lacked a page before that end is damaged (or, by its last unit only, behind by the commit that the crash
//! interrupted), and is named.
//!
//! After the end nothing of a *later* unit may follow: the log is appended one unit at a time, each durable before the
//! next, so a later block proves that the unit at the end had been answered and is damaged on every copy. Then the
//! catalog is refused rather than cut. (Proof in the module doc of the store, "Replay".)

use super::door::Door;
use super::group::{Group, Member};
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::catalog::{self, BlockHead, BlockPlace, Role};
use fusevol_shared::format::envelope::Flaw;
use fusevol_shared::format::label::DiskLabel;
use fusevol_shared::units::{DiskOff, PAGE, PAGE_U64};

/// Most blocks of a unit; a larger transaction is written as a checkpoint instead.
pub(super) const UNIT_BLOCKS: u64 = 2048;
/// Pages read from a copy at once.
const BATCH: u64 = 256;

/// A log, read.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// The bytes of its units, in order: the checkpoint's pieces, then the transactions.
    pub units: Vec<Vec<u8>>,
    /// Of them, how many are transactions.
    pub transactions: u64,
    /// Pages of whole units.
    pub pages: u64,
    /// The number that the next unit gets: above any that may have been used.
    pub next_unit: u64,
    /// What is wrong with copies, as sentences.
    pub warnings: Vec<String>,
}

/// One copy of the area, read in batches.
struct Copy<'a, D> {
    member: &'a Member<D>,
    area: DiskOff,
    pages: u64,
    /// First page of the batch in memory.
    first: u64,
    batch: IoBuf,
    /// Pages before the end of the log that this copy did not have.
    lacks: Vec<u64>,
}

impl<D: Disk> Copy<'_, D> {
    /// Reads the batch that begins at `first`; pages that cannot be read are left as zeros.
    async fn load<W: Door<D>>(&mut self, group: &Group<D, W>, index: usize, first: u64) {
        let count = self.pages.saturating_sub(first).min(BATCH);
        let bytes = usize::try_from(count * PAGE_U64).expect("a batch is small");
        self.first = first;
        let at = self.area.plus(first * PAGE_U64);
        if let Some((_, Ok(b))) = group.each(&[index], |m| m.get(at, bytes)).await.pop() {
            self.batch = b;
            return;
        }
        self.batch = IoBuf::zeroed(bytes);
        for (i, place) in (0..count).zip(self.batch.chunks_exact_mut(PAGE)) {
            if let Some((_, Ok(b))) = group.each(&[index], |m| m.get(at.plus(i * PAGE_U64), PAGE)).await.pop() {
                place.copy_from_slice(&b);
            }
        }
    }

    fn page(&self, label: &DiskLabel, no: u64) -> std::result::Result<(BlockHead, &[u8]), Flaw> {
        let from = no.checked_sub(self.first).and_then(|i| usize::try_from(i).ok()).ok_or(Flaw::NotOurs)?;
        let page = self.batch.get(from * PAGE..(from + 1) * PAGE).ok_or(Flaw::NotOurs)?;
        let place = BlockPlace {
            pool: label.pool,
            disk: self.member.label.disk,
            at: self.area.plus(no * PAGE_U64),
            generation: label.generation,
            seq: fusevol_shared::ids::Seq(label.pointer.first_seq.0.wrapping_add(no)),
        };
        catalog::decode(page, &place).and_then(|(h, b)| if h.writer == label.writer { Ok((h, b)) } else { Err(Flaw::NotOurs) })
    }
}

/// The state of the walk over the pages.
#[derive(Default)]
struct Walk {
    out: Replay,
    /// Blocks and bytes of the unit that is not whole yet, with its head.
    open: Option<(BlockHead, Vec<u8>)>,
    /// The checkpoint is whole.
    based: bool,
    /// First page of the unit that was counted last.
    last_began: u64,
}

impl Walk {
    /// Takes the next block; says whether it fits.
    fn take(&mut self, head: BlockHead, bytes: &[u8]) -> bool {
        let fits = match &self.open {
            Some((o, _)) => (head.unit, head.parts, head.role) == (o.unit, o.parts, o.role) && head.part == o.part + 1,
            None => {
                let first = self.out.units.is_empty();
                head.part == 0 && (first || head.unit == self.out.next_unit) && self.based == (head.role == Role::Transaction)
            }
        };
        if !fits || u64::from(head.parts) > UNIT_BLOCKS {
            return false;
        }
        let mut sofar = self.open.take().map_or_else(Vec::new, |(_, b)| b);
        sofar.extend_from_slice(bytes);
        if head.part + 1 < head.parts {
            self.open = Some((head, sofar));
            return true;
        }
        self.based |= head.role == Role::LastPiece;
        self.last_began = self.out.pages;
        self.out.transactions += u64::from(head.role == Role::Transaction);
        self.out.pages += u64::from(head.parts);
        self.out.next_unit = head.unit + 1;
        self.out.units.push(sofar);
        true
    }
}

/// Reads the area that `label` points to on these disks.
///
/// # Errors
/// `Damaged` where no copy has the whole checkpoint, or where an answered transaction is lost on all copies.
pub(super) async fn replay<D: Disk, W: Door<D>>(group: &Group<D, W>, which: &[usize], label: &DiskLabel) -> Result<Replay> {
    let lost = |what: &str| {
        Error::new(Kind::Damaged, format!("the catalog is damaged on every copy: {what}"))
            .hint("nothing was changed; attach the missing catalog disks if there are any")
    };
    let mut copies: Vec<Copy<'_, D>> = Vec::new();
    for i in which {
        let member = &group.members[*i];
        let layout = member.label.layout();
        let area = layout.area(label.pointer.area).ok_or_else(|| lost("its area does not exist"))?;
        copies.push(Copy { member, area, pages: layout.area_pages(), first: 0, batch: IoBuf::zeroed(0), lacks: Vec::new() });
    }
    let end = copies.iter().map(|c| c.pages).max().unwrap_or(0);
    let mut walk = Walk::default();
    let mut no = 0;
    while no < end {
        if no % BATCH == 0 {
            load(&mut copies, group, which, no).await;
        }
        let Some((head, bytes)) = copies.iter().find_map(|c| c.page(label, no).ok()) else { break };
        let bytes = bytes.to_vec();
        if !walk.take(head, &bytes) {
            return Err(lost(&format!("block {no} does not follow from those before it")));
        }
        for c in &mut copies {
            if c.page(label, no).is_err() {
                c.lacks.push(no);
            }
        }
        no += 1;
    }
    if !walk.based {
        return Err(lost("its checkpoint is not whole"));
    }
    let pending = walk.out.next_unit;
    for later in no..end.min(no + 1 + UNIT_BLOCKS) {
        if later % BATCH == 0 {
            load(&mut copies, group, which, later).await;
        }
        if copies.iter().filter_map(|c| c.page(label, later).ok()).any(|(h, _)| h.unit != pending) {
            return Err(lost(&format!("block {no} cannot be read, and others follow it")));
        }
    }
    walk.out.warnings = copies.iter().filter_map(|c| complaint(c, &walk)).collect();
    // A unit of which only parts are there may have been seen by nobody; its number is not used again.
    walk.out.next_unit = pending + 1;
    Ok(walk.out)
}

async fn load<D: Disk, W: Door<D>>(copies: &mut [Copy<'_, D>], group: &Group<D, W>, which: &[usize], first: u64) {
    for (c, i) in copies.iter_mut().zip(which) {
        c.load(group, *i, first).await;
    }
}

fn complaint<D: Disk>(copy: &Copy<'_, D>, walk: &Walk) -> Option<String> {
    let lacks: Vec<u64> = copy.lacks.iter().copied().filter(|p| *p < walk.out.pages).collect();
    let first = lacks.first()?;
    let name = copy.member.name();
    let only_last = *first >= walk.last_began && walk.out.transactions > 0;
    Some(match only_last {
        true => format!("the catalog copy on {name} lacks the last transaction, which was taken from another copy"),
        false => format!(
            "the catalog copy on {name} is damaged ({} blocks, the first is block {first} of the log); another copy was used",
            lacks.len()
        ),
    })
}
