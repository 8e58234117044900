//! The calls on loop devices for which there is no safe wrapper (`linux/loop.h`; LOOP_CONFIGURE: Linux 5.8).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use zerocopy::FromZeros;

const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const READ_ONLY: u32 = 1;
const DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[derive(FromZeros)]
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[derive(FromZeros)]
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// What a loop device is said to stand on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Status {
    /// Device and inode of the file.
    pub(super) file: (u64, u64),
    /// The name that was given to it.
    pub(super) label: String,
}

/// As much of a label as fits: a zero ends it.
pub(super) fn cut(label: &str) -> &str {
    let end = (0..=label.len().min(63)).rfind(|at| label.is_char_boundary(*at)).unwrap_or(0);
    &label[..end]
}

/// The number of a loop device that nobody uses; made where there is none.
pub(super) fn free_number(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the call takes no argument and touches no memory of ours.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Puts the loop device on `file`, with direct I/O.
pub(super) fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, sector: u32, read_only: bool, label: &str) -> io::Result<()> {
    let mut config = Config::new_zeroed();
    config.fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    config.block_size = sector;
    config.info.flags = DIRECT_IO | if read_only { READ_ONLY } else { 0 };
    let label = cut(label).as_bytes();
    config.info.file_name[..label.len()].copy_from_slice(label);
    // SAFETY: the call reads one `struct loop_config` from the place given, which lives through it; the descriptor in it is open.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the loop device stands on. Asks the file's filesystem: not for one that may hang.
pub(super) fn status(device: BorrowedFd<'_>) -> io::Result<Status> {
    let mut info = Info::new_zeroed();
    // SAFETY: the call writes one `struct loop_info64` to the place given, which lives through it; every bit pattern is one.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let name: Vec<u8> = info.file_name.iter().copied().take_while(|b| *b != 0).collect();
    Ok(Status { file: (info.device, info.inode), label: String::from_utf8_lossy(&name).into_owned() })
}

/// Takes the loop device off its file once nobody has it open any more.
pub(super) fn clear(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes no argument and touches no memory of ours.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn a_label_is_cut_where_it_may_be() {
        assert_eq!(cut("san1/db"), "san1/db");
        assert_eq!(cut(&"x".repeat(200)).len(), 63);
        assert_eq!(cut(&format!("{}\u{e4}", "x".repeat(62))).len(), 62);
    }
}
