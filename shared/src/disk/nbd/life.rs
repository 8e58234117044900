//! Whether the connections to an export stand. Lost is for ever: whoever wants the disk back opens it anew.

use std::sync::OnceLock;
use tokio::sync::watch;

/// Why the connections were lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Loss {
    /// `ENOTCONN`, or `ETIMEDOUT` where the server did not answer.
    pub errno: i32,
    /// For people.
    pub why: String,
}

impl Loss {
    /// The connection ended, or the server broke the protocol.
    pub fn broken(why: impl Into<String>) -> Self {
        Self { errno: libc::ENOTCONN, why: why.into() }
    }

    /// A request was not answered in time.
    pub fn late(why: impl Into<String>) -> Self {
        Self { errno: libc::ETIMEDOUT, why: why.into() }
    }
}

/// One life of all connections to an export.
#[derive(Debug)]
pub(super) struct Life {
    address: String,
    lost: OnceLock<Loss>,
    told: watch::Sender<bool>,
}

impl Life {
    pub fn new(address: String) -> Self {
        Self { address, lost: OnceLock::new(), told: watch::Sender::new(false) }
    }

    /// Of the export, for people.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The first loss counts.
    pub fn lose(&self, loss: Loss) {
        if self.lost.set(loss).is_ok() {
            self.told.send_replace(true);
        }
    }

    pub fn loss(&self) -> Option<&Loss> {
        self.lost.get()
    }

    pub async fn until_lost(&self) {
        let mut told = self.told.subscribe();
        // The sender is our own: it cannot be gone.
        let _ = told.wait_for(|lost| *lost).await;
    }
}
