//! The pool with which every simulated world begins: made once, shared by all worlds page by page.

use super::disk::Boot;
use super::manager::boot_id;
use crate::catalog::NoLocks;
use fusevol_mgr::catalog::Catalog;
use fusevol_mgr::catalog::record::{DiskEntry, PoolEntry, Record};
use fusevol_mgr::core::AdminId;
use fusevol_mgr::core::{AdminReply, AdminRequest, Config, Core, Effect, Event, Now, Output};
use fusevol_mgr::store::{self, NewDisk, NewPool, Who};
use fusevol_shared::clock::BootTime;
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::format::label::Instance;
use fusevol_shared::format::layout::Layout;
use fusevol_shared::ids::{BootId, DiskId, Generation, KeyPrint, PoolId, VolumeId};
use fusevol_shared::name::Name;
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::rights::{Right, Rights};
use std::time::Duration;

/// Clients of a world; one more looks at everything in the end.
pub const CLIENTS: usize = 3;

/// The key of a client.
#[must_use]
pub fn print(client: usize) -> KeyPrint {
    KeyPrint([u8::try_from(client + 1).expect("few clients"); 32])
}

/// A pool on disks in memory.
pub struct Template {
    /// Its identity.
    pub pool: PoolId,
    /// Its AU size.
    pub au_size: AuSize,
    /// Its lease.
    pub lease: Duration,
    /// Its disks.
    pub disks: Vec<(DiskId, MemDisk)>,
    /// Its volumes: identity, name, bytes.
    pub volumes: Vec<(VolumeId, String, u64)>,
    /// Disks may die: each volume has another copy.
    pub mirrored: bool,
    /// A client's own ways to disks may be lost, and its net be cut while they work.
    pub ways: bool,
}

/// The catalog of a pool with these disks, volumes and all clients with all rights: its records.
#[must_use]
pub fn genesis(disks: &[DiskEntry], pool: PoolEntry, volumes: &[(&str, u64, u8)], clients: usize) -> Catalog {
    let lease = Duration::from_millis(u64::from(pool.lease_ms));
    let catalog = Catalog::fold(&[Record::PoolCreated(pool)]).expect("a pool can begin");
    let now = Now { boot: BootTime(1_000_000_000), wall: 1_700_000_000_000_000_000 };
    let mut core = Core::new(catalog, Config::new(lease, BootId([9; 16])), Generation(1), now, Box::new(SeededRandom(1)));
    let mut asked = 0;
    let mut ask = |request: AdminRequest| {
        asked += 1;
        let mut out = Output::default();
        core.step(now, Event::Admin { from: AdminId(asked), request }, &mut out);
        let answer = out.effects.into_iter().find_map(|e| if let Effect::AdminReply { result, .. } = e { Some(result) } else { None });
        answer.expect("answered at once").unwrap_or_else(|e| panic!("refused: {e:?}"))
    };
    for d in disks {
        ask(AdminRequest::DiskAdd { id: d.id, aus: d.aus, first_data: d.first_data, end_data: d.end_data, paths: vec![] });
    }
    let rights = Right::ALL.into_iter().fold(Rights::NONE, Rights::with);
    for (name, size, copies) in volumes {
        let made = ask(AdminRequest::VolumeCreateMirrored { name: (*name).into(), size: *size, copies: *copies });
        assert!(matches!(made, AdminReply::Volume(_)));
    }
    for n in 0..clients {
        let client = format!("client{n}");
        ask(AdminRequest::ClientAdd { name: client.clone(), print: print(n) });
        for (name, ..) in volumes {
            ask(AdminRequest::AccessGrant { volume: (*name).into(), client: client.clone(), rights });
        }
    }
    core.catalog().clone()
}

impl Template {
    /// A pool of so many disks with AUs of 256 KiB, and volumes: name, bytes, copies.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(disks: usize, bytes: u64, volumes: &[(&str, u64, u8)]) -> Self {
        let au_size = AuSize::from_log2(18).expect("256 KiB");
        let (pool, lease) = (PoolId([7; 16]), Duration::from_secs(2));
        let disks: Vec<(DiskId, MemDisk)> =
            (1..=disks).map(|n| (DiskId([u8::try_from(n).expect("few"); 16]), MemDisk::new(bytes))).collect();
        let layout = Layout::for_disk(au_size, bytes).expect("large enough");
        let entry = |(no, (id, _)): (u16, &(DiskId, MemDisk))| DiskEntry {
            no: DiskNo(no),
            id: *id,
            aus: layout.aus,
            first_data: layout.first_data,
            end_data: layout.end_data,
            paths: vec![],
        };
        let entries: Vec<DiskEntry> = (0..).zip(&disks).map(entry).collect();
        let name = Name::new("simulated").expect("a name");
        let lease_ms = u32::try_from(lease.as_millis()).expect("short");
        let catalog = genesis(&entries, PoolEntry { id: pool, name: name.clone(), au_size, lease_ms, created: 1 }, volumes, CLIENTS + 1);
        let new = disks.iter().zip(&entries);
        let new = new.map(|((id, d), e)| NewDisk { disk: d.clone(), path: format!("d{}", e.no), id: *id, no: e.no });
        // As if made on the first host of the world, in its boot: who comes there need not wait for it.
        let who = Who { instance: Instance([1; 16]), boot: boot_id(Boot(1)), host: "first".into(), pid: 1 };
        let (new_pool, records) = (NewPool { pool, name, au_size, lease }, catalog.dump());
        block_on(store::create(new.collect(), &new_pool, &who, NoLocks::default(), false, &records)).expect("a pool");
        let mirrored = volumes.iter().all(|(.., copies)| *copies > 1);
        let volumes = catalog.volumes().map(|v| (v.entry.id, v.entry.name.to_string(), v.entry.size)).collect();
        Self { pool, au_size, lease, disks, volumes, mirrored, ways: false }
    }

    /// The same, where clients' ways to the disks may be lost.
    #[must_use]
    pub fn with_ways(self) -> Self {
        Self { ways: true, ..self }
    }
}
