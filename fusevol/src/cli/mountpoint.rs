//! The folder of a mount: made where it is missing, freed of a dead mount, refused where it holds something.

use crate::fs::table;
use fusevol_shared::error::{Context, Error, Kind, Result};
use std::path::Path;

/// Dead mounts on top of each other that are cleared away.
const DEAD_MAX: usize = 16;

/// Makes `dir` ready to be mounted on.
///
/// # Errors
/// `Busy` where one of our mounts lives there; `Refused` where it is no empty folder; `Io`.
pub(super) fn prepare(dir: &Path) -> Result<()> {
    for _ in 0..DEAD_MAX {
        match table::at(dir)? {
            Some(entry) if entry.is_ours() && table::is_dead(dir) => {
                tracing::info!("the dead mount at {} is replaced", dir.display());
                table::unmount_by_force(dir)?;
            }
            Some(entry) if entry.is_ours() => {
                return Err(Error::new(Kind::Busy, format!("{} is mounted already ({})", dir.display(), entry.source))
                    .hint(format!("fusevol umount {} first, or use another folder", dir.display())));
            }
            Some(_) | None => break,
        }
    }
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Err(Error::new(Kind::Refused, format!("{} is not a folder", dir.display()))
            .hint("name an empty folder, or one that is not there yet")),
        Ok(_) => empty(dir),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir).context(Kind::Io, || format!("{} cannot be made", dir.display()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => Err(Error::new(Kind::Refused, format!("{}", dir.display()))
            .because(e)
            .hint("name an empty folder, or one that is not there yet")),
        Err(e) => Err(Error::new(Kind::Io, format!("{}", dir.display())).because(e)),
    }
}

fn empty(dir: &Path) -> Result<()> {
    let mut entries = std::fs::read_dir(dir).context(Kind::Io, || format!("{}", dir.display()))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::new(Kind::Refused, format!("{} is not empty", dir.display()))
            .hint("what lies in it would be hidden: use another folder")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_folder_will_do() {
        let scratch = std::env::temp_dir().join(format!("fusevol-mountpoint-{}", std::process::id()));
        let dir = scratch.join("a/b");
        prepare(&dir).expect("it is made");
        prepare(&dir).expect("it is empty");
        let file = dir.join("file");
        std::fs::write(&file, "x").expect("a scratch file");
        for (what, path) in [("not empty", &dir), ("not a folder", &file)] {
            let e = prepare(path).expect_err(what);
            assert_eq!(e.kind(), Kind::Refused, "{e}");
            assert!(e.to_string().contains(what) && e.hint_text().is_some(), "{e}");
        }
        assert_eq!(prepare(&file.join("below")).expect_err("below a file").kind(), Kind::Refused);
        std::fs::remove_dir_all(&scratch).expect("it is ours");
    }
}
