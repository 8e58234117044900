//! The transports between the kernel and us: which one is wished, and which one serves.

use fusevol_shared::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which transport a mount is to have (`-o transport=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Transport {
    /// Over io_uring where the kernel has it, else the classic one.
    #[default]
    Auto,
    /// FUSE over io_uring, or none.
    Uring,
    /// Reads and writes of `/dev/fuse`, by loops.
    Classic,
}

impl FromStr for Transport {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "classic" => Ok(Self::Classic),
            _ => Err(Error::new(Kind::Refused, format!("there is no transport {s:?}")).hint("transport=auto, uring or classic")),
        }
    }
}

/// How a mount is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Served {
    /// Over io_uring.
    Uring {
        /// One for each possible CPU.
        queues: u16,
        /// Entries of each queue: requests under way.
        depth: u16,
    },
    /// By loops on `/dev/fuse`.
    Classic {
        /// Why not over io_uring; none where that was wished so.
        why: Option<String>,
    },
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring { queues, depth } => write!(f, "uring ({queues} queues of {depth})"),
            Self::Classic { why: None } => f.write_str("classic"),
            Self::Classic { why: Some(why) } => write!(f, "classic ({why})"),
        }
    }
}
