//! The calls on a disk's descriptor for which there is no safe wrapper: a block device's size, locks on byte ranges, persistent reservations.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `_IOR(0x12, 114, size_t)`: `linux/fs.h`.
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

/// Bytes of a block device.
pub(super) fn block_device_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the call writes one u64 to the place given, which lives through it.
    match unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An exclusive lock on one byte.
fn one_byte(byte: u64) -> io::Result<libc::flock> {
    let start = i64::try_from(byte).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the structure consists of numbers only, for which zero is a value; the lock calls want `l_pid` zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence, lock.l_start, lock.l_len) = (WRITE_LOCK, WHENCE_SET, start, 1);
    Ok(lock)
}

#[allow(clippy::cast_possible_truncation)] // the constants are 0, 1 and 2
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const NO_LOCK: libc::c_short = libc::F_UNLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const READ_LOCK: libc::c_short = libc::F_RDLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const WHENCE_SET: libc::c_short = libc::SEEK_SET as libc::c_short;

/// Locks one byte for this open file description, by itself or beside others that share it; `false` if another holds it otherwise.
pub(super) fn try_lock(fd: BorrowedFd<'_>, byte: u64, shared: bool) -> io::Result<bool> {
    let mut lock = one_byte(byte)?;
    if shared {
        lock.l_type = READ_LOCK;
    }
    // SAFETY: the call reads the structure given, which lives through it.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            e => Err(e),
        },
    }
}

/// Whether another open file description holds a lock on this byte.
pub(super) fn held_by_other(fd: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    let mut lock = one_byte(byte)?;
    // SAFETY: the call reads and writes the structure given, which lives through it.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(lock.l_type != NO_LOCK),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct pr_registration`: `linux/pr.h`.
#[repr(C)]
struct PrRegistration {
    old_key: u64,
    new_key: u64,
    flags: u32,
    pad: u32,
}

/// `struct pr_reservation`.
#[repr(C)]
struct PrReservation {
    key: u64,
    kind: u32,
    flags: u32,
}

/// `struct pr_preempt`.
#[repr(C)]
struct PrPreempt {
    old_key: u64,
    new_key: u64,
    kind: u32,
    flags: u32,
}

/// `_IOW('p', 200, struct pr_registration)`, and those after it.
const IOC_PR_REGISTER: libc::c_ulong = 0x4018_70c8;
const IOC_PR_RESERVE: libc::c_ulong = 0x4010_70c9;
const IOC_PR_PREEMPT_ABORT: libc::c_ulong = 0x4018_70cc;
/// Whatever key this host has there.
const PR_FL_IGNORE_KEY: u32 = 1;
/// Only who is registered writes; all who are registered hold it.
const PR_WRITE_EXCLUSIVE_ALL_REGS: u32 = 5;

/// What is done with reservations.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pr {
    /// This host has this key from now on.
    Register(u64),
    /// The holder of this key reserves the disk for all who are registered.
    Reserve(u64),
    /// The holder of the first key takes the registration of the second, and aborts what that one has under way.
    PreemptAbort(u64, u64),
}

/// Asks for it: 0, or the status of `linux/pr.h` that the disk has answered.
pub(super) fn persistent_reservation(fd: BorrowedFd<'_>, pr: Pr) -> io::Result<i32> {
    let fd = fd.as_raw_fd();
    let status = match pr {
        Pr::Register(key) => {
            let arg = PrRegistration { old_key: 0, new_key: key, flags: PR_FL_IGNORE_KEY, pad: 0 };
            // SAFETY: the call reads the structure given, which lives through it.
            unsafe { libc::ioctl(fd, IOC_PR_REGISTER, &raw const arg) }
        }
        Pr::Reserve(key) => {
            let arg = PrReservation { key, kind: PR_WRITE_EXCLUSIVE_ALL_REGS, flags: 0 };
            // SAFETY: as above.
            unsafe { libc::ioctl(fd, IOC_PR_RESERVE, &raw const arg) }
        }
        Pr::PreemptAbort(own, other) => {
            let arg = PrPreempt { old_key: other, new_key: own, kind: PR_WRITE_EXCLUSIVE_ALL_REGS, flags: 0 };
            // SAFETY: as above.
            unsafe { libc::ioctl(fd, IOC_PR_PREEMPT_ABORT, &raw const arg) }
        }
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}
