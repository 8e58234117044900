//! How far long work is: a bar on a terminal, a line every few seconds elsewhere, JSON lines with `--json`, or nothing.

use crate::pipeline::Progress;
use fusevol_shared::cli::json;
use fusevol_shared::clock::{BootTime, Clock};
use fusevol_shared::size;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Between two lines for people.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Between two lines for scripts.
const JSON_EVERY: Duration = Duration::from_secs(1);

enum How {
    Bar(ProgressBar),
    Lines,
    Json,
    Quiet,
}

struct State {
    total: u64,
    began: BootTime,
    told: BootTime,
    position: u64,
    moved: u64,
    stored: u64,
}

/// Shows progress.
pub(super) struct Shown {
    verb: &'static str,
    how: How,
    clock: Box<dyn Clock>,
    state: Mutex<State>,
}

impl Shown {
    pub(super) fn new(verb: &'static str, json: bool, quiet: bool, clock: Box<dyn Clock>) -> Self {
        let how = match (json, quiet, std::io::stderr().is_terminal()) {
            (_, true, _) => How::Quiet,
            (true, ..) => How::Json,
            (_, _, true) => How::Bar(bar(verb)),
            _ => How::Lines,
        };
        let now = clock.now();
        let state = State { total: 0, began: now, told: now, position: 0, moved: 0, stored: 0 };
        Self { verb, how, clock, state: Mutex::new(state) }
    }

    fn line(&self, s: &State, now: BootTime) -> String {
        let elapsed = now.since(s.began);
        let rate = per_second(s.moved, elapsed);
        let percent = s.position.saturating_mul(100).checked_div(s.total).unwrap_or(100);
        let left = eta(s, elapsed).map_or(String::new(), |e| format!(", {} to go", clock_face(e)));
        let stored = if s.stored > 0 { format!(", {} stored", size::show(s.stored)) } else { String::new() };
        format!("{}: {} of {} ({percent}%), {}/s{stored}{left}", self.verb, size::show(s.position), size::show(s.total), size::show(rate))
    }

    fn tell(&self, s: &State, now: BootTime) {
        match &self.how {
            How::Lines => eprintln!("{}", self.line(s, now)),
            How::Json => {
                let elapsed = now.since(s.began);
                let body = serde_json::json!({
                    "event": "progress", "verb": self.verb, "done": s.position, "total": s.total, "moved": s.moved, "stored": s.stored,
                    "rate": per_second(s.moved, elapsed), "eta_seconds": eta(s, elapsed).map(|e| e.as_secs()),
                });
                // Where nobody reads it, the work goes on all the same; its end will say so.
                let _ = json::print(&body);
            }
            How::Bar(_) | How::Quiet => {}
        }
    }
}

impl Progress for Shown {
    fn begin(&self, total: u64) {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        *s = State { total, began: now, told: now, position: 0, moved: 0, stored: 0 };
        if let How::Bar(bar) = &self.how {
            bar.reset();
            bar.set_length(total);
        }
    }

    fn at(&self, position: u64, moved: u64, stored: u64) {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (s.position, s.moved, s.stored) = (s.position.max(position), s.moved.max(moved), s.stored.max(stored));
        let (now, every) = (self.clock.now(), if matches!(self.how, How::Json) { JSON_EVERY } else { LINE_EVERY });
        if let How::Bar(bar) = &self.how {
            bar.set_position(s.position);
            bar.set_message(format!("{}/s", size::show(per_second(s.moved, now.since(s.began)))));
        } else if now.since(s.told) >= every {
            s.told = now;
            self.tell(&s, now);
        }
    }

    fn end(&self) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
    }
}

fn bar(verb: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent}% of {binary_total_bytes}  {msg}  {eta} to go");
    let bar = ProgressBar::new(0).with_prefix(verb);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

/// As long as it took so far, for what is left; nothing to say at the beginning.
fn eta(s: &State, elapsed: Duration) -> Option<Duration> {
    let left = u128::from(s.total.saturating_sub(s.position));
    let millis = (elapsed.as_millis() * left).checked_div(u128::from(s.position))?;
    u64::try_from(millis).ok().map(Duration::from_millis)
}

fn clock_face(d: Duration) -> String {
    let s = d.as_secs();
    if s < 3600 { format!("{}:{:02}", s / 60, s % 60) } else { format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Hand(Arc<AtomicU64>);
    impl Clock for Hand {
        fn now(&self) -> BootTime {
            BootTime(self.0.load(Ordering::Relaxed))
        }
        fn wall(&self) -> u64 {
            0
        }
    }

    #[test]
    fn a_line_has_rate_and_time_to_go() {
        let time = Arc::new(AtomicU64::new(0));
        let shown = Shown::new("backup", false, true, Box::new(Hand(time.clone())));
        shown.begin(4 << 30);
        time.store(10_000_000_000, Ordering::Relaxed);
        shown.at(1 << 30, 1 << 30, 1 << 20);
        let s = shown.state.lock().expect("not poisoned");
        assert_eq!(shown.line(&s, shown.clock.now()), "backup: 1G of 4G (25%), 102M/s, 1M stored, 0:30 to go");
    }
}
