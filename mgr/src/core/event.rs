//! What goes into the core and what comes out of it.

use super::admin_api::{AdminReply, AdminRequest, Notice};
use super::errand::{Errand, Outcome};
use super::fence::{FenceFor, Fenced};
use super::{CopyEnd, CopyJob, LayEnd, LayJob, Opened, Ticket, Verdict};
use crate::catalog::record::Record;
use fusevol_shared::change::Journal;
use fusevol_shared::clock::{BootTime, Clock};
use fusevol_shared::error::WireError;
use fusevol_shared::format::journal::Tail;
use fusevol_shared::format::mail::Letter;
use fusevol_shared::format::slot::Answer;
use fusevol_shared::ids::{BootId, FenceToken, KeyPrint, Seq, SessionId, SessionNo, VolumeId};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::data::Io;
use fusevol_shared::wire::messages::{Ack, Push, Reply, Request};
use fusevol_shared::wire::slots::Slots;

/// One connection of a client; never reused within a life of the manager.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// One question of an administrator; never reused within a life of the manager.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AdminId(pub u64);

/// The time of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For durations.
    pub boot: BootTime,
    /// For people: nanoseconds since 1970 UTC.
    pub wall: u64,
}

impl Now {
    /// As this clock tells it.
    #[must_use]
    pub fn of(clock: &dyn Clock) -> Self {
        Self { boot: clock.now(), wall: clock.wall() }
    }

    /// Seconds since 1970 UTC.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.wall / 1_000_000_000
    }
}

/// The journal of one attachment, to be read to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalRef {
    /// What it changes.
    pub volume: VolumeId,
    /// Whose.
    pub session: SessionNo,
    /// Of which attachment.
    pub token: FenceToken,
    /// Where it lies.
    pub journal: Journal,
    /// Disks on which nothing of the volume is read: they need not be flushed.
    pub without: Vec<DiskNo>,
}

/// How each journal of a session ends, or why that cannot be known.
pub type Tails = Vec<(FenceToken, Result<Tail, WireError>)>;

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A connection with a proven key.
    Connected {
        /// Its number.
        conn: ConnId,
        /// The key.
        print: KeyPrint,
    },
    /// The connection is gone.
    Disconnected {
        /// Its number.
        conn: ConnId,
    },
    /// A client asks.
    Request {
        /// On which connection.
        conn: ConnId,
        /// Number of the request on it.
        id: u64,
        /// What.
        request: Request,
    },
    /// A client answers a push.
    Ack {
        /// On which connection.
        conn: ConnId,
        /// Which push of its session.
        push: u64,
        /// The answer.
        ack: Ack,
    },
    /// An administrator asks.
    Admin {
        /// To be answered once.
        from: AdminId,
        /// What.
        request: AdminRequest,
    },
    /// Answer to `Effect::ProbeLock`: `held` on any disk, or not known, is held.
    LockProbed {
        /// Whose lock.
        session: SessionNo,
        /// Whether it is held.
        held: bool,
    },
    /// Answer to `Effect::SealSlot`.
    Sealed {
        /// Whose slot.
        session: SessionNo,
        /// So many of its disks carry the SEAL, durably, that it counts.
        done: bool,
    },
    /// Answer to `Effect::OpenPlaces`.
    PlacesOpened {
        /// Whose slot.
        session: SessionNo,
        /// What became of it on each disk.
        ends: Vec<(DiskNo, Opened)>,
    },
    /// Answer to `Effect::ReadSlot`.
    SlotRead {
        /// Whose slot.
        session: SessionNo,
        /// The highest heartbeat of this identity on any of its disks; none, or none that can be read.
        beat: Option<Seq>,
    },
    /// Answer to `Effect::ReadJournals`.
    JournalsRead {
        /// Whose.
        session: SessionNo,
        /// One for each journal that was asked for.
        tails: Tails,
    },
    /// Answer to `Effect::Fence`.
    Fenced {
        /// For whom it was.
        asked: FenceFor,
        /// What the agents have done.
        fenced: Fenced,
    },
    /// A data connection with a proven key asks to do I/O for a session; answered by `Effect::Verdict`.
    DataOpen {
        /// The question.
        ticket: Ticket,
        /// The key.
        print: KeyPrint,
        /// The session.
        session: SessionId,
    },
    /// I/O is asked for on such a connection; answered by `Effect::Verdict`.
    DataIo {
        /// The question.
        ticket: Ticket,
        /// Whose connection it is.
        session: SessionNo,
        /// What is asked.
        io: Io,
    },
    /// A write that was let through has returned.
    DataDone {
        /// Whose.
        session: SessionNo,
    },
    /// Answer to `Effect::ReadNonce`.
    NonceRead {
        /// In whose slot.
        session: SessionNo,
        /// On which disk.
        disk: DiskNo,
        /// What stands there; none where it cannot be read.
        found: Option<(SessionId, u64)>,
    },
    /// Answer to `Effect::Copy`.
    BlocksCopied {
        /// Which.
        batch: u64,
        /// One for each job, in their order.
        ends: Vec<CopyEnd>,
    },
    /// Answer to `Effect::LayAgain`.
    LaidAgain {
        /// Which.
        lay: u64,
        /// What became of it.
        end: LayEnd,
    },
    /// The manager has begun without this disk: it was not found.
    DiskMissing {
        /// Which.
        disk: DiskNo,
        /// What is where it was, or why nothing is.
        why: String,
    },
    /// At the place of a disk that this manager has lost, or never found, stands something that is not used; or, after that, nothing any more.
    DiskRefused {
        /// Which.
        disk: DiskNo,
        /// Why it is not used.
        why: Option<String>,
    },
    /// A disk that was lost, or not found, is used again.
    DiskBack {
        /// Which.
        disk: DiskNo,
    },
    /// Answer to `Effect::LookAtDisk`.
    DiskLooked {
        /// Which.
        disk: DiskNo,
        /// It answered, with the label that it should have.
        well: bool,
    },
    /// Answer to `Effect::WriteLetter`.
    LetterWritten {
        /// To whom.
        session: SessionNo,
        /// A disk has it.
        done: bool,
    },
    /// Answer to `Effect::ReadAnswer`.
    AnswerRead {
        /// Whose.
        session: SessionNo,
        /// To its youngest letter; none, or none that can be read.
        answer: Option<Answer>,
    },
    /// `Core::deadline` has come.
    Tick,
    /// Answer to `Effect::Errand`.
    Errand {
        /// Whose attachment is taken over.
        session: SessionNo,
        /// What came of it.
        outcome: Outcome,
    },
}

/// What the driver does once the records of the batch are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Answers a request.
    Reply {
        /// On which connection; one that is gone is passed over.
        conn: ConnId,
        /// Which request.
        id: u64,
        /// The answer.
        result: Result<Reply, WireError>,
    },
    /// Says something to a client.
    Push {
        /// On which connection.
        conn: ConnId,
        /// Number within the session.
        push: u64,
        /// What.
        body: Push,
    },
    /// Ends a connection, after what was said before on it.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// Answers an administrator.
    AdminReply {
        /// Whom.
        to: AdminId,
        /// The answer.
        result: Result<AdminReply, WireError>,
    },
    /// Asks whether a session's byte lock is held on any disk; answered by `Event::LockProbed`.
    ProbeLock {
        /// Whose.
        session: SessionNo,
    },
    /// Writes the clear SEAL of a new session's slot, under this manager's generation, before the replies that follow.
    OpenSlot {
        /// Whose.
        session: SessionNo,
        /// Its identity.
        id: SessionId,
        /// The disks that carry the slot.
        slots: Vec<DiskNo>,
    },
    /// Writes the clear SEAL of a session to disks to which its slot shall move, under this manager's generation; answered by `Event::PlacesOpened`.
    OpenPlaces {
        /// Whose.
        session: SessionNo,
        /// Its identity.
        id: SessionId,
        /// The disks.
        slots: Vec<DiskNo>,
    },
    /// Seals a session's slot; answered by `Event::Sealed`.
    SealSlot {
        /// Whose.
        session: SessionNo,
        /// Its identity.
        id: SessionId,
        /// The disks that may carry the slot.
        slots: Slots,
    },
    /// Reads a session's heartbeat; answered by `Event::SlotRead`.
    ReadSlot {
        /// Whose.
        session: SessionNo,
        /// Its identity.
        id: SessionId,
        /// The disks that carry the slot.
        slots: Vec<DiskNo>,
    },
    /// Reads a dead session's journals to their ends; answered by `Event::JournalsRead`.
    ReadJournals {
        /// Whose.
        session: SessionNo,
        /// Of its write attachments.
        journals: Vec<JournalRef>,
    },
    /// Asks the fence agents to cut a client off from its disks, or to let it in again; answered by `Event::Fenced`.
    Fence {
        /// For whom.
        asked: FenceFor,
        /// The client's name.
        client: String,
        /// Lets it in.
        on: bool,
        /// Its host, where the disks themselves may cut that off.
        host: Option<BootId>,
    },
    /// Reads the page of a session's heartbeat on a disk; answered by `Event::NonceRead`.
    ReadNonce {
        /// In whose slot.
        session: SessionNo,
        /// On which disk.
        disk: DiskNo,
    },
    /// Makes copies; answered by `Event::BlocksCopied`, when nothing of it is under way any more.
    Copy {
        /// The question.
        batch: u64,
        /// What.
        jobs: Vec<CopyJob>,
    },
    /// Copies a preserve segment; answered by `Event::LaidAgain`, when nothing of it is under way any more.
    LayAgain {
        /// The question.
        lay: u64,
        /// What.
        job: LayJob,
    },
    /// Reads the label of a disk; answered by `Event::DiskLooked`.
    LookAtDisk {
        /// Which.
        disk: DiskNo,
    },
    /// Writes a letter to a session's slot disks; answered by `Event::LetterWritten`.
    WriteLetter {
        /// The disks.
        slots: Vec<DiskNo>,
        /// In which page.
        page: u8,
        /// What it says.
        letter: Letter,
    },
    /// Reads what a session has answered in its slot; answered by `Event::AnswerRead`.
    ReadAnswer {
        /// Whose.
        session: SessionNo,
        /// Its identity.
        id: SessionId,
        /// The disks that carry the slot.
        slots: Vec<DiskNo>,
    },
    /// Answers a question about data.
    Verdict {
        /// The question.
        ticket: Ticket,
        /// The answer.
        result: Result<Verdict, WireError>,
    },
    /// For the log of the manager; also kept for `events`.
    Notice(Notice),
    /// Does a step of a takeover on the disks; answered by `Event::Errand`.
    Errand {
        /// Whose attachment is taken over.
        session: SessionNo,
        /// What is to be done.
        errand: Errand,
    },
}

/// What a step gives: records to be committed, effects to be carried out after that.
#[derive(Default, Debug)]
pub struct Output {
    /// In order. Those of one step stand in one transaction.
    pub records: Vec<Record>,
    /// In order.
    pub effects: Vec<Effect>,
}
