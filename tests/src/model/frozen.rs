//! A writer on another host that is frozen, and somebody who wants its volume: the real volume engine, the real core, and what the manager does on
//! the disks, one errand after the other, so that a test can let the frozen one act between any two.
//!
//! The frozen one's lease never ends here: its machine was paused, and its clock stood still. Only its SEAL tells it.

use super::host::Host;
use super::manager::{FIRST_DATA, Link, Manager};
use fusevol::control::Control;
use fusevol::volume::{Mode, Volume};
use fusevol_mgr::core::errand::Errand;
use fusevol_mgr::core::{AdminReply, AdminRequest, Effect, Event};
use fusevol_mgr::session_io::{LIMIT, Member, SessionIo, SlotOf};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Disk, DiskResult};
use fusevol_shared::ids::{BootId, DiskId, Generation, KeyPrint, PoolId, VolumeId};
use fusevol_shared::units::{AuSize, DiskNo, DiskOff};
use fusevol_shared::wire::messages::Renew;
use std::future::pending;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// AUs of each disk.
const AUS: u32 = 96;
/// What lies on the disks from an earlier use.
pub const FOREIGN: u8 = 0xEE;
const BYTES: u64 = 1 << 20;

/// A path to a memory disk. What is written while it holds has not returned, and lands when it is told to.
pub struct HeldPath {
    disk: Arc<MemDisk>,
    held: Mutex<Option<Vec<(DiskOff, IoBytes)>>>,
}

impl HeldPath {
    /// From now on no write returns.
    ///
    /// # Panics
    /// If a test panicked within.
    pub fn hold(&self) {
        self.held.lock().expect("whole").get_or_insert_default();
    }

    /// What was held lands now; how much that was.
    ///
    /// # Panics
    /// As [`HeldPath::hold`].
    pub async fn land(&self) -> usize {
        let late = self.held.lock().expect("whole").take().unwrap_or_default();
        for (at, data) in &late {
            self.disk.write(*at, data.clone()).await.expect("memory");
        }
        late.len()
    }

    async fn pass(&self, at: DiskOff, data: &IoBytes) {
        let held = self.held.lock().expect("whole").as_mut().map(|h| h.push((at, data.clone()))).is_some();
        if held {
            pending::<()>().await;
        }
    }
}

impl Disk for HeldPath {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    async fn read(&self, at: DiskOff, buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        self.disk.read(at, buf).await
    }
    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.pass(at, &data).await;
        self.disk.write(at, data).await
    }
    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.pass(at, &data).await;
        self.disk.write_durable(at, data).await
    }
    async fn flush(&self) -> DiskResult<()> {
        self.disk.flush().await
    }
}

/// A volume as the frozen one has it.
pub type Frozen = Arc<Volume<HeldPath, Link>>;
/// The same of the others.
pub type Other = Arc<Volume<MemDisk, Link>>;

/// The two of them.
pub struct World {
    /// The manager.
    pub manager: Arc<Manager>,
    /// Its own paths to the disks.
    disks: Vec<Member<Arc<MemDisk>>>,
    /// The frozen one's.
    pub paths: Vec<Arc<HeldPath>>,
    /// It.
    pub frozen: Rc<Host<HeldPath>>,
    /// Who wants its volume.
    pub other: Rc<Host<MemDisk>>,
    /// Who opens snapshots anew.
    pub third: Rc<Host<MemDisk>>,
    /// The volume.
    pub id: VolumeId,
}

/// A page of this byte.
#[must_use]
pub fn page(n: u8) -> IoBytes {
    IoBuf::copy_of(&[n; 4096]).freeze()
}

impl World {
    /// A volume of 128 MiB; the disks are full of [`FOREIGN`].
    ///
    /// # Panics
    /// If something of it is refused.
    pub async fn new() -> Self {
        let au_size = AuSize::from_log2(20).expect("1 MiB");
        let ids = [DiskId([1; 16]), DiskId([2; 16])];
        let manager = Manager::new(7, au_size, &ids.map(|id| (id, AUS)));
        manager.helped();
        let mut disks: Vec<Member<Arc<MemDisk>>> = Vec::new();
        for (no, id) in (0..).zip(ids) {
            let disk = Arc::new(MemDisk::new(u64::from(AUS) * BYTES));
            let foreign = IoBuf::copy_of(&vec![FOREIGN; 1 << 20]).freeze();
            for au in FIRST_DATA..AUS {
                disk.write(DiskOff(u64::from(au) * BYTES), foreign.clone()).await.expect("memory");
            }
            disks.push((DiskNo(no), id, disk));
        }
        let prints = [KeyPrint([8; 32]), KeyPrint([9; 32]), KeyPrint([7; 32])];
        let made = manager.admin(AdminRequest::VolumeCreate { name: "db".into(), size: 128 << 20 }).expect("made");
        let AdminReply::Volume(v) = made else { panic!("{made:?}") };
        for (name, print) in ["other", "frozen", "third"].into_iter().zip(prints) {
            manager.admin(AdminRequest::ClientAdd { name: name.into(), print }).expect("added");
            let rights = "read,write,snapshot,backup".parse().expect("rights");
            manager.admin(AdminRequest::AccessGrant { volume: "db".into(), client: name.into(), rights }).expect("granted");
        }
        manager.admin(AdminRequest::PoolSet { fencing: fusevol_mgr::catalog::record::Fencing::LeaseOnly }).expect("set");
        let paths: Vec<_> = disks.iter().map(|(_, _, disk)| Arc::new(HeldPath { disk: disk.clone(), held: Mutex::new(None) })).collect();
        let other = Host::start(&manager, prints[0], disks.iter().map(|(_, id, d)| (*id, d.clone())).collect()).await;
        let third = Host::start(&manager, prints[2], disks.iter().map(|(_, id, d)| (*id, d.clone())).collect()).await;
        let by_paths = ids.into_iter().zip(paths.clone()).collect();
        let frozen = Host::start_elsewhere(&manager, prints[1], by_paths, BootId([3; 16])).await;
        let w = Self { manager, disks, paths, frozen, other, third, id: v.id };
        w.help(async |_| {}).await;
        w
    }

    /// The volume as the frozen one has it: nothing of it is folded or cleared by itself.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn attach_frozen(&self) -> Frozen {
        Volume::attach(&self.frozen.engine, self.id, Mode::Write).await.expect("attached")
    }

    /// Does what the core asks of the disks, until it asks nothing more. `before` each step of a takeover.
    pub async fn help(&self, mut before: impl AsyncFnMut(&Errand)) {
        let io = SessionIo::new(PoolId([1; 16]), AuSize::from_log2(20).expect("1 MiB"), &self.disks, LIMIT);
        let generation = Generation(1);
        while let Some(effect) = self.manager.errand() {
            let event = match effect {
                Effect::OpenSlot { session, id, slots } => {
                    io.open_slot(SlotOf { session, id, slots: &slots }, generation).await;
                    continue;
                }
                Effect::SealSlot { session, id, slots } => {
                    let (done, _) = io.seal_slot(session, id, &slots, generation).await;
                    Event::Sealed { session, done }
                }
                Effect::ReadSlot { session, id, slots } => {
                    let beat = io.read_slot(SlotOf { session, id, slots: &slots }).await;
                    Event::SlotRead { session, beat }
                }
                Effect::ReadJournals { session, journals } => Event::JournalsRead { session, tails: io.read_journals(&journals).await },
                Effect::Errand { session, errand } => {
                    before(&errand).await;
                    Event::Errand { session, outcome: io.errand(&errand).await }
                }
                other => panic!("no disk answers {other:?}"),
            };
            self.manager.step(event);
            tokio::task::yield_now().await;
        }
    }

    /// A second goes by; the others keep their leases.
    ///
    /// # Panics
    /// If that is refused.
    pub async fn second(&self, before: impl AsyncFnMut(&Errand)) {
        self.manager.advance(Duration::from_secs(1));
        for link in [&self.other.engine.control, &self.third.engine.control] {
            link.call(Renew {}).await.expect("it lives");
        }
        self.help(before).await;
    }

    /// The other asks for the volume until it has it.
    ///
    /// # Panics
    /// If it does not get it.
    pub async fn take_over(&self, mut before: impl AsyncFnMut(&Errand)) -> Other {
        for _ in 0..90 {
            if let Ok(volume) = self.other.attach(self.id, Mode::Write).await {
                return volume;
            }
            self.second(&mut before).await;
        }
        panic!("it is not taken over: {:?}", self.manager.admin(AdminRequest::Status));
    }
}
