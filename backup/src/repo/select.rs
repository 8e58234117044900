//! Which snapshot a user means: `latest`, `VOL` (its latest), `VOL@latest`, `VOL@SNAP`, or the beginning of an id.

use super::Repository;
use crate::format::manifest::Manifest;
use fusevol_shared::error::{Error, Kind, Result};

/// Fewest digits of an id.
const DIGITS_MIN: usize = 4;

/// The snapshot that `text` names, among `all` (the oldest first).
///
/// # Errors
/// `NotFound`; `Refused` where an id's beginning fits several.
pub fn select<'m>(all: &'m [Manifest], text: &str) -> Result<&'m Manifest> {
    let missing = |what: String| Error::new(Kind::NotFound, what).hint("see `fusevol-backup snapshots`");
    if text == "latest" {
        return all.last().ok_or_else(|| missing("the repository holds no snapshot".into()));
    }
    if let Some((volume, snapshot)) = text.split_once('@') {
        let fits = |m: &&Manifest| m.volume.name == volume && (snapshot == "latest" || m.snapshot.name == snapshot);
        return all.iter().rfind(fits).ok_or_else(|| missing(format!("the repository holds no snapshot '{text}'")));
    }
    if text.len() >= DIGITS_MIN {
        let fits: Vec<_> = all.iter().filter(|m| m.id.to_string().starts_with(text)).collect();
        match fits.as_slice() {
            [] => {}
            [one] => return Ok(one),
            several => return Err(Error::new(Kind::Refused, format!("'{text}' begins {} ids", several.len())).hint("give more digits")),
        }
    }
    all.iter().rfind(|m| m.volume.name == text).ok_or_else(|| missing(format!("the repository holds no snapshot '{text}'")))
}

impl Repository {
    /// The snapshot that `text` names, and what cannot be read beside it.
    ///
    /// # Errors
    /// As [`select`], and of the medium.
    pub fn select(&self, text: &str) -> Result<(Manifest, Vec<super::Unreadable>)> {
        let (good, bad) = self.manifests()?;
        match select(&good, text) {
            Ok(m) => Ok((m.clone(), bad)),
            // A manifest that cannot be read may be the one that is meant.
            Err(e) => Err(bad.into_iter().find(|(name, _)| text.len() >= DIGITS_MIN && name.starts_with(text)).map_or(e, |(_, why)| why)),
        }
    }
}
