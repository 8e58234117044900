//! Whether this kernel has the ring, and switching it on.

use fusevol_shared::error::{Error, Kind, Result};
use std::path::Path;

/// The module's own switch: `Y` or `N`; there since Linux 6.14.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Switches the ring on, where this host has it and lets us.
///
/// # Errors
/// `Refused`, saying why not.
pub(in crate::fs) fn possible() -> Result<()> {
    switch_on(Path::new(SWITCH))
}

fn switch_on(switch: &Path) -> Result<()> {
    let refused = |what: &str| Error::new(Kind::Refused, what.to_owned());
    let is_on = || std::fs::read_to_string(switch).map(|s| matches!(s.trim(), "Y" | "1"));
    match is_on() {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(_) => return Err(refused("this kernel has no FUSE over io_uring (Linux 6.14 has)")),
    }
    // What counts is what it says afterwards.
    let wrote = std::fs::write(switch, "Y");
    match (is_on(), wrote) {
        (Ok(true), _) => Ok(()),
        (_, Err(e)) => Err(refused("FUSE over io_uring is switched off").because(e).hint(format!("echo Y > {SWITCH}"))),
        (_, Ok(())) => Err(refused("FUSE over io_uring is switched off and stays so")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_switched_on_where_that_is_possible() {
        let dir = std::env::temp_dir().join(format!("fusevol-switch-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a scratch folder");
        let switch = dir.join("enable_uring");
        assert!(switch_on(&switch).is_err_and(|e| e.to_string().contains("6.14")));
        std::fs::write(&switch, "N\n").expect("a scratch file");
        switch_on(&switch).expect("it can be written");
        assert_eq!(std::fs::read_to_string(&switch).expect("it is there"), "Y");
        switch_on(&switch).expect("it is on");
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }
}
