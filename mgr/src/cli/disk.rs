//! `disk scan | add | fail | ls`

use super::args::Disk;
use super::context::{Ctx, pick};
use super::show;
use crate::admin::api::Question;
use crate::admin::disks::{self, Look};
use crate::core::AdminRequest;
use crate::core::admin_api::DiskView;
use fusevol_shared::cli::{Cell, Column, Table};
use fusevol_shared::disk::any::Address;
use fusevol_shared::error::Result;
use serde_json::json;

pub fn run(ctx: &Ctx, verb: Disk) -> Result<()> {
    match verb {
        Disk::Scan { disks, list } => {
            let paths: Vec<Address> =
                if disks.is_empty() { disks::block_devices()?.into_iter().map(Address::Path).collect() } else { disks };
            let looks: Vec<(Address, Look)> = paths.into_iter().map(|p| (p.clone(), disks::look(&p))).collect();
            if ctx.json {
                show::json(&json!({ "disks": looks.iter().map(scanned).collect::<Vec<_>>() }))
            } else {
                scan_table(&looks).print(&list)
            }
        }
        Disk::Add { disk, spare, domain } => {
            let path = disk.absolute().unwrap_or(disk);
            let mut added = pick!(ctx.question(&Question::DiskAdd { path: path.clone() })?, Disk)?;
            if spare || domain.is_some() {
                let request = AdminRequest::DiskSet {
                    disk: added.no.to_string(),
                    spare: spare.then_some(true),
                    domain: domain.map(|d| d.to_string()),
                };
                added = pick!(ctx.ask(request)?, Disk)?;
            }
            ctx.say(&json!({ "disk": added }), &format!("disk {}: {} ({})", added.no, path, added.id))
        }
        Disk::Fail { disk, clear } => {
            let disk = pick!(ctx.ask(AdminRequest::DiskFail { disk, failed: !clear })?, Disk)?;
            ctx.say(&json!({ "disk": disk }), "")
        }
        Disk::Ls { list } => {
            let disks = pick!(ctx.ask(AdminRequest::DiskList)?, Disks)?;
            if ctx.json { show::json(&json!({ "disks": disks })) } else { table(&disks).print(&list) }
        }
    }
}

pub fn table(disks: &[DiskView]) -> Table {
    let mut t = Table::new(&[
        Column::number("no"),
        Column::number("size"),
        Column::number("free"),
        Column::text("use"),
        Column::text("domain"),
        Column::text("path"),
        Column::text("id"),
        Column::number("data").extra(),
        Column::number("aus").extra(),
    ]);
    for d in disks {
        t.row(vec![
            Cell::Count(d.no.0.into()),
            Cell::Size(d.size),
            Cell::Size(d.free),
            Cell::Text(used_for(d).to_owned()),
            d.domain.as_ref().map_or(Cell::None, Cell::of),
            Cell::Text(d.paths.join(",")),
            Cell::of(d.id),
            Cell::Size(d.data),
            Cell::Count(d.aus.into()),
        ]);
    }
    t
}

fn used_for(d: &DiskView) -> &'static str {
    match (d.failed, d.spare) {
        (true, _) => "failed",
        (false, true) => "spare",
        (false, false) => "data",
    }
}

fn scanned((path, look): &(Address, Look)) -> serde_json::Value {
    json!({
        "path": path, "size": look.size, "state": look.state, "pool": look.pool.as_ref().map(|p| &p.0), "pool_id": look.pool.as_ref().map(|p| p.1),
        "disk_id": look.disk, "message": look.message,
    })
}

fn scan_table(looks: &[(Address, Look)]) -> Table {
    let mut t = Table::new(&[
        Column::text("path"),
        Column::number("size"),
        Column::text("state"),
        Column::text("pool"),
        Column::text("message"),
        Column::text("id").extra(),
    ]);
    for (path, look) in looks {
        t.row(vec![
            Cell::of(path),
            look.size.map_or(Cell::None, Cell::Size),
            Cell::of(look.state),
            look.pool.as_ref().map_or(Cell::None, |p| Cell::of(&p.0)),
            Cell::of(&look.message),
            look.disk.map_or(Cell::None, Cell::of),
        ]);
    }
    t
}
