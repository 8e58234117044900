//! The beginning of a connection: fixed newstyle negotiation (`doc/proto.md`).
//!
//! ```text
//! greeting -> flags -> [STARTTLS -> TLS handshake] -> STRUCTURED_REPLY -> GO (export, block sizes) -> Agreed
//! ```
//! Nothing is read ahead: what a server sends in clear behind its answer to STARTTLS is never taken for part of what was
//! secured. The caller sets the time limit. At most `ANSWER_KEPT` bytes of an answer are kept, `ANSWER_MAX` read.

use super::wire::{
    ExportFlags, FIXED_NEWSTYLE, Info, NBD_MAGIC, NO_ZEROES, OLDSTYLE_MAGIC, OPT_GO, OPT_MAGIC, OPT_STARTTLS, OPT_STRUCTURED_REPLY,
    OPTION_REPLY_BYTES, OptionReply, REP_ACK, REP_ERR_POLICY, REP_ERR_SHUTDOWN, REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, REP_ERR_UNSUP,
    REP_ERROR, REP_INFO, go as go_data, option,
};
use crate::units::PAGE;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest answer to an option, bytes.
const ANSWER_MAX: u32 = 64 << 10;
/// What is kept of it.
const ANSWER_KEPT: usize = 512;
/// Answers to one option.
const ANSWERS_MAX: usize = 64;
/// Most of a request's data where the server does not say (`doc/proto.md`, "Block size constraints").
const LARGEST_UNSAID: u32 = 32 << 20;
/// More is never asked for at once, bytes: a request must be answered in time also where the disk is slow.
const LARGEST: u32 = 4 << 20;

/// Why a connection could not be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failed {
    pub errno: i32,
    pub why: String,
}

impl Failed {
    pub fn new(errno: i32, why: impl Into<String>) -> Self {
        Self { errno, why: why.into() }
    }

    pub fn io(e: &io::Error, what: &str) -> Self {
        match e.raw_os_error() {
            Some(errno) => Self::new(errno, what),
            None => Self::new(libc::ENOTCONN, format!("{what}: {e}")),
        }
    }

    fn protocol(what: &str) -> Self {
        Self::new(libc::EPROTO, format!("the server does not keep to the protocol: {what}"))
    }
}

fn broken(e: io::Error) -> Failed {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => Failed::new(libc::ECONNRESET, "the server closed the connection while it was set up"),
        _ => Failed::io(&e, "while the connection was set up"),
    }
}

/// What both sides have agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Agreed {
    pub size: u64,
    pub flags: ExportFlags,
    /// Most data of one request, a multiple of `PAGE`.
    pub largest: u32,
    /// Replies to reads come in chunks.
    pub structured: bool,
}

/// Reads the greeting, and answers it.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(s: &mut S) -> Result<(), Failed> {
    if s.read_u64().await.map_err(broken)? != NBD_MAGIC {
        return Err(Failed::protocol("it is no NBD server"));
    }
    match s.read_u64().await.map_err(broken)? {
        OPT_MAGIC => {}
        OLDSTYLE_MAGIC => return Err(Failed::new(libc::EPROTO, "the server speaks the old style of NBD, without negotiation")),
        _ => return Err(Failed::protocol("its greeting is unknown")),
    }
    let flags = s.read_u16().await.map_err(broken)?;
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(Failed::new(libc::EPROTO, "the server speaks an old style of NBD, not the fixed newstyle"));
    }
    let ours = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
    s.write_u32(ours).await.map_err(broken)?;
    s.flush().await.map_err(broken)
}

/// Sends an option.
async fn ask<S: AsyncWrite + Unpin>(s: &mut S, number: u32, data: &[u8]) -> Result<(), Failed> {
    s.write_all(&option(number, data)).await.map_err(broken)?;
    s.flush().await.map_err(broken)
}

/// The next answer to an option: its kind, and the beginning of its data.
async fn answer<S: AsyncRead + Unpin>(s: &mut S, number: u32) -> Result<(u32, Vec<u8>), Failed> {
    let mut head = [0; OPTION_REPLY_BYTES];
    s.read_exact(&mut head).await.map_err(broken)?;
    let reply = OptionReply::parse(&head).ok_or_else(|| Failed::protocol("an answer without its magic"))?;
    if reply.option != number {
        return Err(Failed::protocol("an answer to an option that was not asked"));
    }
    if reply.len > ANSWER_MAX {
        return Err(Failed::protocol("an answer that is too long"));
    }
    let len = usize::try_from(reply.len).expect("64 KiB at most");
    let mut kept = vec![0; len.min(ANSWER_KEPT)];
    s.read_exact(&mut kept).await.map_err(broken)?;
    let (mut left, mut rest) = (len - kept.len(), [0; ANSWER_KEPT]);
    while left > 0 {
        let n = left.min(rest.len());
        s.read_exact(&mut rest[..n]).await.map_err(broken)?;
        left -= n;
    }
    Ok((reply.kind, kept))
}

/// What an error answer means.
fn refusal(kind: u32, text: &[u8]) -> Failed {
    let said = String::from_utf8_lossy(text);
    let said = if said.trim().is_empty() { String::new() } else { format!(" ({})", said.trim().escape_default()) };
    let (errno, why) = match kind {
        REP_ERR_UNSUP => (libc::EOPNOTSUPP, "the server is too old: it does not know the option"),
        REP_ERR_POLICY => (libc::EACCES, "the server does not allow it"),
        REP_ERR_TLS_REQD => (libc::EACCES, "the server asks for TLS: use nbds://"),
        REP_ERR_UNKNOWN => (libc::ENOENT, "the server has no export of that name"),
        REP_ERR_SHUTDOWN => (libc::ESHUTDOWN, "the server is ending"),
        _ => (libc::EPROTO, "the server refuses"),
    };
    Failed::new(errno, format!("{why}{said}"))
}

/// TLS from now on: the caller shakes hands next.
pub(super) async fn start_tls<S: AsyncRead + AsyncWrite + Unpin>(s: &mut S) -> Result<(), Failed> {
    ask(s, OPT_STARTTLS, &[]).await?;
    match answer(s, OPT_STARTTLS).await? {
        (REP_ACK, data) if data.is_empty() => Ok(()),
        (kind, text) if kind & REP_ERROR != 0 => {
            let e = refusal(kind, &text);
            Err(Failed { why: format!("no TLS: {}", e.why), ..e })
        }
        _ => Err(Failed::protocol("its answer to STARTTLS")),
    }
}

/// Chooses the export.
pub(super) async fn go<S: AsyncRead + AsyncWrite + Unpin>(s: &mut S, export: &str) -> Result<Agreed, Failed> {
    ask(s, OPT_STRUCTURED_REPLY, &[]).await?;
    let structured = match answer(s, OPT_STRUCTURED_REPLY).await? {
        (REP_ACK, data) if data.is_empty() => true,
        (REP_ERR_TLS_REQD, text) => return Err(refusal(REP_ERR_TLS_REQD, &text)),
        (kind, _) if kind & REP_ERROR != 0 => false,
        _ => return Err(Failed::protocol("its answer to STRUCTURED_REPLY")),
    };
    ask(s, OPT_GO, &go_data(export)).await?;
    let (mut about, mut blocks) = (None, None);
    for _ in 0..ANSWERS_MAX {
        match answer(s, OPT_GO).await? {
            (REP_INFO, data) => match Info::parse(&data) {
                Some(Info::Export { size, flags }) => about = Some((size, flags)),
                Some(Info::BlockSize { min, max }) => blocks = Some((min, max)),
                Some(Info::Other) => {}
                None => return Err(Failed::protocol("a piece of information without its length")),
            },
            (REP_ACK, data) if data.is_empty() => {
                let (size, flags) = about.ok_or_else(|| Failed::protocol("an export without a size"))?;
                return agree(size, flags, blocks, structured);
            }
            (kind, text) if kind & REP_ERROR != 0 => return Err(refusal(kind, &text)),
            _ => return Err(Failed::protocol("its answer to GO")),
        }
    }
    Err(Failed::protocol("too many answers"))
}

fn agree(size: u64, flags: ExportFlags, blocks: Option<(u32, u32)>, structured: bool) -> Result<Agreed, Failed> {
    if !flags.are_flags() {
        return Err(Failed::protocol("an export without flags"));
    }
    if i64::try_from(size).is_err() {
        return Err(Failed::protocol("an export of more than 2^63 bytes"));
    }
    let page = u32::try_from(PAGE).expect("a page is small");
    let (min, max) = blocks.unwrap_or((1, LARGEST_UNSAID));
    if !min.is_power_of_two() || max < min {
        return Err(Failed::protocol("block sizes that cannot be"));
    }
    if min > page || max < page {
        return Err(Failed::new(libc::EINVAL, format!("it takes requests of {min} to {max} bytes only, not of {page}")));
    }
    Ok(Agreed { size, flags, largest: max.min(LARGEST) / page * page, structured })
}
