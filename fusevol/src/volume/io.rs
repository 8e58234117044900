//! Pieces of one request on disks: neighbours are one I/O, all go in parallel, the lease is looked at first.

use super::view::Slot;
use super::{Volume, cut};
use crate::control::Control;
use crate::disks::{Disks, io_error};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, Disk, DiskError};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::VolumeId;
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{AuSize, DiskNo, DiskOff, VolAu};
use fusevol_shared::wire::data::Claim;
use futures_util::future::{self, join_all};
use smallvec::SmallVec;
use std::ops::Range;

/// Where a piece of a request lies; `None`: it is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Which disk.
    pub disk: DiskNo,
    /// Where on it.
    pub at: DiskOff,
    /// Why it is ours: of its first AU, where it goes over several.
    pub claim: Claim,
}

/// A piece of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Where.
    pub place: Option<Place>,
    /// Bytes.
    pub len: u64,
}

/// The pieces of one request; most have one.
pub(crate) type Pieces = SmallVec<[Piece; 2]>;

/// Appends a piece, as part of the last one where both lie side by side.
pub(crate) fn push_piece(pieces: &mut Pieces, place: Option<Place>, len: u64) {
    if let Some(last) = pieces.last_mut() {
        let follows = match (last.place, place) {
            (None, None) => true,
            (Some(a), Some(b)) => a.disk == b.disk && a.at.plus(last.len) == b.at,
            _ => false,
        };
        if follows {
            last.len += len;
            return;
        }
    }
    pieces.push(Piece { place, len });
}

/// Reads the pieces, side by side, into one new buffer. Holes are zeros.
pub(crate) async fn read_pieces<D: Disk>(disks: &Disks<D>, pieces: &[Piece]) -> Result<IoBuf> {
    let total: u64 = pieces.iter().map(|p| p.len).sum();
    let buf = IoBuf::zeroed(usize::try_from(total).expect("a request is far smaller than memory"));
    let (read, buf) = read_pieces_into(disks, pieces, buf).await;
    read.map(|()| buf)
}

/// The same into the front of `buf`, which is given back whole.
pub(crate) async fn read_pieces_into<D: Disk>(disks: &Disks<D>, pieces: &[Piece], buf: IoBuf) -> (Result<()>, IoBuf) {
    match pieces {
        [] => (Ok(()), buf),
        [one] => {
            let mut head = buf;
            let tail = cut_off(&mut head, one.len);
            let (read, mut head) = read_piece(disks, one, head).await;
            join(&mut head, tail);
            (read, head)
        }
        many => Box::pin(read_many(disks, many, buf)).await,
    }
}

/// Leaves the first `len` bytes in `head`; gives the rest.
fn cut_off(head: &mut IoBuf, len: u64) -> IoBuf {
    let len = usize::try_from(len).expect("within a buffer");
    let first = head.split_to(len);
    std::mem::replace(head, first)
}

fn join(head: &mut IoBuf, tail: IoBuf) {
    head.rejoin(tail).expect("the parts were split off one buffer in this order");
}

async fn read_piece<D: Disk>(disks: &Disks<D>, piece: &Piece, mut buf: IoBuf) -> (Result<()>, IoBuf) {
    let Some(place) = piece.place else {
        buf.fill(0);
        return (Ok(()), buf);
    };
    let member = match disks.get(place.disk) {
        Ok(member) => member,
        Err(e) => return (Err(e), buf),
    };
    let (read, buf) = member.read(place.at, buf, place.claim).await;
    (read.map_err(|e| io_error(place.disk, e)), buf)
}

async fn read_many<D: Disk>(disks: &Disks<D>, pieces: &[Piece], buf: IoBuf) -> (Result<()>, IoBuf) {
    let mut rest = buf;
    let parts: Vec<_> = pieces
        .iter()
        .map(|piece| {
            let tail = cut_off(&mut rest, piece.len);
            (piece, std::mem::replace(&mut rest, tail))
        })
        .collect();
    let results = join_all(parts.into_iter().map(|(piece, buf)| read_piece(disks, piece, buf))).await;
    let mut out: Option<IoBuf> = None;
    let mut read = Ok(());
    for (result, part) in results {
        read = read.and(result);
        match &mut out {
            None => out = Some(part),
            Some(head) => join(head, part),
        }
    }
    let Some(mut head) = out else { return (read, rest) };
    join(&mut head, rest);
    (read, head)
}

/// The first `skip` bytes off, then `len` bytes.
pub(crate) fn middle(mut buf: IoBuf, skip: u64, len: u64) -> IoBuf {
    let n = |x: u64| usize::try_from(x).expect("within a buffer");
    drop(buf.split_to(n(skip)));
    buf.split_to(n(len))
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Writes `data` at byte `start` of the volume, to every leg of the slots of its AUs. When it returns without an
    /// error all disks have it, and are marked dirty.
    pub(super) async fn put(&self, slots: &[Slot<'_>], start: u64, data: &IoBytes) -> Result<()> {
        self.engine.lease.wait().await?;
        let writes = plan_writes(self.engine.au_size, self.id, slots, start..start + data.len() as u64);
        match &writes[..] {
            [] => return Err(Error::new(Kind::Internal, "an AU without a copy in sync")),
            [one] => self.put_one(one, data).await.map_err(|f| f.error)?,
            [one, other] => {
                let done = future::join(self.put_one(one, data), self.put_one(other, data)).await;
                if done.0.is_err() || done.1.is_err() {
                    Box::pin(self.put_failed(slots, &writes, vec![done.0, done.1])).await?;
                }
            }
            many => {
                let done = Box::pin(join_all(many.iter().map(|w| self.put_one(w, data)))).await;
                if done.iter().any(std::result::Result::is_err) {
                    Box::pin(self.put_failed(slots, &writes, done)).await?;
                }
            }
        }
        self.settled().await
    }

    /// What failed on one copy is not written there any more, where another has it.
    async fn put_failed(&self, slots: &[Slot<'_>], writes: &[Run], done: Vec<std::result::Result<(), NotWritten>>) -> Result<()> {
        let failed: Vec<(DiskNo, NotWritten)> =
            writes.iter().zip(done).filter_map(|((place, ..), r)| Some((place.disk, r.err()?))).collect();
        let bad: Vec<DiskNo> = failed.iter().map(|(no, _)| *no).collect();
        let have_others = Self::have_others(slots, &bad);
        for (no, f) in failed {
            if !have_others {
                return Err(f.error);
            }
            self.lose_leg(no, &f.error.to_string()).await?;
            // What did not return may still land: its AU gets another place, and the write is made anew.
            if f.late {
                return Err(f.error);
            }
        }
        Ok(())
    }

    async fn put_one(&self, (place, from, len): &Run, data: &IoBytes) -> std::result::Result<(), NotWritten> {
        let disk = self.engine.disks.get(place.disk).map_err(|error| NotWritten { error, late: false })?;
        let done = disk.write(place.at, data.slice(*from, *len), place.claim).await;
        match done {
            Ok(unflushed) => {
                if let Some(submitted) = unflushed {
                    self.dirty.mark(place.disk, submitted);
                }
                Ok(())
            }
            Err(e) => Err(self.not_written(place, *len, e)),
        }
    }

    /// What was not answered may still land: its AUs are late.
    pub(super) fn not_written(&self, place: &Place, len: usize, e: DiskError) -> NotWritten {
        let late = e.answer == Answer::NotReturned && sentence::holds(Tag::P1);
        if late && let Claim::Live { au, .. } = place.claim {
            let size = self.engine.au_size;
            let last = (place.at.0 % size.bytes() + len as u64 - 1) / size.bytes();
            let last = u32::try_from(last).expect("a request is far smaller than 2^32 AUs");
            self.late.add((au.0..=au.0 + last).map(VolAu));
        }
        NotWritten { error: io_error(place.disk, e), late }
    }
}

/// A write that failed on one disk.
pub(super) struct NotWritten {
    pub error: Error,
    /// Its AUs are late.
    late: bool,
}

/// What goes to a disk at once: where, from which byte of the data on, how many.
pub(super) type Run = (Place, usize, usize);
/// Those of one write; most have one.
pub(super) type Runs = SmallVec<[Run; 2]>;

/// What is to be written where for `bytes`, which lie in these AUs: one run for neighbours on each leg.
pub(super) fn plan_writes(size: AuSize, volume: VolumeId, slots: &[Slot<'_>], bytes: Range<u64>) -> Runs {
    let n = |x: u64| usize::try_from(x).expect("within a buffer");
    let mut out = Runs::new();
    let legs = slots.iter().map(|s| s.in_sync().count()).max().unwrap_or(0);
    for leg in 0..legs {
        let mut from = 0;
        let first = out.len();
        for ((au, within), slot) in cut(size, bytes.clone()).zip(slots) {
            let len = within.end - within.start;
            if let Some(l) = slot.in_sync().nth(leg) {
                let place = Place { disk: l.disk, at: l.au.start(size).plus(within.start), claim: Claim::Live { volume, au } };
                let joined =
                    out[first..].last_mut().filter(|(p, f, n)| p.disk == place.disk && p.at.plus(*n as u64) == place.at && *f + *n == from);
                match joined {
                    Some(last) => last.2 += n(len),
                    None => out.push((place, from, n(len))),
                }
            }
            from += n(len);
        }
    }
    out
}
