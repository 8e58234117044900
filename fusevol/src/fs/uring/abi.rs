//! The kernel's structures of FUSE over io_uring, as far as this transport reads or writes them (`linux/fuse.h`, protocol 7.42).
//!
//! An entry's *head* is one block: the request's or reply's header, the fixed argument of the operation, and what belongs to the
//! ring. Its *body* is the rest of the arguments: of a request all but the first, of a reply all.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Operations that are served here; all others go to the loops.
pub(super) mod op {
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const DESTROY: u32 = 38;
    pub const FALLOCATE: u32 = 43;
    pub const LSEEK: u32 = 46;
}

/// `FUSE_INIT_EXT` and `FUSE_OVER_IO_URING`, the second as bit of `flags2`.
pub(super) const INIT_EXT: u32 = 1 << 30;
pub(super) const OVER_IO_URING: u32 = 1 << 9;

/// Bytes of a head that the kernel uses.
pub(super) const HEAD: usize = 288;
/// Where the fixed argument lies in a head, and its greatest length.
const ARGUMENT: usize = 128;
/// Where the ring's own part lies in a head.
const OWN: usize = 256;

/// `struct fuse_in_header`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct InHeader {
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub nodeid: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub total_extlen: u16,
    pub padding: u16,
}

/// Bytes of a request's header.
pub(super) const IN_HEADER: usize = size_of::<InHeader>();

impl InHeader {
    /// Of a message that ends a loop.
    pub(super) fn destroy(unique: u64) -> Self {
        Self { len: 40, opcode: op::DESTROY, unique, ..Self::default() }
    }
}

/// `struct fuse_out_header`.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct OutHeader {
    pub len: u32,
    /// Zero or a negative errno.
    pub error: i32,
    pub unique: u64,
}

/// Bytes of a reply's header.
pub(super) const OUT_HEADER: usize = size_of::<OutHeader>();

/// `struct fuse_uring_ent_in_out`.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
struct Own {
    flags: u64,
    commit_id: u64,
    payload: u32,
    padding: u32,
    reserved: u64,
}

/// `struct fuse_uring_cmd_req`.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct CommandBytes {
    pub flags: u64,
    pub commit_id: u64,
    pub queue: u16,
    pub padding: [u8; 6],
}

/// Gives an entry's memory to the kernel, which answers with a request.
pub(super) const REGISTER: u32 = 1;
/// Answers a request, and asks for the next.
pub(super) const COMMIT_AND_FETCH: u32 = 2;

/// `struct fuse_read_in` and `fuse_write_in`, which are alike but for their names.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct ReadWrite {
    pub fh: u64,
    pub offset: u64,
    pub size: u32,
    pub rw_flags: u32,
    pub lock_owner: u64,
    /// Of the open file.
    pub flags: u32,
    pub padding: u32,
}

/// `struct fuse_flush_in`.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct Flush {
    pub fh: u64,
    pub unused: u32,
    pub padding: u32,
    pub lock_owner: u64,
}

/// `struct fuse_fallocate_in`.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct Fallocate {
    pub fh: u64,
    pub offset: u64,
    pub length: u64,
    pub mode: i32,
    pub padding: u32,
}

/// `struct fuse_lseek_in`.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct Lseek {
    pub fh: u64,
    pub offset: i64,
    pub whence: i32,
    pub padding: u32,
}

/// `struct fuse_write_out`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct WriteOut {
    pub size: u32,
    pub padding: u32,
}

/// A request as it came in an entry's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub header: InHeader,
    pub commit_id: u64,
    /// Bytes in the body.
    pub payload: usize,
}

impl Request {
    /// The request in this head; a head is longer than its parts.
    pub(super) fn of(head: &[u8]) -> Self {
        let header = InHeader::read_from_prefix(head).expect("a head is a page").0;
        let own = Own::read_from_prefix(&head[OWN..]).expect("a head is a page").0;
        Self { header, commit_id: own.commit_id, payload: own.payload as usize }
    }
}

/// The fixed argument in this head.
pub(super) fn argument<T: FromBytes>(head: &[u8]) -> T {
    T::read_from_prefix(&head[ARGUMENT..OWN]).expect("every argument fits into its place").0
}

/// The first argument where it is only the number of an open file.
pub(super) fn file_handle(head: &[u8]) -> u64 {
    argument(head)
}

/// Lays the reply's header and the length of its body.
pub(super) fn answer(head: &mut [u8], unique: u64, error: i32, payload: usize) {
    let len = |n: usize| u32::try_from(n).expect("a body is far below 4 GiB");
    let header = OutHeader { len: len(OUT_HEADER + payload), error, unique };
    head[..OUT_HEADER].copy_from_slice(header.as_bytes());
    let at = OWN + std::mem::offset_of!(Own, payload);
    head[at..at + 4].copy_from_slice(&len(payload).to_ne_bytes());
}

/// The request as one message, as it would have come over `/dev/fuse`.
pub(super) fn message(head: &[u8], request: &Request, body: &[u8]) -> Vec<u8> {
    let fixed = (request.header.len as usize).saturating_sub(IN_HEADER + request.payload).min(OWN - ARGUMENT);
    [&head[..IN_HEADER], &head[ARGUMENT..ARGUMENT + fixed], &body[..request.payload.min(body.len())]].concat()
}

/// Whether an INIT request, as it came over `/dev/fuse`, offers the ring.
pub(super) fn offers_ring(init: &[u8]) -> bool {
    // `struct fuse_init_in`: major, minor, max_readahead, flags, flags2.
    let word = |n: usize| u32::read_from_prefix(init.get(IN_HEADER + 4 * n..).unwrap_or_default()).map_or(0, |(w, _)| w);
    word(3) & INIT_EXT != 0 && word(4) & OVER_IO_URING != 0
}

/// Takes the ring in an INIT reply, as it goes over `/dev/fuse`; `false` where it is no such reply, or an error.
pub(super) fn take_ring(reply: &mut [u8]) -> bool {
    // `struct fuse_init_out`: flags in the fourth word; max_background and congestion_threshold, max_write, time_gran, max_pages and
    // map_alignment, then flags2 in the ninth.
    let (flags, flags2) = (OUT_HEADER + 4 * 3, OUT_HEADER + 4 * 8);
    let good = OutHeader::read_from_prefix(reply).is_ok_and(|(h, _)| h.error == 0) && reply.len() >= flags2 + 4;
    if good {
        for (at, bit) in [(flags, INIT_EXT), (flags2, OVER_IO_URING)] {
            let word = u32::from_ne_bytes(reply[at..at + 4].try_into().expect("four bytes"));
            reply[at..at + 4].copy_from_slice(&(word | bit).to_ne_bytes());
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!((IN_HEADER, OUT_HEADER, size_of::<Own>(), OWN + size_of::<Own>()), (40, 16, 32, HEAD));
        assert_eq!((size_of::<CommandBytes>(), size_of::<ReadWrite>(), size_of::<Fallocate>(), size_of::<Lseek>()), (24, 40, 32, 24));
        assert_eq!(size_of::<Flush>(), 24);
    }

    fn head(opcode: u32, len: u32, payload: u32) -> Vec<u8> {
        let mut head = vec![0; 4096];
        let header = InHeader { len, opcode, unique: 77, nodeid: 5, ..InHeader::default() };
        head[..IN_HEADER].copy_from_slice(header.as_bytes());
        head[OWN..HEAD].copy_from_slice(Own { flags: 0, commit_id: 9, payload, padding: 0, reserved: 0 }.as_bytes());
        head[ARGUMENT..ARGUMENT + 8].copy_from_slice(&3_u64.to_ne_bytes());
        head
    }

    #[test]
    fn a_request_is_one_message_for_the_loops() {
        let head = head(1, 40 + 8 + 4, 4);
        let request = Request::of(&head);
        assert_eq!((request.header.unique, request.commit_id, request.payload, file_handle(&head)), (77, 9, 4, 3));
        let message = message(&head, &request, b"abc\0rest of the body");
        assert_eq!(message.len(), 52);
        assert_eq!(&message[40..], [3, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c', 0]);
    }

    #[test]
    fn an_answer_says_its_length_twice() {
        let mut head = head(15, 80, 0);
        answer(&mut head, 77, 0, 4096);
        let out = OutHeader::read_from_prefix(&head).expect("long enough").0;
        assert_eq!((out.len, out.error, out.unique), (4112, 0, 77));
        assert_eq!(Request::of(&head).payload, 4096);
    }

    #[test]
    fn the_ring_is_taken_where_it_is_offered() {
        let mut init = vec![0; 104];
        assert!(!offers_ring(&init) && !offers_ring(&init[..41]));
        init[52..56].copy_from_slice(&INIT_EXT.to_ne_bytes());
        init[56..60].copy_from_slice(&OVER_IO_URING.to_ne_bytes());
        assert!(offers_ring(&init));
        let mut reply = vec![0; 80];
        assert!(take_ring(&mut reply));
        assert_eq!((reply[31], reply[49]), (0x40, 0x02));
        reply[4..8].copy_from_slice(&(-5_i32).to_ne_bytes());
        assert!(!take_ring(&mut reply) && !take_ring(&mut reply[..20]));
    }
}
