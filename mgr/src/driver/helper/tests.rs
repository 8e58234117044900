//! Errands on file disks, answered through the queue; and the end while some wait.

use super::*;
use crate::core::JournalRef;
use fusevol_shared::change::{Journal, JournalCopy};
use fusevol_shared::disk::any::PoolDisk;
use fusevol_shared::disk::file::{FileDisk, OpenMode};
use fusevol_shared::ids::{DiskId, FenceToken, Seq, SessionId, SessionNo, VolumeId};
use fusevol_shared::units::{AuNo, DiskAu, DiskNo};
use fusevol_shared::wire::slots::Slots;

const POOL: PoolId = PoolId([1; 16]);

fn disks() -> (Vec<tempfile::NamedTempFile>, Vec<Member<File>>) {
    let file = |_| {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").expect("a file");
        file.as_file().set_len(64 << 20).expect("sparse");
        file
    };
    let files: Vec<_> = (0..2).map(file).collect();
    let open = |f: &tempfile::NamedTempFile| Arc::new(PoolDisk::from(FileDisk::open(f.path(), OpenMode::ReadWrite).expect("opens")));
    let disks = (0u8..).zip(&files).map(|(i, f)| (DiskNo(i.into()), DiskId([i + 1; 16]), open(f))).collect();
    (files, disks)
}

fn seal(session: u32) -> Effect {
    Effect::SealSlot { session: SessionNo(session), id: SessionId([3; 16]), slots: Slots::new([DiskNo(0), DiskNo(1)], Generation(1)) }
}

fn event(input: Option<Input>) -> Event {
    match input {
        Some(Input::Event(event)) => event,
        other => panic!("no event: {other:?}"),
    }
}

#[test]
fn errands_are_done_in_order_and_answered() {
    let (_files, disks) = disks();
    let (to, mut from) = mpsc::channel(8);
    let helper = Helper::start(POOL, AuSize::DEFAULT, &Arc::default(), to).expect("a thread");
    let copies = vec![JournalCopy { first: DiskAu { disk: DiskNo(1), au: AuNo(40) }, second: DiskAu { disk: DiskNo(1), au: AuNo(41) } }];
    let journal = |no, copies| JournalRef {
        volume: VolumeId([2; 16]),
        session: SessionNo(5),
        token: FenceToken(no),
        journal: Journal { no: 1, copies },
        without: Vec::new(),
    };
    let journals = vec![journal(4, copies), journal(6, vec![])];
    let read = Effect::ReadSlot { session: SessionNo(5), id: SessionId([3; 16]), slots: vec![DiskNo(0)] };
    let open = Effect::OpenPlaces { session: SessionNo(4), id: SessionId([3; 16]), slots: vec![DiskNo(1), DiskNo(7)] };
    for effect in [seal(5), read, Effect::ReadJournals { session: SessionNo(5), journals }, open] {
        assert_eq!(helper.begin(Job { effect, disks: disks.clone(), generation: Generation(2) }), None);
    }
    assert_eq!(event(from.blocking_recv()), Event::Sealed { session: SessionNo(5), done: true });
    assert_eq!(event(from.blocking_recv()), Event::SlotRead { session: SessionNo(5), beat: None::<Seq> });
    let Event::JournalsRead { tails, .. } = event(from.blocking_recv()) else { panic!("not the tails") };
    assert!(matches!(&tails[0], (FenceToken(4), Ok(tail)) if tail.last == Seq(0)));
    assert!(matches!(&tails[1], (FenceToken(6), Err(e)) if e.kind == Kind::Io));
    let ends = vec![(DiskNo(1), Opened::Done), (DiskNo(7), Opened::Not)];
    assert_eq!(event(from.blocking_recv()), Event::PlacesOpened { session: SessionNo(4), ends });
    let io = SessionIo::new(POOL, AuSize::DEFAULT, &disks, LIMIT);
    let opened = block_on(io.read_seal(DiskNo(1), SessionNo(4))).expect("read").expect("a SEAL");
    assert!(opened.is_clear_for(SessionNo(4), SessionId([3; 16]), Generation(2)));
    let on_disk = block_on(io.read_seal(DiskNo(1), SessionNo(5))).expect("read").expect("a SEAL");
    assert!(on_disk.sealed && on_disk.generation == Generation(2));
}

#[test]
fn the_end_waits_for_the_errand_under_way_only() {
    let (_files, disks) = disks();
    let (to, mut from) = mpsc::channel(1);
    let helper = Helper::start(POOL, AuSize::DEFAULT, &Arc::default(), to).expect("a thread");
    // The second answer waits for room in the queue, the third errand for its turn.
    (1..=3).for_each(|n| drop(helper.begin(Job { effect: seal(n), disks: disks.clone(), generation: Generation(2) })));
    let first = event(from.blocking_recv());
    from.close();
    drop(helper);
    assert_eq!(first, Event::Sealed { session: SessionNo(1), done: true });
    let io = SessionIo::new(POOL, AuSize::DEFAULT, &disks, LIMIT);
    let third = block_on(io.read_seal(DiskNo(0), SessionNo(3))).expect("read");
    assert!(third.is_err(), "it was never begun");
}
