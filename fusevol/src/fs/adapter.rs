//! The operations of the filesystem, one by one (SEMANTICS.md says what each promises).

use super::attr::{Base, Shows};
use super::errno;
use super::handles::{Handle, Handles};
use super::locking::Asked;
use super::nodes::{Node, Nodes};
use super::scratch;
use crate::session::Session;
use crate::session::granted::List;
use crate::volume::Mode;
use fuser::{
    AccessFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The kernel keeps neither names nor attributes: another host may change them at any time.
const TTL: Duration = Duration::ZERO;
/// A list of volumes that is older than this is renewed when somebody looks.
const FRESH: Duration = Duration::from_secs(1);
/// Largest request, bytes.
const MAX_WRITE: u32 = super::uring::LARGEST;
/// An open past the page cache: its writes go beside each other.
const DIRECT: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// The filesystem of one mount.
pub(super) struct Adapter {
    pub(super) session: Arc<Session>,
    pub(super) shows: Shows,
    pub(super) base: Base,
    /// Requests that the kernel may have under way in the background.
    pub(super) background: u16,
    pub(super) nodes: Nodes,
    pub(super) handles: Handles,
}

impl Adapter {
    /// The list that is shown now. Not within `ring::block_on`.
    fn list(&self) -> Arc<List> {
        let list = self.session.list_within(FRESH);
        self.shows.keep(&list, &self.nodes);
        list
    }

    pub(super) fn node(&self, ino: INodeNo) -> std::result::Result<Node, Errno> {
        self.nodes.node(ino.0).ok_or(Errno::ENOENT)
    }

    pub(super) fn attr(&self, ino: INodeNo) -> std::result::Result<FileAttr, Errno> {
        let node = self.node(ino)?;
        self.base.of(&self.session, &self.list(), ino.0, node).ok_or(Errno::ENOENT)
    }

    /// For people: what a number names.
    pub(super) fn name(&self, ino: INodeNo) -> String {
        let list = self.session.granted().list();
        match self.nodes.node(ino.0) {
            Some(Node::Volume(id)) => format!("volume {}", self.session.granted().name_of(id)),
            Some(Node::Snapshot(id)) => {
                list.snapshot(id).map_or_else(|| format!("snapshot {id}"), |(v, s)| format!("snapshot {}@{}", v.name, s.name))
            }
            Some(Node::Root | Node::Snapshots) => "the folder".to_owned(),
            None => format!("inode {}", ino.0),
        }
    }

    fn open_node(&self, ino: INodeNo, mode: Mode) -> Result<Handle> {
        match self.nodes.node(ino.0) {
            Some(Node::Volume(id)) => {
                let file = self.session.volume(id)?;
                file.open(&self.session, mode)?;
                Ok(Handle::Volume(file, mode))
            }
            Some(Node::Snapshot(id)) => {
                let file = self.session.snapshot(id)?;
                file.open(&self.session)?;
                Ok(Handle::Snapshot(file))
            }
            Some(Node::Root | Node::Snapshots) | None => Err(Error::new(Kind::NotFound, "no file")),
        }
    }

    /// How the kernel is to treat this open. Without `O_DIRECT`, pages are kept of what only this host can change, and of what nobody can. (It
    /// drops an inode's pages at each open that does not ask for them to be kept: those of an earlier attachment are gone then.) A private
    /// mount keeps none: its one program reads and writes everything once.
    fn opened(&self, handle: &Handle, flags: OpenFlags) -> FopenFlags {
        let direct = flags.0 & libc::O_DIRECT != 0 || self.shows != Shows::All;
        match handle {
            // Never changes; once it is seen broken, or the session is over, its pages are dropped.
            Handle::Snapshot(_) if direct => DIRECT | FopenFlags::FOPEN_KEEP_CACHE,
            Handle::Snapshot(_) => FopenFlags::FOPEN_KEEP_CACHE,
            Handle::Volume(file, _) if !direct && file.attached().is_some_and(|v| v.mode() == Mode::Write) => FopenFlags::empty(),
            // Asked for, or another host may write it.
            Handle::Volume(..) => DIRECT,
        }
    }

    pub(super) fn failed(&self, what: &str, ino: INodeNo, e: &Error) -> Errno {
        errno::logged(&format!("{}: {what}", self.name(ino)), e)
    }

    /// Files are made and removed by the manager's command line.
    fn refused(&self, parent: INodeNo) -> Errno {
        match self.nodes.node(parent.0) {
            Some(Node::Snapshots) => Errno::EROFS,
            Some(Node::Root | Node::Volume(_) | Node::Snapshot(_)) | None => Errno::EPERM,
        }
    }
}

/// The adapter as the library has it; rings share it.
pub(super) struct Front(pub(super) Arc<Adapter>);

impl Deref for Front {
    type Target = Adapter;
    fn deref(&self) -> &Adapter {
        &self.0
    }
}

fn empty(reply: ReplyEmpty, result: std::result::Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Filesystem for Front {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
        ] {
            if config.add_capabilities(flag).is_err() {
                tracing::warn!("this kernel has no {flag:?}");
            }
        }
        // Each gives the nearest value that is possible as its error; ours are.
        let limits = config.set_max_write(MAX_WRITE).is_ok() && config.set_max_background(self.background).is_ok();
        if limits { Ok(()) } else { Err(std::io::Error::from_raw_os_error(libc::EINVAL)) }
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let list = self.list();
        let found = self.nodes.node(parent.0).zip(name.to_str()).and_then(|(folder, name)| self.shows.lookup(&list, folder, name));
        let Some(node) = found else { return reply.error(Errno::ENOENT) };
        let ino = self.nodes.looked_up(node);
        match self.base.of(&self.session, &list, ino, node) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => {
                self.nodes.forget(ino, 1);
                reply.error(Errno::ENOENT);
            }
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.nodes.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Times are taken and not kept. Owner and mode stand for the rights of the client: only what they are is taken.
        let set = self.attr(ino).and_then(|was| {
            let same = mode.is_none_or(|m| m & 0o7777 == u32::from(was.perm))
                && uid.is_none_or(|u| u == was.uid)
                && gid.is_none_or(|g| g == was.gid);
            if !same {
                return Err(Errno::EPERM);
            }
            size.map_or(Ok(()), |size| self.truncate(ino, size, fh))?;
            self.attr(ino)
        });
        match set {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mode = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Mode::Read,
            OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Mode::Write,
        };
        if mode == Mode::Write && matches!(self.nodes.node(ino.0), Some(Node::Snapshot(_))) {
            return reply.error(Errno::EROFS);
        }
        match self.open_node(ino, mode) {
            Ok(handle) => {
                let how = self.opened(&handle, flags);
                reply.opened(FileHandle(self.handles.add(handle)), how);
            }
            Err(e) => reply.error(self.failed("open", ino, &e)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = usize::try_from(size).unwrap_or(0);
        scratch::with(len, |buf| {
            let (read, buf) = ring::block_on(self.read_at(ino, fh, offset, len, buf));
            match read {
                Ok(n) => reply.data(&buf[..n]),
                Err(e) => reply.error(e),
            }
            buf
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // O_SYNC contains the bit of O_DSYNC.
        let sync = flags.0 & libc::O_DSYNC != 0;
        scratch::with(data.len(), |mut buf| {
            buf[..data.len()].copy_from_slice(data);
            let bytes = buf.freeze();
            match ring::block_on(self.write_at(ino, fh, offset, &bytes.slice(0, data.len()), sync)) {
                Ok(n) => reply.written(n),
                Err(e) => reply.error(e),
            }
            // Shared only where a part of it may still be on its way: then the next request gets other memory.
            bytes.try_thaw().unwrap_or_else(|_| IoBuf::zeroed(0))
        });
    }

    fn flush(&self, _req: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        empty(reply, ring::block_on(self.closed(ino, fh, lock_owner)));
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(reply, ring::block_on(self.sync(ino, fh)));
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        ring::block_on(self.session.locks().handle_closes(fh.0));
        // Nobody hears an error of this; the flush that close() waits for came before.
        if let Some(handle) = self.handles.remove(fh.0)
            && let Err(e) = handle.close(&self.session)
        {
            let _ = self.failed("last close", ino, &e);
        }
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Ok(folder) = self.node(ino) else { return reply.error(Errno::ENOENT) };
        if !matches!(folder, Node::Root | Node::Snapshots) {
            return reply.error(Errno::ENOTDIR);
        }
        let list = self.list();
        let dots = [(".".to_owned(), folder), ("..".to_owned(), Node::Root)];
        let all = dots.into_iter().chain(self.shows.entries(&list, folder));
        for (at, (name, node)) in (1u64..).zip(all).filter(|(at, _)| *at > offset) {
            let kind = if matches!(node, Node::Root | Node::Snapshots) { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(self.nodes.number(node)), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let block = self.session.block_size();
        let welcome = &self.session.about().welcome;
        let total: u64 = welcome.disks.iter().map(|d| u64::from(d.aus) * welcome.au_size.bytes()).sum::<u64>() / block;
        let list = self.session.list_within(FRESH);
        let used: u64 = list.volumes.iter().map(|v| v.written).sum::<u64>() / block;
        let free = total.saturating_sub(used);
        let files = self.shows.nodes(&list).len() as u64;
        let bsize = self.base.block;
        reply.statfs(total, free, free, files, 0, bsize, 255, bsize);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        empty(reply, ring::block_on(self.fallocate_at(ino, fh, offset, length, mode)));
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(ino, fh, offset, whence) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(e),
        }
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let thread = req.pid();
        self.get_lock(ino, &Asked { fh, owner, start, end, typ, pid, thread, wait: false }, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let thread = req.pid();
        self.set_lock(ino, &Asked { fh, owner, start, end, typ, pid, thread, wait }, reply);
    }

    // What volumes do not have. The kernel asks once and then knows.

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _value: &[u8], _flags: i32, _position: u32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn create(&self, _req: &Request, parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        reply.error(self.refused(parent));
    }

    fn mknod(&self, _req: &Request, parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, _rdev: u32, reply: ReplyEntry) {
        reply.error(self.refused(parent));
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(self.refused(parent));
    }

    fn symlink(&self, _req: &Request, parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(self.refused(parent));
    }

    fn link(&self, _req: &Request, _ino: INodeNo, parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(self.refused(parent));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refused(parent));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refused(parent));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refused(parent));
    }
}
