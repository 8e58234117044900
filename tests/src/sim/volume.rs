//! A volume of a simulated world as its judge knows it: what it may hold, who writes it, and its snapshots.
//!
//! ```text
//!  idle --attached--> written by A --detaching--> (given back, flushed) --> idle
//!                          |  A dies, or B attaches though A did not give it back: what A had not flushed may be lost
//! ```
//! A snapshot's image is taken in the step in which the writer's hold ends; where nobody writes, it is what the volume holds then.
//!
//! Invariant: who was succeeded is answered nothing more: an answer to it is a broken promise.

use super::sched::ProcId;
use super::truth::{Begun, Image, Truth};
use fusevol_shared::ids::{SnapshotId, VolumeEpoch, VolumeId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Number of an attachment, over all volumes.
pub type Attachment = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writer {
    None,
    Writes(ProcId, Attachment),
    /// It is giving the volume back; the tick of the flush in it.
    Leaves(ProcId, Attachment, u64),
}

/// What is known of a snapshot.
#[derive(Clone, Default)]
pub struct Shot {
    /// What it holds, if it closes the epoch before this one: it may be asked for again, of another manager, and be held for anew.
    pub images: BTreeMap<VolumeEpoch, (Image, bool)>,
    /// It was acknowledged.
    pub taken: bool,
    /// It was removed, or that was asked for.
    pub removed: bool,
}

/// A volume.
pub struct Vol {
    /// Its identity.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    truth: RefCell<Truth>,
    writer: Cell<Writer>,
    /// Attachments so far, by which an idle time is known.
    turns: Cell<u64>,
    holding: RefCell<BTreeMap<(SnapshotId, VolumeEpoch), ProcId>>,
    /// Its snapshots.
    pub shots: RefCell<BTreeMap<SnapshotId, Shot>>,
    /// Told before and after each change of what it may hold.
    on_change: RefCell<Option<Box<dyn Fn()>>>,
}

impl Vol {
    /// A volume without content.
    #[must_use]
    pub fn new(number: u64, id: VolumeId, name: &str, size: u64) -> Self {
        Self {
            id,
            name: name.into(),
            size,
            truth: RefCell::new(Truth::new(number, size)),
            writer: Cell::new(Writer::None),
            turns: Cell::new(0),
            holding: RefCell::default(),
            shots: RefCell::default(),
            on_change: RefCell::new(None),
        }
    }

    /// `f` is called after each change of what it may hold; what a request may do is there before it is asked for.
    pub fn on_change(&self, f: impl Fn() + 'static) {
        *self.on_change.borrow_mut() = Some(Box::new(f));
    }

    fn changed(&self) {
        if let Some(f) = &*self.on_change.borrow() {
            f();
        }
    }

    /// What it may hold after a crash.
    #[must_use]
    pub fn crash_image(&self) -> Image {
        self.truth.borrow().crash_image()
    }

    /// Judges bytes by an image.
    ///
    /// # Errors
    /// What a sector is, and what it may be.
    pub fn judge(&self, image: &mut Image, from: usize, bytes: &[u8]) -> Result<(), String> {
        self.truth.borrow().read_image(image, from, bytes)
    }

    /// Its sectors.
    #[must_use]
    pub fn sectors(&self) -> usize {
        self.truth.borrow().len()
    }

    // ---- who writes ----

    /// A process has attached it for writing.
    pub fn attached(&self, proc: ProcId, attachment: Attachment) {
        match self.writer.get() {
            Writer::None => {}
            // Its answer is on the way: the manager gave the volume on only when all of it was durable.
            Writer::Leaves(_, _, tick) => self.truth.borrow_mut().flushed(tick),
            Writer::Writes(..) => self.truth.borrow_mut().crashed(),
        }
        self.turns.set(self.turns.get() + 1);
        self.writer.set(Writer::Writes(proc, attachment));
    }

    /// Whether this attachment is the one that writes.
    #[must_use]
    pub fn stands(&self, attachment: Attachment) -> bool {
        matches!(self.writer.get(), Writer::Writes(_, a) | Writer::Leaves(_, a, _) if a == attachment)
    }

    fn must_stand(&self, attachment: Attachment, what: &str) {
        assert!(self.stands(attachment), "{}: {what} was answered to attachment {attachment} after it was succeeded", self.name);
    }

    /// The writer begins to give it back. Nothing of it is under way.
    pub fn leaves(&self, proc: ProcId) {
        if let Writer::Writes(p, a) = self.writer.get()
            && p == proc
        {
            let tick = self.truth.borrow_mut().flush_begun();
            self.writer.set(Writer::Leaves(p, a, tick));
        }
    }

    /// It has given it back, in order or not.
    pub fn left(&self, proc: ProcId, well: bool) {
        let tick = match self.writer.get() {
            Writer::Leaves(p, _, tick) if p == proc => Some(tick),
            Writer::Writes(p, _) if p == proc => None,
            _ => return,
        };
        match tick.filter(|_| well) {
            Some(tick) => self.truth.borrow_mut().flushed(tick),
            None => self.truth.borrow_mut().crashed(),
        }
        self.gone();
        self.changed();
    }

    /// The process is dead.
    pub fn died(&self, proc: ProcId) {
        let held: Vec<_> = self.holding.borrow().iter().filter(|(_, p)| **p == proc).map(|(s, _)| *s).collect();
        held.iter().for_each(|(s, epoch)| self.held(*s, *epoch, false));
        if matches!(self.writer.get(), Writer::Writes(p, _) | Writer::Leaves(p, ..) if p == proc) {
            self.truth.borrow_mut().crashed();
            self.gone();
        }
    }

    fn gone(&self) {
        self.writer.set(Writer::None);
        self.turns.set(self.turns.get() + 1);
    }

    // ---- operations ----

    /// Begins a write, or what makes zeros; gives its bytes, too.
    pub fn begin(&self, sectors: std::ops::Range<usize>, zeros: bool) -> (Begun, Vec<u8>) {
        let mut t = self.truth.borrow_mut();
        let begun = t.begin(sectors, zeros);
        let bytes = if zeros { Vec::new() } else { t.bytes(&begun) };
        drop(t);
        self.changed();
        (begun, bytes)
    }

    /// It was answered well.
    pub fn answered(&self, attachment: Attachment, begun: &Begun) {
        self.must_stand(attachment, "a write");
        self.truth.borrow_mut().answered(begun);
    }

    /// A flush begins.
    pub fn flush_begun(&self) -> u64 {
        self.truth.borrow_mut().flush_begun()
    }

    /// It was answered.
    pub fn flushed(&self, attachment: Attachment, tick: u64, well: bool) {
        if well {
            self.must_stand(attachment, "a flush");
            self.truth.borrow_mut().flushed(tick);
            self.changed();
        } else if self.stands(attachment) {
            self.truth.borrow_mut().flush_failed();
        }
    }

    /// Bytes were read by the writer, where nothing is under way.
    pub fn read(&self, attachment: Attachment, from: usize, bytes: &[u8]) {
        self.must_stand(attachment, "a read");
        if let Err(e) = self.truth.borrow_mut().read(from, bytes, true) {
            panic!("{}: {e}", self.name);
        }
    }

    /// Bytes were read by somebody who need not see the newest: they are this volume's, of this place.
    pub fn read_old(&self, from: usize, bytes: &[u8]) {
        if let Err(e) = self.truth.borrow().plausible(from, bytes) {
            panic!("{} read by another host: {e}", self.name);
        }
    }

    // ---- snapshots ----

    /// A snapshot is asked for. Gives what is needed to know later whether anybody wrote meanwhile.
    pub fn asked(&self, id: SnapshotId) -> Option<u64> {
        self.shots.borrow_mut().insert(id, Shot::default());
        (self.writer.get() == Writer::None).then(|| self.turns.get())
    }

    /// It is acknowledged: it closes this epoch.
    pub fn taken(&self, id: SnapshotId, epoch: VolumeEpoch, idle: Option<u64>) {
        let still = self.writer.get() == Writer::None && idle == Some(self.turns.get());
        if let Some(shot) = self.shots.borrow_mut().get_mut(&id) {
            shot.taken = true;
            if still {
                shot.images.entry(VolumeEpoch(epoch.0 + 1)).or_insert_with(|| (self.truth.borrow().image(), true));
            }
        }
        self.changed();
    }

    /// The writer holds for it, to begin this epoch.
    pub fn holding(&self, id: SnapshotId, epoch: VolumeEpoch, proc: ProcId) {
        self.holding.borrow_mut().insert((id, epoch), proc);
        self.changed();
    }

    /// The holds that are under way.
    #[must_use]
    pub fn holds(&self) -> Vec<(SnapshotId, VolumeEpoch)> {
        self.holding.borrow().keys().copied().collect()
    }

    /// The hold has ended: this is what it froze. Where it failed it may have, too.
    pub fn held(&self, id: SnapshotId, epoch: VolumeEpoch, flipped: bool) {
        self.holding.borrow_mut().remove(&(id, epoch));
        if let Some(shot) = self.shots.borrow_mut().get_mut(&id) {
            let known = shot.images.get(&epoch).is_some_and(|(_, flipped)| *flipped);
            if !known {
                shot.images.insert(epoch, (self.truth.borrow().image(), flipped));
            }
        }
        self.changed();
    }

    /// Bytes of it, which closes this epoch, were read.
    pub fn read_shot(&self, id: SnapshotId, epoch: VolumeEpoch, from: usize, bytes: &[u8]) {
        let mut shots = self.shots.borrow_mut();
        let truth = self.truth.borrow();
        let result = match shots.get_mut(&id).and_then(|s| s.images.get_mut(&VolumeEpoch(epoch.0 + 1))) {
            Some((image, _)) => truth.read_image(image, from, bytes),
            None => truth.plausible(from, bytes),
        };
        if let Err(e) = result {
            panic!("{} snapshot {id} of epoch {epoch}: {e}", self.name);
        }
    }
}
