//! One entry of a queue: a task that lives as long as the mount.
//!
//! ```text
//!  with the kernel (the command in flight owns head and body) -> a request -> serving (the task owns them) -> committed: with the kernel
//!                                                             `-> ENOTCONN: the mount has ended, and so does the task
//! ```
//!
//! Data goes from disk to body, or from body to disk, without a copy and by its number with the ring.

use super::Shared;
use super::abi::{self, CommandBytes, Fallocate, Flush, Lseek, ReadWrite, Request, WriteOut, op};
use super::relay;
use crate::fs::ops::Answer;
use fuser::{Errno, FileHandle, INodeNo, LockOwner};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::ring::{self, Command};
use std::time::Duration;
use zerocopy::IntoBytes;

/// A queue is so much of an address: the possible CPU whose requests it gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queue(pub u16);

/// What an answer needs besides its memory: the error, or the bytes of the body.
type Answered = Result<usize, Errno>;

/// How often, and after which time, memory of a failed write is looked at that a disk may still have.
const STILL_THERE: Duration = Duration::from_millis(10);

/// An entry before it is registered.
pub(super) struct Entry {
    queue: Queue,
    head: IoBuf,
    body: IoBuf,
}

impl Entry {
    /// An entry of this queue, for requests with up to `largest` bytes.
    pub(super) fn new(queue: Queue, largest: usize) -> Self {
        Self { queue, head: IoBuf::zeroed(abi::HEAD), body: IoBuf::zeroed(largest) }
    }

    /// Its memory for data.
    pub(super) fn body(&self) -> &IoBuf {
        &self.body
    }

    /// Registers it and serves until the mount ends.
    pub(super) async fn run(self, shared: &Shared) {
        let command = |op, commit_id, head, body| Command {
            op,
            bytes: CommandBytes { flags: 0, commit_id, queue: self.queue.0, padding: [0; 6] }.as_bytes().try_into().expect("24 bytes"),
            hands_over: op == abi::REGISTER,
            head,
            body,
        };
        let mut next = command(abi::REGISTER, 0, self.head, self.body);
        loop {
            let registering = next.op == abi::REGISTER;
            let (result, Command { mut head, body, .. }) = ring::command(&shared.fuse, next).await;
            if let Err(errno) = result {
                return shared.entry_ended(self.queue, registering, errno);
            }
            let request = Request::of(&head);
            let (answered, body) = serve(shared, &request, &head, body).await;
            let (error, payload) = match answered {
                Ok(n) => (0, n),
                Err(e) => (-e.code(), 0),
            };
            abi::answer(&mut head, request.header.unique, error, payload);
            next = command(abi::COMMIT_AND_FETCH, request.commit_id, head, body);
        }
    }
}

async fn serve(shared: &Shared, request: &Request, head: &IoBuf, mut body: IoBuf) -> (Answered, IoBuf) {
    let adapter = &shared.adapter;
    let ino = INodeNo(request.header.nodeid);
    match request.header.opcode {
        op::READ => {
            let arg: ReadWrite = abi::argument(head);
            let len = (arg.size as usize).min(body.len());
            adapter.read_at(ino, FileHandle(arg.fh), arg.offset, len, body).await
        }
        op::WRITE => write(shared, ino, request, &abi::argument(head), body).await,
        op::FSYNC => (adapter.sync(ino, FileHandle(abi::file_handle(head))).await.map(|()| 0), body),
        op::FLUSH => {
            let arg: Flush = abi::argument(head);
            (adapter.closed(ino, FileHandle(arg.fh), LockOwner(arg.lock_owner)).await.map(|()| 0), body)
        }
        op::FALLOCATE => {
            let arg: Fallocate = abi::argument(head);
            (adapter.fallocate_at(ino, FileHandle(arg.fh), arg.offset, arg.length, arg.mode).await.map(|()| 0), body)
        }
        op::LSEEK => {
            let arg: Lseek = abi::argument(head);
            let found = adapter.seek(ino, FileHandle(arg.fh), arg.offset, arg.whence);
            let answered = found.map(|at| put(&mut body, at.as_bytes()));
            (answered, body)
        }
        _ => {
            let message = abi::message(head, request, &body);
            let answered = shared.relay.ask(request.header.unique, &message).await;
            (answered.map_or(Err(Errno::ENODEV), |a| relayed(&a, &mut body)), body)
        }
    }
}

async fn write(shared: &Shared, ino: INodeNo, request: &Request, arg: &ReadWrite, body: IoBuf) -> (Answered, IoBuf) {
    let len = (arg.size as usize).min(request.payload).min(body.len());
    let all = body.freeze();
    // O_SYNC contains the bit of O_DSYNC.
    let sync = arg.flags & libc::O_DSYNC.unsigned_abs() != 0;
    let written: Answer<u32> = shared.adapter.write_at(ino, FileHandle(arg.fh), arg.offset, &all.slice(0, len), sync).await;
    let mut body = thaw(all).await;
    (written.map(|size| put(&mut body, WriteOut { size, padding: 0 }.as_bytes())), body)
}

/// The body again, once no disk has a part of it any more.
async fn thaw(mut bytes: IoBytes) -> IoBuf {
    loop {
        match bytes.try_thaw() {
            Ok(body) => return body,
            Err(shared) => bytes = shared,
        }
        if ring::sleep(STILL_THERE).await.is_err() {
            // Without a ring there is no I/O either, which the next turn finds.
            std::thread::yield_now();
        }
    }
}

fn put(body: &mut IoBuf, bytes: &[u8]) -> usize {
    body[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

/// The loops' answer, into the body.
fn relayed(answer: &[u8], body: &mut IoBuf) -> Answered {
    let (error, bytes) = relay::parts(answer);
    match error {
        0 if bytes.len() <= body.len() => Ok(put(body, bytes)),
        0 => Err(Errno::EIO),
        e => Err(Errno::from_i32(-e)),
    }
}
