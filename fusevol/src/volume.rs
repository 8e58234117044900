//! A volume that this process has attached: bytes in, bytes out, at any offset and length.
//!
//! Ways through it (each in its own file): [`read`](Volume::read), [`write`](Volume::write), [`flush`](Volume::flush),
//! [`discard`](Volume::discard), the sparse answers, the hold for a snapshot, attach and detach.
//!
//! Who excludes whom:
//!
//! | | read | write | discard | flush | hold, detach |
//! |---|---|---|---|---|---|
//! | read | beside | beside | a discard that gives an AU back waits for its readers | beside | beside |
//! | write | | same blocks: in order | same AUs: in order | beside | in order |
//! | discard | | | same AUs: in order | beside | in order |
//! | flush | | | | in rounds: callers share one | its own round |
//!
//! Order in which things are taken: range guard, flush round, turn (pages of the ledger and discards on their way to the
//! journal), preserve log, journal, grants, folds. Never the other way round.
//!
//! The manager is asked for space ahead ([`grant`]) and told afterwards ([`tend`]); no write, flush or discard waits for it
//! while the reserve and the journal have room.
//!
//! Invariants: a block is read from disk only where it is written; the lease is valid before anything is submitted and
//! before anything is acknowledged; a block that a snapshot needs is overwritten only after it is preserved; a region is marked in
//! the journal before it is written; an AU that left the map is not touched again; an error of one disk hits the I/O concerned alone.

mod attach;
#[doc(hidden)]
pub mod bench;
mod copier;
mod counters;
mod discard;
mod elsewhere;
mod flush;
mod grant;
mod guard;
mod hold;
mod io;
mod ledger;
mod legs;
mod mark;
mod moved;
mod overwrite;
mod read;
mod regions;
mod reserve;
mod segment;
mod sparse;
mod tend;
mod view;
mod write;

use crate::control::Control;
use crate::disks::{Dirty, Disks};
use crate::journal::JournalLog;
use crate::lease::Lease;
use crate::out::Outs;
use crate::preserve::PreserveLog;
use crate::slot::Slot;
use crate::stale::Stale;
pub(crate) use attach::fetch_map;
pub use copier::Progress;
pub use counters::Counters;
pub(crate) use elsewhere::{Copies, read_any};
use flush::Rounds;
use fusevol_shared::change::WhenFull;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{FenceToken, MapVersion, PoolId, Seq, SessionNo, VolumeEpoch, VolumeId};
use fusevol_shared::units::{AuSize, VolAu, VolOff};
use guard::RangeGuard;
pub use hold::Held;
pub(crate) use io::{Pieces, middle, read_pieces_into};
use ledger::Ledger;
use legs::Legs;
use moved::Late;
pub(crate) use read::{plan_au, whole_pages};
use regions::Regions;
use reserve::Reserve;
pub use sparse::Extent;
pub(crate) use sparse::seek;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use view::MapView;
use view::entries;

/// What every volume and snapshot of a session shares.
pub struct Engine<D, C> {
    /// The open disks.
    pub disks: Arc<Disks<D>>,
    /// The way to the manager.
    pub control: Arc<C>,
    /// The session's lease.
    pub lease: Arc<Lease>,
    /// The session's slot: its SEAL is read before anything is acknowledged.
    pub slot: Arc<Slot>,
    /// The pool.
    pub pool: PoolId,
    /// The session's number.
    pub session: SessionNo,
    /// The pool's AU size.
    pub au_size: AuSize,
    /// Volumes that could not be given back.
    pub unsettled: Unsettled<D, C>,
    /// What the kernel may hold and must not give any more.
    pub stale: Arc<Stale>,
    /// The disks that are out, for each map that is read.
    pub outs: Arc<Outs>,
}

/// Journals of attachments that ended here and not at the manager, which could not be told: each is settled before its volume is
/// attached again, or by the end of the session. (A second life of the same attachment would begin its journal anew, over it.)
pub type Unsettled<D, C> = Arc<Mutex<std::collections::BTreeMap<VolumeId, Arc<JournalLog<D, C>>>>>;

impl<D, C> Clone for Engine<D, C> {
    fn clone(&self) -> Self {
        Self {
            disks: self.disks.clone(),
            control: self.control.clone(),
            lease: self.lease.clone(),
            slot: self.slot.clone(),
            pool: self.pool,
            session: self.session,
            au_size: self.au_size,
            unsettled: self.unsettled.clone(),
            stale: self.stale.clone(),
            outs: self.outs.clone(),
        }
    }
}

/// How a volume is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Reads only; follows the writer's map by pushes.
    Read,
    /// The only writer.
    Write,
}

/// An attached volume. Shared by all threads; each awaits in its own executor.
pub struct Volume<D, C> {
    engine: Engine<D, C>,
    id: VolumeId,
    mode: Mode,
    token: FenceToken,
    /// Of the map when it was attached: changes of an older one are not for this attachment.
    version: MapVersion,
    size: u64,
    view: MapView,
    /// In blocks of the volume.
    guard: RangeGuard,
    ledger: Ledger,
    late: Late,
    dirty: Dirty,
    rounds: Rounds,
    /// Who brings pages of the ledger, or a discard, to the journal.
    turn: tokio::sync::Mutex<()>,
    reserve: Reserve,
    grants: tokio::sync::Mutex<grant::Grants>,
    /// None for a reader.
    journal: Option<Arc<JournalLog<D, C>>>,
    regions: Regions,
    /// The current one.
    epoch: AtomicU64,
    /// The last flip under this attachment, and the number of its append.
    flipped: Mutex<Option<(VolumeEpoch, Seq)>>,
    /// Number of the next preserve segment.
    next_segment: AtomicU32,
    when_full: WhenFull,
    /// There are snapshots to preserve for.
    snapshots: AtomicBool,
    /// There may be snapshots, broken ones too: places of theirs name AUs.
    has_snapshots: AtomicBool,
    /// One breaks the snapshots at a time.
    breaking: tokio::sync::Mutex<()>,
    /// Snapshots were broken under this attachment.
    broken: AtomicBool,
    preserved: PreserveLog,
    legs: Legs,
    copying: copier::Copying,
    /// Changes of a reader's map so far.
    changes: Mutex<u64>,
    /// The preserve log has a segment of which it is not known that its append was before any SEAL: that is looked at before it is used.
    unseen: AtomicBool,
    /// The map here is ahead of what the journal could be told: nothing is written under this attachment any more.
    poisoned: AtomicBool,
    /// Detached: nothing goes through any more.
    closed: AtomicBool,
    /// Who tends it is to end.
    ended: Notify,
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// How it is attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The attachment's token.
    #[must_use]
    pub fn token(&self) -> FenceToken {
        self.token
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in a block: the grain of sparseness.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.engine.au_size.block_bytes()
    }

    /// Bytes of memory that its map takes.
    #[must_use]
    pub fn map_bytes(&self) -> usize {
        self.view.bytes()
    }

    /// Whether it is detached.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn check_open(&self) -> Result<()> {
        match self.is_closed() {
            true => Err(Error::new(Kind::Lapsed, "the volume is not attached any more").hint("open it again")),
            false => Ok(()),
        }
    }

    fn log(&self) -> Result<&JournalLog<D, C>> {
        self.journal.as_deref().ok_or_else(|| Error::new(Kind::Denied, "the volume is attached for reading only"))
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::SeqCst);
    }

    fn last_flip(&self) -> Option<(VolumeEpoch, Seq)> {
        *self.flipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_flipped(&self, epoch: VolumeEpoch, seq: Seq) {
        self.epoch.store(epoch.0, Ordering::SeqCst);
        *self.flipped.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, seq));
    }

    fn check_writable(&self) -> Result<()> {
        if self.poisoned.load(Ordering::SeqCst) {
            let e = Error::new(Kind::Io, "the journal of this attachment failed in the midst of a discard");
            return Err(e.hint("close the volume and open it again"));
        }
        match self.mode {
            Mode::Write => self.check_open(),
            Mode::Read => Err(Error::new(Kind::Denied, "the volume is attached for reading only")),
        }
    }

    /// `off..off + len`, if it lies within the volume.
    fn bounds(&self, off: u64, len: u64) -> Result<Range<u64>> {
        match off.checked_add(len) {
            Some(end) if end <= self.size => Ok(off..end),
            _ => Err(Error::new(Kind::Refused, format!("{len} bytes at {off} are past the end of the volume ({} bytes)", self.size))),
        }
    }

    /// The blocks that a byte range touches.
    fn blocks_of(&self, bytes: &Range<u64>) -> Range<u64> {
        bytes.start / self.block_size()..bytes.end.div_ceil(self.block_size())
    }

    /// A byte range cut at AU borders: the AU, and the bytes within it.
    fn cut(&self, bytes: Range<u64>) -> impl Iterator<Item = (VolAu, Range<u64>)> + use<D, C> {
        cut(self.engine.au_size, bytes)
    }
}

/// A byte range cut at AU borders: the AU, and the bytes within it.
pub(crate) fn cut(size: AuSize, bytes: Range<u64>) -> impl Iterator<Item = (VolAu, Range<u64>)> {
    let mut at = bytes.start;
    std::iter::from_fn(move || {
        if at >= bytes.end {
            return None;
        }
        let within = VolOff(at).within_au(size);
        let n = (size.bytes() - within).min(bytes.end - at);
        let au = VolOff(at).au(size);
        at += n;
        Some((au, within..within + n))
    })
}

/// The blocks of an AU that a byte range within it touches.
pub(crate) fn blocks_within(size: AuSize, bytes: &Range<u64>) -> Range<u32> {
    let block = |b: u64| u32::try_from(b).expect("an AU has 64 blocks");
    block(bytes.start / size.block_bytes())..block(bytes.end.div_ceil(size.block_bytes()))
}
