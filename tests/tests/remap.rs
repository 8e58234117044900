//! A frozen writer's volume is taken over without a fence, and then it goes on (PROTOCOL.md, T1 to T4).

use fusevol::control::Control;
use fusevol_mgr::core::errand::Errand;
use fusevol_mgr::core::{AdminReply, AdminRequest};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::SnapshotId;
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::wire::messages::Goodbye;
use fusevol_tests::model::frozen::{FOREIGN, Frozen, Other, World, page};
use fusevol_tests::model::run_local;

/// Bytes of a block.
const BLOCK: u64 = 16 << 10;
const MIB: u64 = 1 << 20;

fn nothing() -> impl AsyncFnMut(&Errand) {
    async |_: &Errand| {}
}

/// What was there before: 1 in blocks 0 and 3 of AU 0, and in AU 65; then a snapshot.
async fn grounds(w: &World) -> SnapshotId {
    let volume = w.other.attach(w.id, fusevol::volume::Mode::Write).await.expect("attached");
    for at in [0, 3 * BLOCK, 65 * MIB] {
        volume.write(at, page(1)).await.expect("written");
    }
    volume.flush().await.expect("flushed");
    w.other.detach(w.id).await.expect("given back");
    let taken = w.manager.admin(AdminRequest::SnapshotCreate { volume: "db".into(), name: "s".into() }).expect("taken");
    let AdminReply::Snapshot(s) = taken else { panic!("{taken:?}") };
    s.id
}

/// The frozen one has region 0 marked, and one block of it overwritten and synced.
async fn at_work(w: &World) -> Frozen {
    let volume = w.attach_frozen().await;
    volume.write(0, page(2)).await.expect("written");
    volume.flush().await.expect("flushed");
    volume
}

async fn byte(volume: &Other, at: u64) -> u8 {
    volume.read(at, 4096).await.expect("read")[0]
}

async fn frozen_byte(w: &World, s: SnapshotId, at: u64) -> u8 {
    let reader = w.third.open(s).await.expect("open");
    let read = reader.read(at, 4096).await.expect("read")[0];
    w.third.close(s).await.expect("closed");
    read
}

/// > What a lost client could still write is read by nobody: a write of it that lands after its volume was taken over lands in quarantine.
#[test]
fn a_late_write_of_a_frozen_writer_is_read_by_nobody() {
    run_local(async {
        let w = World::new().await;
        let s = grounds(&w).await;
        let reader = w.other.open(s).await.expect("open");
        let old = at_work(&w).await;
        old.write(20 * MIB, page(3)).await.expect("an AU of its own");
        old.flush().await.expect("flushed");
        // On their way when it is frozen: to what it had marked, to what it bound, and to what it has in reserve.
        w.paths.iter().for_each(|p| p.hold());
        for at in [0, 3 * BLOCK, 20 * MIB, 30 * MIB] {
            let late = old.clone();
            tokio::task::spawn_local(async move { late.write(at, page(66)).await });
        }
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let new = w.take_over(nothing()).await;
        assert_eq!(
            (byte(&new, 0).await, byte(&new, 3 * BLOCK).await, byte(&new, 20 * MIB).await),
            (2, 1, 3),
            "what it had synced is there"
        );
        for at in [0, 20 * MIB, 30 * MIB, 65 * MIB] {
            new.write(at, page(7)).await.expect("written");
        }
        new.flush().await.expect("flushed");
        let mut landed = 0;
        for p in &w.paths {
            landed += p.land().await;
        }
        assert!(landed >= 3, "{landed}");
        assert_eq!((byte(&new, 0).await, byte(&new, 20 * MIB).await, byte(&new, 30 * MIB).await), (7, 7, 7));
        assert_eq!(byte(&new, 3 * BLOCK).await, 1);
        // It goes on: in what it had marked it may write, and is not answered; elsewhere it may not.
        old.write(5 * BLOCK, page(67)).await.expect("it does not know yet");
        assert_eq!(old.flush().await.expect_err("it is sealed").kind(), Kind::Lapsed);
        assert_eq!(old.write(65 * MIB, page(67)).await.expect_err("it is over").kind(), Kind::Lapsed);
        assert_eq!((byte(&new, 5 * BLOCK).await, byte(&new, 65 * MIB).await), (0, 7));
        // The snapshot is what it was, for who had it open and for who opens it now.
        for at in [0, 3 * BLOCK, 65 * MIB] {
            assert_eq!((reader.read(at, 4096).await.expect("read")[0], frozen_byte(&w, s, at).await), (1, 1), "at {at}");
        }
        assert_eq!(w.manager.prove(), Vec::<String>::new());
        assert!(w.manager.quarantined() > 0);
        // By its own word it has drained.
        let link = w.frozen.engine.control.clone();
        tokio::task::spawn_local(async move { link.call(Goodbye {}).await });
        tokio::task::yield_now().await;
        w.second(nothing()).await;
        assert_eq!((w.manager.quarantined(), w.manager.prove()), (0, Vec::new()));
        w.other.detach(w.id).await.expect("given back");
        assert_eq!(w.manager.prove(), Vec::<String>::new());
    });
}

/// A preserve log of several segments, of which the open one is named by the one before: whoever follows it finds what was preserved.
#[test]
fn a_long_preserve_log_is_carried_on() {
    run_local(async {
        let w = World::new().await;
        let volume = w.other.attach(w.id, fusevol::volume::Mode::Write).await.expect("attached");
        for au in 0..3 {
            let all = fusevol_shared::disk::buf::IoBuf::copy_of(&vec![1; 1 << 20]).freeze();
            volume.write(au * MIB, all).await.expect("written");
        }
        volume.flush().await.expect("flushed");
        w.other.detach(w.id).await.expect("given back");
        let taken = w.manager.admin(AdminRequest::SnapshotCreate { volume: "db".into(), name: "s".into() }).expect("taken");
        let AdminReply::Snapshot(s) = taken else { panic!("{taken:?}") };
        let old = w.attach_frozen().await;
        for block in 0..150 {
            old.write(block * BLOCK, page(2)).await.expect("written");
        }
        old.flush().await.expect("flushed");
        let reader = w.other.open(s.id).await.expect("open");
        let new = w.take_over(nothing()).await;
        for block in 100..190 {
            new.write(block * BLOCK, page(3)).await.expect("written");
        }
        new.flush().await.expect("flushed");
        for block in 0..192 {
            let at = block * BLOCK;
            let live = match block {
                0..100 => 2,
                100..190 => 3,
                _ => 1,
            };
            let seen = (byte(&new, at).await, reader.read(at, 4096).await.expect("read")[0], frozen_byte(&w, s.id, at).await);
            assert_eq!(seen, (live, 1, 1), "block {block}");
        }
        assert_eq!(w.manager.prove(), Vec::<String>::new());
    });
}

/// Whether what was synced after the takeover is there.
async fn synced_late() -> bool {
    let w = World::new().await;
    grounds(&w).await;
    let old = at_work(&w).await;
    let new = w.take_over(nothing()).await;
    let synced = old.write(0, page(9)).await.is_ok() && old.flush().await.is_ok();
    !synced || byte(&new, 0).await == 9
}

#[test]
fn a_switch_shows_that_the_seal_is_read_before_an_fsync_is_answered() {
    assert!(run_local(synced_late()));
    assert!(!without(Tag::T1, || run_local(synced_late())), "synced, and not there");
}

/// A block is preserved and overwritten once the first of copies and log was done; what the snapshot has of it.
async fn preserved_in_between() -> u8 {
    let w = World::new().await;
    let s = grounds(&w).await;
    let old = at_work(&w).await;
    let mut done = 0;
    let writer = old.clone();
    let new = w
        .take_over(async |errand: &Errand| {
            if matches!(errand, Errand::Copy(_) | Errand::Log { .. }) {
                done += 1;
                if done == 2 {
                    writer.write(3 * BLOCK, page(8)).await.expect("its region is marked, its lease good");
                }
            }
        })
        .await;
    let seen = frozen_byte(&w, s, 3 * BLOCK).await;
    assert_eq!(frozen_byte(&w, s, 0).await, 1, "what was preserved before is found under its new place");
    assert_eq!(byte(&new, 0).await, 2);
    seen
}

#[test]
fn a_switch_shows_that_the_preserve_log_is_read_after_the_copies() {
    assert_eq!(run_local(preserved_in_between()), 1);
    assert_eq!(without(Tag::T2, || run_local(preserved_in_between())), 8, "the snapshot has changed");
}

/// A write to an AU that the frozen one bound lands late; what is read there then.
async fn bound_and_late() -> u8 {
    let w = World::new().await;
    grounds(&w).await;
    let old = w.attach_frozen().await;
    old.write(20 * MIB, page(3)).await.expect("written");
    old.flush().await.expect("flushed");
    w.paths.iter().for_each(|p| p.hold());
    tokio::task::spawn_local(async move { old.write(20 * MIB, page(66)).await });
    tokio::task::yield_now().await;
    let new = w.take_over(nothing()).await;
    assert_eq!(byte(&new, 20 * MIB).await, 3);
    new.write(20 * MIB, page(7)).await.expect("written");
    new.flush().await.expect("flushed");
    for p in &w.paths {
        p.land().await;
    }
    byte(&new, 20 * MIB).await
}

#[test]
fn a_switch_shows_that_what_was_bound_counts_as_marked() {
    assert_eq!(run_local(bound_and_late()), 7);
    assert_eq!(without(Tag::T3, || run_local(bound_and_late())), 66, "the late write is read");
}

/// A block is first written and appended after the copies; what is read there.
async fn written_after_the_copies() -> u8 {
    let w = World::new().await;
    grounds(&w).await;
    let old = at_work(&w).await;
    let writer = old.clone();
    let new = w
        .take_over(async |errand: &Errand| {
            if matches!(errand, Errand::Log { .. }) {
                writer.write(9 * BLOCK, page(8)).await.expect("its region is marked, its lease good");
                assert!(writer.flush().await.is_err(), "it is sealed");
            }
        })
        .await;
    byte(&new, 9 * BLOCK).await
}

#[test]
fn a_switch_shows_that_the_journal_is_closed_before_the_copies() {
    assert_eq!(run_local(written_after_the_copies()), 0);
    assert_eq!(without(Tag::T4, || run_local(written_after_the_copies())), FOREIGN, "what others had there is read");
}
