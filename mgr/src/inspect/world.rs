//! A pool on two memory disks: one writer with a reserve, a journal on both, a slot, and what the tests write there.

use crate::catalog::record::{DiskEntry, Mode, PoolEntry, Record, SessionEntry};
use crate::catalog::{Catalog, prove};
use crate::session_io::{LIMIT, Member, SessionIo};
use fusevol_shared::change::{Append, Entry, Journal, JournalCopy, Places};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::format::journal::{Body, JournalId, State};
use fusevol_shared::format::layout::Layout;
use fusevol_shared::format::preserve::{At, Kept, LogId, Successor, checksum, seal_record, seal_successor, successor_at};
use fusevol_shared::format::slot::{Heartbeat, SlotAt, SlotSeal};
use fusevol_shared::ids::{
    BootId, ClientId, DiskId, FenceToken, Generation, KeyPrint, PoolId, Seq, SessionId, SessionNo, VolumeEpoch, VolumeId,
};
use fusevol_shared::map::{AuMask, Leg, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuNo, AuSize, DiskAu, DiskNo, DiskOff, PAGE, VolAu};
use fusevol_shared::wire::slots::Slots;

pub const POOL: PoolId = PoolId([9; 16]);
pub const V: VolumeId = VolumeId([1; 16]);
pub const S: SessionNo = SessionNo(0);
pub const ID: SessionId = SessionId([5; 16]);
pub const T: FenceToken = FenceToken(0);

pub fn au(disk: u16, au: u32) -> DiskAu {
    DiskAu { disk: DiskNo(disk), au: AuNo(au) }
}

pub fn journal() -> Journal {
    Journal { no: 1, copies: (0..2).map(|d| JournalCopy { first: au(d, 40), second: au(d, 41) }).collect() }
}

pub struct World {
    pub catalog: Catalog,
    pub disks: Vec<Member<MemDisk>>,
}

impl World {
    pub fn io(&self) -> SessionIo<'_, MemDisk> {
        SessionIo::new(POOL, AuSize::DEFAULT, &self.disks, LIMIT)
    }

    /// Its reserve: eight AUs on disk 1 from 50 on, and AU 50 of disk 0.
    pub fn new() -> Self {
        let name = |t: &str| Name::new(t).expect("a name");
        let layout = Layout::for_disk(AuSize::DEFAULT, 64 << 20).expect("large enough");
        let disk = |no: u8| DiskEntry {
            no: DiskNo(no.into()),
            id: DiskId([no + 1; 16]),
            aus: 64,
            first_data: layout.first_data,
            end_data: layout.end_data,
            paths: vec![],
        };
        let (client, session) = (ClientId([2; 16]), S);
        let records = [
            Record::PoolCreated(PoolEntry { id: POOL, name: name("pool"), au_size: AuSize::DEFAULT, lease_ms: 1000, created: 1 }),
            Record::DiskAdded(disk(0)),
            Record::DiskAdded(disk(1)),
            Record::VolumeCreated { id: V, name: name("db"), size: 64 << 20, legs: 1, created: 2 },
            Record::ClientAdded { id: client, name: name("host"), print: KeyPrint([1; 32]), created: 3 },
            Record::SessionOpened(SessionEntry {
                no: S,
                id: ID,
                client,
                boot: BootId([1; 16]),
                host: "h".into(),
                program: "p".into(),
                opened: 5,
                slots: Slots::new([DiskNo(0), DiskNo(1)], Generation(3)),
                generation: Generation(3),
                sealed: false,
            }),
            Record::Attached {
                volume: V,
                session,
                token: T,
                mode: Mode::Write,
                segment: None,
                journal: Some(journal()),
                reserve: vec![Places { legs: vec![au(1, 50)], count: 8 }, Places { legs: vec![au(0, 50)], count: 1 }],
            },
        ];
        let mut catalog = Catalog::default();
        records.iter().for_each(|r| catalog.apply(r).expect("fits"));
        assert!(prove(&catalog).is_empty());
        let disks = (0u8..2).map(|i| (DiskNo(i.into()), DiskId([i + 1; 16]), MemDisk::new(64 << 20))).collect();
        let world = Self { catalog, disks };
        world.slot(false);
        world
    }

    pub fn slot(&self, sealed: bool) {
        (0..self.disks.len()).for_each(|i| self.slot_on(i, sealed));
    }

    pub fn slot_on(&self, i: usize, sealed: bool) {
        let layout = Layout::for_disk(AuSize::DEFAULT, 64 << 20).expect("large enough");
        let (_, id, disk) = &self.disks[i];
        let at = SlotAt::new(POOL, *id, &layout, S);
        let seal = SlotSeal { session: S, id: ID, generation: Generation(3), sealed };
        disk.poke(at.seal(), &seal.encode(at));
        disk.poke(at.off, &Heartbeat { session: S, id: ID, beat: Seq(1), nonce: 0, answer: None }.encode(at));
    }

    /// Writes the first half: a state, then these appends. Gives where each frame begins.
    pub fn write(&self, disk: usize, appends: &[Append]) -> Vec<DiskOff> {
        let id = JournalId { pool: POOL, volume: V, session: S, token: T, journal: 1 };
        let state = State { epoch: VolumeEpoch(1), ..State::default() };
        let bodies = std::iter::once(Body::of_state(&id, 1, Seq(0), &state)).chain(appends.iter().map(|a| Body::of_append(&id, 1, a)));
        let mut off = AuNo(40).start(AuSize::DEFAULT);
        let mut starts = Vec::new();
        for body in bodies {
            let mut frame = vec![0; body.frame_len()];
            body.seal_into(&id, At { disk: self.disks[disk].1, off }, &mut frame);
            self.disks[disk].2.poke(off, &frame);
            starts.push(off);
            off = off.plus(frame.len() as u64);
        }
        starts
    }
}

pub fn bound(seq: u64, first: u32, disk_au: u32) -> Append {
    let run = MapRun { first: VolAu(first), legs: vec![Leg::single(au(1, disk_au))], written: vec![0] };
    let masks = vec![AuMask { au: VolAu(first), blocks: BlockMask(3) }];
    Append { seq: Seq(seq), entries: vec![Entry::Bound { runs: vec![run] }, Entry::Written { masks }] }
}

/// Writes segment `no` at an AU of disk 0: one record of one block, and its successor.
pub fn preserve(w: &World, place: u32, no: u32, next: Option<(u32, u32)>) -> DiskOff {
    let log = LogId { pool: POOL, volume: V, session: S, token: T, segment: no, epoch: VolumeEpoch(0) };
    let start = AuNo(place).start(AuSize::DEFAULT);
    let (_, id, disk) = &w.disks[0];
    let mut page = vec![0; PAGE];
    let block = vec![7; 16 << 10];
    seal_record(&log, At { disk: *id, off: start }, Seq(1), &[Kept { at: au(1, 50), block: 0, crc: checksum(&block) }], &mut page);
    disk.poke(start, &page);
    disk.poke(start.plus(PAGE as u64), &block);
    if let Some((no, place)) = next {
        let s = Successor { next: LogId { segment: no, ..log }, legs: vec![au(0, place)], records: 1 };
        let at = start.plus(successor_at(AuSize::DEFAULT));
        seal_successor(&log, At { disk: *id, off: at }, Seq(2), &s, &mut page);
        disk.poke(at, &page);
    }
    start
}
