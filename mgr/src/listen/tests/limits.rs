//! Past the handshake: the limits of frames, queues and time, and the rules of the protocol.

use super::*;
use crate::data::NoData;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::wire::messages::{Ack, Done, Recall, VolumesChanged};

async fn pair(limits: ListenLimits) -> (Manager, Client) {
    let manager = Manager::new(limits).await;
    let key = manager.key("host1");
    let client = Client::new(&manager, &key).await;
    (manager, client)
}

fn push() -> Push {
    Push::VolumesChanged(VolumesChanged {})
}

#[tokio::test]
async fn frames_are_small_before_the_welcome_and_large_after() {
    let (mut manager, mut client) = pair(ListenLimits::default()).await;
    client.say(0, hello(70_000)).await;
    let conn = manager.connected().await;
    client.closed().await;
    assert_eq!(manager.event().await, Event::Disconnected { conn }, "and no request came through");

    let key = manager.key("host1");
    let mut client = Client::new(&manager, &key).await;
    let conn = manager.welcome(&mut client).await;
    client.say(1, hello(900_000)).await;
    assert!(matches!(manager.event().await, Event::Request { id: 1, .. }));
    let mut head = encode(&FromClient::Request { id: 2, request: hello(4).into() }).unwrap().to_vec();
    head[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    client.writer.write_all(&head).await.unwrap();
    client.writer.flush().await.unwrap();
    manager.gone(conn).await;
}

#[tokio::test]
async fn who_gets_no_session_is_sent_away() {
    let (mut manager, mut client) = pair(ListenLimits { hello: Duration::from_millis(200), ..ListenLimits::default() }).await;
    let conn = manager.connected().await;
    client.closed().await;
    manager.gone(conn).await;
    assert_eq!(manager.listener.connections().count(), 0);
    // Asking does not help: only a welcome does.
    let key = manager.key("host1");
    let mut client = Client::new(&manager, &key).await;
    let conn = manager.connected().await;
    client.say(1, ListVolumes {}).await;
    manager.gone(conn).await;
    client.closed().await;
}

#[tokio::test]
async fn no_more_is_read_than_may_be_open() {
    let (mut manager, mut client) = pair(ListenLimits { in_flight: 3, ..ListenLimits::default() }).await;
    let conn = manager.welcome(&mut client).await;
    for id in 1..=10 {
        client.say(id, ListVolumes {}).await;
    }
    for id in 1..=3 {
        assert!(matches!(manager.event().await, Event::Request { id: i, .. } if i == id));
    }
    for id in 4..=10 {
        // What is not read yet comes with each answer, one by one.
        assert!(manager.events.try_recv().is_err());
        manager.listener.connections().reply(conn, id - 3, Ok(Reply::Done(Done {})));
        assert!(matches!(manager.event().await, Event::Request { id: i, .. } if i == id));
    }
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_hurts_nobody() {
    let limits = ListenLimits { outgoing_hard: 1 << 20, ..ListenLimits::default() };
    let (mut manager, mut client) = pair(limits).await;
    let conn = manager.welcome(&mut client).await;
    let key = manager.key("host2");
    let mut other = Client::new(&manager, &key).await;
    let well = manager.welcome(&mut other).await;
    let connections = manager.listener.connections();
    // The kernel's buffers take some of it; there is an end to that.
    for n in 0..1000 {
        connections.push(conn, n, Push::Recall(Recall { volume: VolumeId([1; 16]), reason: "r".repeat(100_000) }));
        tokio::task::yield_now().await;
    }
    manager.gone(conn).await;
    assert_eq!(connections.count(), 1);
    connections.push(well, 1, push());
    assert!(matches!(other.hear().await, Ok(Some(FromManager::Push { push: 1, .. }))));
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_given_up_in_time() {
    let (mut manager, mut client) = pair(ListenLimits { stall: Duration::from_millis(300), ..ListenLimits::default() }).await;
    let conn = manager.welcome(&mut client).await;
    for n in 0..200 {
        manager.listener.connections().push(conn, n, Push::Recall(Recall { volume: VolumeId([1; 16]), reason: "r".repeat(100_000) }));
    }
    manager.gone(conn).await;
}

#[tokio::test]
async fn the_rules_of_numbers() {
    for (what, messages) in [
        ("a request number twice", vec![FromClient::Request { id: 5, request: ListVolumes {}.into() }; 2]),
        ("an acknowledgement of nothing", vec![FromClient::Ack { push: 1, ack: Ack::Done }]),
    ] {
        let (mut manager, mut client) = pair(ListenLimits::default()).await;
        let conn = manager.welcome(&mut client).await;
        for message in messages {
            client.send(message).await;
        }
        client.closed().await;
        manager.gone(conn).await;
        assert!(manager.events.try_recv().is_err(), "{what}");
    }
    let (mut manager, mut client) = pair(ListenLimits::default()).await;
    let conn = manager.welcome(&mut client).await;
    manager.listener.connections().push(conn, 7, push());
    assert!(matches!(client.hear().await, Ok(Some(FromManager::Push { push: 7, .. }))));
    client.send(FromClient::Ack { push: 7, ack: Ack::Done }).await;
    assert_eq!(manager.event().await, Event::Ack { conn, push: 7, ack: Ack::Done });
}

#[tokio::test]
async fn a_close_comes_after_what_was_said() {
    let (mut manager, mut client) = pair(ListenLimits::default()).await;
    client.say(0, hello(4)).await;
    let conn = manager.connected().await;
    manager.event().await;
    let denied = WireError { kind: Kind::Denied, message: "unknown key".into(), hint: String::new() };
    let connections = manager.listener.connections();
    connections.reply(conn, 0, Err(denied.clone()));
    connections.close(conn, "denied");
    connections.push(conn, 1, push());
    assert_eq!(client.hear().await.unwrap(), Some(FromManager::Reply { id: 0, result: Err(denied) }));
    assert!(client.hear().await.unwrap().is_none(), "nothing after the close");
    manager.gone(conn).await;
    connections.reply(conn, 0, Ok(Reply::Done(Done {})));
}

#[tokio::test]
async fn an_answer_too_long_becomes_an_error() {
    let (mut manager, mut client) = pair(ListenLimits::default()).await;
    let conn = manager.welcome(&mut client).await;
    client.say(1, ListVolumes {}).await;
    manager.event().await;
    let long = Welcome { pool_name: "p".repeat(2 << 20), ..welcome() };
    manager.listener.connections().reply(conn, 1, Ok(Reply::Welcome(long)));
    assert!(matches!(client.hear().await, Ok(Some(FromManager::Reply { id: 1, result: Err(WireError { kind: Kind::Internal, .. }) }))));
}

#[tokio::test]
async fn connections_are_counted_by_key_and_in_all() {
    let (mut manager, mut first) = pair(ListenLimits { connections: 3, per_key: 2, ..ListenLimits::default() }).await;
    let conn = manager.connected().await;
    // `pair` made the key of the first one; these have one of their own.
    let key = manager.key("host2");
    let mut mine = Vec::new();
    for _ in 0..2 {
        mine.push(Client::new(&manager, &key).await);
        manager.connected().await;
    }
    let mut third = Client::new(&manager, &key).await;
    third.closed().await;
    let mut full = Client::new(&manager, &manager.key("host3")).await;
    full.closed().await;
    manager.listener.connections().close(conn, "room for another");
    first.closed().await;
    manager.gone(conn).await;
    let _fourth = Client::new(&manager, &manager.key("host3")).await;
    manager.connected().await;
    assert_eq!(manager.listener.connections().count(), 3);
}

#[tokio::test]
async fn an_address_in_use_and_one_elsewhere_are_said() {
    let manager = Manager::new(ListenLimits::default()).await;
    for (address, kind) in [(manager.address().to_string(), Kind::Busy), ("192.0.2.1:7400".into(), Kind::Refused)] {
        let (sender, _events) = mpsc::channel::<Event>(1);
        let tls = manager.authority.tls().unwrap();
        let e = Listener::bind(std::slice::from_ref(&address), tls, Arc::new(NoData), ListenLimits::default(), sender).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(&address) && e.hint_text().is_some());
    }
}

#[tokio::test]
async fn a_dropped_door_closes_all() {
    let (mut manager, mut client) = pair(ListenLimits::default()).await;
    manager.welcome(&mut client).await;
    let connections = manager.listener.connections();
    drop(manager.listener);
    client.closed().await;
    assert_eq!(connections.count(), 0);
}
