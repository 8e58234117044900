//! `init | adopt | serve | check`: the verbs that work without a manager, or are it.

use super::args::{Adopt, Check, Init};
use super::context::Ctx;
use super::show;
use crate::admin::{adopt, check, init};
use crate::authority::recovery::{RecoveryKey, TEXT_MAX};
use crate::driver;
use fusevol_shared::cli::{DONE, out};
use fusevol_shared::disk::any::Address;
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::size;
use fusevol_shared::wire::secret;
use serde_json::json;
use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

/// `init`
pub fn init(ctx: &Ctx, args: &Init) -> Result<()> {
    let wish = init::Wish {
        pool: args.pool.clone(),
        listen: args.listen.clone(),
        address: args.address.clone(),
        au_size: args.au_size,
        lease: Duration::from_secs(args.lease),
        disks: absolute(&args.disks)?,
    };
    let made = init::init(&ctx.dir, &wish)?;
    let file = ctx.dir.recovery_key();
    let text = format!(
        "pool {}: {} on {}\nrecovery key: {}\n  (shown this once; also in {}. Keep it elsewhere and remove that file.)\n\
         next: fusevol-mgr serve --dir {}",
        made.config.pool,
        size::show(made.data),
        show::count(made.config.disks.len(), "disk"),
        made.recovery,
        file.display(),
        ctx.dir.root().display(),
    );
    let disks: Vec<_> = made.config.disks.iter().map(|d| json!({ "id": d.id, "path": d.path })).collect();
    let json = json!({
        "pool": made.config.pool, "pool_id": made.config.pool_id, "data": made.data, "disks": disks,
        "recovery_key": made.recovery.to_string(), "recovery_key_file": file,
    });
    ctx.say(&json, &text)
}

/// `adopt`
pub fn adopt(ctx: &Ctx, args: &Adopt) -> Result<()> {
    let key = RecoveryKey::parse(&recovery_text(args)?)?;
    let wish = adopt::Wish { listen: args.listen.clone(), address: args.address.clone(), disks: absolute(&args.disks)? };
    let adopted = adopt::adopt(&ctx.dir, &wish, &key)?;
    let flaws: String = adopted.flaws.iter().map(|f| format!("warning: {f}\n")).collect();
    let text = format!(
        "{flaws}pool {}: taken over with {}\nnext: fusevol-mgr serve --dir {}",
        adopted.config.pool,
        show::count(adopted.config.disks.len(), "disk"),
        ctx.dir.root().display()
    );
    ctx.say(&json!({ "pool": adopted.config.pool, "pool_id": adopted.config.pool_id, "flaws": adopted.flaws }), &text)
}

/// The recovery key from its file, or from the terminal.
fn recovery_text(args: &Adopt) -> Result<String> {
    if let Some(path) = &args.recovery_key {
        let bytes = secret::read(path, TEXT_MAX).map_err(|e| e.within("recovery key"))?;
        return String::from_utf8(bytes).context(Kind::Refused, || format!("recovery key {}: not a text file", path.display()));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Refused, "the recovery key is not given").hint("--recovery-key FILE: the file that `init` wrote"));
    }
    let mut err = std::io::stderr().lock();
    write!(err, "recovery key (14 groups): ").and_then(|()| err.flush()).context(Kind::Io, || "the terminal")?;
    let mut line = String::new();
    let limit = u64::try_from(TEXT_MAX).unwrap_or(u64::MAX);
    std::io::BufRead::read_line(&mut std::io::stdin().lock().take(limit), &mut line).context(Kind::Io, || "the terminal")?;
    Ok(line)
}

/// `serve`
pub fn serve(ctx: &Ctx, force: bool) -> Result<()> {
    let json = ctx.json;
    driver::serve::serve(&ctx.dir, force, || if json { show::json(&json!({ "state": "ready" })) } else { out::line("ready") })
}

/// `check`
pub fn check(ctx: &Ctx, args: &Check) -> Result<u8> {
    let report = check::check(&ctx.dir, &absolute(&args.disks)?, args.copies)?;
    let mut lines: Vec<String> = report.violations.iter().map(|v| format!("violation: {v}")).collect();
    lines.extend(report.flaws.iter().map(|f| format!("damaged: {f}")));
    lines.extend(report.sessions.notes.iter().map(|n| format!("note: {n}")));
    if let Some(c) = &report.copies {
        lines.extend(c.notes.iter().map(|n| format!("note: {n}")));
        lines.push(format!(
            "note: copies of {} were compared, {} of them; {} lack copies",
            format_args!("{} AUs", c.aus),
            size::show(c.bytes),
            c.lacking
        ));
    }
    let counts = format!(
        "{}, {}, {}, {}, {}, {} records, {} of {} AUs free, {} in reserves, {} in quarantine",
        show::count(report.disks, "disk"),
        show::count(report.volumes, "volume"),
        show::count(report.snapshots, "snapshot"),
        show::count(report.clients, "client"),
        show::count(report.sessions.sessions, "session"),
        report.records,
        report.free_aus,
        report.aus,
        report.sessions.reserve_aus,
        report.sessions.quarantine_aus
    );
    let verdict = match (report.violations.len(), report.flaws.len()) {
        (0, 0) => "clean".to_owned(),
        (v, f) => format!("{}, {}", show::count(v, "violation"), show::count(f, "damaged copy").replace("copys", "copies")),
    };
    lines.push(format!("pool {}: {verdict} ({counts})", report.pool));
    ctx.say(&json!({ "clean": report.is_clean(), "report": report }), &lines.join("\n"))?;
    Ok(if report.is_clean() { DONE } else { Kind::Damaged.exit_code() })
}

/// What stands in the configuration must hold wherever the manager is started from.
pub(super) fn absolute(paths: &[Address]) -> Result<Vec<Address>> {
    paths.iter().map(|p| p.absolute().context(Kind::Refused, || format!("'{p}' is no path"))).collect()
}
