//! A volume that `fusevol attach` has made a block device of; given back when dropped.

use super::mount::Mount;
use super::run::{program, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The device `/dev/fusevol/VOL` of a volume.
pub struct Attached {
    target: String,
    device: PathBuf,
}

impl Attached {
    /// `fusevol attach TARGET ARGS`.
    #[must_use]
    pub fn new(mount: &Mount, target: &str, args: &[&str]) -> Self {
        let said = mount.fusevol(&[&["attach", target], args].concat()).ok();
        Self { target: target.to_owned(), device: PathBuf::from(said.out.trim()) }
    }

    /// The device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// What sysfs says of it.
    ///
    /// # Panics
    /// Where it is no loop device.
    #[must_use]
    pub fn says(&self, name: &str) -> String {
        let node = std::fs::canonicalize(&self.device).expect("it leads to a device");
        let sys = Path::new("/sys/block").join(node.file_name().expect("a device has a name")).join(name);
        std::fs::read_to_string(&sys).unwrap_or_else(|e| panic!("{}: {e}", sys.display())).trim_end().to_owned()
    }

    /// `fusevol detach TARGET`, which must do.
    pub fn detach(self) {
        let _said = run(Command::new(program("fusevol")).args(["detach", &self.target])).ok();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // After `detach` there is nothing to do.
        let _said = run(Command::new(program("fusevol")).args(["detach", &self.target]));
    }
}
