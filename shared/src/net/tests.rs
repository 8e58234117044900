//! Both nets carry the same bytes; the one in memory fails as told.

use super::memory::{MemNet, Way};
use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const SOON: Duration = Duration::from_millis(30);

async fn pair(net: &dyn Net) -> (AnyStream, AnyStream, SocketAddr) {
    let mut door = net.listen("127.0.0.1:0").await.unwrap();
    let at = door.address();
    let ours = net.connect(&at.to_string()).await.unwrap();
    let (theirs, _) = door.accept().await.unwrap();
    (ours, theirs, at)
}

async fn says(from: &mut AnyStream, to: &mut AnyStream, what: &[u8]) {
    from.write_all(what).await.unwrap();
    from.flush().await.unwrap();
    let mut got = vec![0; what.len()];
    to.read_exact(&mut got).await.unwrap();
    assert_eq!(got, what);
}

#[tokio::test]
async fn both_nets_carry_bytes_both_ways_and_the_end() {
    let memory = MemNet::default();
    let nets: [&dyn Net; 2] = [&SystemNet, &memory];
    for net in nets {
        let (mut a, mut b, _) = pair(net).await;
        says(&mut a, &mut b, b"there").await;
        says(&mut b, &mut a, b"and back").await;
        a.shutdown().await.unwrap();
        assert_eq!(b.read(&mut [0; 8]).await.unwrap(), 0);
        says(&mut b, &mut a, b"half closed").await;
        drop(b);
        assert_eq!(a.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(net.connect("127.0.0.1:1").await.is_err(), "nobody is there");
    }
}

#[tokio::test]
async fn more_than_the_pipe_holds() {
    let net = MemNet::default();
    let (mut a, mut b, _) = pair(&net).await;
    let data: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let sent = data.clone();
    let sender = tokio::spawn(async move {
        a.write_all(&sent).await.unwrap();
        a.shutdown().await.unwrap();
        a
    });
    let mut got = Vec::new();
    b.read_to_end(&mut got).await.unwrap();
    assert!(got == data);
    sender.await.unwrap();
}

#[tokio::test]
async fn a_stalled_way_delivers_later_and_in_one_direction_only() {
    let net = MemNet::default();
    let (mut a, mut b, at) = pair(&net).await;
    net.ways(at, Way::Stall, Way::Open);
    a.write_all(b"late").await.unwrap();
    assert!(timeout(SOON, b.read(&mut [0; 8])).await.is_err());
    says(&mut b, &mut a, b"back").await;
    net.ways(at, Way::Delay(Duration::from_millis(1)), Way::Open);
    let mut got = [0; 4];
    b.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"late");
}

#[tokio::test]
async fn cut_and_refused() {
    let net = MemNet::default();
    let mut door = net.listen("10.0.0.1:7400").await.unwrap();
    let mut a = net.connect("10.0.0.1:7400").await.unwrap();
    let (mut b, _) = door.accept().await.unwrap();
    says(&mut a, &mut b, b"x").await;
    net.refuse(door.address(), true);
    says(&mut b, &mut a, b"stands").await;
    assert_eq!(net.connect("10.0.0.1:7400").await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    net.cut(door.address());
    assert_eq!((a.read(&mut [0; 8]).await.unwrap(), b.read(&mut [0; 8]).await.unwrap()), (0, 0));
    assert!(a.write_all(b"gone").await.is_err());
    net.refuse(door.address(), false);
    let mut a = net.connect("10.0.0.1:7400").await.unwrap();
    let (mut b, _) = door.accept().await.unwrap();
    says(&mut a, &mut b, b"again").await;
    assert_eq!(net.listen("10.0.0.1:7400").await.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    drop(door);
    assert!(net.connect("10.0.0.1:7400").await.is_err());
    net.listen("10.0.0.1:7400").await.unwrap();
}
