//! `backup` and `dump`.

use super::{Env, Pool, Yes};
use crate::format::manifest::Manifest;
use crate::pipeline::backup::{Job, backup as store};
use crate::pipeline::dump::{Output, dump as copy};
use crate::pipeline::source::FileSource;
use crate::pipeline::source::Source;
use crate::pipeline::target::Target;
use crate::pipeline::workers;
use crate::repo::Repository;
use crate::volume::{Image, Snapshots, open_snapshots, temporary_name};
use clap::Args;
use fusevol_shared::cli::{DONE, confirm, json, out};
use fusevol_shared::clock::SystemClock;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::{Name, Target as VolumeName};
use fusevol_shared::random::SystemRandom;
use fusevol_shared::size;
use fusevol_shared::wire::keyfile::KeyFile;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub(super) struct Backup {
    /// Volumes, as VOL or POOL/VOL; VOL@SNAP stores a snapshot that is there, and keeps it
    #[arg(value_name = "VOL", required = true)]
    volumes: Vec<VolumeName>,
    #[command(flatten)]
    pool: Pool,
}

#[derive(Args, Debug)]
pub(super) struct Dump {
    /// The volume, as VOL, POOL/VOL or VOL@SNAP
    #[arg(value_name = "VOL[@SNAP]")]
    volume: VolumeName,
    /// A file, a block device, or - for standard output
    #[arg(long, value_name = "FILE|-")]
    to: PathBuf,
    #[command(flatten)]
    pool: Pool,
    #[command(flatten)]
    yes: Yes,
}

pub(super) fn backup(env: &Env, args: &Backup) -> Result<u8> {
    let repo = env.open()?;
    check_pool(args.pool.key()?, &args.volumes)?;
    let snapshots = open_snapshots(args.pool.key()?, &args.pool.disk)?;
    let (mut stored, mut failed) = (Vec::new(), Vec::new());
    for volume in &args.volumes {
        env.cancel.check()?;
        let done = with_image(snapshots.as_ref(), volume, |image| one(env, &repo, image));
        match done {
            Ok(Done { value, left }) => {
                tell_stored(env, &value)?;
                stored.push(value);
                failed.extend(left);
            }
            Err(e) if args.volumes.len() == 1 || e.kind() == Kind::Interrupted => {
                return Err(snapshots.end().err().map_or(e, fold_end));
            }
            Err(e) => {
                env.warn(&e)?;
                failed.push(e);
            }
        }
    }
    failed.extend(snapshots.end().err().map(snapshot_stays));
    match (failed.into_iter().next(), stored.len()) {
        (None, _) => Ok(DONE),
        (Some(e), 0) => Err(e),
        (Some(e), n) => {
            let what = format!("{n} of {} volumes are stored; not all went well: {e}", args.volumes.len());
            Err(Error::new(Kind::Partial, what).hint(e.hint_text().unwrap_or("see the lines before this one")))
        }
    }
}

/// What was done with an image, and the snapshot that could not be removed after it.
struct Done<T> {
    value: T,
    left: Option<Error>,
}

/// Takes or finds a snapshot, works on its image, and lets it go.
fn with_image<T>(snapshots: &dyn Snapshots, volume: &VolumeName, work: impl FnOnce(&Image) -> Result<T>) -> Result<Done<T>> {
    let within = |e: Error| e.within(format_args!("volume {}", volume.volume));
    if let Some(name) = &volume.snapshot {
        let value = snapshots.find(&volume.volume, name).and_then(|i| work(&i)).map_err(within)?;
        return Ok(Done { value, left: None });
    }
    let name = temporary_name(super::now(), &mut SystemRandom)?;
    let done = snapshots.take(&volume.volume, &name).and_then(|i| work(&i)).map_err(within);
    let left = snapshots.let_go(&volume.volume, &name).err().map(|e| stays(&volume.volume, &name, e));
    match (done, left) {
        (Ok(value), left) => Ok(Done { value, left }),
        (Err(e), _) => Err(e),
    }
}

fn stays(volume: &Name, snapshot: &Name, e: Error) -> Error {
    e.within(format_args!("the snapshot {volume}@{snapshot} stays")).hint(format!("fusevol-mgr snapshot rm {volume}@{snapshot}"))
}

fn snapshot_stays(e: Error) -> Error {
    e.within("the private mount did not end in order").hint("see `fusevol-mgr snapshot ls`: a snapshot named backup-... may have stayed")
}

/// The end failed too, after the work had.
fn fold_end(e: Error) -> Error {
    snapshot_stays(e)
}

fn one(env: &Env, repo: &Repository, image: &Image) -> Result<Manifest> {
    let source = open_image(image)?;
    let progress = env.progress("backup");
    let job = Job {
        repo,
        source: &source,
        volume: image.volume.clone(),
        snapshot: image.snapshot.clone(),
        block_size: image.block_size,
        workers: workers(),
        pack_target: Job::PACK_TARGET,
        progress: &progress,
        cancel: &env.cancel,
        clock: &SystemClock,
    };
    let stored = store(&job)?;
    stored.warnings.iter().try_for_each(|w| env.warn(w))?;
    Ok(stored.manifest)
}

/// The pseudo-device file; its size must be the snapshot's.
fn open_image(image: &Image) -> Result<FileSource> {
    let source = FileSource::open(&image.path)?;
    if source.size() == image.size {
        Ok(source)
    } else {
        let what = format!("{} has {} bytes, the snapshot {}", image.path.display(), source.size(), image.size);
        Err(Error::new(Kind::Internal, what))
    }
}

fn tell_stored(env: &Env, m: &Manifest) -> Result<()> {
    if env.common.json {
        return json::print(&serde_json::json!({ "event": "stored", "snapshot": super::look::to_json(m) }));
    }
    let s = &m.stats;
    out::line(&format!(
        "stored {} as {}: {} of {}, {} new, {} added to the repository, in {}.{} s",
        m.volume.name,
        m.id.short(),
        size::show(s.data),
        size::show(m.size),
        size::show(s.new_bytes),
        size::show(s.stored),
        s.millis / 1000,
        s.millis % 1000 / 100
    ))
}

/// A pool that is named must be the key's.
fn check_pool(key: &Path, volumes: &[VolumeName]) -> Result<()> {
    let Some(named) = volumes.iter().find_map(|v| v.pool.as_ref()) else { return Ok(()) };
    let own = KeyFile::load(key)?.pool;
    match volumes.iter().filter_map(|v| v.pool.as_ref()).find(|p| p.as_str() != own.as_str()) {
        None => Ok(()),
        Some(other) => Err(Error::new(Kind::NotFound, format!("the key is for pool '{own}', not '{other}'"))
            .hint(format!("leave '{named}/' out, or give that pool's key"))),
    }
}

pub(super) fn dump(env: &Env, args: &Dump) -> Result<u8> {
    let to_stdout = args.to == Path::new("-");
    if to_stdout {
        super::bring::stdout_is_free(env)?;
    }
    check_pool(args.pool.key()?, std::slice::from_ref(&args.volume))?;
    let snapshots = open_snapshots(args.pool.key()?, &args.pool.disk)?;
    let done = with_image(snapshots.as_ref(), &args.volume, |image| {
        let data = if to_stdout { dump_to_stdout(env, image)? } else { dump_to_file(env, args, image)? };
        Ok((data, image.size))
    });
    let ended = snapshots.end();
    let Done { value: (data, bytes), left } = done?;
    if env.common.json {
        json::print(&serde_json::json!({ "event": "dumped", "to": args.to, "size": bytes, "data": data }))?;
    } else if !to_stdout {
        out::line(&format!("wrote {} ({}, {} of data)", args.to.display(), size::show(bytes), size::show(data)))?;
    }
    match left.or(ended.err().map(snapshot_stays)) {
        None => Ok(DONE),
        Some(e) => Err(Error::new(Kind::Partial, format!("the dump is whole, but {e}")).hint(e.hint_text().unwrap_or_default())),
    }
}

fn dump_to_stdout(env: &Env, image: &Image) -> Result<u64> {
    let source = open_image(image)?;
    copy(&source, Output::Stream(&mut std::io::stdout().lock()), &env.progress("dump"), &env.cancel)
}

fn dump_to_file(env: &Env, args: &Dump, image: &Image) -> Result<u64> {
    let source = open_image(image)?;
    let target = Target::open(&args.to, source.size(), super::bring::grain(image.block_size), &mut |lost| confirm(lost, args.yes))?;
    match copy(&source, Output::Placed(&target.sink), &env.progress("dump"), &env.cancel) {
        Ok(data) => target.finish().map(|()| data),
        Err(e) => {
            let left = target.give_up(false);
            Err(e.within(left))
        }
    }
}
