//! The data path's way to the manager: through the link, for as long as there is hope.
//!
//! The link carries a request through lost connections and restarts of the manager. What waits here gives up when the
//! session fails (no manager has answered for a lease and the time-out): the request itself stays with the link, so it may still be
//! applied; the data path knows that of `Unreachable`.

use crate::control::Control;
use crate::lease::Lease;
use crate::link::Link;
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::wire::messages::Call;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Asks the manager, and waits as long as the session lets it.
pub struct Caller {
    link: Link,
    lease: Arc<Lease>,
    failing: watch::Receiver<bool>,
}

impl Caller {
    /// Through this link, until `failing`.
    #[must_use]
    pub fn new(link: Link, lease: Arc<Lease>, failing: watch::Receiver<bool>) -> Self {
        Self { link, lease, failing }
    }
}

impl Control for Caller {
    async fn call<T: Call>(&self, call: T) -> Result<T::Reply> {
        let answer = self.link.call(call, None);
        let mut failing = self.failing.clone();
        let hopeless = failing.wait_for(|f| *f);
        match select(pin!(answer), pin!(hopeless)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) if self.lease.is_over() => Err(Error::new(Kind::Lapsed, "the session is over").hint("mount again")),
            Either::Right(_) => Err(Error::new(Kind::Unreachable, format!("{}: the manager did not answer in time", T::NAME))
                .hint("see whether fusevol-mgr serve runs and can be reached")),
        }
    }
    async fn sleep(&self, d: Duration) {
        if ring::sleep(d).await.is_err() {
            // A kernel that refuses a ring serves no disk either: nothing that asks again may go round without a pause.
            std::future::pending().await
        }
    }
}
