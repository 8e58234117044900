//! Transactions of `SQLite` that are counted outside once they are acknowledged. WAL mode with `synchronous=FULL`: the
//! default of WAL mode may lose the last ones on a correct disk (sqlite.org/pragma.html, "synchronous").

use super::run::{run, tool};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// A running writer. Killed when dropped.
pub struct Ledger {
    child: Child,
    acked: Arc<AtomicU64>,
    feeder: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Adds one transaction after the other, from `last + 1` on.
    ///
    /// # Panics
    /// Where `sqlite3` does not start.
    #[must_use]
    pub fn start(file: &Path, last: u64) -> Self {
        // Its answers come line by line: it is an acknowledgement only when it is seen.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "sqlite3", "-bail"]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sqlite3 starts");
        let mut input = child.stdin.take().expect("piped");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let acked = Arc::new(AtomicU64::new(last));
        let counted = acked.clone();
        let feeder = std::thread::spawn(move || {
            let begin = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;\n\
                 CREATE TABLE IF NOT EXISTS entry(n INTEGER PRIMARY KEY, sum INTEGER, filling BLOB);\n";
            if input.write_all(begin.as_bytes()).is_err() {
                return;
            }
            for n in last + 1.. {
                // The sum of all before makes each depend on the whole.
                let add = format!(
                    "BEGIN; INSERT INTO entry SELECT {n}, {n} + ifnull((SELECT sum FROM entry WHERE n = {n} - 1), 0), \
                     randomblob(abs(random()) % 9000); COMMIT; SELECT 'acked {n}';\n"
                );
                if input.write_all(add.as_bytes()).is_err() {
                    return;
                }
                let want = format!("acked {n}");
                if !lines.by_ref().map_while(Result::ok).any(|line| line == want) {
                    return;
                }
                counted.store(n, Ordering::Release);
            }
        });
        Self { child, acked, feeder: Some(feeder) }
    }

    /// The last transaction that was acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// Its disk is gone: ends it, and tells the last transaction that was acknowledged.
    ///
    /// # Panics
    /// If the thread that counts did.
    #[must_use]
    pub fn wreck(mut self) -> u64 {
        self.end();
        self.feeder.take().expect("it was started").join().expect("it counts");
        self.acked()
    }

    fn end(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).unwrap_or_default();
    }

    /// Demands a whole file in which no transaction is missing; tells the last one.
    ///
    /// # Panics
    /// Where it is not.
    #[must_use]
    pub fn verify(file: &Path) -> u64 {
        let file = file.to_string_lossy();
        let _said = tool("sqlite3", &[&file, "PRAGMA integrity_check"]).says("ok");
        let sums = "SELECT count(*), ifnull(max(n), 0), ifnull(max(sum), 0), ifnull(sum(n), 0) FROM entry";
        let ran = run(Command::new("sqlite3").args([&*file, sums])).ok();
        let numbers: Vec<u64> = ran.out.trim().split('|').map(|n| n.parse().expect("a number")).collect();
        let [count, last, sum, total] = numbers[..] else { panic!("four numbers, not {numbers:?}") };
        assert_eq!((count, sum, total), (last, last * (last + 1) / 2, last * (last + 1) / 2), "a transaction before {last} is missing");
        last
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.end();
    }
}
