//! `restore`.

use super::{Env, Pool, Yes};
use crate::format::manifest::Manifest;
use crate::pipeline::restore::{Job, Restored, restore as place, stream};
use crate::pipeline::target::Target;
use crate::pipeline::workers;
use crate::repo::Repository;
use crate::volume::open_for_restore;
use clap::Args;
use fusevol_shared::cli::{DONE, confirm, json, out};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Name;
use fusevol_shared::size;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Smallest and largest run of zeros that is left out, bytes.
const GRAIN: (u32, u32) = (4096, 1 << 20);

#[derive(Args, Debug)]
pub(super) struct Restore {
    /// latest, VOL, VOL@latest, VOL@SNAP, or the beginning of an id
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// A file, a block device, or - for standard output
    #[arg(long, value_name = "FILE|DEV|-", required_unless_present = "to_volume", conflicts_with = "to_volume")]
    to: Option<PathBuf>,
    /// A volume that is there and not attached
    #[arg(long, value_name = "VOL")]
    to_volume: Option<Name>,
    #[command(flatten)]
    pool: Pool,
    #[command(flatten)]
    yes: Yes,
    /// Only say what would be done
    #[arg(short = 'n', long = "dry-run")]
    dry_run: bool,
}

pub(super) fn restore(env: &Env, args: &Restore) -> Result<u8> {
    let to_stdout = args.to.as_deref() == Some(Path::new("-"));
    if to_stdout && !args.dry_run {
        stdout_is_free(env)?;
    }
    let repo = env.open()?;
    let (manifest, unreadable) = repo.select(&args.snapshot)?;
    unreadable.iter().try_for_each(|(_, e)| env.warn(e))?;
    if args.dry_run {
        return plan(env, args, &manifest);
    }
    let restored = match (&args.to, &args.to_volume) {
        (Some(_), _) if to_stdout => to_stream(env, &repo, &manifest)?,
        (Some(path), _) => to_path(env, args, &repo, &manifest, path)?,
        (None, Some(volume)) => to_volume(env, args, &repo, &manifest, volume)?,
        (None, None) => return Err(Error::new(Kind::Refused, "no target is named").hint("give --to or --to-volume")),
    };
    restored.warnings.iter().try_for_each(|w| env.warn(w))?;
    let to = args.to.as_ref().map_or_else(|| args.to_volume.as_ref().map_or(String::new(), Name::to_string), |p| p.display().to_string());
    if env.common.json {
        json::print(&serde_json::json!({
            "event": "restored", "to": to, "size": manifest.size, "data": restored.data, "snapshot": super::look::to_json(&manifest),
        }))?;
    } else if !to_stdout {
        let m = &manifest;
        out::line(&format!(
            "restored {} ({}) to {to}: {}, {} of data",
            m.id.short(),
            m.volume.name,
            size::show(m.size),
            size::show(restored.data)
        ))?;
    }
    Ok(DONE)
}

fn plan(env: &Env, args: &Restore, m: &Manifest) -> Result<u8> {
    let (to, lost) = match (&args.to, &args.to_volume) {
        (Some(p), _) if p == Path::new("-") => ("standard output".to_owned(), "nothing"),
        (Some(p), _) => (p.display().to_string(), if p.exists() { "what is there now" } else { "nothing" }),
        (None, v) => (format!("volume {}", v.as_ref().map_or("", Name::as_str)), "what the volume holds now"),
    };
    if env.common.json {
        json::print(&serde_json::json!({ "event": "plan", "to": to, "lost": lost, "snapshot": super::look::to_json(m) }))?;
    } else {
        out::line(&format!("would restore {} ({}, {}) to {to}; lost would be: {lost}", m.id.short(), m.volume.name, size::show(m.size)))?;
    }
    Ok(DONE)
}

fn to_stream(env: &Env, repo: &Repository, manifest: &Manifest) -> Result<Restored> {
    let progress = env.progress("restore");
    let job = Job { repo, manifest, workers: workers(), progress: &progress, cancel: &env.cancel };
    let mut out = std::io::stdout().lock();
    let restored = stream(&job, &mut out)
        .map_err(|e| if out::is_closed_pipe(&e) { e } else { e.within("the image on standard output is incomplete") })?;
    out.flush().map_err(out::failed)?;
    Ok(restored)
}

fn to_path(env: &Env, args: &Restore, repo: &Repository, m: &Manifest, path: &Path) -> Result<Restored> {
    let target = Target::open(path, m.size, grain(m.block_size), &mut |lost| confirm(lost, args.yes))?;
    into(env, repo, m, target)
}

fn to_volume(env: &Env, args: &Restore, repo: &Repository, m: &Manifest, name: &Name) -> Result<Restored> {
    let volume = open_for_restore(args.pool.key()?, &args.pool.disk, name)?;
    let lost = format!("all of volume {name} ({} written) would be overwritten", size::show(volume.written()));
    let done = (|| {
        if volume.size() < m.size {
            let what = format!("volume '{name}' has {}, the image {}: it is too small", size::show(volume.size()), size::show(m.size));
            return Err(Error::new(Kind::Refused, what).hint("create a volume of that size"));
        }
        if volume.written() > 0 {
            confirm(&lost, args.yes)?;
        }
        into(env, repo, m, Target::volume(&volume.path(), m.size, grain(m.block_size))?)
    })();
    let ended = volume.end();
    let restored = done?;
    ended.map_err(|e| e.within(format_args!("volume '{name}' was written, but not detached in order")))?;
    Ok(restored)
}

/// Restores into a target that is ready, and says what is left of it where that fails.
fn into(env: &Env, repo: &Repository, manifest: &Manifest, target: Target) -> Result<Restored> {
    let progress = env.progress("restore");
    let job = Job { repo, manifest, workers: workers(), progress: &progress, cancel: &env.cancel };
    let done = place(&job, &target.sink).and_then(|r| r.whole().map(|()| r));
    match done {
        Ok(restored) => target.finish().map(|()| restored),
        Err(e) => {
            // What could be had of a damaged snapshot is worth keeping.
            let left = target.give_up(e.kind() == Kind::Damaged);
            Err(e.within(left))
        }
    }
}

/// Bytes by which zeros are left out.
pub(super) fn grain(block_size: u32) -> usize {
    let bytes = if block_size.is_power_of_two() { block_size.clamp(GRAIN.0, GRAIN.1) } else { GRAIN.0 };
    bytes as usize
}

/// Standard output can carry an image.
pub(super) fn stdout_is_free(env: &Env) -> Result<()> {
    if env.common.json {
        return Err(Error::new(Kind::Refused, "--json and the image both want standard output").hint("leave --json out, or give a file"));
    }
    if std::io::stdout().is_terminal() {
        return Err(Error::new(Kind::Refused, "an image is not written to a terminal").hint("redirect standard output"));
    }
    Ok(())
}
