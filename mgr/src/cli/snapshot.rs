//! `snapshot create | ls | rm`

use super::args::Snapshot;
use super::context::{Ctx, done, pick};
use super::show;
use crate::core::AdminRequest;
use crate::core::admin_api::SnapshotView;
use fusevol_shared::cli::{Cell, Column, Table};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Target;
use fusevol_shared::size;
use serde_json::json;

pub fn run(ctx: &Ctx, verb: Snapshot) -> Result<()> {
    match verb {
        Snapshot::Create { snapshots } => create(ctx, &snapshots),
        Snapshot::Ls { volume, list } => {
            let volume = volume.map(|v| ctx.volume(&v)).transpose()?;
            let snapshots = pick!(ctx.ask(AdminRequest::SnapshotList { volume })?, Snapshots)?;
            if ctx.json { show::json(&json!({ "snapshots": snapshots })) } else { table(&snapshots).print(&list) }
        }
        Snapshot::Rm { snapshot, destroy } => {
            let (volume, name) = ctx.snapshot(&snapshot)?;
            let all = pick!(ctx.ask(AdminRequest::SnapshotList { volume: Some(volume.clone()) })?, Snapshots)?;
            let Some(s) = all.iter().find(|s| s.name.as_str() == name) else {
                return Err(Error::new(Kind::NotFound, format!("snapshot {volume}@{name}: no such snapshot"))
                    .hint(format!("see `fusevol-mgr snapshot ls {volume}`")));
            };
            let lost = format!(
                "snapshot {volume}@{name} ({} written, {} kept for it alone) would be lost.",
                size::show(s.written),
                size::show(s.own)
            );
            if !ctx.destroy(&lost, destroy)? {
                return Ok(());
            }
            done(ctx.ask(AdminRequest::SnapshotRemove { volume: volume.clone(), name: name.clone() })?)?;
            ctx.say(&json!({ "removed": format!("{volume}@{name}") }), "")
        }
    }
}

fn create(ctx: &Ctx, targets: &[Target]) -> Result<()> {
    let [target] = targets else {
        return Err(Error::new(Kind::Refused, "snapshots of several volumes at one instant cannot be taken yet; nothing was done")
            .hint("take them one by one: each is exact by itself, but they are of different instants"));
    };
    let (volume, name) = ctx.snapshot(target)?;
    let s = pick!(ctx.ask(AdminRequest::SnapshotCreate { volume, name })?, Snapshot)?;
    let held = s.held_us.map(|us| format!(", writes held for {}.{:01} ms", us / 1000, us % 1000 / 100)).unwrap_or_default();
    ctx.say(&json!({ "snapshot": s }), &format!("snapshot {}@{}: {} written{held}", s.volume, s.name, size::show(s.written)))
}

fn table(snapshots: &[SnapshotView]) -> Table {
    let mut t = Table::new(&[
        Column::text("name"),
        Column::number("size"),
        Column::number("written"),
        Column::number("own"),
        Column::text("created"),
        Column::text("state"),
        Column::number("readers").extra(),
        Column::number("epoch").extra(),
        Column::text("volume").extra(),
        Column::text("id").extra(),
    ]);
    for s in snapshots {
        t.row(vec![
            Cell::Text(format!("{}@{}", s.volume, s.name)),
            Cell::Size(s.size),
            Cell::Size(s.written),
            Cell::Size(s.own),
            Cell::Time(s.created),
            Cell::of(if s.broken { "broken" } else { "exact" }),
            Cell::Count(s.open.len() as u64),
            Cell::Count(s.epoch.0),
            Cell::of(&s.volume),
            Cell::of(s.id),
        ]);
    }
    t
}
