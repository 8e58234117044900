//! The label: who a disk is (pool, disk, size), and where the pool's catalog lies.
//!
//! A disk carries three copies, each a frame of one page at its own place ([`Layout::labels`]). They are written one
//! after the other, each made durable before the next, so that a crash leaves at most one of them torn. The *newest*
//! copy by (generation, sequence) is the label; a copy is believed only where its own address is where it was read.
//!
//! The label is also where the catalog's *set* (the disks that hold its copies) and its *pointer* (which area, from
//! which sequence number on) are recorded: the newest label among all disks of the pool decides (`mgr::store`).
//!
//! States of a label: [`LabelState::Preparing`] while `init` or `disk add` is under way: such a disk belongs to nobody
//! yet, and may be taken again with `force`. Then [`LabelState::Member`].

use super::envelope::{self, BlockKind, Flaw, Head, Place};
use super::layout::{AREAS, LABEL_1, Layout, last_label_candidates};
use super::sniff;
use crate::ids::{BootId, DiskId, Generation, PoolId, Seq};
use crate::name::Name;
use crate::units::{AuSize, DiskNo, DiskOff, PAGE};
use std::fmt;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most copies of the catalog.
pub const CATALOG_COPIES_MAX: usize = 3;

/// How far a disk has come into its pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabelState {
    /// Being made ready: not a member yet.
    Preparing = 1,
    /// A member.
    Member = 2,
}

/// A disk that holds a copy of the catalog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatalogCopy {
    /// Which.
    pub disk: DiskId,
    /// Its number.
    pub no: DiskNo,
}

/// An area into which a manager of the past may still write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quarantine {
    /// The generation of that manager.
    pub generation: Generation,
    /// The boot it ran under: on that boot, a free byte lock ends the quarantine.
    pub boot: BootId,
}

/// Which area holds the catalog, on every disk of the set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatalogPointer {
    /// Number of the area.
    pub area: u8,
    /// Sequence number of its first block.
    pub first_seq: Seq,
    /// Areas that nobody may use.
    pub quarantine: [Option<Quarantine>; AREAS as usize],
}

/// Identity of one manager process: random, chosen at its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instance(pub [u8; 16]);

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What a label says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskLabel {
    /// The pool.
    pub pool: PoolId,
    /// Its name, for people.
    pub pool_name: Name,
    /// The disk.
    pub disk: DiskId,
    /// Its number in the pool.
    pub no: DiskNo,
    /// The pool's AU size.
    pub au_size: AuSize,
    /// Whole AUs of the disk when it was labelled.
    pub aus: u32,
    /// How far it has come.
    pub state: LabelState,
    /// Generation of the manager that wrote this label; also that of the catalog that it points to.
    pub generation: Generation,
    /// That manager's instance.
    pub writer: Instance,
    /// Counts the labels that this generation wrote.
    pub seq: Seq,
    /// The disks that hold the catalog: 1 to [`CATALOG_COPIES_MAX`].
    pub set: Vec<CatalogCopy>,
    /// Where on them.
    pub pointer: CatalogPointer,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawCopy {
    disk: [u8; 16],
    no: U16,
    reserved: [u8; 6],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawQuarantine {
    generation: U64,
    boot: [u8; 16],
}

/// The payload as it lies on disk, not trusted.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLabel {
    state: u8,
    au_log2: u8,
    no: U16,
    aus: U32,
    writer: [u8; 16],
    name_len: u8,
    name: [u8; 63],
    set_len: u8,
    area: u8,
    reserved: [u8; 6],
    first_seq: U64,
    set: [RawCopy; CATALOG_COPIES_MAX],
    quarantine: [RawQuarantine; AREAS as usize],
    room: [u8; 256],
}

/// Why a copy is no label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabelFlaw {
    /// The block is not whole, or not there.
    Block(Flaw),
    /// The block is whole, but a field makes no sense.
    Field(&'static str),
}

impl fmt::Display for LabelFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelFlaw::Block(flaw) => fmt::Display::fmt(flaw, f),
            LabelFlaw::Field(what) => write!(f, "its {what} makes no sense"),
        }
    }
}

impl DiskLabel {
    /// The disk's layout.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::for_aus(self.au_size, self.aus).expect("checked when the label was made or decoded")
    }

    /// What makes one label newer than another of the same pool.
    #[must_use]
    pub fn age(&self) -> (Generation, Seq) {
        (self.generation, self.seq)
    }

    /// The bytes of the copy that lies at `at`, one page.
    #[must_use]
    pub fn encode(&self, at: DiskOff) -> Vec<u8> {
        let name = self.pool_name.as_str().as_bytes();
        let mut raw = RawLabel {
            state: self.state as u8,
            au_log2: self.au_size.log2(),
            no: self.no.0.into(),
            aus: self.aus.into(),
            writer: self.writer.0,
            name_len: u8::try_from(name.len()).expect("a name has at most 63 bytes"),
            name: [0; 63],
            set_len: u8::try_from(self.set.len()).expect("a set has at most 3 disks"),
            area: self.pointer.area,
            reserved: [0; 6],
            first_seq: self.pointer.first_seq.0.into(),
            set: [RawCopy { disk: [0; 16], no: 0.into(), reserved: [0; 6] }; CATALOG_COPIES_MAX],
            quarantine: [RawQuarantine { generation: 0.into(), boot: [0; 16] }; AREAS as usize],
            room: [0; 256],
        };
        raw.name[..name.len()].copy_from_slice(name);
        for (r, c) in raw.set.iter_mut().zip(&self.set) {
            *r = RawCopy { disk: c.disk.0, no: c.no.0.into(), reserved: [0; 6] };
        }
        for (r, q) in raw.quarantine.iter_mut().zip(&self.pointer.quarantine) {
            if let Some(q) = q {
                *r = RawQuarantine { generation: q.generation.0.into(), boot: q.boot.0 };
            }
        }
        let head = Head { kind: BlockKind::Label, pool: self.pool, disk: self.disk, at, generation: self.generation, seq: self.seq };
        envelope::seal(&head, raw.as_bytes())
    }

    /// The label in `page`, read from `at`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(page: &[u8], at: DiskOff) -> Result<Self, LabelFlaw> {
        let place = Place { kind: BlockKind::Label, pool: None, disk: None, at };
        let block = envelope::open(page, &place).map_err(LabelFlaw::Block)?;
        let raw = RawLabel::ref_from_bytes(block.payload).map_err(|_| LabelFlaw::Field("length"))?;
        let state = match raw.state {
            1 => LabelState::Preparing,
            2 => LabelState::Member,
            _ => return Err(LabelFlaw::Field("state")),
        };
        let au_size = AuSize::from_log2(raw.au_log2).ok_or(LabelFlaw::Field("allocation unit size"))?;
        let layout = Layout::for_aus(au_size, raw.aus.get()).ok_or(LabelFlaw::Field("disk size"))?;
        if !layout.labels().contains(&at) {
            return Err(LabelFlaw::Field("place"));
        }
        let name = raw.name.get(..usize::from(raw.name_len)).and_then(|n| std::str::from_utf8(n).ok());
        let pool_name = name.and_then(|n| Name::new(n).ok()).ok_or(LabelFlaw::Field("pool name"))?;
        let set = raw.set.get(..usize::from(raw.set_len)).filter(|s| !s.is_empty()).ok_or(LabelFlaw::Field("catalog set"))?;
        if raw.area >= AREAS {
            return Err(LabelFlaw::Field("catalog area"));
        }
        let quarantine = raw.quarantine.map(|q| {
            let generation = Generation(q.generation.get());
            (generation.0 != 0).then_some(Quarantine { generation, boot: BootId(q.boot) })
        });
        Ok(Self {
            pool: block.head.pool,
            pool_name,
            disk: block.head.disk,
            no: DiskNo(raw.no.get()),
            au_size,
            aus: raw.aus.get(),
            state,
            generation: block.head.generation,
            writer: Instance(raw.writer),
            seq: block.head.seq,
            set: set.iter().map(|c| CatalogCopy { disk: DiskId(c.disk), no: DiskNo(c.no.get()) }).collect(),
            pointer: CatalogPointer { area: raw.area, first_seq: Seq(raw.first_seq.get()), quarantine },
        })
    }
}

/// What was read of a disk in order to tell whose it is: see [`Probe::places`].
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// Its size in bytes.
    pub size: u64,
    /// Its first [`sniff::HEAD`] bytes (fewer if it is smaller).
    pub head: Vec<u8>,
    /// One page at each of the places where the third copy may lie; those that could not be read are missing.
    pub last: Vec<(DiskOff, Vec<u8>)>,
    /// Its last [`sniff::TAIL`] bytes (fewer if it is smaller).
    pub tail: Vec<u8>,
}

impl Probe {
    /// Where to read one page each for `last`, on a disk of `size` bytes.
    #[must_use]
    pub fn places(size: u64) -> Vec<DiskOff> {
        last_label_candidates(size)
    }
}

/// Whose a disk is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Nobody's: no label, no known signature.
    Blank,
    /// Someone else's: what it carries, as `an xfs filesystem`.
    Foreign(&'static str),
    /// Ours: its newest label, and what is wrong with the other copies, as sentences (empty if nothing is).
    Label(Box<DiskLabel>, Vec<String>),
    /// Ours once, but no copy of the label can be believed: why.
    Damaged(String),
}

/// Tells whose a disk is.
#[must_use]
pub fn examine(probe: &Probe) -> Finding {
    let mut copies: Vec<(DiskOff, &[u8])> = Vec::new();
    for at in [DiskOff(0), LABEL_1] {
        let page = usize::try_from(at.0).ok().and_then(|from| probe.head.get(from..)?.get(..PAGE));
        copies.extend(page.map(|p| (at, p)));
    }
    copies.extend(probe.last.iter().map(|(at, page)| (*at, page.as_slice())));

    let judged: Vec<(DiskOff, Result<DiskLabel, LabelFlaw>)> = copies.iter().map(|(at, p)| (*at, DiskLabel::decode(p, *at))).collect();
    let Some(best) = judged.iter().filter_map(|(_, l)| l.as_ref().ok()).max_by_key(|l| l.age()) else {
        let ours = judged.iter().find_map(|(at, l)| match l {
            Err(LabelFlaw::Block(Flaw::NotOurs)) => None,
            // In the place of a third copy there may lie a data block of an earlier pool.
            Err(LabelFlaw::Block(Flaw::Kind(_) | Flaw::Elsewhere(..))) if at.0 > LABEL_1.0 => None,
            Err(flaw) => Some(Finding::Damaged(format!("no copy of its label can be believed (at byte {at}: {flaw})"))),
            Ok(_) => None,
        });
        return ours.or_else(|| sniff::foreign(&probe.head, &probe.tail).map(Finding::Foreign)).unwrap_or(Finding::Blank);
    };
    if judged.iter().filter_map(|(_, l)| l.as_ref().ok()).any(|l| (l.pool, l.disk) != (best.pool, best.disk)) {
        return Finding::Damaged("its labels speak of different disks".to_owned());
    }
    if u64::from(best.aus) << best.au_size.log2() > probe.size {
        return Finding::Damaged(format!(
            "its label says {} allocation units of {} bytes, but it has only {} bytes",
            best.aus,
            best.au_size.bytes(),
            probe.size
        ));
    }
    let said = best.layout().labels().into_iter().enumerate().filter_map(|(i, at)| match judged.iter().find(|(a, _)| *a == at) {
        Some((_, Ok(_))) => None,
        Some((_, Err(flaw))) => Some(format!("label copy {i} at byte {at} is damaged: {flaw}")),
        None => Some(format!("label copy {i} at byte {at} cannot be read")),
    });
    Finding::Label(Box::new(best.clone()), said.collect())
}

#[cfg(test)]
mod tests;
