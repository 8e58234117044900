//! `job ls | show | wait | pause | resume | limit | cancel`

use super::args::Job;
use super::context::{Ctx, unexpected};
use super::show;
use crate::admin::client;
use crate::core::admin_api::{JobState, JobView};
use crate::core::{AdminReply, AdminRequest};
use fusevol_shared::cli::{Cell, Column, Table};
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::name::Target;
use fusevol_shared::size;
use serde_json::json;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

pub fn run(ctx: &Ctx, verb: Job) -> Result<()> {
    match verb {
        Job::Ls { list } => {
            let jobs = jobs(ctx, AdminRequest::JobList)?;
            if ctx.json { show::json(&json!({ "jobs": jobs })) } else { table(&jobs).print(&list) }
        }
        Job::Show { volume } => {
            let name = ctx.volume(&volume)?;
            let job = jobs(ctx, AdminRequest::JobList)?.into_iter().find(|j| j.volume.as_str() == name);
            let text = job.as_ref().map_or_else(|| format!("volume {name} has all its copies"), properties);
            ctx.say(&json!({ "job": job }), &text)
        }
        Job::Wait { volume, timeout } => wait(ctx, volume.as_ref(), Duration::from_secs(timeout)),
        Job::Pause { volume } => set(ctx, &volume, Some(true), None),
        Job::Resume { volume } => set(ctx, &volume, Some(false), None),
        Job::Limit { volume, rate } => set(ctx, &volume, None, Some(rate)),
        Job::Cancel { volume } => {
            let name = ctx.volume(&volume)?;
            let e = Error::new(Kind::Refused, format!("the recovery of volume '{name}' is over when it has all its copies"));
            Err(e.hint(format!("`fusevol-mgr job pause {name}` stops it for now; `disk fail DISK --clear` takes a disk back that is well")))
        }
    }
}

fn jobs(ctx: &Ctx, request: AdminRequest) -> Result<Vec<JobView>> {
    match ctx.ask(request)? {
        AdminReply::Jobs(jobs) => Ok(jobs),
        other => Err(unexpected(&other)),
    }
}

fn set(ctx: &Ctx, volume: &Target, paused: Option<bool>, limit: Option<u64>) -> Result<()> {
    let jobs = jobs(ctx, AdminRequest::JobSet { volume: ctx.volume(volume)?, paused, limit })?;
    ctx.say(&json!({ "jobs": jobs }), "")
}

fn wait(ctx: &Ctx, volume: Option<&Target>, timeout: Duration) -> Result<()> {
    let name = volume.map(|v| ctx.volume(v)).transpose()?;
    let until = SystemClock.now().plus(timeout);
    loop {
        let left: Vec<JobView> =
            jobs(ctx, AdminRequest::JobList)?.into_iter().filter(|j| name.as_ref().is_none_or(|n| j.volume.as_str() == n)).collect();
        let Some(first) = left.first() else { return ctx.say(&json!({ "jobs": left }), "") };
        if SystemClock.now() >= until {
            let e = Error::new(Kind::Busy, format!("volume '{}' lacks copies of {} AUs still", first.volume, first.todo));
            return Err(e.hint(format!("`fusevol-mgr job show {}` says how far it is", first.volume)));
        }
        client::block_on(async {
            tokio::time::sleep(LOOK).await;
            Ok(())
        })?;
    }
}

fn word(j: &JobView) -> &'static str {
    match j.state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Paused => "paused",
    }
}

fn rate(bytes: u64) -> String {
    format!("{}/s", size::show(bytes))
}

fn eta(j: &JobView) -> String {
    j.eta.map_or_else(String::new, |s| format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60))
}

fn table(jobs: &[JobView]) -> Table {
    let mut t = Table::new(&[
        Column::text("volume"),
        Column::text("state"),
        Column::number("done"),
        Column::number("total"),
        Column::text("rate"),
        Column::text("eta"),
        Column::text("by"),
        Column::text("why"),
        Column::number("holes").extra(),
    ]);
    for j in jobs {
        t.row(vec![
            Cell::of(&j.volume),
            Cell::Text(word(j).to_owned()),
            Cell::Count(j.total.saturating_sub(j.todo)),
            Cell::Count(j.total),
            Cell::Text(rate(j.rate)),
            Cell::Text(eta(j)),
            Cell::of(&j.by),
            Cell::of(&j.why),
            Cell::Count(j.holes),
        ]);
    }
    t
}

fn properties(j: &JobView) -> String {
    show::properties(&[
        ("volume", j.volume.to_string()),
        ("state", word(j).to_owned()),
        ("why", j.why.clone()),
        ("by", j.by.clone()),
        ("done", format!("{} of {} AUs", j.total.saturating_sub(j.todo), j.total)),
        ("snapshots", format!("{} AUs that only snapshots have", j.frozen)),
        ("rate", rate(j.rate)),
        ("eta", eta(j)),
        ("limit", if j.limit == 0 { String::new() } else { rate(j.limit) }),
        ("holes", j.holes.to_string()),
    ])
}
