//! `fusevol mount`: in the foreground with `-f`, else by a process of its own that the verb waits for.
//!
//! The process in the background is this program again, with its standard output as the line to the verb: one line of
//! JSON, `{"ready": ...}` or `{"error": ...}`. A fork would have to come before the first thread; this may come any time.

use super::memory::{self, Memory};
use super::report::Who;
use super::serve::{self, Options};
use super::{mountpoint, serve::serve};
use crate::fs::transport::Transport;
use crate::fs::{Shows, mount as fuse, table};
use crate::lease::IO_TIMEOUT;
use crate::private::{RUN, make_run};
use crate::session::open;
use fusevol_shared::cli::{DONE, json, out};
use fusevol_shared::error::{Context, Error, Kind, Result, WireError};
use fusevol_shared::wire::keyfile::KeyFile;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `mount`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The client's key file
    #[arg(long, env = "FUSEVOL_KEY", value_name = "FILE")]
    key: PathBuf,
    /// Where to look for the pool's disks first: a path, a pattern with * and ?, or nbd://HOST/EXPORT (repeatable)
    #[arg(long = "disk", value_name = "GLOB")]
    disks: Vec<String>,
    /// Options: io_timeout=SECONDS, loops=N, transport=auto|uring|classic, allow_other, ro
    #[arg(short = 'o', value_name = "OPTS", value_delimiter = ',')]
    options: Vec<String>,
    /// Stay in the foreground
    #[arg(short = 'f')]
    foreground: bool,
    /// The process in the background: says on standard output how it went
    #[arg(long, hide = true)]
    daemon: bool,
    /// Where to mount; made if it is not there
    dir: PathBuf,
}

/// What the process in the background says to the verb.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Said {
    Ready(Who),
    Error(WireError),
}

/// What `-o` says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Chosen {
    io_timeout: Duration,
    loops: Option<usize>,
    allow_other: bool,
    read_only: bool,
    transport: Transport,
}

/// Runs the verb.
pub(super) fn run(args: Args, json: bool) -> Result<u8> {
    let options = parse(&args.options)?;
    if args.daemon {
        return daemon(&args, &options);
    }
    fuse::possible()?;
    if args.foreground {
        let memory = memory::prepare();
        let ready = |who: &Who| {
            // Where there is no systemd, nobody listens.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            if json { json::print(who) } else { out::line("ready") }
        };
        serve(&serving(&args, &options, memory, None)?, ready)?;
        return Ok(DONE);
    }
    background(&args, json)
}

fn serving(args: &Args, chosen: &Chosen, memory: Memory, log: Option<PathBuf>) -> Result<Options> {
    let key = Arc::new(KeyFile::load(&args.key)?);
    mountpoint::prepare(&args.dir)?;
    Ok(serve::Options {
        session: open::Options { key, disks: args.disks.clone(), io_timeout: chosen.io_timeout, program: "fusevol mount".to_owned() },
        mount: fuse::Options {
            shows: Shows::All,
            loops: chosen.loops,
            allow_other: chosen.allow_other,
            read_only: chosen.read_only,
            transport: chosen.transport,
        },
        memory,
        dir: args.dir.clone(),
        log,
    })
}

fn parse(options: &[String]) -> Result<Chosen> {
    let mut chosen = Chosen { io_timeout: IO_TIMEOUT, loops: None, allow_other: false, read_only: false, transport: Transport::Auto };
    let refused = |what: String| {
        Error::new(Kind::Refused, what).hint("-o takes io_timeout=SECONDS, loops=N, transport=auto|uring|classic, allow_other, ro")
    };
    for option in options.iter().filter(|o| !o.is_empty()) {
        let (name, value) = option.split_once('=').map_or((option.as_str(), None), |(n, v)| (n, Some(v)));
        let number = |most: u64| {
            let n = value.and_then(|v| v.parse::<u64>().ok()).filter(|n| (1..=most).contains(n));
            n.ok_or_else(|| refused(format!("'{option}': {name} takes a number from 1 to {most}")))
        };
        match (name, value) {
            ("io_timeout", _) => chosen.io_timeout = Duration::from_secs(number(86_400)?),
            ("loops", _) => chosen.loops = usize::try_from(number(fuse::LOOPS_MAX as u64)?).ok(),
            ("allow_other", None) => chosen.allow_other = true,
            ("transport", Some(which)) => chosen.transport = which.parse()?,
            ("ro", None) => chosen.read_only = true,
            ("rw", None) => chosen.read_only = false,
            _ => return Err(refused(format!("'{option}' is no option of mount"))),
        }
    }
    Ok(chosen)
}

/// The verb: starts the process in the background and waits until the mount stands.
fn background(args: &Args, json: bool) -> Result<u8> {
    let log = log_of(&args.dir)?;
    let said = start(args, &log)?;
    match said {
        Some(Said::Ready(who)) => {
            if json {
                json::print(&who)?;
            }
            Ok(DONE)
        }
        Some(Said::Error(e)) => Err(e.into()),
        None => {
            let words = std::fs::read_to_string(&log).unwrap_or_default();
            let last = words.lines().rfind(|l| !l.is_empty()).unwrap_or("it said nothing").to_owned();
            Err(Error::new(Kind::Internal, format!("the mount's process ended before it was ready: {last}"))
                .hint(format!("its log is {}", log.display())))
        }
    }
}

/// The log of the mount at `dir`, below the run folder.
fn log_of(dir: &Path) -> Result<PathBuf> {
    make_run()?;
    let name = table::place(dir).display().to_string();
    let name = name.trim_start_matches('/').replace('/', "-");
    // A file name holds 255 bytes; the end of a path tells more than its beginning.
    let start = (name.len().saturating_sub(200)..name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    Ok(Path::new(RUN).join(format!("{}.log", &name[start..])))
}

fn start(args: &Args, log: &Path) -> Result<Option<Said>> {
    let cannot = || "the mount's process cannot be started";
    let err = File::options().create(true).append(true).open(log).context(Kind::Io, || format!("{}", log.display()))?;
    let mut command = Command::new(std::env::current_exe().context(Kind::Io, cannot)?);
    command.args(["mount", "--daemon", "--key"]).arg(&args.key);
    for disk in &args.disks {
        command.args(["--disk", disk]);
    }
    if !args.options.is_empty() {
        command.args(["-o", &args.options.join(",")]);
    }
    command.arg("--").arg(&args.dir);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(err).spawn().context(Kind::Io, cannot)?;
    let from = child.stdout.take().ok_or_else(|| Error::new(Kind::Internal, cannot()))?;
    let mut line = String::new();
    BufReader::new(from).read_line(&mut line).context(Kind::Io, cannot)?;
    Ok(serde_json::from_str(&line).ok())
}

/// The process in the background.
fn daemon(args: &Args, chosen: &Chosen) -> Result<u8> {
    // It fails only for the leader of a group, which a started process is not.
    let _ = rustix::process::setsid();
    let memory = memory::prepare();
    let said = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mark = said.clone();
    let ready = move |who: &Who| {
        say(&Said::Ready(who.clone()))?;
        mark.store(true, std::sync::atomic::Ordering::SeqCst);
        detach()
    };
    let served = fuse::possible()
        .and_then(|()| log_of(&args.dir))
        .and_then(|log| serving(args, chosen, memory, Some(log)))
        .and_then(|o| serve(&o, ready));
    match served {
        Ok(()) => Ok(DONE),
        Err(e) if said.load(std::sync::atomic::Ordering::SeqCst) => {
            tracing::error!("{e}");
            Ok(e.kind().exit_code())
        }
        Err(e) => {
            say(&Said::Error(WireError::from(&e)))?;
            Ok(e.kind().exit_code())
        }
    }
}

fn say(said: &Said) -> Result<()> {
    out::line(&serde_json::to_string(said).context(Kind::Internal, || "an answer")?)
}

/// Lets go of what the verb gave: its folder, and its standard output (which tells it that there is no more to come).
fn detach() -> Result<()> {
    std::env::set_current_dir("/").context(Kind::Io, || "/")?;
    let null = File::options().write(true).open("/dev/null").context(Kind::Io, || "/dev/null")?;
    rustix::stdio::dup2_stdout(&null).context(Kind::Io, || "standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused() {
        let of = |o: &str| parse(&o.split(',').map(str::to_owned).collect::<Vec<_>>());
        let got = of("io_timeout=5,loops=32,allow_other,rw").expect("all are options");
        assert_eq!((got.io_timeout, got.loops, got.allow_other, got.read_only), (Duration::from_secs(5), Some(32), true, false));
        assert_eq!(got.transport, Transport::Auto);
        for (name, which) in [("auto", Transport::Auto), ("uring", Transport::Uring), ("classic", Transport::Classic)] {
            assert_eq!(of(&format!("transport={name}")).expect("one of three").transport, which);
        }
        for bad in [
            "transport",
            "transport=",
            "transport=tcp",
            "nothing",
            "io_timeout",
            "io_timeout=0",
            "io_timeout=x",
            "loops=100000",
            "ro=1",
            "allow_other=yes",
        ] {
            let e = of(bad).expect_err(bad);
            assert!(e.kind() == Kind::Refused && e.hint_text().is_some(), "{e}");
        }
        assert!(of("").is_ok());
    }

    #[test]
    fn what_the_two_processes_say_to_each_other() {
        let who = Who { pid: 7, dir: "/m".into(), pool: "san1".into() };
        let text = serde_json::to_string(&Said::Ready(who)).expect("JSON");
        assert_eq!(text, r#"{"ready":{"pid":7,"dir":"/m","pool":"san1"}}"#);
        let text = serde_json::to_string(&Said::Error(WireError::from(&Error::new(Kind::Denied, "no")))).expect("JSON");
        assert!(matches!(serde_json::from_str(&text), Ok(Said::Error(e)) if e.kind == Kind::Denied));
    }
}
