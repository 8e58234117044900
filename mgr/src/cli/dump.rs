//! `dump`: what stands on the disks, one line each.

use super::args::{Dump, Structure};
use super::context::Ctx;
use crate::admin::dump::{self, What};
use crate::inspect::lines::Line;
use fusevol_shared::cli::out;
use fusevol_shared::error::{Error, Kind, Result};
use serde_json::json;

/// Most characters of a line for people; JSON has all of them.
const WIDTH: usize = 400;

/// `dump`
pub fn run(ctx: &Ctx, args: &Dump) -> Result<()> {
    let what = match args.what {
        Structure::Label => What::Label,
        Structure::Owners => What::Owners,
        Structure::Catalog => What::Catalog,
        Structure::Slots => What::Slots,
        Structure::Journal => What::Journal,
        Structure::Preserve => What::Preserve,
    };
    if args.volume.is_some() && !matches!(what, What::Journal | What::Preserve) {
        return Err(Error::new(Kind::Refused, "--volume goes with journal and preserve only"));
    }
    let lines = dump::dump(&ctx.dir, what, &super::lifecycle::absolute(&args.disks)?, args.volume.as_ref())?;
    if ctx.json {
        return super::show::json(&json!({ "lines": lines }));
    }
    lines.iter().try_for_each(|l| out::line(&show(l)))
}

fn show(l: &Line) -> String {
    let seq = l.seq.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let damaged = if l.damaged { "DAMAGED: " } else { "" };
    let mut text = format!("{} {:#012x} {seq:>6} {damaged}{}", l.disk, l.at, l.says);
    if let Some((cut, _)) = text.char_indices().nth(WIDTH) {
        text.truncate(cut);
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_its_number_and_what() {
        let line = Line { disk: "0".into(), at: 0x10_0000, seq: Some(7), says: "heartbeat".into(), damaged: false };
        assert_eq!(show(&line), "0 0x0000100000      7 heartbeat");
        let damaged = Line { seq: None, damaged: true, says: "x".repeat(1000), ..line };
        let text = show(&damaged);
        assert!(text.starts_with("0 0x0000100000      - DAMAGED: xxx") && text.ends_with("x ..."), "{text}");
    }
}
