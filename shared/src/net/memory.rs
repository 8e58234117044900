//! A net within the process, with faults that are changed live.
//!
//! What may be injected, for each door (by its address):
//! - [`Way::Delay`]: each piece of bytes arrives so much later; [`Way::Stall`]: nothing arrives until the way is open again:
//!   what dropped packets are to a stream, which sends them again. Each direction has its own.
//! - [`MemNet::cut`]: every connection that stands ends now, on both sides.
//! - [`MemNet::refuse`]: nobody gets a new connection.
//!
//! What may not: lost, doubled, reordered or changed bytes within a stream; TCP and TLS keep those away.
//!
//! Invariant: as many bytes as [`PIPE`] are on the way in one direction; the sender of more waits.

use super::{AnyStream, Listen, Net};
use futures_util::future::{BoxFuture, join};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, watch};

/// Bytes on the way in one direction, in each half of a connection.
const PIPE: usize = 64 << 10;
/// Connections that wait to be accepted; one more is refused.
const BACKLOG: usize = 128;

/// What happens to bytes in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Way {
    /// They arrive.
    #[default]
    Open,
    /// They arrive so much later.
    Delay(Duration),
    /// They wait until this changes.
    Stall,
}

/// The state of the ways to and from one door.
#[derive(Clone, Copy, Default, Debug)]
struct Weather {
    to_door: Way,
    from_door: Way,
    refuse: bool,
    /// Grows with each cut.
    cuts: u64,
}

type Arriving = (AnyStream, SocketAddr);

#[derive(Default, Debug)]
struct Doors {
    open: HashMap<SocketAddr, mpsc::Sender<Arriving>>,
    weather: HashMap<SocketAddr, watch::Sender<Weather>>,
    ports: u16,
}

/// A net in memory; a clone is another handle on it. Needs a tokio runtime.
#[derive(Clone, Default, Debug)]
pub struct MemNet(Arc<Mutex<Doors>>);

fn parse(address: &str) -> io::Result<SocketAddr> {
    address.parse().map_err(|_| io::Error::new(io::ErrorKind::NotFound, format!("no such host: {address}")))
}

impl MemNet {
    /// Sets the ways to and from a door, also for connections that stand.
    pub fn ways(&self, door: SocketAddr, to_door: Way, from_door: Way) {
        self.change(door, |w| (w.to_door, w.from_door) = (to_door, from_door));
    }

    /// Ends all connections with a door.
    pub fn cut(&self, door: SocketAddr) {
        self.change(door, |w| w.cuts += 1);
    }

    /// Whether new connections to a door are refused from now on.
    pub fn refuse(&self, door: SocketAddr, refuse: bool) {
        self.change(door, |w| w.refuse = refuse);
    }

    fn change(&self, door: SocketAddr, f: impl FnOnce(&mut Weather)) {
        self.doors().weather.entry(door).or_default().send_modify(f);
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dial(&self, address: &str) -> io::Result<AnyStream> {
        let to = parse(address)?;
        let mut doors = self.doors();
        doors.ports = doors.ports.wrapping_add(1);
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), doors.ports);
        let weather = doors.weather.entry(to).or_default().subscribe();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let door = doors.open.get(&to).filter(|_| !weather.borrow().refuse).ok_or_else(refused)?;
        let ((ours, near), (far, theirs)) = (duplex(PIPE), duplex(PIPE));
        door.try_send((Box::new(theirs), from)).map_err(|_| refused())?;
        tokio::spawn(carry(near, far, weather));
        Ok(Box::new(ours))
    }

    fn open(&self, address: &str) -> io::Result<MemDoor> {
        let mut at = parse(address)?;
        let mut doors = self.doors();
        while at.port() == 0 || doors.open.get(&at).is_some_and(|d| !d.is_closed()) {
            if !address.ends_with(":0") {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            doors.ports = doors.ports.wrapping_add(1);
            at.set_port(doors.ports);
        }
        let (sender, arriving) = mpsc::channel(BACKLOG);
        doors.open.insert(at, sender);
        Ok(MemDoor { address: at, arriving })
    }
}

impl Net for MemNet {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<AnyStream>> {
        Box::pin(async move { self.dial(address) })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listen>>> {
        Box::pin(async move { Ok(Box::new(self.open(address)?) as Box<dyn Listen>) })
    }
}

struct MemDoor {
    address: SocketAddr,
    arriving: mpsc::Receiver<Arriving>,
}

impl Listen for MemDoor {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(AnyStream, SocketAddr)>> {
        // The net keeps the other end for as long as the door is open.
        Box::pin(async move { self.arriving.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into()) })
    }
}

/// Carries a connection's bytes both ways until both have ended, or it is cut.
async fn carry(near: DuplexStream, far: DuplexStream, mut weather: watch::Receiver<Weather>) {
    let cuts = weather.borrow().cuts;
    let ((from_near, to_near), (from_far, to_far)) = (split(near), split(far));
    let both = join(pump(from_near, to_far, weather.clone(), |w| w.to_door), pump(from_far, to_near, weather.clone(), |w| w.from_door));
    tokio::select! {
        _ = both => {}
        _ = weather.wait_for(|w| w.cuts != cuts) => {}
    }
}

/// One direction. An error is the end of the connection on one side; the other side sees its end, too.
async fn pump(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut weather: watch::Receiver<Weather>,
    way: fn(&Weather) -> Way,
) -> io::Result<()> {
    let mut buf = vec![0; PIPE];
    loop {
        let n = from.read(&mut buf).await?;
        let now = way(&weather.borrow_and_update());
        if let Way::Delay(d) = now {
            tokio::time::sleep(d).await;
        }
        if weather.wait_for(|w| way(w) != Way::Stall).await.is_err() {
            return Ok(());
        }
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buf[..n]).await?;
    }
}
