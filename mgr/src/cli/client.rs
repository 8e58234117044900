//! `client add | ls | rm | revoke | unfence | confirm-dead`
//!
//! A client's private key is made here, in the process of the verb, and goes into its key file only: the manager learns
//! the name and what the key is known by.

use super::args::{Client as Verb, Destroy};
use super::context::{Ctx, done, pick};
use super::show;
use crate::admin::api::Question;
use crate::admin::client::{self, Client};
use crate::admin::config::Config;
use crate::admin::init::check_addresses;
use crate::authority::Authority;
use crate::core::AdminRequest;
use crate::core::admin_api::{ClientView, SessionState};
use fusevol_shared::cli::{Cell, Column, Table};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Name;
use serde_json::json;
use std::path::Path;

pub fn run(ctx: &Ctx, verb: Verb) -> Result<()> {
    match verb {
        Verb::Add { name, out, address } => add(ctx, &name, &out, &address),
        Verb::Ls { list } => {
            let clients = all(ctx)?;
            if ctx.json { show::json(&json!({ "clients": clients })) } else { table(&clients).print(&list) }
        }
        Verb::Rm { name, destroy } => {
            let lost = format!("client {name} would be forgotten with its rights; its key file opens nothing any more.");
            change(ctx, &name, &lost, destroy, AdminRequest::ClientRemove { name: name.to_string() }, "removed")
        }
        Verb::Revoke { name, destroy } => {
            let held: usize = get(ctx, &name)?.sessions.len();
            let lost = format!("the key of client {name} would be refused for ever and its {} ended.", show::count(held, "session"));
            change(ctx, &name, &lost, destroy, AdminRequest::ClientRevoke { name: name.to_string() }, "revoked")
        }
        Verb::Unfence { name } => {
            done(ctx.ask(AdminRequest::ClientUnfence { name: name.to_string() })?)?;
            ctx.say(&json!({ "unfenced": name }), "")
        }
        Verb::ConfirmDead { name, destroy } => {
            let lost = format!(
                "what the lost sessions of client {name} hold would be given away. If its host still runs and reaches the disks, \
                 it can still write there: data would be destroyed."
            );
            change(ctx, &name, &lost, destroy, AdminRequest::ClientConfirmDead { name: name.to_string() }, "confirmed_dead")
        }
    }
}

fn all(ctx: &Ctx) -> Result<Vec<ClientView>> {
    pick!(ctx.ask(AdminRequest::ClientList)?, Clients)
}

fn get(ctx: &Ctx, name: &Name) -> Result<ClientView> {
    all(ctx)?
        .into_iter()
        .find(|c| c.name == *name)
        .ok_or_else(|| Error::new(Kind::NotFound, format!("client '{name}': no such client")).hint("see `fusevol-mgr client ls`"))
}

fn change(ctx: &Ctx, name: &Name, lost: &str, destroy: Destroy, request: AdminRequest, word: &str) -> Result<()> {
    get(ctx, name)?;
    if !ctx.destroy(lost, destroy)? {
        return Ok(());
    }
    done(ctx.ask(request)?)?;
    ctx.say(&json!({ word: name }), "")
}

fn add(ctx: &Ctx, name: &Name, out: &Path, address: &[String]) -> Result<()> {
    let config = Config::load(&ctx.dir)?;
    check_addresses(address)?;
    let addresses = config.client_addresses(address)?;
    let authority = Authority::load(ctx.dir.root(), config.pool_id)?;
    let (file, print) = authority.key_file(&config.pool, name, addresses)?;
    let view = client::block_on(async {
        let mut manager = Client::connect(&ctx.dir, ctx.wait).await?;
        file.save(out).map_err(|e| match e.hint_text() {
            None => e.hint("--out names a file that is not there yet, in a folder that is"),
            Some(_) => e,
        })?;
        let question = Question::Core(AdminRequest::ClientAdd { name: name.to_string(), print });
        let answer = manager.ask(&question).await.and_then(|reply| pick!(reply, Client));
        if answer.is_err() {
            // A key that nobody knows opens nothing: it would only mislead.
            let _ = std::fs::remove_file(out);
        }
        answer
    })?;
    let text = format!(
        "client {name}: key in {} (keep it secret)\nnote: it has no rights yet: fusevol-mgr access grant VOL {name} read,write",
        out.display()
    );
    ctx.say(&json!({ "client": view, "key_file": out, "managers": file.managers }), &text)
}

fn table(clients: &[ClientView]) -> Table {
    let mut t = Table::new(&[
        Column::text("name"),
        Column::text("state"),
        Column::number("sessions"),
        Column::text("hosts"),
        Column::text("holds"),
        Column::text("created").extra(),
        Column::text("key").extra(),
        Column::text("id").extra(),
    ]);
    for c in clients {
        let state = match c {
            c if c.revoked => "revoked",
            c if c.sessions.iter().any(|s| s.state == SessionState::Lapsed) => "lost",
            c if c.sessions.is_empty() => "idle",
            _ => "in use",
        };
        let mut hosts: Vec<&str> = c.sessions.iter().map(|s| s.host.as_str()).collect();
        hosts.dedup();
        let holds: Vec<&str> = c.sessions.iter().flat_map(|s| s.holds.iter().map(String::as_str)).collect();
        t.row(vec![
            Cell::of(&c.name),
            Cell::of(state),
            Cell::Count(c.sessions.len() as u64),
            Cell::Text(hosts.join(",")),
            Cell::Text(holds.join(",")),
            Cell::Time(c.created),
            Cell::of(&c.key),
            Cell::of(c.id),
        ]);
    }
    t
}
