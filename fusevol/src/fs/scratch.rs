//! A loop's memory for the data of one request: made once, used again for the next.

use fusevol_shared::disk::buf::IoBuf;
use std::cell::Cell;

thread_local! {
    static KEPT: Cell<Option<IoBuf>> = const { Cell::new(None) };
}

/// Gives `serve` the thread's memory, at least `len` bytes of it, and keeps what comes back.
pub(super) fn with(len: usize, serve: impl FnOnce(IoBuf) -> IoBuf) {
    let kept = KEPT.take().filter(|b| b.len() >= len);
    let buf = kept.unwrap_or_else(|| IoBuf::zeroed(len.next_power_of_two()));
    KEPT.set(Some(serve(buf)));
}
