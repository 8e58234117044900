//! qemu-storage-daemon's FUSE export: of a raw disk, and of a qcow2 image.
//!
//! The image is a file beside the other disks, or lies straight on a loop device. Where a work wants new places, a second
//! image is made and exported for that measurement; where it wants a snapshot, the export is down while one is made, and
//! again while it is deleted.

use super::{Setting, Target, TargetKind};
use crate::disk::{Disk, DiskKind};
use crate::fio::{self, Figures};
use crate::work::{State, Work};
use anyhow::{Context, Result, bail, ensure};
use fusevol_tests::real::mount::connection_of;
use fusevol_tests::real::run::run;
use fusevol_tests::real::wait::pause;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(20);
/// Looks at an export that is to come or to go: 20 s.
const LOOKS: u32 = 1000;
/// Name of the snapshot within the image.
const SNAPSHOT: &str = "bench";
/// What an image takes beside its data.
const METADATA: u64 = 256 << 20;

/// A running export. Ends when dropped.
struct Export {
    daemon: Child,
    point: PathBuf,
}

impl Export {
    /// Exports `image` as `format` at `point`, which is a file.
    fn new(image: &Path, disk: DiskKind, format: &str, point: &Path) -> Result<Self> {
        let driver = match disk {
            DiskKind::File => "file",
            DiskKind::Loop => "host_device",
        };
        File::create(point).with_context(|| point.display().to_string())?;
        let log = point.with_extension("log");
        let mut command = Command::new("qemu-storage-daemon");
        let image = image.display();
        command.args(["--blockdev", &format!("driver={driver},filename={image},node-name=f,cache.direct=on,aio=io_uring")]);
        command.args(["--blockdev", &format!("driver={format},file=f,node-name=r")]);
        command.args(["--export", &format!("type=fuse,id=e,node-name=r,mountpoint={},writable=on", point.display())]);
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn();
        let mut export = Self { daemon: daemon.context("qemu-storage-daemon cannot be started")?, point: point.to_owned() };
        for _ in 0..LOOKS {
            if connection_of(point).is_some() {
                return Ok(export);
            }
            if let Some(status) = export.daemon.try_wait()? {
                bail!("qemu-storage-daemon ended with {status}: {}", std::fs::read_to_string(&log)?.trim());
            }
            pause(LOOK);
        }
        bail!("qemu-storage-daemon does not export {image}: {}", std::fs::read_to_string(&log)?.trim())
    }

    fn measure(&self, work: &Work, setting: &Setting, round: u32) -> Result<Figures> {
        let servers = [self.daemon.id()];
        fio::measure(work, &setting.job(&self.point, &servers, Some(&self.point), round), &setting.interrupt)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let mut ended = !matches!(self.daemon.try_wait(), Ok(None));
        if !ended {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap_or_default();
        }
        for _ in 0..LOOKS {
            ended = ended || !matches!(self.daemon.try_wait(), Ok(None));
            if ended {
                break;
            }
            pause(LOOK);
        }
        if !ended {
            self.daemon.kill().and_then(|()| self.daemon.wait()).map(drop).unwrap_or_default();
        }
        if connection_of(&self.point).is_some() {
            let _said = run(Command::new("umount").arg("-l").arg(&self.point));
        }
    }
}

fn qemu_img(args: &[&str], image: &Path, rest: &[&str]) -> Result<()> {
    let said = run(Command::new("qemu-img").args(args).arg(image).args(rest));
    ensure!(said.code == 0, "qemu-img {}: {}", args.join(" "), said.err.trim());
    Ok(())
}

/// The raw disk behind an export.
pub struct QsdRaw {
    export: Export,
    // Behind the export, which ends first.
    _disk: Rc<Disk>,
    setting: Rc<Setting>,
}

impl QsdRaw {
    /// Exports the disk that the raw target has.
    ///
    /// # Errors
    /// Where the daemon does not export it.
    pub fn new(disk: Rc<Disk>, setting: Rc<Setting>) -> Result<Self> {
        let export = Export::new(&disk.path(), setting.disk, "raw", &setting.dir.join("qsd-raw.point"))?;
        Ok(Self { export, _disk: disk, setting })
    }
}

impl Target for QsdRaw {
    fn kind(&self) -> TargetKind {
        TargetKind::QsdRaw
    }

    fn measure(&mut self, work: &Work, round: u32) -> Result<Figures> {
        self.export.measure(work, &self.setting, round)
    }
}

/// Where an image lies.
enum Place {
    /// A file that grows.
    File(PathBuf),
    /// A written disk.
    Disk(Disk),
}

impl Place {
    fn new(name: &str, size: u64, setting: &Setting) -> Result<Self> {
        match setting.disk {
            DiskKind::File => Ok(Self::File(setting.dir.join(name))),
            DiskKind::Loop => Disk::new(&setting.dir, name, size, DiskKind::Loop, &setting.interrupt).map(Self::Disk),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Disk(disk) => disk.path(),
        }
    }

    /// Gives the space back where it is a file.
    fn clear(&self) {
        if let Self::File(path) = self {
            std::fs::remove_file(path).unwrap_or_default();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A qcow2 image behind an export.
pub struct QsdQcow2 {
    export: Option<Export>,
    written: Place,
    new: Place,
    setting: Rc<Setting>,
}

impl QsdQcow2 {
    /// Makes the image and writes all of it through its export.
    ///
    /// # Errors
    /// Where that fails.
    pub fn new(setting: Rc<Setting>) -> Result<Self> {
        let size = setting.size;
        // A snapshot keeps the data while all of it may be written again.
        let written = Place::new("written.qcow2", 2 * size + METADATA, &setting)?;
        let new = Place::new("new.qcow2", size + METADATA, &setting)?;
        let mut target = Self { export: None, written, new, setting };
        let export = target.create(&target.written.path())?;
        fio::fill(&export.point, size, Some(&export.point), &target.setting.interrupt)?;
        target.export = Some(export);
        Ok(target)
    }

    /// The space that its disks take at most, bytes.
    #[must_use]
    pub fn space(size: u64) -> u64 {
        3 * size + 2 * METADATA
    }

    fn create(&self, image: &Path) -> Result<Export> {
        qemu_img(&["create", "-q", "-f", "qcow2"], image, &[&self.setting.size.to_string()])?;
        self.up(image)
    }

    fn up(&self, image: &Path) -> Result<Export> {
        Export::new(image, self.setting.disk, "qcow2", &self.setting.dir.join(format!("{}.point", self.name(image))))
    }

    fn name(&self, image: &Path) -> &'static str {
        if image == self.new.path() { "qsd-new" } else { "qsd-qcow2" }
    }

    /// With the export down, `what` is done to the snapshot of the written image; then it is up again.
    fn snapshot(&mut self, what: &str) -> Result<()> {
        self.export = None;
        qemu_img(&["snapshot", what, SNAPSHOT], &self.written.path(), &[])?;
        self.export = Some(self.up(&self.written.path())?);
        Ok(())
    }

    fn on_written(&self, work: &Work, round: u32) -> Result<Figures> {
        self.export.as_ref().context("the image is not exported")?.measure(work, &self.setting, round)
    }
}

impl Target for QsdQcow2 {
    fn kind(&self) -> TargetKind {
        TargetKind::QsdQcow2
    }

    fn measure(&mut self, work: &Work, round: u32) -> Result<Figures> {
        match work.state {
            State::Written => self.on_written(work, round),
            State::New => {
                let export = self.create(&self.new.path())?;
                let figures = export.measure(work, &self.setting, round);
                drop(export);
                self.new.clear();
                figures
            }
            State::Snapshot => {
                self.snapshot("-c")?;
                let figures = self.on_written(work, round)?;
                self.snapshot("-d")?;
                Ok(figures)
            }
        }
    }
}
