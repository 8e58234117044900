//! Our kinds of error as the kernel's numbers: one exhaustive match, and the only place where it is decided.

use fuser::Errno;
use fusevol_shared::error::{Error, Kind};

/// What a system call on a volume file returns for an error of this kind.
#[must_use]
pub fn of(kind: Kind) -> Errno {
    match kind {
        Kind::Refused => Errno::EINVAL,
        Kind::NotFound => Errno::ENOENT,
        Kind::Busy => Errno::EBUSY,
        Kind::Denied => Errno::EACCES,
        Kind::Unreachable => Errno::ETIMEDOUT,
        Kind::NoSpace => Errno::ENOSPC,
        Kind::Exists => Errno::EEXIST,
        Kind::Version => Errno::EPROTO,
        Kind::Io | Kind::Damaged | Kind::Lapsed | Kind::Internal => Errno::EIO,
        // These kinds never reach a volume file.
        Kind::RepoMissing | Kind::RepoLocked | Kind::RepoKey | Kind::Partial | Kind::Interrupted => Errno::EIO,
    }
}

/// The number for `error`, which goes to the log with what was asked: a number alone tells the user nothing.
pub fn logged(what: &str, error: &Error) -> Errno {
    let errno = of(error.kind());
    match error.hint_text() {
        Some(hint) => tracing::warn!(kind = ?error.kind(), hint, "{what}: {error}"),
        None => tracing::warn!(kind = ?error.kind(), "{what}: {error}"),
    }
    errno
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_errno() {
        let table = [
            (Kind::Refused, libc::EINVAL),
            (Kind::NotFound, libc::ENOENT),
            (Kind::Busy, libc::EBUSY),
            (Kind::Denied, libc::EACCES),
            (Kind::Unreachable, libc::ETIMEDOUT),
            (Kind::NoSpace, libc::ENOSPC),
            (Kind::Io, libc::EIO),
            (Kind::Damaged, libc::EIO),
            (Kind::Lapsed, libc::EIO),
            (Kind::Internal, libc::EIO),
            (Kind::Exists, libc::EEXIST),
            (Kind::Version, libc::EPROTO),
        ];
        for (kind, errno) in table {
            assert_eq!(of(kind).code(), errno, "{kind:?}");
        }
    }

    #[test]
    fn an_error_of_a_call_is_logged_and_numbered() {
        let e = Error::new(Kind::Busy, "volume 'db' is attached by host2").hint("detach it there");
        assert_eq!(logged("open db.img", &e).code(), libc::EBUSY);
    }
}
