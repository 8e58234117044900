//! `events [-f]`: what the serving manager has to tell. With `-f` it is asked again and again; a manager that was
//! restarted counts its events anew.

use super::args::Events;
use super::context::{Ctx, pick};
use crate::admin::api::Question;
use crate::admin::client::{self, Client};
use crate::core::AdminRequest;
use crate::core::admin_api::{Level, Notice};
use fusevol_shared::cli::{json, out, time};
use fusevol_shared::error::{Kind, Result};
use serde_json::json;
use std::time::Duration;

/// Most events in one answer.
const LIMIT: u32 = 1000;
/// How often a follower asks.
const PAUSE: Duration = Duration::from_millis(300);

pub fn run(ctx: &Ctx, args: &Events) -> Result<()> {
    client::block_on(async {
        let mut manager = Client::connect(&ctx.dir, ctx.wait).await?;
        let mut after = 0;
        loop {
            let notices = match ask(&mut manager, after).await {
                Err(e) if args.follow && e.kind() == Kind::Unreachable => {
                    manager = Client::connect(&ctx.dir, ctx.wait).await?;
                    after = 0;
                    continue;
                }
                answer => answer?,
            };
            for notice in &notices {
                print(ctx, notice)?;
                after = after.max(notice.no);
            }
            if !args.follow {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

async fn ask(manager: &mut Client, after: u64) -> Result<Vec<Notice>> {
    pick!(manager.ask(&Question::Core(AdminRequest::Events { after, limit: LIMIT })).await?, Events)
}

fn print(ctx: &Ctx, notice: &Notice) -> Result<()> {
    let at = time::rfc3339(notice.wall / 1_000_000_000);
    if ctx.json {
        return json::print(&json!({ "no": notice.no, "time": at, "level": notice.level, "event": notice.what, "message": notice.text }));
    }
    let level = match notice.level {
        Level::Ok => "info",
        Level::Warning => "warning",
        Level::Critical => "critical",
    };
    out::line(&format!("{at}  {level:<8}  {:<20}  {}", notice.what, notice.text))
}
