//! I/O through the manager: whose places are whose, what a write under way means, and whether a path leads to the pool's disk.

use super::harness::*;
use super::writer::Writer;
use crate::core::{ConnId, Effect, Event, Ticket, Verdict};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{SessionId, SessionNo, VolumeId};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{AuSize, DiskAu, DiskNo, DiskOff, VolAu};
use fusevol_shared::wire::data::{Claim, Io, Verb};
use fusevol_shared::wire::messages::{AttachWrite, CheckPath};

const S: SessionNo = SessionNo(0);
const OTHER: SessionNo = SessionNo(1);

/// A writer of one volume with AUs 0 and 1 folded, and another client with a volume of its own.
fn pair() -> (World, VolumeId, Writer, ConnId) {
    let mut w = World::new(2, 100);
    let v = w.volume("db", 1 << 30);
    let _mine = w.volume("other", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    w.client(2, "other", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..2);
    (w, v, wr, b)
}

fn page(verb: Verb, at: DiskAu, claim: Claim) -> Io {
    Io { verb, disk: at.disk, at: at.au.start(AuSize::DEFAULT), len: 4096, claim }
}

fn asked(w: &mut World, session: SessionNo, io: Io) -> Result<(), Kind> {
    let ticket = Ticket(w.number());
    let effects = w.step(Event::DataIo { ticket, session, io });
    let verdict = effects.iter().find_map(|e| match e {
        Effect::Verdict { ticket: t, result } if *t == ticket => Some(result.clone()),
        _ => None,
    });
    verdict.expect("answered at once").map(drop).map_err(|e| e.kind)
}

fn place_of(w: &World, v: VolumeId, au: u32) -> DiskAu {
    w.shadow.volume(v).and_then(|v| v.map.get(VolAu(au))).and_then(|e| e.first_in_sync()).expect("it has space")
}

#[test]
fn a_place_is_the_claimants_or_nobodys() {
    let (mut w, v, wr, _) = pair();
    let live = |au| Claim::Live { volume: v, au: VolAu(au) };
    let (first, reserved) = (place_of(&w, v, 0), wr.reserve[0][0]);
    let journal = w.shadow.attachments().next().and_then(|a| a.journal.clone()).expect("a writer's").places()[0];
    for (io, wanted) in [
        (page(Verb::Write, first, live(0)), Ok(())),
        (page(Verb::Read, first, live(0)), Ok(())),
        (page(Verb::Write, reserved, live(7)), Ok(())),
        (page(Verb::WriteDurable, journal, Claim::Journal { volume: v }), Ok(())),
        // Its own place, but not there; its own journal as data; nobody's place; past the end of the disk.
        (page(Verb::Write, first, live(1)), Err(Kind::Denied)),
        (page(Verb::Write, journal, live(0)), Err(Kind::Denied)),
        (page(Verb::Write, DiskAu { au: fusevol_shared::units::AuNo(118), ..first }, live(0)), Err(Kind::Denied)),
        (Io { at: DiskOff(1 << 50), ..page(Verb::Read, first, live(0)) }, Err(Kind::Refused)),
        (Io { disk: DiskNo(9), ..page(Verb::Read, first, live(0)) }, Err(Kind::Refused)),
        (page(Verb::Write, first, Claim::Slot), Err(Kind::Denied)),
    ] {
        assert_eq!(asked(&mut w, S, io), wanted, "{io:?}");
    }
    assert_eq!(asked(&mut w, OTHER, page(Verb::Read, first, live(0))), Err(Kind::Denied), "it has not attached the volume");
    w.wait(LEASE * 2);
    assert_eq!(asked(&mut w, S, page(Verb::Read, first, live(0))), Err(Kind::Lapsed), "its lease is over");
}

#[test]
fn a_connection_is_opened_for_the_own_session_only() {
    let (mut w, ..) = pair();
    let open = |w: &mut World, key, session| {
        let ticket = Ticket(w.number());
        let effects = w.step(Event::DataOpen { ticket, print: print(key), session: SessionId([session; 16]) });
        let found = effects.iter().find_map(|e| if let Effect::Verdict { result, .. } = e { Some(result.clone()) } else { None });
        found.expect("answered at once").map_err(|e| e.kind)
    };
    assert!(matches!(open(&mut w, 1, 1), Ok(Verdict::Opened { session: S, drained: false, .. })));
    assert_eq!((open(&mut w, 2, 1), open(&mut w, 1, 9), open(&mut w, 7, 1)), (Err(Kind::Lapsed), Err(Kind::Lapsed), Err(Kind::Denied)));
}

/// A write that the manager does for a session is the session's own: until it has returned, nothing of it is given away.
#[test]
fn a_session_does_not_end_before_its_writes_through_the_manager_have_returned() {
    let (mut w, v, wr, b) = pair();
    let io = page(Verb::Write, place_of(&w, v, 0), Claim::Live { volume: v, au: VolAu(0) });
    assert_eq!(asked(&mut w, S, io), Ok(()));
    w.disconnect(wr.conn);
    w.step(Event::LockProbed { session: S, held: false });
    let (id, answer) = w.send(b, AttachWrite { volume: v });
    assert!(answer.or_else(|| w.answer(b, id)).is_none(), "its write may still land");
    w.step(Event::DataDone { session: S });
    w.answer(b, id).expect("answered").expect("attached");
}

/// What stands in the slot of session 0 on disk 0 when the manager looks.
fn looked(w: &mut World, conn: ConnId, found: Option<(SessionId, u64)>) -> Result<(), Kind> {
    let (id, answer) = w.send(conn, CheckPath { disk: DiskNo(0), nonce: 77 });
    assert!(answer.is_none(), "it is looked first");
    w.step(Event::NonceRead { session: S, disk: DiskNo(0), found });
    w.answer(conn, id).expect("answered").map(drop).map_err(|e| e.kind)
}

#[test]
fn a_path_leads_to_the_pools_disk_or_does_not_open() {
    let (mut w, _, wr, _) = pair();
    let own = SessionId([1; 16]);
    assert_eq!(looked(&mut w, wr.conn, Some((own, 77))), Ok(()));
    assert_eq!(looked(&mut w, wr.conn, Some((own, 0))), Err(Kind::Refused), "written to another disk");
    assert_eq!(looked(&mut w, wr.conn, Some((SessionId([2; 16]), 77))), Err(Kind::Refused));
    assert_eq!(looked(&mut w, wr.conn, None), Err(Kind::Io));
    assert_eq!(w.refused(wr.conn, CheckPath { disk: DiskNo(5), nonce: 1 }), Kind::NotFound);
    let opened = without(Tag::P2, || looked(&mut w, wr.conn, Some((own, 0))));
    assert_eq!(opened, Ok(()), "without the sentence a clone would be opened");
}
