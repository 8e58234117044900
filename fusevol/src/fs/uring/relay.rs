//! The way of all other requests to the library's loops: one message each over a socket pair, as if it were `/dev/fuse`.
//!
//! A request of a ring entry is *asked*: its answer is given back to the entry. What the kernel still sends over `/dev/fuse` (INIT, FORGET,
//! INTERRUPT, and everything as long as the ring is not ready) is passed on by [`pump`](super::pump), and its answer goes there.

use super::abi::{InHeader, OutHeader};
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Context, Kind, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use zerocopy::{FromBytes, IntoBytes};

/// Room of the pair, each way: more than the largest request or answer.
const ROOM: usize = 4 << 20;
/// How long an entry waits before it looks again whether the loops have taken something.
const FULL: Duration = Duration::from_millis(1);

/// Our end of the pair, and who waits for an answer: at most every entry once.
pub(super) struct Relay {
    socket: OwnedFd,
    /// None once nothing is answered any more.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Vec<u8>>>>>,
}

impl Relay {
    /// Our end, and the loops'.
    pub(super) fn new() -> Result<(Self, OwnedFd)> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.context(Kind::Internal, || "no socket pair")?;
        for end in [&ours, &theirs] {
            let set = sockopt::set_socket_send_buffer_size_force(end, ROOM).or_else(|_| sockopt::set_socket_send_buffer_size(end, ROOM));
            set.context(Kind::Internal, || "no room in a socket pair")?;
        }
        Ok((Self { socket: ours, waiting: Mutex::new(Some(HashMap::new())) }, theirs))
    }

    /// The loops' answer to this request; `None` where they have ended.
    pub(super) async fn ask(&self, unique: u64, message: &[u8]) -> Option<Vec<u8>> {
        let (tx, rx) = oneshot::channel();
        self.waiting().as_mut()?.insert(unique, tx);
        loop {
            match send(&self.socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => break,
                // The loops are all busy: they wait for the manager, perhaps. The ring serves others meanwhile.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => ring::sleep(FULL).await.ok()?,
                Err(_) => {
                    self.waiting().as_mut().map(|w| w.remove(&unique));
                    return None;
                }
            }
        }
        rx.await.ok()
    }

    /// Passes on a message of `/dev/fuse`; waits while the loops are busy.
    pub(super) fn pass(&self, message: &[u8]) -> io::Result<()> {
        loop {
            match send(&self.socket, message, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The next message of the loops, in `buf`; `None` once they have ended.
    pub(super) fn receive<'a>(&self, buf: &'a mut [u8]) -> Option<&'a mut [u8]> {
        loop {
            match recv(&self.socket, &mut *buf, RecvFlags::empty()) {
                Ok((0, _)) | Ok((_, 0)) => return None,
                Ok((n, _)) => return Some(&mut buf[..n]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Gives an answer to the entry that waits for it; `false` where none does.
    pub(super) fn answered(&self, message: &[u8]) -> bool {
        let Ok((header, _)) = OutHeader::read_from_prefix(message) else { return true };
        let waiting = self.waiting().as_mut().and_then(|w| w.remove(&header.unique));
        // An entry that has ended does not listen.
        waiting.map(|entry| entry.send(message.to_vec())).is_some()
    }

    /// Nothing is answered any more.
    pub(super) fn end(&self) {
        drop(self.waiting().take());
    }

    /// Ends so many loops, each once it has served what came before.
    pub(super) fn end_loops(&self, loops: usize) {
        for n in 1..=loops as u64 {
            let end = InHeader::destroy(u64::MAX - n);
            if self.pass(end.as_bytes()).is_err() {
                return; // they have ended
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Vec<u8>>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Error and body of the loops' answer.
pub(super) fn parts(message: &[u8]) -> (i32, &[u8]) {
    match OutHeader::read_from_prefix(message) {
        Ok((header, body)) => (header.error, body),
        Err(_) => (-libc::EIO, &[]),
    }
}
