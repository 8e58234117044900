//! The NBD protocol's numbers and headers (NetworkBlockDevice/nbd, `doc/proto.md`). Pure: bytes in, values out.
//! Everything is big-endian. What comes from a server is checked here or where it is used; a length is never a size to
//! allocate.

/// First eight bytes of a server.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: the server negotiates (newstyle), and each option begins with it.
pub const OPT_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What an oldstyle server says instead.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Each answer to an option begins with it.
pub const OPT_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Each request begins with it.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// A simple reply begins with it.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// A chunk of a structured reply begins with it.
pub const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Handshake: the server answers options that it does not know.
pub const FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake: no padding behind the old export option.
pub const NO_ZEROES: u16 = 1 << 1;

/// Option: TLS from now on.
pub const OPT_STARTTLS: u32 = 5;
/// Option: this export, from now on requests.
pub const OPT_GO: u32 = 7;
/// Option: replies in chunks.
pub const OPT_STRUCTURED_REPLY: u32 = 8;

/// Answer to an option: done.
pub const REP_ACK: u32 = 1;
/// Answer to an option: a piece of information, more follows.
pub const REP_INFO: u32 = 3;
/// Set in answers that are errors.
pub const REP_ERROR: u32 = 1 << 31;
/// The option is not known.
pub const REP_ERR_UNSUP: u32 = REP_ERROR | 1;
/// Not allowed.
pub const REP_ERR_POLICY: u32 = REP_ERROR | 2;
/// TLS first.
pub const REP_ERR_TLS_REQD: u32 = REP_ERROR | 5;
/// No such export.
pub const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;
/// The server ends.
pub const REP_ERR_SHUTDOWN: u32 = REP_ERROR | 7;

/// Information: size and flags of the export.
pub const INFO_EXPORT: u16 = 0;
/// Information: limits of a request's size.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// What an export can do: the transmission flags. Those that nothing here uses yet are only shown (trim, write-zeroes).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportFlags(pub u16);

impl ExportFlags {
    const NAMES: [(u16, &'static str); 8] = [
        (1 << 1, "read-only"),
        (1 << 2, "flush"),
        (1 << 3, "fua"),
        (1 << 5, "trim"),
        (1 << 6, "write-zeroes"),
        (1 << 7, "df"),
        (1 << 8, "multi-conn"),
        (1 << 11, "fast-zero"),
    ];

    fn has(self, bit: u16) -> bool {
        self.0 >> bit & 1 == 1
    }
    /// The other flags mean something; every server must set it.
    #[must_use]
    pub fn are_flags(self) -> bool {
        self.has(0)
    }
    /// No writing.
    #[must_use]
    pub fn read_only(self) -> bool {
        self.has(1)
    }
    /// Knows `FLUSH`.
    #[must_use]
    pub fn flush(self) -> bool {
        self.has(2)
    }
    /// Knows `FUA`.
    #[must_use]
    pub fn fua(self) -> bool {
        self.has(3)
    }
    /// What a flush or FUA does over one connection is seen over all.
    #[must_use]
    pub fn multi_conn(self) -> bool {
        self.has(8)
    }
}

impl std::fmt::Debug for ExportFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = Self::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| *name).collect();
        write!(f, "{}", names.join(" "))
    }
}

/// What is asked of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Command {
    /// Bytes from the disk.
    Read = 0,
    /// Bytes to the disk.
    Write = 1,
    /// The end; has no answer.
    Disconnect = 2,
    /// Every write that was answered becomes durable.
    Flush = 3,
}

impl Command {
    /// For people.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Command::Read => "read",
            Command::Write => "write",
            Command::Disconnect => "disconnect",
            Command::Flush => "flush",
        }
    }
}

/// Command flag: durable once it is answered.
pub const FLAG_FUA: u16 = 1 << 0;
/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;

/// A request's header.
#[must_use]
pub fn request(command: Command, flags: u16, cookie: u64, at: u64, len: u32) -> [u8; REQUEST_BYTES] {
    let mut out = [0; REQUEST_BYTES];
    out[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&(command as u16).to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out[16..24].copy_from_slice(&at.to_be_bytes());
    out[24..28].copy_from_slice(&len.to_be_bytes());
    out
}

/// An option with its data.
#[must_use]
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).expect("an option's data are a name of at most 4 KiB and a few numbers");
    [&OPT_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

/// The data of `OPT_GO`: the export, and that its block sizes are to be told.
#[must_use]
pub fn go(export: &str) -> Vec<u8> {
    let len = u32::try_from(export.len()).expect("an export's name has at most 4 KiB");
    [&len.to_be_bytes()[..], export.as_bytes(), &1_u16.to_be_bytes(), &INFO_BLOCK_SIZE.to_be_bytes()].concat()
}

/// `N` bytes of `b` from `at`.
fn part<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A number of two bytes at `at`; `None` past the end.
#[must_use]
pub fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    part(b, at).map(u16::from_be_bytes)
}

/// A number of four bytes at `at`; `None` past the end.
#[must_use]
pub fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    part(b, at).map(u32::from_be_bytes)
}

/// A number of eight bytes at `at`; `None` past the end.
#[must_use]
pub fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    part(b, at).map(u64::from_be_bytes)
}

/// Header of an answer to an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionReply {
    /// To which option.
    pub option: u32,
    /// `REP_*`.
    pub kind: u32,
    /// Bytes that follow.
    pub len: u32,
}

/// Bytes of an [`OptionReply`].
pub const OPTION_REPLY_BYTES: usize = 20;

impl OptionReply {
    /// `None` where it does not begin with its magic.
    #[must_use]
    pub fn parse(b: &[u8; OPTION_REPLY_BYTES]) -> Option<Self> {
        let magic = u64_at(b, 0)?;
        (magic == OPT_REPLY_MAGIC).then_some(Self { option: u32_at(b, 8)?, kind: u32_at(b, 12)?, len: u32_at(b, 16)? })
    }
}

/// One piece of `REP_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Info {
    /// The export.
    Export {
        /// Bytes.
        size: u64,
        /// What it can do.
        flags: ExportFlags,
    },
    /// Sizes of requests, bytes.
    BlockSize {
        /// Multiple that every offset and length must be of.
        min: u32,
        /// Most of a request's data.
        max: u32,
    },
    /// Something that nobody asked for.
    Other,
}

impl Info {
    /// `None` where it has not the length that it must have.
    #[must_use]
    pub fn parse(b: &[u8]) -> Option<Self> {
        match u16_at(b, 0)? {
            INFO_EXPORT if b.len() == 12 => Some(Self::Export { size: u64_at(b, 2)?, flags: ExportFlags(u16_at(b, 10)?) }),
            INFO_BLOCK_SIZE if b.len() == 14 => Some(Self::BlockSize { min: u32_at(b, 2)?, max: u32_at(b, 10)? }),
            INFO_EXPORT | INFO_BLOCK_SIZE => None,
            _ => Some(Self::Other),
        }
    }
}

/// Bytes of what both kinds of reply begin with.
pub const SIMPLE_BYTES: usize = 16;
/// Bytes of a chunk's header.
pub const CHUNK_BYTES: usize = 20;

/// Type of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// Nothing: success, or the end.
    None,
    /// An offset of eight bytes, and data.
    Data,
    /// An offset of eight bytes, and a length of four: zeros.
    Hole,
    /// An error: errno of four bytes, length of two, text.
    Error,
    /// The same, and an offset of eight bytes.
    ErrorAt,
    /// Any other.
    Unknown(u16),
}

impl Chunk {
    /// By its number.
    #[must_use]
    pub fn of(number: u16) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Data,
            2 => Self::Hole,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorAt,
            n => Self::Unknown(n),
        }
    }
}

/// The errno of an error chunk and the server's text, of its bytes; `None` where they contradict themselves.
#[must_use]
pub fn error_chunk(b: &[u8], with_offset: bool) -> Option<(u32, String)> {
    let errno = u32_at(b, 0)?;
    let len = usize::from(u16_at(b, 4)?);
    let rest = if with_offset { 8 } else { 0 };
    (b.len() == 6 + len + rest).then(|| (errno, String::from_utf8_lossy(&b[6..6 + len]).into_owned()))
}

/// NBD's error as Linux says it. NBD has taken Linux's numbers for those that it knows; any other is `EINVAL` by its rules, but an
/// unknown failure is no wrong use: `EIO`.
#[must_use]
pub fn errno_of(nbd: u32) -> i32 {
    match nbd {
        1 => libc::EPERM,
        12 => libc::ENOMEM,
        22 => libc::EINVAL,
        28 => libc::ENOSPC,
        75 => libc::EOVERFLOW,
        95 => libc::EOPNOTSUPP,
        108 => libc::ESHUTDOWN,
        _ => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_request() {
        let bytes = request(Command::Write, FLAG_FUA, 0x0102_0304_0506_0708, 0x1000, 0x2000);
        assert_eq!(bytes, [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x20, 0]);
        assert_eq!(option(OPT_GO, &go("ab"))[..16], *b"IHAVEOPT\0\0\0\x07\0\0\0\x0a");
        assert_eq!(go("ab"), *b"\0\0\0\x02ab\0\x01\0\x03");
    }

    #[test]
    fn informations_have_their_lengths() {
        assert_eq!(Info::parse(&[0; 12]), Some(Info::Export { size: 0, flags: ExportFlags(0) }));
        assert_eq!((Info::parse(&[0; 11]), Info::parse(&[0; 13]), Info::parse(&[0])), (None, None, None));
        assert_eq!(Info::parse(b"\0\x03\0\0\0\x01\0\0\x10\0\0\x10\0\0"), Some(Info::BlockSize { min: 1, max: 0x10_0000 }));
        assert_eq!(Info::parse(b"\0\x01name"), Some(Info::Other));
        assert_eq!(error_chunk(b"\0\0\0\x05\0\x02no", false), Some((5, "no".to_owned())));
        assert_eq!(error_chunk(b"\0\0\0\x05\0\x03no", false), None);
        assert_eq!(error_chunk(b"\0\0\0\x05\0\0\0\0\0\0\0\0\0\x01", true), Some((5, String::new())));
    }

    proptest! {
        #[test]
        fn any_bytes_end(b in prop::collection::vec(any::<u8>(), 0..80), head: [u8; OPTION_REPLY_BYTES]) {
            let _ = (Info::parse(&b), error_chunk(&b, false), error_chunk(&b, true), OptionReply::parse(&head));
        }
    }
}
