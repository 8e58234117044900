//! One request to an export, from the queue to its answer.
//!
//! ```text
//! queued --(dropped)-------> Answered ENOTCONN: it was never sent
//!    '-> sent --(reply)----> what the server says
//!          '----(dropped)--> NotReturned, with the errno of the loss: it may still land
//! ```
//! Invariant: a request is answered exactly once, whatever becomes of its connection: who drops it answers it. Its memory is
//! its own until then.

use super::life::Life;
use super::wire::{Command, request};
use crate::disk::buf::{IoBuf, IoBytes};
use crate::disk::{Answer, DiskError, DiskResult};
use crate::units::DiskOff;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Pieces that a reply may lie in without touching each other, at once.
const FRAGMENTS_MAX: usize = 256;

/// What a request carries.
#[derive(Debug)]
pub(super) enum Body {
    /// A flush.
    Nothing,
    /// A read: memory to be filled.
    Fill(IoBuf),
    /// A write.
    Data(IoBytes),
}

/// The answer; the memory of a read comes back with it.
pub(super) type End = (DiskResult<()>, Option<IoBuf>);

#[derive(Debug)]
pub(super) struct Request {
    pub command: Command,
    pub at: u64,
    /// Bytes of its data.
    pub len: u32,
    flags: u16,
    body: Body,
    covered: Covered,
    /// What an error chunk has said; its reply goes on.
    failed: Option<(i32, String)>,
    sent: bool,
    answer: Option<oneshot::Sender<End>>,
    life: Arc<Life>,
}

impl Request {
    pub fn new(command: Command, flags: u16, at: DiskOff, body: Body, life: &Arc<Life>) -> (Self, oneshot::Receiver<End>) {
        let len = match &body {
            Body::Nothing => 0,
            Body::Fill(buf) => buf.len(),
            Body::Data(data) => data.len(),
        };
        let len = u32::try_from(len).expect("a request is split at `NbdDisk::largest`, which is a u32");
        let (answer, end) = oneshot::channel();
        let (life, answer) = (life.clone(), Some(answer));
        let (covered, failed, sent) = (Covered::default(), None, false);
        (Self { command, at: at.0, len, flags, body, covered, failed, sent, answer, life }, end)
    }

    /// Whether anybody waits for it.
    pub fn is_wanted(&self) -> bool {
        self.answer.as_ref().is_some_and(|a| !a.is_closed())
    }

    /// Its bytes for the connection, which has it from now on.
    pub fn send(&mut self, cookie: u64) -> ([u8; super::wire::REQUEST_BYTES], Option<IoBytes>) {
        self.sent = true;
        let data = if let Body::Data(data) = &self.body { Some(data.clone()) } else { None };
        (request(self.command, self.flags, cookie, self.at, self.len), data)
    }

    /// The memory for `len` bytes at `offset` of the disk, each byte only once.
    pub fn part(&mut self, offset: u64, len: u32) -> Result<&mut [u8], String> {
        let Body::Fill(buf) = &mut self.body else { return Err("data for a request that is no read".to_owned()) };
        let from = offset.checked_sub(self.at).and_then(|f| u32::try_from(f).ok());
        let end = from.and_then(|f| f.checked_add(len)).filter(|end| *end <= self.len);
        let (Some(from), Some(end)) = (from, end) else { return Err("data beside what was asked for".to_owned()) };
        self.covered.add(from, end)?;
        let place = |n: u32| usize::try_from(n).expect("within the buffer");
        Ok(&mut buf[place(from)..place(end)])
    }

    /// An error chunk; the first one counts.
    pub fn fail(&mut self, errno: i32, text: String) {
        self.failed.get_or_insert((errno, text));
    }

    /// Whether its data have all come, or need not.
    pub fn is_complete(&self) -> bool {
        !matches!(self.body, Body::Fill(_)) || self.failed.is_some() || self.covered.is_whole(self.len)
    }

    /// The server has said its last word on it.
    pub fn finish(mut self) {
        debug_assert!(self.is_complete(), "looked at before");
        let result = match self.failed.take() {
            Some((errno, text)) => Err(self.error(Answer::Answered, errno, &text)),
            None => Ok(()),
        };
        self.end(result);
    }

    fn end(&mut self, result: DiskResult<()>) {
        let buf = match std::mem::replace(&mut self.body, Body::Nothing) {
            Body::Fill(buf) => Some(buf),
            Body::Nothing | Body::Data(_) => None,
        };
        if let Some(answer) = self.answer.take() {
            // Nobody waits: the memory ends here.
            let _ = answer.send((result, buf));
        }
    }

    fn error(&self, answer: Answer, errno: i32, why: &str) -> DiskError {
        let (verb, address) = (self.command.verb(), self.life.address());
        let place = if self.command == Command::Flush { String::new() } else { format!(" at {}", DiskOff(self.at)) };
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        DiskError { answer, errno, what: format!("{verb} {address}{place}{why}") }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.answer.is_none() {
            return;
        }
        let (errno, why) = match self.life.loss() {
            Some(loss) => (loss.errno, loss.why.clone()),
            None => (libc::ENOTCONN, "its connection has ended".to_owned()),
        };
        let e = match self.sent {
            true => self.error(Answer::NotReturned, errno, &why),
            false => self.error(Answer::Answered, libc::ENOTCONN, &why),
        };
        self.end(Err(e));
    }
}

/// Which bytes of a read have come: ranges in order that do not touch.
#[derive(Default, Debug)]
struct Covered(Vec<(u32, u32)>);

impl Covered {
    fn add(&mut self, from: u32, end: u32) -> Result<(), String> {
        if from >= end {
            return Err("a piece of a reply without data".to_owned());
        }
        let next = self.0.partition_point(|(f, _)| *f < from);
        let touches_before = next.checked_sub(1).map(|i| self.0[i].1);
        if touches_before.is_some_and(|e| e > from) || self.0.get(next).is_some_and(|(f, _)| *f < end) {
            return Err("pieces of a reply that overlap".to_owned());
        }
        let end = match self.0.get(next) {
            Some((f, e)) if *f == end => {
                let e = *e;
                self.0.remove(next);
                e
            }
            _ => end,
        };
        if touches_before == Some(from) {
            self.0[next - 1].1 = end;
        } else if self.0.len() < FRAGMENTS_MAX {
            self.0.insert(next, (from, end));
        } else {
            return Err("a reply in too many pieces".to_owned());
        }
        Ok(())
    }

    fn is_whole(&self, len: u32) -> bool {
        self.0.as_slice() == [(0, len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn covered_is_a_set_that_takes_each_byte_once(adds in prop::collection::vec((0u32..64, 0u32..16), 0..40)) {
            let (mut covered, mut model) = (Covered::default(), [false; 80]);
            for (from, len) in adds {
                let range = from as usize..(from + len) as usize;
                let right = len > 0 && !model[range.clone()].contains(&true);
                prop_assert_eq!(covered.add(from, from + len).is_ok(), right);
                if right {
                    model[range].fill(true);
                }
                for whole in 1..80 {
                    let is = model.iter().take_while(|b| **b).count() == whole && !model[whole..].contains(&true);
                    prop_assert_eq!(covered.is_whole(u32::try_from(whole).unwrap()), is);
                }
            }
        }
    }

    #[test]
    fn a_reply_in_crumbs_has_an_end() {
        let mut covered = Covered::default();
        let taken = (0..1000).take_while(|i| covered.add(i * 2, i * 2 + 1).is_ok()).count();
        assert_eq!(taken, FRAGMENTS_MAX);
    }

    #[test]
    fn who_drops_a_request_answers_it() {
        let life = Arc::new(Life::new("nbd://x/".to_owned()));
        let ask = || Request::new(Command::Read, 0, DiskOff(0), Body::Fill(IoBuf::zeroed(4096)), &life);
        let (queued, end) = ask();
        drop(queued);
        let (result, buf) = end.blocking_recv().unwrap();
        assert_eq!((result.unwrap_err().answer, buf.map(|b| b.len())), (Answer::Answered, Some(4096)));
        let (mut sent, end) = ask();
        sent.send(1);
        life.lose(super::super::life::Loss::late("late"));
        drop(sent);
        let e = end.blocking_recv().unwrap().0.unwrap_err();
        assert_eq!((e.answer, e.errno), (Answer::NotReturned, libc::ETIMEDOUT));
    }
}
