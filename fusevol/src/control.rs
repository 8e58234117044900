//! The control door: how the data path asks the manager.
//!
//! Rules for who implements it:
//! - calls are sent in the order in which their futures are first polled;
//! - after a lost connection the session sends unanswered calls again itself, with the same sequence numbers: a call
//!   fails with `Unreachable` or `Lapsed` only when it gives up for good, and then it may or may not have been applied;
//! - the future of a call may be awaited in any executor; that of a sleep in the executor of the disks.

use fusevol_shared::error::Result;
use fusevol_shared::wire::messages::Call;
use std::future::Future;
use std::time::Duration;

/// Sends a request to the manager and gives its reply; and the time, for who asks again later.
pub trait Control: Send + Sync + 'static {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the manager answered, or `Unreachable`/`Lapsed` where no answer came.
    fn call<T: Call>(&self, call: T) -> impl Future<Output = Result<T::Reply>>;

    /// Waits so long on the boot clock.
    fn sleep(&self, d: Duration) -> impl Future<Output = ()>;
}
