//! Where the journal's next frame goes, and the writes of frames on every copy.

use crate::disks::{Disks, io_error};
use fusevol_shared::change::Journal;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Result};
use fusevol_shared::format::journal::{Body, JournalId, half_bytes, half_of};
use fusevol_shared::format::preserve::At;
use fusevol_shared::units::{AuSize, DiskAu, DiskNo};
use fusevol_shared::wire::data::Claim;
use futures_util::future::join_all;
use std::collections::BTreeSet;

/// The place of a journal and how far it is written. Only the leader has it.
pub(super) struct Halves {
    pub journal: Journal,
    /// Of the half that is written; 0 before the first state.
    pub turn: u64,
    pos: u64,
    /// A frame did not come to its end on some copy: nothing is written here any more.
    pub failed: bool,
    /// The disks of those copies.
    pub bad: Vec<DiskNo>,
}

/// Whether frames of so many bytes go into one half.
pub(super) fn fits(size: AuSize, bytes: u64) -> bool {
    bytes <= half_bytes(size)
}

impl Halves {
    pub fn new(journal: Journal) -> Self {
        Self { journal, turn: 0, pos: 0, failed: false, bad: Vec::new() }
    }

    /// Bytes of the current half in use.
    pub fn used(&self) -> u64 {
        self.pos
    }

    /// Whether a frame of `len` bytes goes into the current half.
    pub fn has_room(&self, size: AuSize, len: u64) -> bool {
        self.turn > 0 && fits(size, self.pos + len)
    }

    /// No copy on these disks is written any more: where others are left, it counts as failed.
    pub fn leave(&mut self, avoid: &BTreeSet<DiskNo>) {
        let (bad, good): (Vec<DiskNo>, Vec<DiskNo>) = self.journal.copies.iter().map(|c| c.first.disk).partition(|no| avoid.contains(no));
        if !bad.is_empty() && !good.is_empty() {
            self.failed = true;
            self.bad.extend(bad);
            self.bad.sort_unstable();
            self.bad.dedup();
        }
    }

    /// This disk may have a copy again: a journal that has one copy counts as failed, so that the next one has more.
    pub fn returned(&mut self, no: DiskNo) {
        self.bad.retain(|bad| *bad != no);
        self.failed |= self.journal.copies.len() < 2;
    }

    /// Writes an append behind the last one.
    pub async fn append<D: Disk>(&mut self, disks: &Disks<D>, size: AuSize, id: &JournalId, body: &Body) -> Result<()> {
        let pos = self.pos;
        self.failed = true; // until it is known to be durable
        // Also where it fails: what may have landed there is not written over.
        self.pos += body.frame_len() as u64;
        self.on_every_copy(disks, size, id, self.turn, pos, body).await?;
        self.failed = false;
        Ok(())
    }

    /// Begins the next half with this state, which names the turn after the current one.
    pub async fn begin<D: Disk>(&mut self, disks: &Disks<D>, size: AuSize, id: &JournalId, body: &Body) -> Result<()> {
        self.failed = true;
        self.on_every_copy(disks, size, id, self.turn + 1, 0, body).await?;
        (self.turn, self.pos, self.failed) = (self.turn + 1, body.frame_len() as u64, false);
        Ok(())
    }

    async fn on_every_copy<D: Disk>(
        &mut self,
        disks: &Disks<D>,
        size: AuSize,
        id: &JournalId,
        turn: u64,
        pos: u64,
        body: &Body,
    ) -> Result<()> {
        let places: Vec<DiskAu> = self.journal.copies.iter().map(|c| c.halves()[half_of(turn)]).collect();
        let writes = places.iter().map(|place| async move {
            let disk = disks.get(place.disk).map_err(|e| (Some(place.disk), e))?;
            let direct = disk.path().direct().is_some();
            let off = place.au.start(size).plus(pos);
            let mut frame = IoBuf::zeroed(body.frame_len());
            body.seal_into(id, At { disk: disk.id(), off }, &mut frame);
            disk.write_durable(off, frame.freeze(), Claim::Journal { volume: id.volume }).await.map_err(|e| {
                // Where only the path failed the next journal may lie on this disk again: it is written through the manager.
                let lost = direct && disk.path().direct().is_none();
                ((!lost).then_some(place.disk), io_error(place.disk, e).within("journal"))
            })
        });
        let failed: Vec<(Option<DiskNo>, Error)> = join_all(writes).await.into_iter().filter_map(std::result::Result::err).collect();
        self.bad.extend(failed.iter().filter_map(|(no, _)| *no));
        failed.into_iter().next().map_or(Ok(()), |(_, e)| Err(e))
    }
}
