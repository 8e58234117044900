//! `/dev/fuse` beside the ring: INIT at the beginning, FORGET and INTERRUPT for ever, and every request where the ring is not ready.

use super::Shared;
use super::abi::{self, InHeader, op};
use fusevol_shared::error::{Context, Error, Kind, Result};
use std::os::fd::OwnedFd;
use zerocopy::FromBytes;

/// A message of `/dev/fuse` is no longer: the kernel wants so much room.
const MESSAGE: usize = super::BODY + 4096;

/// The next message; `None` once the mount has ended.
fn read<'a>(fuse: &OwnedFd, buf: &'a mut [u8]) -> Option<&'a mut [u8]> {
    loop {
        match rustix::io::read(fuse, &mut *buf) {
            Ok(n) => return Some(&mut buf[..n]),
            // A request that was interrupted before it was read.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return None,
        }
    }
}

fn write(fuse: &OwnedFd, message: &[u8]) {
    // Who asked is gone, or the mount is: nobody is left to be told.
    let _ = rustix::io::write(fuse, message);
}

/// Reads the INIT request and passes it on. Whether it offers the ring.
pub(super) fn first(shared: &Shared) -> Result<bool> {
    let mut buf = vec![0; MESSAGE];
    let init = read(&shared.fuse, &mut buf).ok_or_else(|| Error::new(Kind::Io, "the mount ended before it began"))?;
    if InHeader::read_from_prefix(init).map_or(0, |(h, _)| h.opcode) != op::INIT {
        return Err(Error::new(Kind::Io, "the kernel's first request is not INIT"));
    }
    let offered = abi::offers_ring(init);
    shared.relay.pass(init).context(Kind::Internal, || "the loops do not listen")?;
    Ok(offered)
}

/// Passes the loops' answer to INIT on, with the ring taken if `take`. Whether it is.
pub(super) fn second(shared: &Shared, take: bool) -> Result<bool> {
    let mut buf = vec![0; MESSAGE];
    let reply = shared.relay.receive(&mut buf).ok_or_else(|| Error::new(Kind::Internal, "the loops have not answered INIT"))?;
    let taken = take && abi::take_ring(reply);
    rustix::io::write(&shared.fuse, reply).context(Kind::Io, || "the kernel does not take the answer to INIT")?;
    Ok(taken)
}

/// From `/dev/fuse` to the loops, until the mount ends; then ends the loops.
pub(super) fn requests(shared: &Shared, loops: usize) {
    let mut buf = vec![0; MESSAGE];
    while let Some(message) = read(&shared.fuse, &mut buf) {
        if shared.relay.pass(message).is_err() {
            break;
        }
    }
    shared.relay.end_loops(loops);
}

/// From the loops to who asked, until they end.
pub(super) fn answers(shared: &Shared) {
    let mut buf = vec![0; MESSAGE];
    while let Some(message) = shared.relay.receive(&mut buf) {
        if !shared.relay.answered(message) {
            write(&shared.fuse, message);
        }
    }
    shared.relay.end();
}
