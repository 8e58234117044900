//! `status [--check]`

use super::args::Status;
use super::context::{Ctx, pick};
use super::{disk, show, volume};
use crate::core::AdminRequest;
use crate::core::admin_api::{Level, StatusView};
use fusevol_shared::cli::{Cell, Column, DONE, ListArgs, Table, out};
use fusevol_shared::error::{Kind, Result};
use fusevol_shared::size;
use serde_json::json;

/// Exit codes of monitoring plugins beyond 0, 1 and 2.
const UNKNOWN: u8 = 3;

pub fn run(ctx: &Ctx, args: &Status) -> Result<u8> {
    let status = ctx.ask(AdminRequest::Status).and_then(|a| pick!(a, Status));
    if !args.check {
        let status = status?;
        if ctx.json {
            show::json(&json!({ "status": status }))?
        } else {
            out::line(&text(ctx, &status)?)?
        }
        return Ok(DONE);
    }
    let (code, word, line) = match &status {
        Ok(s) => {
            let (code, word) = grade(s.level);
            (code, word, summary(s))
        }
        Err(e) if e.kind() == Kind::Unreachable => (2, "CRITICAL", e.to_string()),
        Err(e) => (UNKNOWN, "UNKNOWN", e.to_string()),
    };
    ctx.say(&json!({ "check": word, "code": code, "message": line, "status": status.ok() }), &format!("{word} - {line}"))?;
    Ok(code)
}

fn grade(level: Level) -> (u8, &'static str) {
    match level {
        Level::Ok => (0, "OK"),
        Level::Warning => (1, "WARNING"),
        Level::Critical => (2, "CRITICAL"),
    }
}

/// The worst finding, or how full the pool is.
fn summary(s: &StatusView) -> String {
    let worst = s.findings.iter().find(|f| f.level == s.level && s.level > Level::Ok);
    worst.map_or_else(|| space(s), |f| format!("pool {}: {}", s.pool.name, f.text))
}

fn space(s: &StatusView) -> String {
    let space = &s.pool.space;
    format!(
        "pool {}: {} of {} free, {}, {}",
        s.pool.name,
        size::show(space.free),
        size::show(space.total),
        show::count(s.pool.disks, "disk"),
        show::count(s.pool.volumes, "volume")
    )
}

fn text(ctx: &Ctx, s: &StatusView) -> Result<String> {
    let plain = ListArgs::default();
    let mut parts = vec![format!("{} - {}", grade(s.level).1, space(s)), disk::table(&s.disks).render(&plain)?];
    if !s.volumes.is_empty() {
        parts.push(volume::table(&s.volumes).render(&plain)?);
    }
    if s.clients.iter().any(|c| !c.sessions.is_empty()) {
        parts.push(sessions(s).render(&plain)?);
    }
    let mut findings: Vec<String> = s.findings.iter().map(|f| format!("{}: {}", grade(f.level).1.to_lowercase(), f.text)).collect();
    findings.extend(s.findings.iter().filter(|f| !f.action.is_empty()).map(|f| format!("action: {}", action(ctx, &f.action))));
    if !findings.is_empty() {
        parts.push(findings.join("\n"));
    }
    Ok(parts.join("\n\n"))
}

/// The core does not know the folder: a line to copy names it.
fn action(ctx: &Ctx, line: &str) -> String {
    match line.strip_prefix("fusevol-mgr ") {
        Some(rest) if !rest.contains("--dir") => format!("fusevol-mgr --dir {} {rest}", ctx.dir.root().display()),
        _ => line.to_owned(),
    }
}

fn sessions(s: &StatusView) -> Table {
    let mut t = Table::new(&[
        Column::text("client"),
        Column::number("session"),
        Column::text("host"),
        Column::text("state"),
        Column::text("holds"),
    ]);
    for client in &s.clients {
        for x in &client.sessions {
            let state = format!("{:?}", x.state).to_lowercase();
            t.row(vec![Cell::of(&client.name), Cell::of(x.no), Cell::of(&x.host), Cell::Text(state), Cell::Text(x.holds.join(" "))]);
        }
    }
    t
}
