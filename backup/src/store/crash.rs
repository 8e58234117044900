//! A store in memory that records what is done, so that a test can ask what a power cut at any point may leave.
//!
//! Assumed of the medium: bytes appended are there after `sync`; before, any prefix of them, or zeros in their place.
//! A name made, changed or removed is so after `sync_dir` of its folder; before, each such change may be there or not,
//! whatever came before or after it. What may be injected: the failure of operation number `n`.

use super::{LockMode, Store, StoreFile, StoreLock, StoreRead};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::random::SeededRandom;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// One operation that changes something.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create(String),
    Append(String, Vec<u8>),
    Sync(String),
    Rename(String, String),
    SyncDir(String),
    Remove(String),
}

/// What a cut leaves of what was not made durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    Nothing,
    All,
    Some(u64),
}

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Inner {
    files: Files,
    ops: Vec<Op>,
    fail_at: Option<usize>,
    shared: usize,
    exclusive: bool,
}

/// See the module; clones share one memory.
#[derive(Clone, Default)]
pub(crate) struct CrashStore(Arc<Mutex<Inner>>);

impl CrashStore {
    pub(crate) fn with(files: Files) -> Self {
        let store = Self::default();
        store.0.lock().unwrap().files = files;
        store
    }

    pub(crate) fn files(&self) -> Files {
        self.0.lock().unwrap().files.clone()
    }

    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.0.lock().unwrap().files.get_mut(path).expect("the file is there"));
    }

    pub(crate) fn ops(&self) -> Vec<Op> {
        self.0.lock().unwrap().ops.clone()
    }

    /// From now on operation number `n`, counted from here, fails.
    pub(crate) fn fail_at(&self, n: usize) {
        let mut inner = self.0.lock().unwrap();
        inner.fail_at = Some(inner.ops.len() + n);
    }

    fn act(&self, op: Op) -> Result<std::sync::MutexGuard<'_, Inner>> {
        let mut inner = self.0.lock().unwrap();
        let fails = inner.fail_at == Some(inner.ops.len());
        inner.ops.push(op);
        if fails { Err(Error::new(Kind::Io, "injected")) } else { Ok(inner) }
    }
}

/// What may be there after a cut after `ops`, done on a durable `base`.
pub(crate) fn after_cut(base: &Files, ops: &[Op], left: Left) -> Files {
    let mut dice = SeededRandom(if let Left::Some(seed) = left { seed } else { 0 });
    let mut keep = move || match left {
        Left::Nothing => false,
        Left::All => true,
        Left::Some(_) => dice.below(2) == 0,
    };
    // A file: all its bytes, and how many of them are durable.
    let mut nodes: Vec<(Vec<u8>, usize)> = base.values().map(|b| (b.clone(), b.len())).collect();
    let mut live: BTreeMap<String, usize> = base.keys().cloned().zip(0..).collect();
    let mut durable = live.clone();
    let mut pending: Vec<(String, Option<usize>)> = Vec::new();
    for op in ops {
        match op {
            Op::Create(p) => {
                nodes.push((Vec::new(), 0));
                live.insert(p.clone(), nodes.len() - 1);
                pending.push((p.clone(), Some(nodes.len() - 1)));
            }
            Op::Append(p, bytes) => nodes[live[p]].0.extend_from_slice(bytes),
            Op::Sync(p) => nodes[live[p]].1 = nodes[live[p]].0.len(),
            Op::Rename(from, to) => {
                let node = live.remove(from).expect("it was there");
                live.insert(to.clone(), node);
                pending.push((to.clone(), Some(node)));
                pending.push((from.clone(), None));
            }
            Op::Remove(p) => {
                live.remove(p);
                pending.push((p.clone(), None));
            }
            Op::SyncDir(dir) => pending.retain(|(path, node)| {
                let inside = path.rsplit_once('/').map_or("", |(d, _)| d) == dir;
                if inside {
                    put(&mut durable, path, *node);
                }
                !inside
            }),
        }
    }
    for (path, node) in &pending {
        if keep() {
            put(&mut durable, path, *node);
        }
    }
    let mut bytes_of = |node: usize| {
        let (all, synced) = &nodes[node];
        let mut bytes = all.clone();
        if !keep() {
            if keep() { bytes[*synced..].fill(0) } else { bytes.truncate(*synced) }
        }
        bytes
    };
    durable.into_iter().map(|(path, node)| (path, bytes_of(node))).collect()
}

fn put(names: &mut BTreeMap<String, usize>, path: &str, node: Option<usize>) {
    match node {
        Some(node) => drop(names.insert(path.to_owned(), node)),
        None => drop(names.remove(path)),
    }
}

struct Writing(CrashStore, String);

impl StoreFile for Writing {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let mut inner = self.0.act(Op::Append(self.1.clone(), bytes.to_vec()))?;
        inner.files.get_mut(&self.1).expect("it is there").extend_from_slice(bytes);
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        self.0.act(Op::Sync(self.1.clone())).map(drop)
    }
}

struct Reading(Vec<u8>, String);

impl StoreRead for Reading {
    fn size(&self) -> Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let range = usize::try_from(at).ok().and_then(|a| self.0.get(a..a.checked_add(buf.len())?));
        buf.copy_from_slice(range.ok_or_else(|| crate::format::damaged(format!("{}: it ends before", self.1)))?);
        Ok(())
    }
}

struct Locked(CrashStore, LockMode);
impl StoreLock for Locked {}
impl Drop for Locked {
    fn drop(&mut self) {
        let mut inner = self.0.0.lock().unwrap();
        match self.1 {
            LockMode::Shared => inner.shared -= 1,
            LockMode::Exclusive => inner.exclusive = false,
        }
    }
}

impl Store for CrashStore {
    fn place(&self) -> String {
        "memory".into()
    }
    fn make_dir(&self, _: &str) -> Result<()> {
        Ok(())
    }
    fn create(&self, path: &str) -> Result<Box<dyn StoreFile>> {
        self.act(Op::Create(path.into()))?.files.insert(path.into(), Vec::new());
        Ok(Box::new(Writing(self.clone(), path.into())))
    }
    fn open(&self, path: &str) -> Result<Box<dyn StoreRead>> {
        let inner = self.0.lock().unwrap();
        let bytes = inner.files.get(path).ok_or_else(|| Error::new(Kind::NotFound, path))?;
        Ok(Box::new(Reading(bytes.clone(), path.into())))
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut inner = self.act(Op::Rename(from.into(), to.into()))?;
        assert!(!inner.files.contains_key(to), "{to} is there already");
        let bytes = inner.files.remove(from).expect("it is there");
        inner.files.insert(to.into(), bytes);
        Ok(())
    }
    fn sync_dir(&self, path: &str) -> Result<()> {
        self.act(Op::SyncDir(path.into())).map(drop)
    }
    fn list(&self, path: &str) -> Result<Vec<(String, u64)>> {
        let inner = self.0.lock().unwrap();
        let within = |p: &String| match p.rsplit_once('/') {
            Some((dir, name)) if dir == path => Some(name.to_owned()),
            None if path.is_empty() => Some(p.clone()),
            _ => None,
        };
        Ok(inner.files.iter().filter_map(|(p, b)| Some((within(p)?, b.len() as u64))).collect())
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.act(Op::Remove(path.into()))?.files.remove(path);
        Ok(())
    }
    fn lock(&self, mode: LockMode) -> Result<Box<dyn StoreLock>> {
        let mut inner = self.0.lock().unwrap();
        if inner.exclusive || (mode == LockMode::Exclusive && inner.shared > 0) {
            return Err(Error::new(Kind::RepoLocked, "locked"));
        }
        match mode {
            LockMode::Shared => inner.shared += 1,
            LockMode::Exclusive => inner.exclusive = true,
        }
        drop(inner);
        Ok(Box::new(Locked(self.clone(), mode)))
    }
}
