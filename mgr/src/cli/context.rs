//! What every verb has at hand: the folder, the kind of output, and the way to the manager.

use super::args::{Cli, Destroy};
use super::show;
use crate::admin::api::Question;
use crate::admin::client::{self, Client};
use crate::admin::config::Config;
use crate::admin::dir::Dir;
use crate::core::{AdminReply, AdminRequest};
use fusevol_shared::cli::{confirm, out};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::{Name, Target};
use serde::Serialize;
use std::time::Duration;

/// Of one run of the program.
pub struct Ctx {
    /// `--dir`
    pub dir: Dir,
    /// `--json`
    pub json: bool,
    /// `--wait`
    pub wait: Duration,
}

impl Ctx {
    /// As the command line says.
    pub fn new(cli: &Cli) -> Self {
        Self { dir: Dir::new(&cli.dir), json: cli.json, wait: Duration::from_secs(cli.wait) }
    }

    /// Asks the manager one thing.
    pub fn ask(&self, request: AdminRequest) -> Result<AdminReply> {
        self.question(&Question::Core(request))
    }

    /// Asks the manager, its core or itself.
    pub fn question(&self, question: &Question) -> Result<AdminReply> {
        client::block_on(async { Client::connect(&self.dir, self.wait).await?.ask(question).await })
    }

    /// The volume that `target` names; `POOL/` in front must be this pool.
    pub fn volume(&self, target: &Target) -> Result<String> {
        if let Some(snapshot) = &target.snapshot {
            return Err(Error::new(Kind::Refused, format!("'{}@{snapshot}' is a snapshot; a volume is meant here", target.volume))
                .hint(format!("as '{}'", target.volume)));
        }
        self.check_pool(target)?;
        Ok(target.volume.to_string())
    }

    /// The volume and snapshot that `target` names.
    pub fn snapshot(&self, target: &Target) -> Result<(String, String)> {
        let Some(snapshot) = &target.snapshot else {
            return Err(Error::new(Kind::Refused, format!("'{}' is a volume; a snapshot is meant here", target.volume))
                .hint(format!("as '{}@NAME'", target.volume)));
        };
        self.check_pool(target)?;
        Ok((target.volume.to_string(), snapshot.to_string()))
    }

    fn check_pool(&self, target: &Target) -> Result<()> {
        let Some(named) = &target.pool else { return Ok(()) };
        let ours: Name = Config::load(&self.dir)?.pool;
        if *named == ours {
            return Ok(());
        }
        Err(Error::new(Kind::NotFound, format!("pool '{named}': this manager's pool is '{ours}'")).hint("name another folder with --dir"))
    }

    /// Asks before what destroys; says whether it shall be done. `lost` is a sentence.
    pub fn destroy(&self, lost: &str, how: Destroy) -> Result<bool> {
        if how.plan {
            self.say(&serde_json::json!({ "plan": lost }), lost)?;
            return Ok(false);
        }
        confirm(lost, how.yes).map(|()| true)
    }

    /// Prints an answer: `json` with `--json`, else `text` (nothing where it is empty).
    pub fn say(&self, json: &impl Serialize, text: &str) -> Result<()> {
        if self.json {
            show::json(json)
        } else if text.is_empty() {
            Ok(())
        } else {
            out::line(text)
        }
    }
}

/// An answer that does not fit its question: an error of our own.
pub fn unexpected(answer: &impl std::fmt::Debug) -> Error {
    let text: String = format!("{answer:?}").chars().take(200).collect();
    Error::new(Kind::Internal, format!("the manager's answer does not fit the question: {text}"))
        .hint("is it of another version? restart it with `fusevol-mgr serve`")
}

/// Takes the one variant that fits the question.
macro_rules! pick {
    ($answer:expr, $variant:ident) => {
        match $answer {
            $crate::core::AdminReply::$variant(value) => Ok(value),
            other => Err($crate::cli::context::unexpected(&other)),
        }
    };
}
pub(super) use pick;

/// For requests that are answered with `Done` alone.
pub fn done(answer: AdminReply) -> Result<()> {
    match answer {
        AdminReply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}
