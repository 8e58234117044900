//! What the verbs print for people, and the few things that JSON wants otherwise.

use super::report::{Extent, Status, Volume, Writing};
use super::verbs::word;
use crate::volume::Progress;
use fusevol_shared::cli::{Cell, Column, ListArgs, Table, out, time};
use fusevol_shared::error::{Context, Kind, Result};
use fusevol_shared::size;
use serde_json::Value;
use std::fmt::Write;

/// `fusevol ls`.
pub(super) fn volumes(volumes: &[Volume], list: &ListArgs) -> Result<()> {
    let columns = [
        Column::text("name"),
        Column::number("size"),
        Column::number("written"),
        Column::number("snapshots"),
        Column::text("rights"),
        Column::text("attached"),
        Column::text("writer"),
        Column::text("id").extra(),
    ];
    let mut table = Table::new(&columns);
    for v in volumes {
        table.row(vec![
            Cell::of(&v.name),
            Cell::Size(v.size),
            Cell::Size(v.written),
            Cell::Count(v.snapshots.len() as u64),
            Cell::of(&v.rights),
            v.attached.as_ref().map_or(Cell::None, Cell::of),
            Cell::of(&v.writer),
            Cell::of(&v.id),
        ]);
    }
    table.print(list)
}

/// A volume with its times as RFC 3339 and nothing where there is none.
pub(super) fn volume_json(v: &Volume) -> Result<Value> {
    let mut value = serde_json::to_value(v).context(Kind::Internal, || "a volume")?;
    if v.writer.is_empty() {
        value["writer"] = Value::Null;
    }
    if let Some(snapshots) = value.get_mut("snapshots").and_then(Value::as_array_mut) {
        for (shown, s) in snapshots.iter_mut().zip(&v.snapshots) {
            shown["created"] = Value::from(time::rfc3339(s.created));
        }
    }
    Ok(value)
}

/// The status with its volumes as `ls` has them.
pub(super) fn status_json(s: &Status) -> Result<Value> {
    let mut value = serde_json::to_value(s).context(Kind::Internal, || "a status")?;
    value["volumes"] = Value::Array(s.volumes.iter().map(volume_json).collect::<Result<_>>()?);
    Ok(value)
}

/// One line for a monitoring plugin.
pub(super) fn health(s: &Status) -> Result<()> {
    let manager = s.manager.as_deref().map_or_else(|| "manager unreachable".to_owned(), |m| format!("manager {m}"));
    out::line(&format!(
        "{} - pool {} at {}: session {}, {manager}, {} disks",
        word(s.health),
        s.pool,
        s.mount.display(),
        s.state,
        s.disks.len()
    ))
}

/// `fusevol status`.
pub(super) fn status(s: &Status) -> Result<()> {
    out::line(&render(s))
}

fn render(s: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:>9}: {value}");
    };
    line("pool", s.pool.clone());
    line("mount", format!("{} (pid {})", s.mount.display(), s.pid));
    line("transport", s.transport.to_string());
    line("memory", s.memory.to_string());
    let reason = s.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    let state = match s.state.as_str() {
        "live" => format!("live, lease {:.1} s", s.lease_left_ms as f64 / 1000.0),
        "fenced" => "lease over: I/O waits".to_owned(),
        "failing" => "lease over: I/O fails".to_owned(),
        other => other.to_owned(),
    };
    line("session", format!("{} ({state}{reason})", s.session_no));
    let ago = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{:.1} s ago", ms as f64 / 1000.0));
    line("lease", format!("extended by network {}, by disk {}", ago(s.lease_by_network_ms), ago(s.lease_by_disk_ms)));
    let since = s.manager_since_ms / 1000;
    match &s.manager {
        Some(address) => line("manager", format!("{address} (connected for {since} s)")),
        None => {
            let why = s.manager_error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
            let fails = if s.manager_failing { "; what needs it fails" } else { "" };
            line("manager", format!("not reached for {since} s{why}{fails}"));
        }
    }
    for d in &s.disks {
        line("disk", format!("{} {} {} {}", d.no, d.path, size::show(d.size), super::paths::state(d)));
    }
    for v in &s.volumes {
        let attached =
            v.attached.as_ref().map_or_else(String::new, |mode| format!(", open to {mode} ({} readers, {} writers)", v.readers, v.writers));
        let writer = if v.writer.is_empty() { String::new() } else { format!(", written by {}", v.writer) };
        let snapshots = if v.snapshots.is_empty() { String::new() } else { format!(", {} snapshots", v.snapshots.len()) };
        line("volume", format!("{} {} ({} written){attached}{writer}{snapshots}", v.name, size::show(v.size), size::show(v.written)));
        if let Some(w) = &v.writing {
            writing(w).into_iter().for_each(|(name, text)| line(name, text));
        }
        if let Some(p) = &v.copies {
            line("copies", copies(p));
        }
    }
    for a in &s.action {
        line("action", a.clone());
    }
    text.trim_end().to_owned()
}

/// What is said of a volume that is written here.
fn writing(w: &Writing) -> Vec<(&'static str, String)> {
    let waits = match w.grant_waits {
        0 => "no write waited".to_owned(),
        n => format!("{n} writes waited, {:.1} ms at most", w.grant_wait_us_max as f64 / 1000.0),
    };
    let full = (w.journal_used * 100).checked_div(w.journal_size).unwrap_or(0);
    let mut lines = vec![
        ("reserve", format!("{} AUs; {} grants, {waits}", w.reserve_aus, w.grants)),
        ("journal", format!("{full} % full; {} appends, {} not folded", w.appends, w.unfolded)),
    ];
    if w.preserved_blocks > 0 || w.broken {
        let broken = if w.broken { "; snapshots are BROKEN" } else { "" };
        lines.push(("preserved", format!("{} blocks{broken}", w.preserved_blocks)));
    }
    lines
}

/// What is said of the copies of a volume.
fn copies(p: &Progress) -> String {
    let mut text = match p.todo {
        0 => "all there".to_owned(),
        n => format!("{n} AUs without all copies, {} copied, {} were equal", size::show(p.copied), size::show(p.equal)),
    };
    for no in &p.out {
        text += &format!("; disk {no} is out");
    }
    if p.holes > 0 {
        text += &format!("; {} AUs CANNOT BE READ", p.holes);
    }
    if !p.says.is_empty() {
        text += &format!("; {}", p.says);
    }
    text
}

/// `fusevol map`.
pub(super) fn extents(extents: &[Extent], live: bool, list: &ListArgs) -> Result<()> {
    let places = [Column::number("start"), Column::number("length"), Column::number("disk"), Column::number("au"), Column::text("state")];
    let mut table = Table::new(if live { &places } else { &places[..2] });
    for e in extents {
        let mut row = vec![Cell::Count(e.start), Cell::Count(e.length)];
        if live {
            let count = |n: Option<u64>| n.map_or(Cell::None, Cell::Count);
            row.push(count(e.disk.map(u64::from)));
            row.push(count(e.au.map(u64::from)));
            row.push(Cell::of(if e.written == Some(true) { "written" } else { "allocated" }));
        }
        table.row(row);
    }
    table.print(list)
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::super::report::Health;
    use super::*;
    use crate::fs::transport::Served;

    #[test]
    fn a_status_says_what_to_do() {
        let s = Status {
            pool: "san1".into(),
            mount: "/m".into(),
            pid: 7,
            transport: Served::Uring { queues: 2, depth: 32 },
            memory: Memory { locked: true, io_flusher: true, missing: vec![] },
            health: Health::Critical,
            session: "id".into(),
            session_no: 3,
            state: "over".into(),
            reason: Some("revoked".into()),
            lease_left_ms: 0,
            lease_by_network_ms: Some(70_000),
            lease_by_disk_ms: None,
            manager_failing: true,
            manager: None,
            manager_since_ms: 5_000,
            manager_error: Some("no answer".into()),
            disks: vec![],
            volumes: vec![],
            action: vec!["mount again".into()],
        };
        let text = render(&s);
        for part in [
            "transport: uring (2 queues of 32)",
            "   memory: locked",
            "  session: 3 (over: revoked)",
            "  manager: not reached for 5 s: no answer; what needs it fails",
            "    lease: extended by network 70.0 s ago, by disk never",
            "   action: mount again",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let json = status_json(&s).expect("JSON");
        assert_eq!((&json["health"], &json["transport"]["uring"]["depth"]), (&"critical".into(), &32.into()));
        let classic = Status { transport: Served::Classic { why: Some("too old".into()) }, ..s };
        assert!(render(&classic).contains("transport: classic (too old)"), "{}", render(&classic));
        assert_eq!(status_json(&classic).expect("JSON")["transport"]["classic"]["why"], "too old");
    }

    #[test]
    fn copies_say_how_far_they_are() {
        let well = Progress::default();
        assert_eq!(copies(&well), "all there");
        let ill = Progress { todo: 3, copied: 1 << 20, out: vec![1], says: "paused".into(), holes: 1, ..well };
        assert_eq!(copies(&ill), "3 AUs without all copies, 1M copied, 0B were equal; disk 1 is out; 1 AUs CANNOT BE READ; paused");
    }

    #[test]
    fn a_writer_says_how_it_gets_on() {
        let w = Writing {
            reserve_aus: 64,
            grants: 3,
            grant_waits: 0,
            grant_wait_us_max: 0,
            appends: 12,
            unfolded: 2,
            journal_used: 262_144,
            journal_size: 1 << 20,
            preserved_blocks: 0,
            broken: false,
        };
        let said = |w: &Writing| writing(w).into_iter().map(|(n, t)| format!("{n}: {t}")).collect::<Vec<_>>();
        assert_eq!(said(&w), ["reserve: 64 AUs; 3 grants, no write waited", "journal: 25 % full; 12 appends, 2 not folded"]);
        let hard = Writing { grant_waits: 5, grant_wait_us_max: 1_500, journal_size: 0, broken: true, ..w };
        let text = said(&hard).join("\n");
        assert!(text.contains("5 writes waited, 1.5 ms at most") && text.contains("BROKEN"), "{text}");
    }
}
