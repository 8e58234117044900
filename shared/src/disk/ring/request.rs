//! What a slot of the ring owns while the kernel works on it, and its form as an entry of the queue.
#![allow(unsafe_code)]

use super::kernel::{Entry, Kernel, iovec};
use crate::disk::buf::{IoBuf, IoBytes, Registered};
use io_uring::types::{Fd, FsyncFlags, TimeoutFlags, Timespec};
use io_uring::{opcode, squeue};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// One read or write hands at most this to the kernel (it takes less than 2 GiB); the rest follows as after a short one.
const MAX_CHUNK: usize = 1 << 30;
/// Bytes of a command that a caller fills; those behind are zeros.
pub const COMMAND_BYTES: usize = 24;

/// A command to the driver behind a descriptor (`IORING_OP_URING_CMD`), and the memory that the driver works on: it belongs to the
/// kernel from the call to the completion.
#[derive(Debug)]
pub struct Command {
    /// Which one, in the driver's own numbering.
    pub op: u32,
    /// What goes with it.
    pub bytes: [u8; COMMAND_BYTES],
    /// Whether the two pieces of memory are handed over as an array of two `iovec`s; else the driver knows them already.
    pub hands_over: bool,
    /// The first piece.
    pub head: IoBuf,
    /// The second one.
    pub body: IoBuf,
}

#[derive(Debug)]
pub(super) enum Request {
    Read { fd: Arc<OwnedFd>, at: u64, buf: IoBuf, from: usize },
    Write { fd: Arc<OwnedFd>, at: u64, data: IoBytes, from: usize, durable: bool },
    Sync { fd: Arc<OwnedFd> },
    Sleep(Box<Timespec>),
    Command { fd: Arc<OwnedFd>, command: Command, pieces: Option<Box<Pieces>> },
}

/// Points into the command's own memory.
#[derive(Debug)]
pub(super) struct Pieces([libc::iovec; 2]);

// SAFETY: the addresses are of memory that the command owns, which goes where they go; nobody follows them but the kernel.
unsafe impl Send for Pieces {}

/// A length as the kernel takes it, cut to `MAX_CHUNK`.
fn chunk(len: usize) -> u32 {
    u32::try_from(len.min(MAX_CHUNK)).expect("MAX_CHUNK fits")
}

/// By the descriptor's number with this ring, where it has one.
fn on(fd: &Arc<OwnedFd>, kernel: &mut Kernel, build: impl FnOnce(Fd) -> squeue::Entry) -> squeue::Entry {
    match kernel.file(fd) {
        Some(index) => build(Fd(index)).flags(squeue::Flags::FIXED_FILE),
        None => build(Fd(fd.as_raw_fd())),
    }
}

impl Request {
    pub(super) fn sleep(duration: Duration) -> Self {
        Self::Sleep(Box::new(Timespec::from(duration)))
    }

    /// The kernel's form. It points into `self`'s heap memory, which moving `self` does not move.
    pub(super) fn entry(&mut self, kernel: &mut Kernel, user_data: u64) -> Entry {
        let ring = kernel.id();
        let number = |r: Option<Registered>| r.filter(|r| r.ring == ring).map(|r| r.index);
        let entry = match self {
            Self::Read { fd, at, buf, from } => {
                let number = number(buf.registered());
                let rest = &mut buf[*from..];
                let (to, len) = (rest.as_mut_ptr(), chunk(rest.len()));
                on(fd, kernel, |fd| match number {
                    Some(n) => opcode::ReadFixed::new(fd, to, len, n).offset(*at).build(),
                    None => opcode::Read::new(fd, to, len).offset(*at).build(),
                })
            }
            Self::Write { fd, at, data, from, durable } => {
                let number = number(data.registered());
                let rest = &data[*from..];
                let (of, len) = (rest.as_ptr(), chunk(rest.len()));
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                on(fd, kernel, |fd| match number {
                    Some(n) => opcode::WriteFixed::new(fd, of, len, n).offset(*at).rw_flags(flags).build(),
                    None => opcode::Write::new(fd, of, len).offset(*at).rw_flags(flags).build(),
                })
            }
            Self::Sync { fd } => on(fd, kernel, |fd| opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build()),
            Self::Sleep(time) => opcode::Timeout::new(&raw const **time).flags(TimeoutFlags::BOOTTIME).build(),
            Self::Command { fd, command, pieces } => return command_entry(fd, command, pieces, user_data),
        };
        Entry::Short(entry.user_data(user_data))
    }
}

fn command_entry(fd: &Arc<OwnedFd>, command: &mut Command, pieces: &mut Option<Box<Pieces>>, user_data: u64) -> Entry {
    let mut bytes = [0; 80];
    bytes[..COMMAND_BYTES].copy_from_slice(&command.bytes);
    // Not by number: a descriptor that the ring knows stays open until everything in flight on it is done, also after the process was killed, and a
    // driver that waits for the end of its last user (FUSE) would wait for a hung disk.
    let mut build = opcode::UringCmd80::new(Fd(fd.as_raw_fd()), command.op).cmd(bytes);
    if command.hands_over {
        let (head, body) = (command.head.len(), command.body.len());
        let both = Pieces([iovec(command.head.as_mut_ptr(), head), iovec(command.body.as_mut_ptr(), body)]);
        let pieces = pieces.insert(Box::new(both));
        build = build.addr(Some(pieces.0.as_ptr() as u64));
    }
    let mut entry = build.build().user_data(user_data);
    if command.hands_over {
        set_len(&mut entry, 2);
    }
    Entry::Wide(entry)
}

/// Sets `sqe->len`, for which the builder has no place.
fn set_len(entry: &mut squeue::Entry128, len: u32) {
    /// `offsetof(struct io_uring_sqe, len)`: `linux/io_uring.h`.
    const LEN: usize = 24;
    const _: () = assert!(std::mem::size_of::<squeue::Entry128>() == 128);
    // SAFETY: an entry is the kernel's struct of 128 bytes, plain data, copied into the queue as it is; `len` is four aligned bytes in it.
    unsafe { (&raw mut *entry).cast::<u8>().add(LEN).cast::<u32>().write(len) }
}
