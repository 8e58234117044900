//! `init`.

use super::Env;
use crate::repo::Repository;
use crate::store::DirStore;
use clap::Args;
use fusevol_shared::cli::{DONE, json, out};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::random::SystemRandom;
use fusevol_shared::size;
use std::io::IsTerminal;
use std::path::PathBuf;

/// The chunk size unless another is asked for: `FORMAT.md` ("Repository") has the measurements behind it.
const CHUNK_SIZE: &str = "1M";

#[derive(Args, Debug)]
pub(super) struct Init {
    /// Store everything readable
    #[arg(long)]
    no_encryption: bool,
    /// The passphrase's file, for an encrypted repository (or FUSEVOL_PASSWORD_FILE)
    #[arg(long, value_name = "FILE", conflicts_with = "no_encryption")]
    password_file: Option<PathBuf>,
    /// Bytes of a chunk: a power of two from 64K to 8M
    #[arg(long, value_name = "SIZE", default_value = CHUNK_SIZE)]
    chunk_size: String,
}

pub(super) fn init(env: &Env, args: &Init) -> Result<u8> {
    let dir = env.repo_dir()?;
    must_be_plain(args)?;
    let bytes = size::parse(&args.chunk_size)?;
    let chunk = u32::try_from(bytes).map_err(|_| Error::new(Kind::Refused, format!("a chunk cannot have {bytes} bytes")))?;
    let repo = Repository::init(Box::new(DirStore::new(dir)), chunk, super::now(), Box::new(SystemRandom))?;
    let place = repo.store().place();
    if env.common.json {
        json::print(&serde_json::json!({ "repository": place, "id": repo.config().id, "chunk_size": chunk, "encrypted": false }))?;
    } else {
        out::line(&format!("made repository {} at {place}, not encrypted", repo.config().id.short()))?;
    }
    Ok(DONE)
}

/// Nothing is encrypted yet, and nobody may believe that it is.
fn must_be_plain(args: &Init) -> Result<()> {
    if args.no_encryption {
        return Ok(());
    }
    let file = args.password_file.clone().or_else(|| std::env::var_os("FUSEVOL_PASSWORD_FILE").filter(|f| !f.is_empty()).map(Into::into));
    let what = match file {
        Some(file) => format!("a password file ({}) is given, but this version cannot encrypt", file.display()),
        None if std::io::stdin().is_terminal() => "this version cannot encrypt".to_owned(),
        None => "without a terminal to ask for a passphrase, a password file or --no-encryption is needed".to_owned(),
    };
    Err(Error::new(Kind::Refused, what).hint("--no-encryption makes a repository that is not encrypted"))
}
