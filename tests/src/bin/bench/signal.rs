//! Ctrl-C and SIGTERM: the run ends as by an error, so that every guard cleans up behind itself.

use anyhow::{Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the run was told to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the signals are noted instead of ending the process.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn new() -> Result<Self> {
        let noted = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            signal_hook::flag::register(signal, noted.0.clone())?;
        }
        Ok(noted)
    }

    /// # Errors
    /// Once the run was told to end.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
