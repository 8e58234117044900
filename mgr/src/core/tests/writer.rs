//! A writer as a client has it: a reserve, a journal on the disks, and what is folded of it.

use super::harness::{Masks, OnDisk, World, masks};
use crate::core::ConnId;
use fusevol_shared::change::{Append, Entry, Places, Region, Segment};
use fusevol_shared::error::WireError;
use fusevol_shared::format::journal::{Tail, mark};
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, VolumeEpoch, VolumeId};
use fusevol_shared::map::{AuMask, Leg, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::{Attached, Detach, Fold, Folded, Grant, NewJournal};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Debug)]
pub struct Writer {
    pub conn: ConnId,
    pub volume: VolumeId,
    pub token: FenceToken,
    pub session: SessionNo,
    pub epoch: VolumeEpoch,
    /// Number of the last append.
    pub last: u64,
    /// Appended and not known to be folded.
    pub unfolded: VecDeque<Append>,
    pub reserve: VecDeque<Vec<DiskAu>>,
    pub next_segment: u32,
    pub grants: u64,
    pub map: Masks,
    /// Where the AUs of the map lie.
    pub places: BTreeMap<VolAu, DiskAu>,
}

pub fn mask(au: u32, blocks: u64) -> AuMask {
    AuMask { au: VolAu(au), blocks: BlockMask(blocks) }
}

impl Writer {
    /// What was just attached: its journal is begun at its first append.
    pub fn new(w: &mut World, conn: ConnId, volume: VolumeId, at: &Attached) -> Self {
        let a = w.shadow.attachment(at.token).expect("stands");
        let v = w.shadow.volume(volume).expect("there");
        let journal = at.journal.first().expect("a writer has a journal").no;
        let tail = Tail { epoch: at.epoch, ..Tail::default() };
        w.disks.journals.entry(at.token).or_insert(OnDisk { no: journal, begun: false, tail, damaged: false });
        Self {
            conn,
            volume,
            token: at.token,
            session: a.session,
            epoch: at.epoch,
            last: a.folded.0,
            unfolded: VecDeque::new(),
            reserve: at.reserve.iter().flat_map(Places::each).collect(),
            next_segment: at.next_segment,
            grants: a.grant,
            map: masks(&v.map),
            places: v.map.iter().map(|(au, e)| (au, e.legs()[0].at)).collect(),
        }
    }

    /// An entry that binds these AUs to places of the reserve.
    pub fn bound(&mut self, aus: impl IntoIterator<Item = u32>) -> Entry {
        let mut runs = Vec::new();
        for au in aus {
            let legs = self.reserve.pop_front().expect("something is in reserve").into_iter().map(Leg::single).collect();
            runs.push(MapRun { first: VolAu(au), legs, written: vec![0] });
        }
        Entry::Bound { runs }
    }

    pub fn next_segment(&mut self) -> Segment {
        let legs = self.reserve.pop_front().expect("something is in reserve");
        self.next_segment += 1;
        let epoch = VolumeEpoch(self.epoch.0 - 1);
        Segment { no: self.next_segment - 1, epoch, token: self.token, session: self.session, legs }
    }

    /// The entry that flips to this epoch.
    pub fn flip(&mut self, w: &World, epoch: VolumeEpoch) -> Entry {
        self.epoch = epoch;
        let dirty = w.disks.journals[&self.token].tail.dirty.clone();
        Entry::Flipped { epoch, segment: self.next_segment(), dirty }
    }

    /// Makes one append durable in the journal on the disks.
    pub fn append(&mut self, w: &mut World, entries: Vec<Entry>) -> Append {
        self.last += 1;
        let append = Append { seq: Seq(self.last), entries };
        let disk = w.disks.journals.get_mut(&self.token).expect("a journal");
        let mut dirty: BTreeSet<Region> = disk.tail.dirty.iter().copied().collect();
        append.entries.iter().for_each(|e| mark(e, &mut disk.tail.epoch, &mut dirty));
        for e in &append.entries {
            self.took(w, e);
        }
        w.truth.live.insert(self.volume, self.map.clone());
        let disk = w.disks.journals.get_mut(&self.token).expect("a journal");
        disk.begun = true;
        disk.tail.dirty = dirty.into_iter().collect();
        disk.tail.last = append.seq;
        disk.tail.appends.push(append.clone());
        self.unfolded.push_back(append.clone());
        append
    }

    /// What a later entry of the same append finds.
    pub fn foresee(&mut self, entry: &Entry) {
        match entry {
            Entry::Bound { runs } => self.map.extend(runs.iter().map(|r| (r.first, BlockMask::NONE))),
            Entry::Discarded { cleared } => {
                cleared.iter().filter(|m| m.blocks == BlockMask::ALL).for_each(|m| _ = self.map.remove(&m.au));
            }
            _ => {}
        }
    }

    fn took(&mut self, w: &mut World, entry: &Entry) {
        match entry {
            Entry::Bound { runs } => {
                self.map.extend(runs.iter().map(|r| (r.first, BlockMask::NONE)));
                self.places.extend(runs.iter().map(|r| (r.first, r.legs[0].at)));
            }
            Entry::Flipped { epoch, .. } => _ = w.truth.flips.insert((self.volume, VolumeEpoch(epoch.0 - 1)), self.map.clone()),
            Entry::Written { masks } => masks.iter().for_each(|m| {
                let e = self.map.get_mut(&m.au).expect("bound");
                *e = e.or(m.blocks);
            }),
            Entry::Discarded { cleared } => cleared.iter().for_each(|m| {
                if m.blocks == BlockMask::ALL {
                    self.map.remove(&m.au);
                    self.places.remove(&m.au);
                } else if let Some(e) = self.map.get_mut(&m.au) {
                    *e = e.minus(m.blocks);
                }
            }),
            _ => {}
        }
    }

    /// The request that folds everything that is not folded.
    pub fn fold_request(&self) -> Option<Fold> {
        let prev = Seq(self.unfolded.front()?.seq.0 - 1);
        Some(Fold { volume: self.volume, token: self.token, prev, appends: self.unfolded.iter().cloned().collect() })
    }

    /// The request that folds these entries as the next append, which is not made.
    pub fn fold_of(&self, entries: Vec<Entry>) -> Fold {
        let append = Append { seq: Seq(self.last + 1), entries };
        Fold { volume: self.volume, token: self.token, prev: Seq(self.last), appends: vec![append] }
    }

    pub fn try_fold(&mut self, w: &mut World) -> Result<Folded, WireError> {
        let Some(m) = self.fold_request() else { return Ok(Folded { seq: Seq(self.last) }) };
        let answer = w.ask(self.conn, m);
        if let Ok(f) = &answer {
            self.unfolded.retain(|a| a.seq > f.seq);
        }
        answer
    }

    pub fn fold(&mut self, w: &mut World) {
        self.try_fold(w).expect("folded");
    }

    /// Appends and folds.
    pub fn change(&mut self, w: &mut World, entries: Vec<Entry>) {
        self.append(w, entries);
        self.fold(w);
    }

    /// Gives these AUs space, out of a reserve that is filled where that is needed, and folds that.
    pub fn bind(&mut self, w: &mut World, aus: std::ops::Range<u32>) {
        self.fill(w, aus.len());
        let entry = self.bound(aus);
        self.change(w, vec![entry]);
    }

    pub fn write(&mut self, w: &mut World, au: u32, blocks: u64) {
        self.change(w, vec![Entry::Written { masks: vec![mask(au, blocks)] }]);
    }

    pub fn discard(&mut self, w: &mut World, au: u32) {
        self.change(w, vec![Entry::Discarded { cleared: vec![mask(au, u64::MAX)] }]);
    }

    pub fn grant_request(&self, want: u32) -> Grant {
        Grant { volume: self.volume, token: self.token, no: self.grants + 1, want, back: vec![], apart: vec![] }
    }

    /// Asks for space; how much came.
    pub fn grant(&mut self, w: &mut World, want: u32) -> Result<usize, WireError> {
        let granted = w.ask(self.conn, self.grant_request(want))?;
        self.grants += 1;
        let before = self.reserve.len();
        self.reserve.extend(granted.places.iter().flat_map(Places::each));
        Ok(self.reserve.len() - before)
    }

    pub fn fill(&mut self, w: &mut World, most: usize) {
        while self.reserve.len() < most {
            self.grant(w, u32::try_from(most - self.reserve.len()).expect("few")).expect("there is space");
        }
    }

    /// Everything that is in reserve is given back but so much.
    pub fn shrink(&mut self, w: &mut World, keep: usize) {
        let back = self.reserve.split_off(keep.min(self.reserve.len()));
        let back = Places::join(back.iter().map(Vec::as_slice));
        w.ok(self.conn, Grant { back, ..self.grant_request(0) });
        self.grants += 1;
    }

    /// Its journal has failed; what counts is folded, and a fresh one goes on.
    pub fn replace_journal(&mut self, w: &mut World) -> Result<(), WireError> {
        self.try_fold(w)?;
        let no = w.disks.journals[&self.token].no;
        let m = NewJournal { volume: self.volume, token: self.token, failed: no, closing: Seq(self.last), avoid: vec![] };
        let fresh = w.ask(self.conn, m)?.journal;
        let disk = w.disks.journals.get_mut(&self.token).expect("a journal");
        let tail = Tail { last: Seq(0), appends: vec![], ..disk.tail.clone() };
        *disk = OnDisk { no: fresh.no, begun: false, tail, damaged: false };
        Ok(())
    }

    /// Folds everything and gives the volume back.
    pub fn detach(mut self, w: &mut World) {
        self.fold(w);
        w.ok(self.conn, Detach { volume: self.volume });
        w.disks.journals.remove(&self.token);
    }
}
