//! `access grant | revoke | ls`

use super::args::Access;
use super::context::{Ctx, pick};
use super::show;
use crate::core::AdminRequest;
use crate::core::admin_api::AccessView;
use fusevol_shared::cli::{Cell, Column, ListArgs, Table};
use fusevol_shared::error::Result;
use serde_json::json;

pub fn run(ctx: &Ctx, verb: Access) -> Result<()> {
    let (request, list) = match verb {
        Access::Grant { volume, client, rights } => {
            (AdminRequest::AccessGrant { volume: ctx.volume(&volume)?, client: client.to_string(), rights }, None)
        }
        Access::Revoke { volume, client, rights } => {
            (AdminRequest::AccessRevoke { volume: ctx.volume(&volume)?, client: client.to_string(), rights: Some(rights) }, None)
        }
        Access::Ls { volume, list } => {
            (AdminRequest::AccessList { volume: volume.map(|v| ctx.volume(&v)).transpose()?, client: None }, Some(list))
        }
    };
    let access = pick!(ctx.ask(request)?, Access)?;
    match list {
        _ if ctx.json => show::json(&json!({ "access": access })),
        Some(list) => table(&access).print(&list),
        // What a change has led to; nothing where no right is left.
        None if access.is_empty() => Ok(()),
        None => table(&access).print(&ListArgs::default()),
    }
}

fn table(access: &[AccessView]) -> Table {
    let mut t = Table::new(&[Column::text("volume"), Column::text("client"), Column::text("rights")]);
    for a in access {
        t.row(vec![Cell::of(&a.volume), Cell::of(&a.client), Cell::of(a.rights)]);
    }
    t
}
