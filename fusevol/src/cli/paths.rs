//! `fusevol paths`: how each disk is reached; `fail` and `restore`: the drill.

use super::control::{Question, ask};
use super::report::{Disk, Status};
use super::verbs::Ask;
use clap::Subcommand;
use fusevol_shared::cli::{Cell, Column, DONE, ListArgs, Table, json, out};
use fusevol_shared::error::{Context, Kind, Result};
use fusevol_shared::size;
use serde_json::Value;

#[derive(Subcommand, Debug)]
pub(super) enum Drill {
    /// Let the path to a disk count as failed: its I/O goes through the manager until it is restored
    Fail {
        /// Number, UUID or path of the disk
        disk: String,
    },
    /// Let it count as what it is again
    Restore {
        /// Number, UUID or path of the disk
        disk: String,
    },
}

pub(super) fn run(asker: &Ask, drill: Option<&Drill>, list: &ListArgs) -> Result<u8> {
    let mount = asker.mount()?;
    let Some(drill) = drill else {
        let value = ask(&mount.socket, &Question::Status { volume: None }, |_: Value| Ok(()))?;
        let status: Status = serde_json::from_value(value).context(Kind::Damaged, || "the mount's answer is not understood")?;
        if asker.json {
            json::print_list("paths", &status.disks)?;
        } else {
            table(&status.disks, list)?;
        }
        return Ok(DONE);
    };
    let (disk, fails) = match drill {
        Drill::Fail { disk } => (disk.clone(), true),
        Drill::Restore { disk } => (disk.clone(), false),
    };
    let value = ask(&mount.socket, &Question::Drill { disk, fails }, |_: Value| Ok(()))?;
    let disk: Disk = serde_json::from_value(value).context(Kind::Damaged, || "the mount's answer is not understood")?;
    if asker.json {
        json::print(&disk)?;
    } else {
        out::line(&format!("disk {}: {}", disk.no, state(&disk)))?;
    }
    Ok(DONE)
}

fn table(disks: &[Disk], list: &ListArgs) -> Result<()> {
    let columns = [
        Column::number("no"),
        Column::text("path"),
        Column::number("size"),
        Column::text("state"),
        Column::number("since"),
        Column::number("failures"),
        Column::number("redirected"),
        Column::text("reason"),
        Column::text("id").extra(),
    ];
    let mut table = Table::new(&columns);
    for d in disks {
        table.row(vec![
            Cell::Count(d.no.into()),
            Cell::of(&d.path),
            Cell::Size(d.size),
            Cell::of(&d.state),
            Cell::of(format!("{} s", d.since_ms / 1000)),
            Cell::Count(d.failures),
            Cell::Size(d.redirected),
            d.reason.as_ref().map_or(Cell::None, Cell::of),
            Cell::of(&d.id),
        ]);
    }
    table.print(list)
}

/// The state of a path in a few words.
pub(super) fn state(d: &Disk) -> String {
    let reason = d.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    let moved = if d.redirected == 0 { String::new() } else { format!("; {} redirected", size::show(d.redirected)) };
    match d.state.as_str() {
        "direct" => format!("direct{moved}"),
        other => format!("{other} for {} s{reason}{moved}", d.since_ms / 1000),
    }
}
