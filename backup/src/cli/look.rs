//! `snapshots`, `show` and `check`.

use super::Env;
use crate::check::{Job, Report, check as prove};
use crate::format::manifest::Manifest;
use crate::pipeline::workers;
use clap::Args;
use fusevol_shared::cli::time::rfc3339;
use fusevol_shared::cli::{Cell, Column, DONE, ListArgs, Table, json, out};
use fusevol_shared::error::Result;
use fusevol_shared::name::Name;
use fusevol_shared::size;
use serde_json::{Value, json};

#[derive(Args, Debug)]
pub(super) struct Snapshots {
    /// Of this volume only
    #[arg(value_name = "VOL")]
    volume: Option<Name>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Args, Debug)]
pub(super) struct Show {
    /// latest, VOL, VOL@latest, VOL@SNAP, or the beginning of an id
    #[arg(value_name = "SNAP")]
    snapshot: String,
}

#[derive(Args, Debug)]
pub(super) struct Check {
    /// Read and hash every stored byte
    #[arg(long)]
    read_data: bool,
}

/// A snapshot for scripts.
pub(super) fn to_json(m: &Manifest) -> Value {
    json!({
        "id": m.id, "time": rfc3339(m.time_ns / 1_000_000_000), "host": m.host, "program": m.program,
        "volume": { "name": m.volume.name, "id": m.volume.id },
        "snapshot": { "name": m.snapshot.name, "id": m.snapshot.id, "epoch": m.snapshot.epoch, "taken": rfc3339(m.snapshot.taken) },
        "size": m.size, "block_size": m.block_size, "chunk_size": m.chunk_size, "previous": m.previous,
        "data": m.stats.data, "chunks": m.stats.chunks, "new_chunks": m.stats.new_chunks, "new_bytes": m.stats.new_bytes,
        "read": m.stats.read, "stored": m.stats.stored, "millis": m.stats.millis,
    })
}

pub(super) fn snapshots(env: &Env, args: &Snapshots) -> Result<u8> {
    let (all, bad) = env.open()?.manifests()?;
    bad.iter().try_for_each(|(_, e)| env.warn(e))?;
    let all: Vec<_> = all.into_iter().filter(|m| args.volume.as_ref().is_none_or(|v| v.as_str() == m.volume.name)).collect();
    if env.common.json {
        json::print_list("snapshots", &all.iter().map(to_json).collect::<Vec<_>>())?;
    } else {
        table(&all).print(&args.list)?;
    }
    match bad.into_iter().next() {
        None => Ok(DONE),
        Some((_, e)) => Err(e.hint("the other snapshots are not touched by this; see `fusevol-backup check`")),
    }
}

fn table(all: &[Manifest]) -> Table {
    let mut table = Table::new(&[
        Column::text("id"),
        Column::text("taken"),
        Column::text("volume"),
        Column::number("size"),
        Column::number("data"),
        Column::number("new"),
        Column::number("stored"),
        Column::text("host"),
        Column::text("snapshot").extra(),
        Column::text("written").extra(),
        Column::text("previous").extra(),
        Column::text("uuid").extra(),
    ]);
    for m in all {
        table.row(vec![
            Cell::Text(m.id.short()),
            Cell::Time(m.snapshot.taken),
            Cell::of(&m.volume.name),
            Cell::Size(m.size),
            Cell::Size(m.stats.data),
            Cell::Size(m.stats.new_bytes),
            Cell::Size(m.stats.stored),
            Cell::of(&m.host),
            Cell::of(&m.snapshot.name),
            Cell::Time(m.time_ns / 1_000_000_000),
            m.previous.map_or(Cell::None, |p| Cell::Text(p.short())),
            Cell::of(m.volume.id),
        ]);
    }
    table
}

pub(super) fn show(env: &Env, args: &Show) -> Result<u8> {
    let (m, bad) = env.open()?.select(&args.snapshot)?;
    bad.iter().try_for_each(|(_, e)| env.warn(e))?;
    if env.common.json {
        json::print(&to_json(&m))?;
        return Ok(DONE);
    }
    let s = &m.stats;
    let clean = |t: &str| t.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let lines = [
        ("id", m.id.to_string()),
        ("volume", format!("{} ({})", clean(&m.volume.name), m.volume.id)),
        ("snapshot", format!("{} ({}), epoch {}", clean(&m.snapshot.name), m.snapshot.id, m.snapshot.epoch)),
        ("taken", rfc3339(m.snapshot.taken)),
        ("written", format!("{} on {}, by {}", rfc3339(m.time_ns / 1_000_000_000), clean(&m.host), clean(&m.program))),
        ("size", format!("{} ({} bytes)", size::show(m.size), m.size)),
        ("data", format!("{} in {} chunks of {}", size::show(s.data), s.chunks, size::show(u64::from(m.chunk_size)))),
        ("new", format!("{} in {} chunks, {} added to the repository", size::show(s.new_bytes), s.new_chunks, size::show(s.stored))),
        ("read", format!("{} in {}.{} s", size::show(s.read), s.millis / 1000, s.millis % 1000 / 100)),
        ("previous", m.previous.map_or("-".to_owned(), |p| p.to_string())),
    ];
    out::line(&lines.iter().map(|(k, v)| format!("{k:<10}{v}")).collect::<Vec<_>>().join("\n"))?;
    Ok(DONE)
}

pub(super) fn check(env: &Env, args: &Check) -> Result<u8> {
    let repo = env.open()?;
    let progress = env.progress("check");
    let job = Job { repo: &repo, read_data: args.read_data, workers: workers(), progress: &progress, cancel: &env.cancel };
    let report = prove(&job)?;
    if env.common.json {
        json::print(&report)?;
    } else {
        out::line(&text(&report, args.read_data))?;
    }
    report.whole()?;
    Ok(DONE)
}

fn text(r: &Report, read_data: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    for p in &r.problems {
        let hurts = if p.hurts.is_empty() { String::new() } else { format!(" (hurts {})", p.hurts.join(", ")) };
        lines.push(format!("damaged: {}: {}{hurts}", p.what, p.why));
    }
    if r.problems_found > r.problems.len() as u64 {
        lines.push(format!("damaged: {} more", r.problems_found - r.problems.len() as u64));
    }
    if r.unused_packs + r.unused_files > 0 {
        let what = format!("{} packs ({}) and {} temporary files", r.unused_packs, size::show(r.unused_bytes), r.unused_files);
        lines.push(format!("unused: {what}, left by a backup that did not end or is running"));
    }
    let read = if read_data { format!("{} read and hashed", size::show(r.read)) } else { "data not read (--read-data reads it)".into() };
    lines.push(format!("{} snapshots, {} packs, {} chunks: {read}, {} problems", r.snapshots, r.packs, r.chunks, r.problems_found));
    lines.join("\n")
}
