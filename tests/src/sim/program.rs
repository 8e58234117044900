//! What a client process does in a simulated world: attaches volumes, writes, discards, flushes, reads, takes and reads snapshots, and
//! gives everything back; each answer is judged at once.
//!
//! A volume's sectors are shared out among some lanes that run beside each other; within a lane one operation is under way at a time, so that
//! it is known what a sector may hold. Who loses its session ends as a process that is killed would.

use super::client::{Client, Reader, Start, Volume};
use super::exec::Exec;
use super::sched::{ProcId, Sched};
use super::truth::{Begun, SECTOR};
use super::volume::{Attachment, Vol};
use super::world::Shared;
use fusevol::control::Control;
use fusevol::volume::Mode;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Kind};
use fusevol_shared::ids::SnapshotId;
use fusevol_shared::random::Random;
use fusevol_shared::wire::messages::{CreateSnapshot, RemoveSnapshot};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Lanes of a writer.
const LANES: usize = 3;
/// Most snapshots of a volume.
const SHOTS: usize = 3;

/// Why a program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It has given everything back.
    Goodbye,
    /// It cannot go on.
    Lost,
}

/// One client's program.
struct Program {
    shared: Rc<Shared>,
    client: Rc<Client>,
    proc: ProcId,
    exec: Exec,
}

/// Runs a client process until the world is about to end, or its session is over.
pub async fn run(shared: Rc<Shared>, start: Start) -> End {
    let (proc, exec) = (start.proc, start.exec.clone());
    let client = match start.open().await {
        Ok(client) => client,
        Err(e) => {
            exec.sched().say(proc, format_args!("no session: {e}"));
            return End::Lost;
        }
    };
    let program = Program { shared, client, proc, exec };
    while !program.shared.ending() && !program.client.over() {
        match program.sched().below(10) {
            0..6 => program.write_for_a_while().await,
            6..8 => program.read_snapshots().await,
            8 => program.read_beside().await,
            _ => program.pause(300).await,
        }
        program.pause(20).await;
    }
    match program.client.goodbye().await {
        Ok(()) => End::Goodbye,
        Err(e) => {
            program.say(format_args!("no goodbye: {e}"));
            End::Lost
        }
    }
}

/// Errors that a fault explains.
fn explained(e: &Error) -> bool {
    matches!(
        e.kind(),
        Kind::Io | Kind::Lapsed | Kind::Unreachable | Kind::Busy | Kind::NoSpace | Kind::Refused | Kind::NotFound | Kind::Damaged
    )
}

impl Program {
    fn sched(&self) -> &Sched {
        self.exec.sched()
    }

    fn say(&self, text: impl std::fmt::Display) {
        self.sched().say(self.proc, text);
    }

    async fn pause(&self, most_ms: u64) {
        let time = Duration::from_micros(self.sched().below(most_ms * 1000));
        self.sched().sleep(self.proc, time).await;
    }

    fn pick(&self) -> Rc<Vol> {
        let volumes = &self.shared.volumes;
        volumes[usize::try_from(self.sched().below(volumes.len() as u64)).expect("few")].clone()
    }

    /// What is answered is to be an answer that something explains.
    fn failed(&self, what: &str, e: &Error) {
        self.say(format_args!("{what}: {e}"));
        assert!(explained(e), "{what}: {e}");
    }

    async fn write_for_a_while(&self) {
        let vol = self.pick();
        let volume = match self.client.attach(vol.id, Mode::Write).await {
            Ok(v) => v,
            Err(e) => {
                self.failed("attach", &e);
                return self.pause(400).await;
            }
        };
        let attachment = self.shared.next_attachment();
        vol.attached(self.proc, attachment);
        self.say(format_args!("writes {} under attachment {attachment}", vol.name));
        let rounds = 1 + self.sched().below(5);
        for _ in 0..rounds {
            let lanes: Vec<_> = (0..LANES).map(|lane| self.lane(lane, &vol, &volume, attachment)).collect();
            for lane in lanes {
                lane.await;
            }
            if volume.is_closed() || self.client.over() || self.shared.ending() {
                break;
            }
            self.pause(50).await;
        }
        vol.leaves(self.proc);
        let done = self.client.detach(vol.id).await;
        if let Err(e) = &done {
            self.failed("detach", e);
        }
        // A recall has given it back before.
        vol.left(self.proc, done.is_ok() && !self.client.over());
    }

    fn lane(&self, lane: usize, vol: &Rc<Vol>, volume: &Arc<Volume>, attachment: Attachment) -> super::exec::Joined<()> {
        let share = vol.sectors() / LANES;
        let lane = Lane {
            shared: self.shared.clone(),
            client: self.client.clone(),
            proc: self.proc,
            exec: self.exec.clone(),
            vol: vol.clone(),
            volume: volume.clone(),
            attachment,
            sectors: lane * share..if lane + 1 == LANES { vol.sectors() } else { (lane + 1) * share },
            left: Cell::new(8 + self.sched().below(24)),
        };
        self.exec.spawn(self.proc, async move { lane.run().await })
    }

    async fn read_snapshots(&self) {
        let vol = self.pick();
        let shots: Vec<SnapshotId> = vol.shots.borrow().iter().filter(|(_, s)| s.taken && !s.removed).map(|(id, _)| *id).collect();
        if shots.is_empty() {
            return;
        }
        let id = shots[usize::try_from(self.sched().below(shots.len() as u64)).expect("few")];
        self.shared.set_reading(self.proc, true);
        match self.client.open_snapshot(id).await {
            Ok(reader) => self.read_snapshot(&vol, id, &reader).await,
            Err(e) => self.failed("open a snapshot", &e),
        }
        self.shared.set_reading(self.proc, false);
    }

    async fn read_snapshot(&self, vol: &Rc<Vol>, id: SnapshotId, reader: &Reader) {
        for _ in 0..2 + self.sched().below(5) {
            let (from, n) = range(self.sched(), &(0..vol.sectors()));
            match reader.read((from * SECTOR) as u64, n * SECTOR).await {
                Ok(bytes) => vol.read_shot(id, reader.info().epoch, from, &bytes),
                Err(e) => self.failed("read of a snapshot", &e),
            }
            self.pause(10).await;
        }
        if let Err(e) = self.client.close_snapshot(id).await {
            self.failed("close a snapshot", &e);
        }
    }

    async fn read_beside(&self) {
        let vol = self.pick();
        self.shared.set_reading(self.proc, true);
        match self.client.attach(vol.id, Mode::Read).await {
            Ok(volume) => self.read_live(&vol, &volume).await,
            Err(e) => self.failed("attach to read", &e),
        }
        self.shared.set_reading(self.proc, false);
    }

    async fn read_live(&self, vol: &Rc<Vol>, volume: &Arc<Volume>) {
        for _ in 0..2 + self.sched().below(8) {
            let (from, n) = range(self.sched(), &(0..vol.sectors()));
            match volume.read((from * SECTOR) as u64, n * SECTOR).await {
                Ok(bytes) => vol.read_old(from, &bytes),
                Err(e) => self.failed("read", &e),
            }
            self.pause(30).await;
        }
        if let Err(e) = self.client.detach(vol.id).await {
            self.failed("detach", &e);
        }
    }
}

/// A range of sectors within these: mostly small, sometimes whole AUs.
fn range(sched: &Sched, within: &std::ops::Range<usize>) -> (usize, usize) {
    let n = |x: u64| usize::try_from(x).expect("small");
    let most = [1, 8, 8, 30, 64, 64, 200, 600][n(sched.below(8))];
    let len = (1 + n(sched.below(most))).min(within.len());
    let from = within.start + n(sched.below((within.len() - len + 1) as u64));
    if sched.one_in(2) {
        // On blocks of eight sectors.
        let from = (from / 8 * 8).max(within.start);
        return (from, len.next_multiple_of(8).min(within.end - from));
    }
    (from, len)
}

/// One lane of a writer.
struct Lane {
    shared: Rc<Shared>,
    client: Rc<Client>,
    proc: ProcId,
    exec: Exec,
    vol: Rc<Vol>,
    volume: Arc<Volume>,
    attachment: Attachment,
    sectors: std::ops::Range<usize>,
    left: Cell<u64>,
}

impl Lane {
    fn sched(&self) -> &Sched {
        self.exec.sched()
    }

    async fn run(self) {
        while self.left.get() > 0 && !self.volume.is_closed() && !self.client.over() && !self.shared.ending() {
            self.left.set(self.left.get() - 1);
            self.shared.count();
            match self.sched().below(100) {
                0..45 => self.write().await,
                45..57 => self.discard().await,
                57..72 => self.flush().await,
                72..90 => self.read().await,
                90..97 => self.snapshot().await,
                _ => self.remove().await,
            }
            if self.sched().one_in(4) {
                let time = Duration::from_micros(self.sched().below(8_000));
                self.sched().sleep(self.proc, time).await;
            }
        }
    }

    fn failed(&self, what: &str, e: &Error) {
        self.sched().say(self.proc, format_args!("{what} of {}: {e}", self.vol.name));
        assert!(explained(e), "{what}: {e}");
        let hidden = matches!(e.kind(), Kind::Io | Kind::Damaged | Kind::Unreachable | Kind::Lapsed);
        assert!(!(hidden && self.shared.only_ways.get()), "a way that is lost is nobody's error: {what}: {e}");
    }

    async fn write(&self) {
        let (from, n) = range(self.sched(), &self.sectors);
        let (begun, bytes) = self.vol.begin(from..from + n, false);
        self.sched().detail(self.proc, || format!("writes {} {:?} as {}", self.vol.name, begun.sectors, begun.n));
        match self.volume.write((from * SECTOR) as u64, IoBuf::copy_of(&bytes).freeze()).await {
            Ok(()) => self.done("wrote", &begun),
            Err(e) => self.failed("write", &e),
        }
    }

    async fn discard(&self) {
        let (mut from, mut n) = range(self.sched(), &self.sectors);
        if self.sched().one_in(2) {
            // Whole AUs leave the map.
            let au = usize::try_from(self.shared.pool.au_size.bytes()).expect("small") / SECTOR;
            from = (from / au * au).max(self.sectors.start);
            n = (au * 2).min(self.sectors.end - from);
        }
        let (begun, _) = self.vol.begin(from..from + n, true);
        match self.volume.discard((from * SECTOR) as u64, (n * SECTOR) as u64).await {
            Ok(()) => self.done("discarded", &begun),
            Err(e) => self.failed("discard", &e),
        }
    }

    fn done(&self, what: &str, begun: &Begun) {
        self.sched().detail(self.proc, || format!("{what} {} {:?} as {}", self.vol.name, begun.sectors, begun.n));
        self.vol.answered(self.attachment, begun);
    }

    async fn flush(&self) {
        let tick = self.vol.flush_begun();
        self.sched().detail(self.proc, || format!("flush of {} begins", self.vol.name));
        let done = self.volume.flush().await;
        self.sched().detail(self.proc, || format!("flush of {}: {done:?}", self.vol.name));
        self.vol.flushed(self.attachment, tick, done.is_ok());
        if let Err(e) = done {
            self.failed("flush", &e);
        }
    }

    async fn read(&self) {
        let (from, n) = range(self.sched(), &self.sectors);
        match self.volume.read((from * SECTOR) as u64, n * SECTOR).await {
            Ok(bytes) => self.vol.read(self.attachment, from, &bytes),
            Err(e) => self.failed("read", &e),
        }
    }

    async fn snapshot(&self) {
        if self.vol.shots.borrow().values().filter(|s| !s.removed).count() >= SHOTS {
            return;
        }
        let id = SnapshotId(self.sched().fork_random().id());
        let idle = self.vol.asked(id);
        let name = format!("s{}", self.shared.count());
        match self.client.engine.control.call(CreateSnapshot { volume: self.vol.id, id, name }).await {
            Ok(done) => {
                self.sched().say(self.proc, format_args!("snapshot {id} of {} is taken", self.vol.name));
                self.vol.taken(id, done.snapshot.epoch, idle);
            }
            Err(e) => self.failed("snapshot", &e),
        }
    }

    async fn remove(&self) {
        let shot = self.vol.shots.borrow().iter().find(|(_, s)| s.taken && !s.removed).map(|(id, _)| *id);
        let Some(id) = shot else { return };
        if let Some(s) = self.vol.shots.borrow_mut().get_mut(&id) {
            s.removed = true;
        }
        if let Err(e) = self.client.engine.control.call(RemoveSnapshot { snapshot: id }).await {
            self.failed("remove a snapshot", &e);
        }
    }
}
