//! The ring under more requests than fit, dropped futures, wake-ups of other threads, and ends of threads.

use super::*;
use crate::units::PAGE;
use futures_util::future::{Either, join_all, select};
use std::fs::File;
use std::sync::mpsc;

fn temp() -> Arc<OwnedFd> {
    Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()))
}

/// Polls `f` once, then drops it.
async fn poll_once<F: Future>(f: F) {
    let mut f = pin!(f);
    std::future::poll_fn(|cx| {
        assert!(f.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[test]
fn writes_and_reads_more_than_fit_in_flight() {
    let fd = temp();
    let page = |i: usize| IoBuf::copy_of(&[u8::try_from(i % 251).unwrap(); PAGE]);
    block_on(async {
        let n = 3 * MAX_IN_FLIGHT;
        let writes = (0..n).map(|i| {
            let (fd, data) = (fd.clone(), page(i).freeze());
            async move { write(&fd, (i * PAGE) as u64, &data, 0, i % 100 == 0).await }
        });
        assert!(join_all(writes).await.into_iter().all(|r| r == Ok(PAGE)));
        datasync(&fd).await.unwrap();
        let reads = (0..n).map(|i| {
            let fd = fd.clone();
            async move { read(&fd, (i * PAGE) as u64, IoBuf::zeroed(PAGE), 0).await }
        });
        for (i, (result, buf)) in join_all(reads).await.into_iter().enumerate() {
            assert_eq!(result, Ok(PAGE));
            assert!(buf[..] == page(i)[..], "page {i}");
        }
    });
}

#[test]
fn reports_the_errno() {
    let fd = Arc::new(OwnedFd::from(File::open("/").unwrap()));
    assert_eq!(block_on(read(&fd, 0, IoBuf::zeroed(PAGE), 0)).0, Err(libc::EISDIR));
}

#[test]
fn a_dropped_request_keeps_memory_and_descriptor_until_its_completion() {
    let (reader, writer) = std::io::pipe().unwrap();
    let reader = Arc::new(OwnedFd::from(reader));
    block_on(poll_once(read(&reader, 0, IoBuf::zeroed(PAGE), 0)));
    block_on(sleep(Duration::from_millis(5))).unwrap();
    assert_eq!(Arc::strong_count(&reader), 2, "the slot owns the descriptor");
    std::io::Write::write_all(&mut &writer, b"late").unwrap();
    // The completion is seen within a few turns; the loop's limit is only there to fail rather than hang.
    let freed = (0..2_000).any(|_| {
        block_on(sleep(Duration::from_millis(5))).unwrap();
        Arc::strong_count(&reader) == 1
    });
    assert!(freed);
}

#[test]
fn dropped_requests_give_their_slots_back() {
    block_on(async {
        for _ in 0..3 {
            let sleeps = join_all((0..2 * MAX_IN_FLIGHT).map(|_| sleep(Duration::from_secs(3600))));
            poll_once(sleeps).await;
            sleep(Duration::from_millis(1)).await.unwrap();
        }
        let fd = temp();
        let data = IoBuf::copy_of(&[9; PAGE]).freeze();
        let all = join_all((0..2 * MAX_IN_FLIGHT).map(|_| write(&fd, 0, &data, 0, false))).await;
        assert!(all.into_iter().all(|r| r == Ok(PAGE)));
    });
}

#[test]
fn other_threads_wake_it() {
    let (ask, asked) = mpsc::channel::<tokio::sync::oneshot::Sender<u32>>();
    let answerer = std::thread::spawn(move || {
        for (i, reply) in asked.iter().enumerate() {
            reply.send(u32::try_from(i).unwrap()).unwrap();
        }
    });
    let fd = temp();
    let data = IoBuf::copy_of(&[3; PAGE]).freeze();
    block_on(async {
        for i in 0..2_000 {
            let (tx, rx) = tokio::sync::oneshot::channel();
            ask.send(tx).unwrap();
            if i % 3 == 0 {
                // Wake-ups and completions at once.
                let both = futures_util::future::join(rx, write(&fd, 0, &data, 0, false)).await;
                assert_eq!(both, (Ok(i), Ok(PAGE)));
            } else {
                assert_eq!(rx.await, Ok(i));
            }
        }
    });
    drop(ask);
    answerer.join().unwrap();
}

#[test]
fn wakes_without_a_ring() {
    std::thread::spawn(|| {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let sender = std::thread::spawn(move || tx.send(5).unwrap());
        assert_eq!(block_on(rx), Ok(5));
        sender.join().unwrap();
        LOCAL.with(|l| assert!(matches!(*l.reactor.borrow(), Lazy::Not), "no request, no ring"));
    })
    .join()
    .unwrap();
}

#[test]
fn the_shorter_sleep_wins() {
    let first = block_on(async {
        match select(pin!(sleep(Duration::from_millis(2))), pin!(sleep(Duration::from_secs(3600)))).await {
            Either::Left(_) => "short",
            Either::Right(_) => "long",
        }
    });
    assert_eq!(first, "short");
}

#[test]
fn a_thread_ends_with_requests_in_flight() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let reader = Arc::new(OwnedFd::from(reader));
    let theirs = reader.clone();
    std::thread::spawn(move || block_on(poll_once(read(&theirs, 0, IoBuf::zeroed(PAGE), 0)))).join().unwrap();
    assert_eq!(Arc::strong_count(&reader), 1, "cancelled and given back");
}

#[test]
#[should_panic(expected = "block_on within block_on")]
fn refuses_to_nest() {
    block_on(async { block_on(async {}) });
}

#[test]
fn goes_on_after_a_panic() {
    let panicked = std::panic::catch_unwind(|| block_on(async { panic!("inside") }));
    assert!(panicked.is_err());
    assert_eq!(block_on(async { 1 }), 1);
}

#[test]
fn many_threads_each_with_a_ring() {
    let threads: Vec<_> = (0..8)
        .map(|t| {
            std::thread::spawn(move || {
                let (fd, data) = (temp(), IoBuf::copy_of(&[t; PAGE]).freeze());
                block_on(async {
                    for round in 0..50 {
                        let some = join_all((0..32).map(|i| write(&fd, i * PAGE as u64, &data, 0, false)));
                        if round % 2 == 0 {
                            some.await;
                        } else {
                            poll_once(some).await;
                        }
                    }
                    datasync(&fd).await.unwrap();
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

/// Each thread its own ring: what one ring knows by number is plain memory to the others.
#[test]
fn registered_memory_and_files_are_the_same_memory_and_files() {
    let files: Vec<_> = (0..70).map(|_| temp()).collect();
    let mut known = IoBuf::zeroed(3 * PAGE);
    known[..PAGE].fill(1);
    known[PAGE..].fill(2);
    let known = std::thread::spawn(move || {
        register(&[&known]).expect("root, or room for locked memory");
        block_on(async {
            for f in &files {
                let data = known.freeze();
                assert_eq!(write(f, 0, &data.slice(PAGE, 2 * PAGE), 0, false).await, Ok(2 * PAGE));
                known = data.try_thaw().expect("the write is done");
                known[PAGE..].fill(9);
                let mut tail = known;
                let head = tail.split_to(PAGE);
                let (n, back) = read(f, 0, tail, PAGE).await;
                assert_eq!(n, Ok(PAGE), "the rest of the buffer");
                assert_eq!((back[0], back[PAGE], head[0]), (9, 2, 1));
                known = head;
                known.rejoin(back).expect("the two halves");
                known[PAGE..].fill(2);
            }
            known
        })
    });
    let known = known.join().expect("no panic").freeze();
    assert_eq!(block_on(write(&temp(), 0, &known, 0, false)), Ok(3 * PAGE), "on another ring");
}

#[test]
fn a_command_comes_back_with_its_memory_and_the_drivers_answer() {
    if !takes_commands() {
        return;
    }
    let command_of =
        || Command { op: 1, bytes: [0; COMMAND_BYTES], hands_over: true, head: IoBuf::zeroed(1), body: IoBuf::copy_of(&[7; 9]) };
    let (answer, back) = block_on(command(&temp(), command_of()));
    assert_eq!((answer, back.body[8]), (Err(libc::EOPNOTSUPP), 7), "a plain file has no commands");
}
