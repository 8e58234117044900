//! A disk in memory, for tests and models.
//!
//! Pages that were never written cost nothing and read as zeros. `clone` is another handle on the same memory (as two
//! hosts that see one disk); `fork` is a copy with its own future, made in the time of its differences (copy on write,
//! two levels), so that thousands of crash states of one disk stay cheap.
//!
//! Invariants: every write is at once visible to all handles, and durable: what a power cut does to unflushed writes is
//! the matter of the crash disk in `tests`. A handle's size never changes; `grow` gives a new handle.

use super::buf::{IoBuf, IoBytes};
use super::{Disk, DiskResult, admit};
use crate::units::{DiskOff, PAGE, PAGE_U64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of one page.
pub type Page = [u8; PAGE];
/// Pages in a chunk: the second level of the copy-on-write tree.
const CHUNK: usize = 64;

type Chunk = [Option<Arc<Page>>; CHUNK];

#[derive(Clone, Default, Debug)]
struct Pages(Vec<Option<Arc<Chunk>>>);

/// A disk in memory.
#[derive(Clone, Debug)]
pub struct MemDisk {
    pages: Arc<Mutex<Pages>>,
    size: u64,
}

/// Which chunk, which page in it. Disks in memory are far smaller than `usize`.
fn place(page: u64) -> (usize, usize) {
    let page = usize::try_from(page).expect("a disk in memory has fewer pages than memory has bytes");
    (page / CHUNK, page % CHUNK)
}

impl Pages {
    fn get(&self, page: u64) -> Option<&Arc<Page>> {
        let (chunk, at) = place(page);
        self.0.get(chunk)?.as_ref()?[at].as_ref()
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        let (chunk, at) = place(page);
        if self.0.len() <= chunk {
            self.0.resize(chunk + 1, None);
        }
        let chunk = Arc::make_mut(self.0[chunk].get_or_insert_with(|| Arc::new([const { None }; CHUNK])));
        Arc::make_mut(chunk[at].get_or_insert_with(|| Arc::new([0; PAGE])))
    }

    /// Calls `f` with each (page, offset in page, range of the request) that `at..at + len` touches.
    fn pieces(at: u64, len: usize, mut f: impl FnMut(u64, usize, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let place = at + done as u64;
            let within = usize::try_from(place % PAGE_U64).expect("less than a page");
            let n = (PAGE - within).min(len - done);
            f(place / PAGE_U64, within, done..done + n);
            done += n;
        }
    }

    fn read(&self, at: u64, out: &mut [u8]) {
        Self::pieces(at, out.len(), |page, within, range| match self.get(page) {
            Some(p) => out[range.clone()].copy_from_slice(&p[within..within + range.len()]),
            None => out[range].fill(0),
        });
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        Self::pieces(at, data.len(), |page, within, range| {
            self.page_mut(page)[within..within + range.len()].copy_from_slice(&data[range]);
        });
    }
}

impl MemDisk {
    /// A disk of `bytes` zero bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { pages: Arc::default(), size: bytes }
    }

    /// A disk with this content.
    #[must_use]
    pub fn from_bytes(content: &[u8]) -> Self {
        let disk = Self::new(content.len() as u64);
        disk.poke(DiskOff(0), content);
        disk
    }

    /// A new handle on the same memory, as of a disk that was grown to `bytes` and opened again.
    ///
    /// # Panics
    /// If `bytes` is less than the size now: disks don't shrink.
    #[must_use]
    pub fn grow(&self, bytes: u64) -> Self {
        assert!(bytes >= self.size, "a disk of {} bytes does not shrink to {bytes}", self.size);
        Self { pages: self.pages.clone(), size: bytes }
    }

    /// A copy that goes its own way from here.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { pages: Arc::new(Mutex::new(self.pages().clone())), size: self.size }
    }

    /// The whole content; as large as the disk.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(self.size).expect("the content fits in memory")];
        self.pages().read(0, &mut all);
        all
    }

    /// One page, `None` where it was never written.
    #[must_use]
    pub fn page(&self, page: u64) -> Option<Arc<Page>> {
        self.pages().get(page).cloned()
    }

    /// Numbers of the pages that were ever written, in order.
    #[must_use]
    pub fn written_pages(&self) -> Vec<u64> {
        let pages = self.pages();
        let chunks = pages.0.iter().enumerate().filter_map(|(i, c)| Some((i, c.as_ref()?)));
        chunks.flat_map(|(i, c)| (0..CHUNK).filter(|&j| c[j].is_some()).map(move |j| (i * CHUNK + j) as u64)).collect()
    }

    /// Bytes from any offset, aligned or not: for a test that looks at a disk from outside.
    ///
    /// # Panics
    /// If the range is not within the disk.
    #[must_use]
    pub fn peek(&self, at: DiskOff, len: usize) -> Vec<u8> {
        self.assert_within(at, len);
        let mut out = vec![0; len];
        self.pages().read(at.0, &mut out);
        out
    }

    /// Puts bytes at any offset, aligned or not: for a test that damages a disk from outside.
    ///
    /// # Panics
    /// If the range is not within the disk.
    pub fn poke(&self, at: DiskOff, data: &[u8]) {
        self.assert_within(at, data.len());
        self.pages().write(at.0, data);
    }

    fn assert_within(&self, at: DiskOff, len: usize) {
        let within = at.0.checked_add(len as u64).is_some_and(|end| end <= self.size);
        assert!(within, "{len} bytes at {at} of a disk of {} bytes", self.size);
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // A page is written whole under the lock or not at all by a panic: what lies there is usable.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, at: DiskOff, mut buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        let admitted = admit("read", at, &buf, self.size);
        if admitted.is_ok() {
            self.pages().read(at.0, &mut buf);
        }
        (admitted, buf)
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        admit("write", at, &data, self.size)?;
        self.pages().write(at.0, &data);
        Ok(())
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.write(at, data).await
    }

    async fn flush(&self) -> DiskResult<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::buf::{IoBuf, IoBytes};
    use super::super::ring::block_on;
    use super::*;

    /// `CHUNK` pages in bytes.
    const CHUNK_BYTES: u64 = CHUNK as u64 * PAGE_U64;

    fn bytes(b: u8, len: usize) -> IoBytes {
        IoBuf::copy_of(&vec![b; len]).freeze()
    }

    #[test]
    fn handles_share_and_forks_part() {
        let a = MemDisk::new(CHUNK_BYTES * 2);
        block_on(a.write(DiskOff(PAGE_U64), bytes(1, PAGE))).unwrap();
        let (same, fork) = (a.clone(), a.fork());
        block_on(a.write(DiskOff(CHUNK_BYTES - PAGE_U64), bytes(2, 2 * PAGE))).unwrap();
        assert_eq!(same.content(), a.content());
        assert_eq!(fork.peek(DiskOff(PAGE_U64), 1), [1]);
        assert_eq!(fork.peek(DiskOff(CHUNK_BYTES), 1), [0]);
        assert_eq!(a.written_pages(), [1, CHUNK as u64 - 1, CHUNK as u64]);
    }

    #[test]
    fn refuses_what_the_door_forbids() {
        let a = MemDisk::new(PAGE_U64 * 2);
        for (at, len) in [(1, PAGE), (0, PAGE - 1), (PAGE_U64, 2 * PAGE), (u64::MAX - PAGE_U64 + 1, PAGE)] {
            let e = block_on(a.write(DiskOff(at), bytes(1, len))).unwrap_err();
            assert_eq!((e.errno, e.answer), (libc::EINVAL, super::super::Answer::Answered), "{e}");
        }
        let mut whole = IoBuf::zeroed(2 * PAGE);
        let _ = whole.split_to(100);
        let _ = whole.split_to(PAGE);
        assert!(block_on(a.read(DiskOff(0), whole)).0.is_err(), "memory not aligned");
    }

    #[test]
    fn grows_by_a_new_handle() {
        let a = MemDisk::from_bytes(&[7; PAGE]);
        let b = a.grow(2 * PAGE_U64);
        block_on(b.write(DiskOff(PAGE_U64), bytes(8, PAGE))).unwrap();
        assert_eq!((a.size(), b.size(), a.content()[0], b.content()[PAGE]), (PAGE_U64, 2 * PAGE_U64, 7, 8));
        assert!(block_on(a.read(DiskOff(PAGE_U64), IoBuf::zeroed(PAGE))).0.is_err());
    }
}
