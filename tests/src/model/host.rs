//! One client process: a session, its disks, and what it does with pushes.

use super::manager::{Link, Manager};
use fusevol::control::Control;
use fusevol::disks::Disks;
use fusevol::lease::{IO_TIMEOUT, Lease};
use fusevol::slot::{Slot, carriers};
use fusevol::snapshot::SnapshotReader;
use fusevol::stale::Stale;
use fusevol::volume::{Engine, Mode, Volume};
use fusevol_shared::clock::{BootTime, SystemClock};
use fusevol_shared::disk::Disk;
use fusevol_shared::error::Result;
use fusevol_shared::ids::{BootId, DiskId, KeyPrint, SessionId, SnapshotId, VolumeId};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{Ack, Hello, Hold, PROTOCOL, Push};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

type OnHeld = Box<dyn Fn(&Hold)>;

/// A client process.
pub struct Host<D: Disk> {
    /// What its volumes share.
    pub engine: Engine<D, Link>,
    volumes: RefCell<BTreeMap<VolumeId, Arc<Volume<D, Link>>>>,
    snapshots: RefCell<BTreeMap<SnapshotId, Arc<SnapshotReader<D, Link>>>>,
    busy: Cell<u32>,
    on_held: RefCell<Option<OnHeld>>,
}

impl<D: Disk> Host<D> {
    /// Opens a session and answers pushes from now on, within a `run_local`.
    ///
    /// # Panics
    /// If the manager refuses the session.
    pub async fn start(manager: &Arc<Manager>, print: KeyPrint, disks: Vec<(DiskId, Arc<D>)>) -> Rc<Self> {
        Self::begin(manager, print, disks, BootId([2; 16]), false).await
    }

    /// The same on a host of its own, with its slot on the disks: its SEAL is looked at. The lease never ends: so it is for a machine that was
    /// paused, whose clock stood still.
    ///
    /// # Panics
    /// As [`Host::start`].
    pub async fn start_elsewhere(manager: &Arc<Manager>, print: KeyPrint, disks: Vec<(DiskId, Arc<D>)>, boot: BootId) -> Rc<Self> {
        Self::begin(manager, print, disks, boot, true).await
    }

    async fn begin(manager: &Arc<Manager>, print: KeyPrint, disks: Vec<(DiskId, Arc<D>)>, boot: BootId, slot: bool) -> Rc<Self> {
        let link = manager.connect(print);
        let session = SessionId([print.0[0]; 16]);
        let hello = Hello { protocol: PROTOCOL, session, boot, host: "model".into(), program: "test".into(), resume: false };
        let welcome = link.call(hello).await.expect("a session is opened");
        let lease = Lease::new(Arc::new(SystemClock), IO_TIMEOUT);
        lease.extend(BootTime(u64::MAX));
        let table = Disks::new();
        let mut places = Vec::new();
        let slots = || carriers(welcome.pool, welcome.au_size, welcome.session, &welcome.slots, &welcome.disks).expect("they fit");
        for (no, (id, disk)) in (0..).zip(disks) {
            assert_eq!(welcome.disks.iter().find(|d| d.no == DiskNo(no)).map(|d| d.id), Some(id));
            if slot {
                places.extend(slots().into_iter().filter(|c| c.disk == DiskNo(no)));
            }
            table.set_present(DiskNo(no), id, disk);
        }
        let engine = Engine {
            disks: Arc::new(table),
            control: Arc::new(link),
            lease: Arc::new(lease),
            slot: Arc::new(Slot::new(welcome.pool, welcome.session, session, welcome.moves, places)),
            pool: welcome.pool,
            session: welcome.session,
            au_size: welcome.au_size,
            unsettled: Arc::default(),
            stale: Arc::default(),
            outs: Arc::default(),
        };
        let host = Rc::new(Self {
            engine,
            volumes: RefCell::default(),
            snapshots: RefCell::default(),
            busy: Cell::new(0),
            on_held: RefCell::new(None),
        });
        tokio::task::spawn_local(host.clone().pump());
        host
    }

    /// What the kernel would be told to drop.
    #[must_use]
    pub fn stale(&self) -> Arc<Stale> {
        self.engine.stale.clone()
    }

    /// Called when a writer has drained and flipped, before anything else runs: the instant of the snapshot.
    pub fn on_held(&self, f: impl Fn(&Hold) + 'static) {
        *self.on_held.borrow_mut() = Some(Box::new(f));
    }

    async fn pump(self: Rc<Self>) {
        loop {
            let (push, body) = self.engine.control.push().await;
            let host = self.clone();
            // Each push in its own task: one may wait for reads while others are answered.
            tokio::task::spawn_local(async move {
                if let Push::Hold(hold) = &body {
                    return host.hold(push, hold).await;
                }
                let ack = host.handle(&body).await.map_or_else(|e| Ack::Failed((&e).into()), |()| Ack::Done);
                host.engine.control.ack(push, ack);
            });
        }
    }

    async fn hold(&self, push: u64, hold: &Hold) {
        let volume = self.volume(hold.volume).await;
        let held = match volume {
            Some(v) => v.hold(hold).await,
            None => panic!("a hold of a volume that is not attached"),
        };
        match held {
            Ok(held) => {
                if let Some(f) = &*self.on_held.borrow() {
                    f(hold);
                }
                self.engine.control.ack(push, Ack::Held { seq: held.seq(), held_us: held.held_us() });
            }
            Err(e) => self.engine.control.ack(push, Ack::Failed((&e).into())),
        }
    }

    async fn volume(&self, id: VolumeId) -> Option<Arc<Volume<D, Link>>> {
        while self.busy.get() > 0 {
            tokio::task::yield_now().await;
        }
        self.volumes.borrow().get(&id).cloned()
    }

    async fn handle(&self, body: &Push) -> Result<()> {
        match body {
            Push::MapChanged(m) => {
                let readers: Vec<_> = self.snapshots.borrow().values().cloned().collect();
                readers.iter().filter(|r| r.volume() == m.volume).for_each(|r| r.places_changed(m));
                match self.volume(m.volume).await {
                    Some(v) => v.map_changed(m).await,
                    None => Ok(()),
                }
            }
            Push::SegmentAdded(m) => {
                let reader = self.snapshots.borrow().get(&m.snapshot).cloned();
                if let Some(r) = reader {
                    r.add_segment(&m.segment).await;
                }
                Ok(())
            }
            Push::Recall(m) => match self.volume(m.volume).await {
                Some(v) => v.detach().await,
                None => Ok(()),
            },
            Push::LegFailed(m) => {
                self.engine.outs.failed(m.volume, m.disk);
                Ok(())
            }
            Push::Hold(_) | Push::Release(_) | Push::VolumesChanged(_) | Push::LocksFreed(_) | Push::NewDisk(_) | Push::MoveSlot(_) => {
                Ok(())
            }
        }
    }

    /// Attaches a volume.
    ///
    /// # Errors
    /// Those of [`Volume::attach`].
    pub async fn attach(&self, id: VolumeId, mode: Mode) -> Result<Arc<Volume<D, Link>>> {
        self.busy.set(self.busy.get() + 1);
        let attached = Volume::attach(&self.engine, id, mode).await;
        if let Ok(v) = &attached {
            self.volumes.borrow_mut().insert(id, v.clone());
            tokio::task::spawn_local(v.clone().tend());
        }
        self.busy.set(self.busy.get() - 1);
        attached
    }

    /// Gives a volume back.
    ///
    /// # Errors
    /// Those of [`Volume::detach`].
    pub async fn detach(&self, id: VolumeId) -> Result<()> {
        let volume = self.volumes.borrow_mut().remove(&id);
        match volume {
            Some(v) => v.detach().await,
            None => Ok(()),
        }
    }

    /// Opens a snapshot.
    ///
    /// # Errors
    /// Those of [`SnapshotReader::open`].
    pub async fn open(&self, id: SnapshotId) -> Result<Arc<SnapshotReader<D, Link>>> {
        let reader = SnapshotReader::open(&self.engine, id).await?;
        self.snapshots.borrow_mut().insert(id, reader.clone());
        Ok(reader)
    }

    /// Closes a snapshot.
    ///
    /// # Errors
    /// Those of [`SnapshotReader::close`].
    pub async fn close(&self, id: SnapshotId) -> Result<()> {
        let reader = self.snapshots.borrow_mut().remove(&id);
        match reader {
            Some(r) => r.close().await,
            None => Ok(()),
        }
    }
}
