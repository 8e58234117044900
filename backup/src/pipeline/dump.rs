//! A raw image of a source, without a repository: one thread reads ahead, another writes.

use super::sink::Sink;
use super::source::Source;
use super::{Cancel, Failure, Progress, is_zero};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::{Error, Kind, Result};
use std::io::Write;
use std::sync::mpsc::{channel, sync_channel};

/// Bytes of a piece.
const PIECE: usize = 1 << 20;
/// Pieces between reader and writer.
const PIECES: usize = 8;

/// Where a dump goes.
pub enum Output<'a> {
    /// By place: holes are left out.
    Placed(&'a dyn Sink),
    /// In order: holes are zeros.
    Stream(&'a mut dyn Write),
}

/// Copies all of `source`; gives the bytes of data.
///
/// # Errors
/// Of either end; `Interrupted`.
pub fn dump(source: &dyn Source, mut out: Output<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<u64> {
    let failure = Failure::default();
    let (free_in, free) = channel::<IoBuf>();
    (0..PIECES).try_for_each(|_| free_in.send(IoBuf::zeroed(PIECE))).map_err(|_| Error::new(Kind::Internal, "no buffers"))?;
    let (to, from) = sync_channel::<(u64, IoBuf, usize)>(PIECES);
    let size = source.size();
    progress.begin(size);
    let (mut position, mut data) = (0, 0);
    std::thread::scope(|s| {
        let failure = &failure;
        s.spawn(move || {
            failure.guard(|| {
                let mut at = 0;
                while let Some(range) = source.next_data(at)? {
                    at = at.max(range.start - range.start % PIECE as u64);
                    while at < range.end {
                        cancel.check()?;
                        let Ok(mut buf) = free.recv() else { return Ok(()) };
                        let len = usize::try_from((size - at).min(PIECE as u64)).unwrap_or(PIECE);
                        source.read(at, &mut buf, len)?;
                        if failure.is_set() || to.send((at, buf, len)).is_err() {
                            return Ok(());
                        }
                        at += len as u64;
                    }
                }
                Ok(())
            });
        });
        for (at, buf, len) in from {
            failure.guard(|| {
                if !is_zero(&buf[..len]) {
                    write(&mut out, &mut position, at, &buf[..len])?;
                    data += len as u64;
                }
                progress.at(at + len as u64, data, 0);
                Ok(())
            });
            // The reader has ended where it does not take it.
            let _ = free_in.send(buf);
        }
        failure.guard(|| write(&mut out, &mut position, size, &[]));
    });
    progress.end();
    failure.into_result().map(|()| data)
}

/// Writes a piece at its place, with zeros for what a stream has left out before it.
fn write(out: &mut Output<'_>, position: &mut u64, at: u64, bytes: &[u8]) -> Result<()> {
    match out {
        Output::Placed(_) if bytes.is_empty() => Ok(()),
        Output::Placed(sink) => sink.write_at(at, bytes),
        Output::Stream(stream) => {
            super::restore::zeros(*stream, at - *position)?;
            *position = at + bytes.len() as u64;
            stream.write_all(bytes).and_then(|()| stream.flush()).map_err(fusevol_shared::cli::out::failed)
        }
    }
}
