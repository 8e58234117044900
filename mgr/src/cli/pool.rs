//! `pool show | set`

use super::context::{Ctx, pick};
use super::show;
use crate::catalog::record::Fencing;
use crate::core::AdminRequest;
use crate::core::admin_api::PoolView;
use fusevol_shared::cli::time;
use fusevol_shared::error::Result;
use fusevol_shared::size;
use serde_json::json;

/// `pool show`
pub fn show(ctx: &Ctx) -> Result<()> {
    let pool = pick!(ctx.ask(AdminRequest::PoolShow)?, Pool)?;
    ctx.say(&json!({ "pool": pool }), &properties(&pool))
}

/// `pool set`
pub fn set(ctx: &Ctx, fencing: Option<Fencing>, reservations: Option<bool>, rebuild_after: Option<u64>) -> Result<()> {
    let mut pool = pick!(ctx.ask(AdminRequest::PoolShow)?, Pool)?;
    if let Some(fencing) = fencing {
        pool = pick!(ctx.ask(AdminRequest::PoolSet { fencing })?, Pool)?;
    }
    if let Some(on) = reservations {
        pool = pick!(ctx.ask(AdminRequest::PoolReservations { on })?, Pool)?;
    }
    if let Some(seconds) = rebuild_after {
        pool = pick!(ctx.ask(AdminRequest::PoolRebuildAfter { ms: seconds.saturating_mul(1000) })?, Pool)?;
    }
    ctx.say(&json!({ "pool": pool }), "")
}

/// As it is written on the command line.
fn word(fencing: Fencing) -> &'static str {
    match fencing {
        Fencing::Required => "required",
        Fencing::Best => "best",
        Fencing::LeaseOnly => "lease-only",
    }
}

fn properties(p: &PoolView) -> String {
    let s = &p.space;
    show::properties(&[
        ("name", p.name.to_string()),
        ("id", p.id.to_string()),
        ("created", time::rfc3339(p.created)),
        ("generation", p.generation.to_string()),
        ("au-size", size::show(p.au_size)),
        ("lease", format!("{}.{:03}s", p.lease_ms / 1000, p.lease_ms % 1000)),
        ("fencing", word(p.fencing).to_owned()),
        ("reservations", if p.reservations { "on" } else { "off" }.to_owned()),
        ("rebuild-after", format!("{}s", p.rebuild_after_ms / 1000)),
        ("size", size::show(s.total)),
        ("free", size::show(s.free)),
        ("mapped", size::show(s.mapped)),
        ("preserve", size::show(s.preserve)),
        ("limbo", size::show(s.limbo)),
        ("reserve", size::show(s.reserve)),
        ("journals", size::show(s.journals)),
        ("quarantine", size::show(s.quarantine)),
        ("kept", size::show(s.kept)),
        ("promised", size::show(s.promised)),
        ("disks", p.disks.to_string()),
        ("volumes", p.volumes.to_string()),
        ("snapshots", p.snapshots.to_string()),
        ("clients", p.clients.to_string()),
        ("sessions", p.sessions.to_string()),
    ])
}
