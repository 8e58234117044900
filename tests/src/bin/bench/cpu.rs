//! The processor time of the load and of the servers, from `/proc` (proc_pid_stat(5)).
//!
//! A process's times hold all its threads, those that ended and the kernel's I/O workers of its rings among them. What other
//! kernel threads do for it, a loop device's worker for one, is nobody's and not counted. The start of fio (tens of
//! milliseconds, and the parsing of a list) is counted: runs of a second are too short for a figure, compare long ones.

use anyhow::{Context, Result};
use std::time::Duration;

/// Places of utime, stime, cutime and cstime in the fields after the name.
const UTIME: usize = 11;

/// What ended children of this process (fio) and these processes have used so far.
///
/// # Errors
/// Where one of them is gone.
pub fn used(servers: &[u32]) -> Result<Duration> {
    let hertz = rustix::param::clock_ticks_per_second();
    let mut ticks = fields("self")?[2..].iter().sum::<u64>();
    for pid in servers {
        ticks += fields(&pid.to_string())?[..2].iter().sum::<u64>();
    }
    Ok(Duration::from_millis(ticks * 1000 / hertz))
}

fn fields(pid: &str) -> Result<[u64; 4]> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{path}: the process is gone"))?;
    parse(&text).with_context(|| format!("{path}: {text}"))
}

/// Ticks: user, system, and both of the ended children.
fn parse(stat: &str) -> Option<[u64; 4]> {
    // The name may hold anything, brackets too.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut times = rest.split(' ').skip(UTIME).map(|f| f.parse().ok());
    Some([times.next()??, times.next()??, times.next()??, times.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc() {
        let line = "77 (a) (b) 1) S 1 77 77 0 -1 4194560 100 200 0 0 31 32 33 34 20 0 5 0 123 456 78";
        assert_eq!(parse(line), Some([31, 32, 33, 34]));
        assert_eq!(parse("77 (a) S 1 2"), None);
    }

    #[test]
    fn an_ended_child_is_counted() {
        let before = used(&[]).expect("it is this process");
        let busy = std::process::Command::new("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]).status();
        assert!(busy.expect("a shell").success());
        assert!(used(&[std::process::id()]).expect("it runs") > before);
    }
}
