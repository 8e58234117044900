//! A process's handle on a medium: the disk door, with the requests that are in flight for it.

use super::*;

/// A process's handle.
#[derive(Clone)]
pub struct SimDisk {
    pub(super) medium: Medium,
    pub(super) proc: ProcId,
    pub(super) boot: Boot,
}

/// Waits for an answer; dropped, the request goes its way.
struct Waiting<'a> {
    medium: &'a Medium,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut s = self.medium.state();
        let Some(f) = s.flying.get_mut(&self.id) else { return };
        f.dropped = true;
        if f.landed && f.answer.is_some() {
            s.flying.remove(&self.id);
        }
    }
}

impl SimDisk {
    /// The disk itself.
    #[must_use]
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// Takes a byte lock; `false` where another process of this host has it.
    #[must_use]
    pub fn try_lock(&self, byte: u64) -> bool {
        self.medium.try_lock(self.proc, self.boot, byte)
    }

    /// Whether a process of this host has the byte lock.
    #[must_use]
    pub fn locked(&self, byte: u64) -> bool {
        self.medium.locked(self.boot, byte)
    }

    async fn request(&self, at: DiskOff, kind: Kind) -> (DiskResult<()>, Vec<u8>) {
        let waiting = Waiting { medium: &self.medium, id: self.medium.submit(self.proc, at, kind) };
        std::future::poll_fn(|cx| {
            let mut s = self.medium.state();
            let f = s.flying.get_mut(&waiting.id).expect("a request stays until it is answered");
            match f.answer.take() {
                Some(answer) => {
                    let bytes = std::mem::take(&mut f.bytes);
                    s.flying.remove(&waiting.id);
                    Poll::Ready((answer, bytes))
                }
                None => {
                    f.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Disk for SimDisk {
    fn size(&self) -> u64 {
        self.medium.0.size
    }

    async fn read(&self, at: DiskOff, mut buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        if let Err(e) = admit("read", at, &buf, self.size()) {
            return (Err(e), buf);
        }
        // A long read sees its pages at two moments.
        let first = if buf.len() > PAGE { buf.len() / PAGE / 2 * PAGE } else { buf.len() };
        let (mut done, mut result) = (0, Ok(()));
        while done < buf.len() && result.is_ok() {
            let len = if done == 0 { first } else { buf.len() - done };
            let (r, bytes) = self.request(at.plus(done as u64), Kind::Read { len }).await;
            if r.is_ok() {
                buf[done..done + len].copy_from_slice(&bytes);
            }
            (done, result) = (done + len, r);
        }
        (result, buf)
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        admit("write", at, &data, self.size())?;
        self.request(at, Kind::Write { data, durable: false }).await.0
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        admit("write", at, &data, self.size())?;
        self.request(at, Kind::Write { data, durable: true }).await.0
    }

    async fn flush(&self) -> DiskResult<()> {
        self.request(DiskOff(0), Kind::Flush { covers: Vec::new() }).await.0
    }
}
