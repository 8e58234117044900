//! What the net does to a connection: on a net in memory whose faults are set by hand.

use super::*;
use crate::data::NoData;
use fusevol_shared::net::Net;
use fusevol_shared::net::memory::{MemNet, Way};

#[tokio::test]
async fn a_stalled_request_comes_late_and_a_cut_connection_is_gone() {
    let (net, authority) = (MemNet::default(), authority());
    let (sender, mut events) = mpsc::channel(64);
    let address = "10.0.0.1:7400".to_owned();
    let tls = authority.tls().unwrap();
    let listener =
        Listener::bind_on(&net, std::slice::from_ref(&address), tls, Arc::new(NoData), ListenLimits::default(), sender).await.unwrap();
    let door = listener.addresses()[0];
    let (key, _) = authority.key_file(&name("san1"), &name("host1"), vec![address.clone()]).unwrap();

    let stream = key.tls().unwrap().connect(net.connect(&address).await.unwrap()).await.unwrap();
    let (read, mut writer) = tokio::io::split(stream);
    let mut reader: Reader<_, FromManager> = Reader::new(read, Limits::OPEN);
    let conn = match timeout(HANG, events.recv()).await.unwrap() {
        Some(Event::Connected { conn, .. }) => conn,
        other => panic!("{other:?}"),
    };

    net.ways(door, Way::Stall, Way::Open);
    let frame = encode(&FromClient::Request { id: 0, request: hello(4).into() }).unwrap();
    writer.write_all(&frame).await.unwrap();
    writer.flush().await.unwrap();
    assert!(timeout(Duration::from_millis(30), events.recv()).await.is_err(), "it is on its way");
    net.ways(door, Way::Open, Way::Open);
    assert!(matches!(timeout(HANG, events.recv()).await.unwrap(), Some(Event::Request { id: 0, .. })));

    net.cut(door);
    assert_eq!(timeout(HANG, events.recv()).await.unwrap(), Some(Event::Disconnected { conn }));
    assert!(!matches!(timeout(HANG, reader.next()).await.unwrap(), Ok(Some(_))));
}
