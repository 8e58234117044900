//! Files whose content says what it must be, written and synced in a real filesystem; and which of them must be there.

use fusevol_shared::random::SeededRandom;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Files that stay; older ones are removed.
const KEPT: usize = 200;
/// Longest file, bytes.
const LONGEST: u64 = 200 << 10;

/// A folder of such files.
pub struct Files {
    dir: PathBuf,
    synced: Arc<Mutex<BTreeSet<u64>>>,
    next: Arc<AtomicU64>,
    verified: u64,
}

/// Threads that write files until an error ends them.
pub struct FileLoad {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Error>>,
}

impl FileLoad {
    /// Files that were synced.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

impl Files {
    /// In `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), synced: Arc::default(), next: Arc::new(AtomicU64::new(1)), verified: 0 }
    }

    /// Starts `n` threads that write file after file.
    #[must_use]
    pub fn load(&self, n: usize) -> FileLoad {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..n).map(|_| {
            let (dir, synced, next, stop, count) = (self.dir.clone(), self.synced.clone(), self.next.clone(), stop.clone(), count.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if let Err(e) = write(&dir, n) {
                        return e;
                    }
                    let mut synced = synced.lock().unwrap_or_else(PoisonError::into_inner);
                    synced.insert(n);
                    count.fetch_add(1, Ordering::AcqRel);
                    let oldest = if synced.len() > KEPT { synced.pop_first() } else { None };
                    drop(synced);
                    if let Some(Err(e)) = oldest.map(|old| fs::remove_file(name(&dir, old))) {
                        return e;
                    }
                }
                io::Error::other("it was told to stop")
            })
        });
        FileLoad { threads: threads.collect(), stop, count }
    }

    /// The files are gone: waits for the threads' errors.
    ///
    /// # Panics
    /// If a thread did.
    pub fn wreck(&self, load: FileLoad) {
        load.stop.store(true, Ordering::Relaxed);
        for thread in load.threads {
            thread.join().map(drop).expect("a thread of the load ran");
        }
    }

    /// Demands that every synced file is there, with its content.
    ///
    /// # Panics
    /// Where one is not.
    pub fn verify(&mut self, when: &str) {
        let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        for n in &*synced {
            let found = fs::read(name(&self.dir, *n)).unwrap_or_else(|e| panic!("{when}: file {n} was synced: {e}"));
            assert!(found == content(*n), "{when}: file {n} was synced with other content, of {} bytes", found.len());
        }
        self.verified += synced.len() as u64;
    }

    /// Files that were compared.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.verified
    }
}

fn name(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("f{n}"))
}

fn content(n: u64) -> Vec<u8> {
    let mut random = SeededRandom(n);
    let len = usize::try_from(1 + random.below(LONGEST)).expect("small");
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend(random.next_u64().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Written, synced, and its name synced, too.
fn write(dir: &Path, n: u64) -> io::Result<()> {
    let mut file = File::create(name(dir, n))?;
    file.write_all(&content(n))?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}
