//! What is said over the admin socket: a line of JSON for each question and each answer. It is no public interface:
//! verbs and manager are the same program; `--json` of the verbs is what scripts read.

use crate::core::admin_api::{AdminReply, AdminRequest};
use fusevol_shared::disk::any::Address;
use fusevol_shared::error::WireError;
use serde::{Deserialize, Serialize};

/// What a verb asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Of the manager's core.
    Core(AdminRequest),
    /// To look at a disk, label it and take it into the pool.
    DiskAdd {
        /// Where it is, absolute.
        path: Address,
    },
}

/// What the manager answers.
pub type Line = Result<AdminReply, WireError>;
