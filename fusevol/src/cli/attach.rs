//! `fusevol attach` and `detach`: a block device over a volume's file, `/dev/fusevol/VOL`.
//!
//! The file is opened with `O_DIRECT`, so what is written to the device goes to the disks without a stop in the page cache of the file.
//! The device's sectors are as large as those of the pool's disks: 4096 bytes where all of them have so, else 512, since what was
//! partitioned or formatted with the one is not readable with the other. (A disk that is a file counts as 512.) With 4096 no write is
//! smaller than a page, which our door would have to read first.
//!
//! One of these verbs runs at a time on a host ([`LOCK`]).

use super::control::{Question, ask};
use super::report::{Status, Volume};
use super::verbs::{Ask, Found};
use crate::fs::loops::{self, Loop};
use crate::private::{RUN, make_run};
use fusevol_shared::cli::{DONE, json, out};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::name::Target;
use fusevol_shared::wire::rights::{Right, Rights};
use rustix::event::{Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "attach.lock";
/// How often the lock is tried, and the pause between.
const LOCK_TRIES: u32 = 300;
const LOCK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const SMALL: u32 = 512;
const LARGE: u32 = 4096;

/// Arguments of `attach`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// VOL or VOL@SNAP
    target: Target,
    /// It cannot be written
    #[arg(long)]
    ro: bool,
    /// Bytes in a sector of the device; as the pool's disks have where it is not given
    #[arg(long, value_name = "BYTES", value_parser = sector)]
    sector_size: Option<u32>,
}

fn sector(text: &str) -> std::result::Result<u32, String> {
    text.parse().ok().filter(|n| matches!(*n, SMALL | LARGE)).ok_or_else(|| format!("it is {SMALL} or {LARGE}"))
}

/// What is attached, or to be.
struct Wish {
    /// `VOL` or `VOL@SNAP`.
    name: String,
    image: PathBuf,
    label: String,
    read_only: bool,
}

/// `fusevol attach`.
pub(super) fn attach(asker: &Ask, args: &Args) -> Result<u8> {
    let mount = asker.mount_of(&args.target)?;
    let wish = wish(&mount, &args.target, args.ro)?;
    let _turn = turn()?;
    let link = loops::link_of(&wish.name);
    let image = std::fs::metadata(&wish.image).context(Kind::Io, || format!("{}", wish.image.display()))?;
    let before = standing(&link, &wish, &image)?;
    let device = match before {
        Some(device) => same(device, &wish, args, &link)?,
        None => make(&mount, &wish, args.sector_size)?,
    };
    if loops::linked(&link) != Some(device) {
        loops::point(&link, device)?;
    }
    if before.is_some() {
        tracing::warn!("{} is attached already", wish.name);
    }
    if !device.is_direct() {
        tracing::warn!("{} goes through the page cache: the kernel does not do direct I/O on it", device.node().display());
    }
    if asker.json {
        json::print(&shown(&wish, &link, device, before.is_some()))?;
    } else {
        out::line(&link.display().to_string())?;
    }
    Ok(DONE)
}

fn shown(wish: &Wish, link: &Path, device: Loop, already: bool) -> Value {
    json!({
        "device": link, "loop": device.node(), "target": wish.name, "image": wish.image, "read_only": device.is_read_only(),
        "sector_size": device.sector(), "direct_io": device.is_direct(), "already": already,
    })
}

/// What the mount has of the target.
fn wish(mount: &Found, target: &Target, read_only: bool) -> Result<Wish> {
    let mut volumes: Vec<Volume> = Vec::new();
    ask(&mount.socket, &Question::Volumes, |v| {
        volumes.push(v);
        Ok(())
    })?;
    let none = |what: String| Error::new(Kind::NotFound, format!("{what} in the mount at {}", mount.who.dir.display())).hint("fusevol ls");
    let volume = volumes.iter().find(|v| v.name == target.volume.as_str());
    let volume = volume.ok_or_else(|| none(format!("there is no volume {}", target.volume)))?;
    let rights: Rights = volume.rights.parse().unwrap_or(Rights::NONE);
    let (name, image) = match &target.snapshot {
        None => (volume.name.clone(), mount.who.dir.join(format!("{}.img", volume.name))),
        Some(snapshot) => {
            let name = format!("{}@{snapshot}", volume.name);
            if !volume.snapshots.iter().any(|s| s.name == snapshot.as_str()) {
                return Err(none(format!("there is no snapshot {name}")));
            }
            let image = mount.who.dir.join(".snapshots").join(format!("{name}.img"));
            (name, image)
        }
    };
    let read_only = read_only || target.snapshot.is_some() || !rights.has(Right::Write);
    Ok(Wish { label: format!("{}/{name}", mount.who.pool), name, image, read_only })
}

/// The device that stands on the image already: by its link, or by its label where the link is lost.
fn standing(link: &Path, wish: &Wish, image: &std::fs::Metadata) -> Result<Option<Loop>> {
    let bound = loops::linked(link).and_then(|d| Some((d, d.file()?)));
    match bound {
        Some((device, _)) if device.is_of(image, &wish.label) => return Ok(Some(device)),
        // It is on the file of another pool's volume of that name, or of a mount that is gone.
        Some((device, file)) if file.file_name() == wish.image.file_name() => {
            return Err(Error::new(
                Kind::Busy,
                format!("{} is {} on {}, of another mount or one that is gone", link.display(), device.node().display(), file.display()),
            )
            .hint(format!("fusevol detach {} and attach it again", wish.name)));
        }
        // The number went to somebody else's file after ours was let go.
        Some(_) | None => {}
    }
    Ok(loops::all().into_iter().find(|d| d.file().as_ref() == Some(&wish.image) && d.is_of(image, &wish.label)))
}

/// It is attached already: as wished?
fn same(device: Loop, wish: &Wish, args: &Args, link: &Path) -> Result<Loop> {
    let other = |how: String| {
        Err(Error::new(Kind::Busy, format!("{} is attached already, {how}", wish.name)).hint(format!(
            "fusevol detach {} first, or use {} as it is",
            wish.name,
            link.display()
        )))
    };
    let sector = device.sector().unwrap_or(0);
    match (device.is_read_only(), wish.read_only) {
        (true, false) => other("for reading only".to_owned()),
        (false, true) => other("for writing".to_owned()),
        _ if args.sector_size.is_some_and(|s| s != sector) => other(format!("with sectors of {sector} bytes")),
        _ => Ok(device),
    }
}

fn make(mount: &Found, wish: &Wish, sector: Option<u32>) -> Result<Loop> {
    let sector = sector.map_or_else(|| pool_sector(mount), Ok)?;
    let opened = OpenOptions::new().read(true).write(!wish.read_only).custom_flags(libc::O_DIRECT).open(&wish.image);
    let image = opened.map_err(|e| {
        let kind = match e.raw_os_error() {
            Some(libc::EBUSY) => Kind::Busy,
            Some(libc::EACCES | libc::EPERM) => Kind::Denied,
            Some(libc::ETIMEDOUT) => Kind::Unreachable,
            _ => Kind::Io,
        };
        let hint = if kind == Kind::Busy { "fusevol ls shows which client writes it" } else { "the log of the mount says why" };
        Error::new(kind, format!("{} cannot be opened", wish.image.display())).because(e).hint(hint)
    })?;
    Loop::make(&image, sector, wish.read_only, &wish.label)
}

/// The sector that all disks of the pool have, or 512.
fn pool_sector(mount: &Found) -> Result<u32> {
    let value = ask(&mount.socket, &Question::Status { volume: None }, |_: Value| Ok(()))?;
    let status: Status = serde_json::from_value(value).context(Kind::Damaged, || "the mount's answer is not understood")?;
    let large = !status.disks.is_empty() && status.disks.iter().all(|d| disk_sector(Path::new(&d.path)) == Some(LARGE));
    Ok(if large { LARGE } else { SMALL })
}

/// Bytes in a sector of a block device; none for a file.
fn disk_sector(path: &Path) -> Option<u32> {
    let meta = std::fs::metadata(path).ok().filter(|m| m.file_type().is_block_device())?;
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let sys = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition has the queue of its disk.
    let text = [Some(sys.as_path()), sys.parent()].into_iter().flatten().find_map(|d| {
        let queue = d.join("queue/logical_block_size");
        std::fs::read_to_string(queue).ok()
    });
    text?.trim().parse().ok()
}

/// `fusevol detach`. Needs no mount that answers: what is below may be dead.
pub(super) fn detach(asker: &Ask, target: &Target) -> Result<u8> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(Kind::Denied, "a block device is given back by root only").hint("run it as root (sudo)"));
    }
    let name = target.snapshot.as_ref().map_or_else(|| target.volume.to_string(), |s| format!("{}@{s}", target.volume));
    let _turn = turn()?;
    let link = loops::link_of(&name);
    let none = || Error::new(Kind::NotFound, format!("{name} is not attached here"));
    let device = loops::linked(&link).ok_or_else(none)?;
    let image = format!("{name}.img");
    let ours = device.file().is_some_and(|f| f.file_name().is_some_and(|n| n == image.as_str()));
    if ours {
        device.free().map_err(|e| e.within(&name))?;
    }
    std::fs::remove_file(&link).context(Kind::Io, || format!("{}", link.display()))?;
    if !ours {
        return Err(none());
    }
    if asker.json {
        json::print(&json!({ "detached": link, "loop": device.node() }))?;
    }
    Ok(DONE)
}

/// This verb's turn; over when it is dropped.
fn turn() -> Result<File> {
    make_run()?;
    let path = Path::new(RUN).join(LOCK);
    let what = || format!("{}", path.display());
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).context(Kind::Io, what)?;
    for _ in 0..LOCK_TRIES {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            // A pause.
            Err(rustix::io::Errno::WOULDBLOCK) => drop(poll(&mut [], Some(&LOCK_EVERY))),
            Err(e) => return Err(Error::new(Kind::Io, what()).because(e)),
        }
    }
    Err(Error::new(Kind::Busy, "another attach or detach is under way and does not end").hint("its mount may hang: fusevol status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_of_two_sizes() {
        assert_eq!((sector("512"), sector("4096")), (Ok(512), Ok(4096)));
        assert!(["0", "1024", "4k", ""].iter().all(|s| sector(s).is_err()));
        assert_eq!(disk_sector(Path::new("/proc/self/exe")), None, "a file is no device");
    }
}
