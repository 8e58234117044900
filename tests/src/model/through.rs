//! The way through the manager in the model: what its core lets through is done on the disks' other path.

use super::manager::Manager;
use fusevol::path::door::{Door, Got};
use fusevol::path::lives::ManagerLife;
use fusevol::path::spare::Spare;
use fusevol_mgr::core::{Event, Ticket, Verdict};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Disk, DiskError};
use fusevol_shared::ids::{SessionNo, VolumeId};
use fusevol_shared::units::{AuSize, DiskNo};
use fusevol_shared::wire::data::{Io, Verb};
use futures_util::future::LocalBoxFuture;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

const EACCES: i32 = 13;

/// Does what one session asks.
pub struct Through<D> {
    manager: Arc<Manager>,
    session: SessionNo,
    au_size: AuSize,
    /// By their number in the pool.
    disks: Vec<Arc<D>>,
    next: AtomicU64,
}

impl<D: Disk> Through<D> {
    /// For this session, by these paths of the manager's own.
    #[must_use]
    pub fn new(manager: Arc<Manager>, session: SessionNo, au_size: AuSize, disks: Vec<Arc<D>>) -> Arc<Self> {
        Arc::new(Self { manager, session, au_size, disks, next: AtomicU64::new(1) })
    }

    fn life(&self, disk: DiskNo) -> ManagerLife {
        ManagerLife { life: self.disks[usize::from(disk.0)].life(), ..ManagerLife::default() }
    }

    async fn done(&self, io: Io, data: IoBytes) -> Result<IoBuf, DiskError> {
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        self.manager.step(Event::DataIo { ticket, session: self.session, io });
        match self.manager.verdict(ticket) {
            Ok(Verdict::May) => {}
            Ok(Verdict::Opened { .. }) => panic!("an answer to another question"),
            Err(e) => return Err(DiskError::answered(EACCES, format!("refused: {}", e.message))),
        }
        let disk = &self.disks[usize::from(io.disk.0)];
        let done = match io.verb {
            Verb::Read => {
                let (read, buf) = disk.read(io.at, IoBuf::zeroed(io.len as usize)).await;
                read.map(|()| buf)
            }
            Verb::Write => disk.write(io.at, data).await.map(|()| IoBuf::zeroed(0)),
            Verb::WriteDurable => disk.write_durable(io.at, data).await.map(|()| IoBuf::zeroed(0)),
            Verb::Flush => disk.flush().await.map(|()| IoBuf::zeroed(0)),
        };
        if matches!(io.verb, Verb::Write | Verb::WriteDurable) {
            self.manager.step(Event::DataDone { session: self.session });
        }
        done
    }
}

impl<D: Disk> Door for Through<D> {
    fn io(&self, io: Io, data: IoBytes) -> LocalBoxFuture<'_, Result<Got, DiskError>> {
        Box::pin(async move { Ok((self.done(io, data).await?, self.life(io.disk))) })
    }

    fn release(&self, _disk: DiskNo) {}

    fn spare(&self, _volume: VolumeId, _spare: Weak<Spare>) {}

    fn au_size(&self) -> AuSize {
        self.au_size
    }
}
