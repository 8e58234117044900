//! Disk files that lose what was not flushed when the power is cut: a small FUSE file server within the test's process,
//! over [`medium::Medium`].
//!
//! ```text
//!  on --off--> off (every request fails, nothing lands) --on--> on, with what the cut has left
//! ```
//!
//! What the kernel sends, for a file that is opened with `FOPEN_DIRECT_IO` (fs/fuse/file.c): an `fsync` or `fdatasync` as
//! FSYNC; a write with `O_DSYNC` or `RWF_DSYNC` as a WRITE that has `O_DSYNC` in its flags, and no FSYNC after it. Locks
//! stay with the kernel. Every eighth write is answered late, so that flushes really pass writes under way.
//!
//! Invariant: a write counts as answered before its answer is given, and not earlier than its delay says.

mod medium;

pub use medium::Loss;

use super::mount::{abort, connection_of};
use super::pool::scratch;
use super::run::run;
use super::wait::pause;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, SessionACL, WriteFlags,
};
use fusevol_shared::random::SeededRandom;
use medium::Medium;
use rustix::mount::MountFlags;
use std::ffi::{CString, OsStr};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Nothing changes but the content.
const TTL: Duration = Duration::from_secs(3600);
const MAX_WRITE: u32 = 1 << 20;
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
/// One of so many writes is answered late.
const LATE: u64 = 8;
/// At most so late.
const LATE_US: u64 = 2000;

/// What was asked of the disks.
#[derive(Clone, Copy, Default, Debug)]
pub struct Asked {
    /// Plain writes.
    pub writes: u64,
    /// Writes that are durable by themselves.
    pub durable: u64,
    /// Flushes.
    pub flushes: u64,
}

struct State {
    media: Vec<Medium>,
    random: SeededRandom,
    on: bool,
    asked: Asked,
}

/// Disk files in a mount of their own. Unmounted when dropped, which must be after everything that uses them.
pub struct CrashFiles {
    scratch: tempfile::TempDir,
    paths: Vec<PathBuf>,
    state: Arc<Mutex<State>>,
    serving: Option<BackgroundSession>,
}

impl CrashFiles {
    /// Files `d0.img`, `d1.img`, ... of these sizes; the seed decides what a cut leaves.
    ///
    /// # Panics
    /// Where they cannot be mounted.
    #[must_use]
    pub fn new(sizes: &[u64], seed: u64) -> Self {
        let scratch = scratch();
        let dir = scratch.path().join("disks");
        std::fs::create_dir(&dir).expect("a mount point");
        let media = sizes.iter().map(|_| Medium::default()).collect();
        let state = Arc::new(Mutex::new(State { media, random: SeededRandom(seed), on: true, asked: Asked::default() }));
        let (late, answers) = channel();
        let answering = state.clone();
        std::thread::spawn(move || answer_late(&answering, &answers));
        let server = Server { sizes: sizes.to_vec(), state: state.clone(), late };
        let mut config = Config::default();
        config.n_threads = Some(2);
        config.clone_fd = true;
        let fuse = attach(&dir).expect("it mounts");
        let session = fuser::Session::from_fd(server, fuse, SessionACL::Owner, config).and_then(fuser::Session::spawn);
        let paths = (0..sizes.len()).map(|i| dir.join(format!("d{i}.img"))).collect();
        Self { scratch, paths, state, serving: Some(session.expect("it is served")) }
    }

    /// The files.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.paths.clone()
    }

    /// What was asked of them so far.
    #[must_use]
    pub fn asked(&self) -> Asked {
        locked(&self.state).asked
    }

    /// The power goes: from now on every request fails and nothing lands. Then `kill` ends the programs, and the power comes
    /// back: the files hold what the cut has left.
    pub fn cut<T>(&self, kill: impl FnOnce() -> T) -> (T, Loss) {
        locked(&self.state).on = false;
        let done = kill();
        let mut state = locked(&self.state);
        let State { media, random, .. } = &mut *state;
        let mut loss = Loss::default();
        media.iter_mut().for_each(|m| loss += m.cut(random));
        state.on = true;
        (done, loss)
    }
}

impl Drop for CrashFiles {
    fn drop(&mut self) {
        let dir = self.scratch.path().join("disks");
        let connection = connection_of(&dir);
        if run(Command::new("umount").arg(&dir)).code != 0 {
            let _said = run(Command::new("umount").arg("-l").arg(&dir));
            abort(connection);
        }
        if let Some(serving) = self.serving.take() {
            // It says only that it is unmounted.
            serving.join().unwrap_or_default();
        }
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mounts; done here so that it needs no helper program.
fn attach(dir: &Path) -> io::Result<OwnedFd> {
    let dev = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", dev.as_raw_fd());
    let data = CString::new(data).map_err(io::Error::other)?;
    rustix::mount::mount("crashfile", dir, "fuse.crashfile", MountFlags::NODEV | MountFlags::NOSUID, Some(data.as_c_str()))?;
    Ok(dev.into())
}

struct Late {
    disk: usize,
    no: u64,
    len: u32,
    after: Duration,
    reply: ReplyWrite,
}

/// Answers what shall be answered late, one after the other, until the server is gone.
fn answer_late(state: &Mutex<State>, late: &Receiver<Late>) {
    for Late { disk, no, len, after, reply } in late {
        pause(after);
        let mut state = locked(state);
        if state.on {
            state.media[disk].answered(no);
            drop(state);
            reply.written(len);
        } else {
            drop(state);
            reply.error(Errno::EIO);
        }
    }
}

struct Server {
    sizes: Vec<u64>,
    state: Arc<Mutex<State>>,
    late: Sender<Late>,
}

impl Server {
    /// Inode 1 is the folder, 2 the first disk.
    fn disk(&self, ino: INodeNo) -> Option<usize> {
        let disk = usize::try_from(ino.0).ok()?.checked_sub(2)?;
        (disk < self.sizes.len()).then_some(disk)
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let disk = self.disk(ino);
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino,
            size: disk.map_or(0, |d| self.sizes[d]),
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if disk.is_some() { FileType::RegularFile } else { FileType::Directory },
            perm: if disk.is_some() { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// The state, if there is power.
    fn powered(&self) -> Result<MutexGuard<'_, State>, Errno> {
        let state = locked(&self.state);
        if state.on { Ok(state) } else { Err(Errno::EIO) }
    }
}

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without these it works, only slower.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_MAX_PAGES).unwrap_or_default();
        config.set_max_write(MAX_WRITE).map(drop).map_err(|n| io::Error::other(format!("at most {n} bytes a write")))
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let no = name.to_str().and_then(|n| n.strip_prefix('d')?.strip_suffix(".img")?.parse::<u64>().ok());
        match no.map(|n| INodeNo(n + 2)).filter(|ino| self.disk(*ino).is_some()) {
            Some(ino) => reply.entry(&TTL, &self.attr(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), OPENED);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(disk) = self.disk(ino) else { return reply.error(Errno::EISDIR) };
        let len = u64::from(size).min(self.sizes[disk].saturating_sub(offset));
        let mut out = vec![0; usize::try_from(len).expect("below the largest request")];
        match self.powered() {
            Ok(state) => state.media[disk].read(offset, &mut out),
            Err(e) => return reply.error(e),
        }
        reply.data(&out);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(disk) = self.disk(ino) else { return reply.error(Errno::EISDIR) };
        let Ok(len) = u32::try_from(data.len()) else { return reply.error(Errno::EINVAL) };
        if offset + u64::from(len) > self.sizes[disk] {
            return reply.error(Errno::EFBIG);
        }
        let mut state = match self.powered() {
            Ok(state) => state,
            Err(e) => return reply.error(e),
        };
        if flags.0 & libc::O_DSYNC != 0 {
            state.asked.durable += 1;
            state.media[disk].write_durable(offset, data);
        } else {
            state.asked.writes += 1;
            let no = state.media[disk].write(offset, data);
            if state.random.below(LATE) == 0 {
                let after = Duration::from_micros(state.random.below(LATE_US));
                drop(state);
                // The other end lives as long as this server.
                return self.late.send(Late { disk, no, len, after, reply }).unwrap_or_default();
            }
            state.media[disk].answered(no);
        }
        drop(state);
        reply.written(len);
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let Some(disk) = self.disk(ino) else { return reply.ok() };
        match self.powered() {
            Ok(mut state) => {
                state.asked.flushes += 1;
                state.media[disk].flush();
            }
            Err(e) => return reply.error(e),
        }
        reply.ok();
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // A close is no flush of a disk.
        reply.ok();
    }
}
