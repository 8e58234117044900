//! A mount's own socket: `/run/fusevol/PID.sock`, mode 0600 in a folder of mode 0700. One question a connection, in one
//! line of JSON; the answer is lines of items, then one line that ends it, with a value or an error.
//!
//! Limits: [`LINE_MAX`] bytes a line, [`ASKING_MAX`] questions at a time, [`PATIENCE`] to ask.

use crate::private::{RUN, make_run};
use fusevol_shared::error::{Context, Error, Kind, Result, WireError};
use fusevol_shared::name::Name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LINE_MAX: u64 = 1 << 20;
const ASKING_MAX: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a mount may take to say who it is.
const WHO: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Question {
    /// Who are you?
    Who,
    /// The granted volumes.
    Volumes,
    /// All about the mount, or about one volume.
    Status {
        /// Which volume.
        volume: Option<Name>,
    },
    /// Extents of a volume or snapshot.
    Map {
        /// Which volume.
        volume: Name,
        /// Which snapshot of it.
        snapshot: Option<Name>,
        /// What was modified since it.
        modified: bool,
    },
    /// The path to a disk counts as failed, or not any more.
    Drill {
        /// Number, UUID or path.
        disk: String,
        /// As failed.
        fails: bool,
    },
    /// Unmount, and tell how it ended.
    Umount,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Item(Value),
    Done(Value),
    Error(WireError),
}

/// Where the answer to one question goes.
pub(super) struct Answer(UnixStream);

impl Answer {
    /// One item of a list.
    pub(super) fn item(&mut self, item: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(item).context(Kind::Internal, || "an answer")?;
        self.line(&Line::Item(value))
    }

    fn line(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line).context(Kind::Internal, || "an answer")?;
        text.push('\n');
        self.0.write_all(text.as_bytes()).context(Kind::Io, || "the asker is gone")
    }
}

/// Answers questions: items on the way, one value at the end.
pub(super) trait Answers: Send + Sync + 'static {
    /// Answers one question.
    fn answer(&self, question: Question, out: &mut Answer) -> Result<Value>;
}

/// The mount's end of the socket; removes it when dropped.
pub(super) struct Server {
    path: PathBuf,
    asking: Arc<AtomicUsize>,
}

impl Server {
    /// Begins to listen, on a thread of its own.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn start(answers: Arc<dyn Answers>) -> Result<Self> {
        make_run()?;
        let path = Path::new(RUN).join(format!("{}.sock", std::process::id()));
        // Left by a process of the same number that was killed.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).context(Kind::Io, || format!("{}", path.display()))?;
        let server = Self { path: path.clone(), asking: Arc::default() };
        rustix::fs::chmod(&path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).context(Kind::Io, || format!("{}", path.display()))?;
        let asking = server.asking.clone();
        let accept = move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let (answers, slot) = (answers.clone(), Slot::take(&asking));
                let Some(slot) = slot else { continue };
                // Without a thread the asker sees the connection end.
                let _ = std::thread::Builder::new().name("fusevol-answer".into()).spawn(move || {
                    let _slot = slot;
                    serve(&*answers, stream);
                });
            }
        };
        std::thread::Builder::new().name("fusevol-socket".into()).spawn(accept).context(Kind::Internal, || "no thread")?;
        Ok(server)
    }

    /// Whether somebody waits for an answer.
    pub(super) fn is_asked(&self) -> bool {
        self.asking.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One of the questions that may be under way.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(asking: &Arc<AtomicUsize>) -> Option<Self> {
        let slot = Self(asking.clone());
        (asking.fetch_add(1, Ordering::SeqCst) < ASKING_MAX).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(answers: &dyn Answers, stream: UnixStream) {
    let asked =
        stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.try_clone()).context(Kind::Io, || "the connection").and_then(question);
    let mut out = Answer(stream);
    let end = match asked.and_then(|q| answers.answer(q, &mut out)) {
        Ok(value) => Line::Done(value),
        Err(e) => Line::Error(WireError::from(&e)),
    };
    // An asker that is gone needs no answer.
    let _ = out.line(&end);
}

fn question(stream: UnixStream) -> Result<Question> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut line).context(Kind::Io, || "no question came")?;
    serde_json::from_str(&line).context(Kind::Refused, || "the question is not understood")
}

/// The verbs' end: asks the mount behind `socket`; gives its items to `each`, and the value at the end.
///
/// # Errors
/// The mount's; `NotFound` where none listens there; `Damaged` where it does not answer as it should.
pub(super) fn ask<T: DeserializeOwned>(socket: &Path, question: &Question, mut each: impl FnMut(T) -> Result<()>) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).context(Kind::NotFound, || "no mount listens")?;
    if matches!(question, Question::Who) {
        // It is asked of every mount of the host: one that hangs must not keep the others from being found.
        stream.set_read_timeout(Some(WHO)).context(Kind::Io, || "the connection")?;
    }
    let mut text = serde_json::to_string(question).context(Kind::Internal, || "a question")?;
    text.push('\n');
    stream.write_all(text.as_bytes()).context(Kind::Io, || "the mount does not listen")?;
    let damaged = || "the mount's answer is not understood";
    let mut from = BufReader::new(stream);
    loop {
        let mut line = String::new();
        from.by_ref().take(LINE_MAX).read_line(&mut line).context(Kind::Io, || "the mount has ended")?;
        if line.is_empty() {
            return Err(Error::new(Kind::Io, "the mount ended before it answered"));
        }
        match serde_json::from_str(&line).context(Kind::Damaged, damaged)? {
            Line::Item(item) => each(serde_json::from_value(item).context(Kind::Damaged, damaged)?)?,
            Line::Done(value) => return Ok(value),
            Line::Error(e) => return Err(e.into()),
        }
    }
}

/// The sockets of all mounts of this host that may live. Those whose process is gone are cleared away.
pub(super) fn sockets() -> Vec<PathBuf> {
    let all = std::fs::read_dir(RUN).into_iter().flatten().flatten().map(|e| e.path());
    let mut all: Vec<_> = all.filter(|p| p.extension().is_some_and(|x| x == "sock")).collect();
    all.retain(|path| {
        let lives = path.file_stem().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !lives {
            // Who may not remove it may not ask it either.
            let _ = std::fs::remove_file(path);
        }
        lives
    });
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Answers for Echo {
        fn answer(&self, question: Question, out: &mut Answer) -> Result<Value> {
            match question {
                Question::Volumes => {
                    (0..3).try_for_each(|n| out.item(&n))?;
                    Ok(Value::from("end"))
                }
                other => Err(Error::new(Kind::Busy, format!("{other:?}")).hint("wait")),
            }
        }
    }

    #[test]
    fn items_then_an_end_or_an_error() {
        let (a, b) = UnixStream::pair().expect("a pair");
        let server = std::thread::spawn(move || serve(&Echo, b));
        let mut a2 = a.try_clone().expect("a clone");
        a2.write_all(b"{\"do\":\"volumes\"}\n").expect("it listens");
        server.join().expect("no panic");
        let lines: Vec<_> = BufReader::new(a).lines().map(|l| l.expect("a line")).collect();
        assert_eq!(lines, ["{\"item\":0}", "{\"item\":1}", "{\"item\":2}", "{\"done\":\"end\"}"]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["", "{}\n", "{\"do\":\"nothing\"}\n", "not json\n", "{\"do\":\"map\",\"volume\":\"a b\",\"modified\":false}\n"] {
            let (a, b) = UnixStream::pair().expect("a pair");
            let mut a2 = a.try_clone().expect("a clone");
            a2.write_all(text.as_bytes()).and_then(|()| a2.shutdown(std::net::Shutdown::Write)).expect("it listens");
            serve(&Echo, b);
            let mut line = String::new();
            BufReader::new(a).read_line(&mut line).expect("an answer");
            assert!(line.contains("\"error\"") && line.contains("refused"), "{text:?}: {line}");
        }
    }
}
