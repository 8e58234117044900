//! `volume create | ls | show | rm | map`

use super::args::Volume;
use super::context::{Ctx, done, pick, unexpected};
use super::show;
use crate::core::admin_api::{AttachmentView, VolumeView};
use crate::core::{AdminReply, AdminRequest};
use fusevol_shared::cli::{Cell, Column, Table, time};
use fusevol_shared::error::Result;
use fusevol_shared::map::MapRun;
use fusevol_shared::size;
use fusevol_shared::units::VolAu;
use serde_json::json;

pub fn run(ctx: &Ctx, verb: Volume) -> Result<()> {
    match verb {
        Volume::Create { name, size, mirror } => {
            let request = AdminRequest::VolumeCreateMirrored { name: name.to_string(), size, copies: mirror };
            let volume = pick!(ctx.ask(request)?, Volume)?;
            let notes: String = volume.notes.iter().map(|n| format!("\nnote: {n}")).collect();
            ctx.say(&json!({ "volume": volume }), &format!("volume {}: {}{notes}", volume.name, size::show(volume.size)))
        }
        Volume::Ls { list } => {
            let volumes = pick!(ctx.ask(AdminRequest::VolumeList)?, Volumes)?;
            if ctx.json { show::json(&json!({ "volumes": volumes })) } else { table(&volumes).print(&list) }
        }
        Volume::Show { volume } => {
            let volume = get(ctx, &ctx.volume(&volume)?)?;
            ctx.say(&json!({ "volume": volume }), &properties(&volume))
        }
        Volume::Set { volume, when_full } => {
            let request = AdminRequest::VolumeSet { name: ctx.volume(&volume)?, when_full: when_full.into() };
            let volume = pick!(ctx.ask(request)?, Volume)?;
            ctx.say(&json!({ "volume": volume }), &properties(&volume))
        }
        Volume::Rm { volume, destroy } => {
            let name = ctx.volume(&volume)?;
            let v = get(ctx, &name)?;
            let lost =
                format!("volume {name} ({}, {} of it written) and all its data would be lost.", size::show(v.size), size::show(v.written));
            if !ctx.destroy(&lost, destroy)? {
                return Ok(());
            }
            done(ctx.ask(AdminRequest::VolumeRemove { name })?)?;
            ctx.say(&json!({ "removed": v.name }), "")
        }
        Volume::Map { volume, list } => {
            let runs = map(ctx, &ctx.volume(&volume)?)?;
            if ctx.json { show::json(&json!({ "runs": runs })) } else { map_table(&runs).print(&list) }
        }
    }
}

fn get(ctx: &Ctx, name: &str) -> Result<VolumeView> {
    pick!(ctx.ask(AdminRequest::VolumeShow { name: name.to_owned() })?, Volume)
}

/// The whole map: it comes in parts.
fn map(ctx: &Ctx, name: &str) -> Result<Vec<MapRun>> {
    let mut all = Vec::new();
    let mut from = Some(VolAu(0));
    while let Some(at) = from {
        match ctx.ask(AdminRequest::VolumeMap { name: name.to_owned(), snapshot: None, from: at })? {
            AdminReply::Map { runs, next } => {
                all.extend(runs);
                from = next.filter(|n| *n > at);
            }
            other => return Err(unexpected(&other)),
        }
    }
    Ok(all)
}

/// A setting as it is typed.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Who has it attached, as `host1(write)`.
fn holders(attached: &[AttachmentView]) -> String {
    let word = |a: &AttachmentView| format!("{}({})", a.client, word(a.mode));
    attached.iter().map(word).collect::<Vec<_>>().join(",")
}

pub fn table(volumes: &[VolumeView]) -> Table {
    let mut t = Table::new(&[
        Column::text("name"),
        Column::number("size"),
        Column::number("allocated"),
        Column::number("written"),
        Column::number("snapshots"),
        Column::text("attached"),
        Column::number("preserve").extra(),
        Column::number("epoch").extra(),
        Column::text("created").extra(),
        Column::text("id").extra(),
    ]);
    for v in volumes {
        t.row(vec![
            Cell::of(&v.name),
            Cell::Size(v.size),
            Cell::Size(v.allocated),
            Cell::Size(v.written),
            Cell::Count(v.snapshots.len() as u64),
            Cell::Text(holders(&v.attached)),
            Cell::Size(v.preserve),
            Cell::Count(v.epoch.0),
            Cell::Time(v.created),
            Cell::of(v.id),
        ]);
    }
    t
}

fn properties(v: &VolumeView) -> String {
    let mut lines = vec![
        ("name", v.name.to_string()),
        ("id", v.id.to_string()),
        ("size", size::show(v.size)),
        ("allocated", size::show(v.allocated)),
        ("written", size::show(v.written)),
        ("preserve", size::show(v.preserve)),
        ("when-full", word(v.when_full)),
        ("epoch", v.epoch.to_string()),
        ("copies", v.legs.to_string()),
        ("out", v.out.iter().map(|d| format!("disk {d}")).collect::<Vec<_>>().join(" ")),
        ("lacking", format!("{} AUs", v.lacking)),
        ("created", time::rfc3339(v.created)),
        ("snapshots", v.snapshots.iter().map(|s| s.name.to_string()).collect::<Vec<_>>().join(" ")),
    ];
    if v.attached.is_empty() {
        lines.push(("attached", String::new()));
    }
    for a in &v.attached {
        if !a.journal.is_empty() {
            let copies = a.journal.join(", ");
            lines.push(("journal", format!("{copies}; folded up to {}; {} in reserve", a.folded, size::show(a.reserve))));
        }
        lines.push(("attached", format!("{} on {}, session {}, {:?}, {:?}", a.client, a.host, a.session, a.mode, a.state).to_lowercase()));
    }
    lines.extend(v.notes.iter().map(|n| ("note", n.clone())));
    show::properties(&lines)
}

fn map_table(runs: &[MapRun]) -> Table {
    let mut t = Table::new(&[Column::number("au"), Column::number("count"), Column::text("place"), Column::number("blocks")]);
    for r in runs {
        let place: Vec<String> = r.legs.iter().map(|l| l.at.to_string()).collect();
        t.row(vec![
            Cell::Count(r.first.0.into()),
            Cell::Count(r.written.len() as u64),
            Cell::Text(place.join(",")),
            Cell::Count(r.written.iter().map(|w| u64::from(w.count_ones())).sum()),
        ]);
    }
    t
}
