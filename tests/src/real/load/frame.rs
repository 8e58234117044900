//! What a snapshot must hold that was taken while a load went on: the volume at *one* instant between asking and answer.
//!
//! For each sector the frame knows the version at the asking and the writes that were under way or came until the answer.
//! A version that is found bounds the instant: it is not before its own write began, and not after the next write to
//! that sector was answered. All sectors together must leave an instant.

use super::oracle::{Entry, Oracle, Version, complain};
use std::path::Path;

/// See the head of this file.
pub struct Frame {
    /// The snapshot's name.
    pub name: String,
    base: Vec<Version>,
    /// In the order of each thread; sectors are of one thread each.
    window: Vec<Entry>,
}

impl Frame {
    pub(super) fn new(name: &str, base: Vec<Version>, window: Vec<Entry>) -> Self {
        Self { name: name.to_owned(), base, window }
    }

    /// Writes that were submitted while the snapshot was being taken.
    #[must_use]
    pub fn beside(&self) -> usize {
        self.window.len()
    }

    /// Demands that `image` is the volume at one instant of the frame.
    ///
    /// # Panics
    /// Where it is not.
    pub fn verify(&self, oracle: &Oracle, image: &Path) {
        let found = oracle.read(image);
        let mut beside: Vec<Vec<&Entry>> = vec![Vec::new(); found.len()];
        for entry in &self.window {
            beside[entry.run.range()].iter_mut().for_each(|s| s.push(entry));
        }
        let (mut after, mut before) = ((0, 0), (u64::MAX, 0));
        let mut wrong = Vec::new();
        for (at, found) in found.into_iter().enumerate() {
            let version = match found {
                Ok(v) => v,
                Err(e) => {
                    wrong.push(format!("sector {at} {e}"));
                    continue;
                }
            };
            // Number in the chain of versions: 0 is the one at the asking. Zeros may be there twice, and bound nothing then.
            let chain: Vec<_> = std::iter::once(self.base[at]).chain(beside[at].iter().map(|e| e.version)).collect();
            let places: Vec<_> = chain.iter().enumerate().filter(|(_, v)| **v == version).map(|(i, _)| i).collect();
            match places[..] {
                [] => wrong.push(format!("sector {at} holds {version}; it held one of {chain:?}")),
                [i] => {
                    if i > 0 {
                        after = after.max((beside[at][i - 1].began, at));
                    }
                    if let Some(next) = beside[at].get(i) {
                        before = before.min((next.ended, at));
                    }
                }
                _ => {}
            }
        }
        complain(&format!("snapshot {}", self.name), &wrong);
        assert!(
            after.0 < before.0,
            "snapshot {} is of no one instant: sector {} was written after {}, sector {} was overwritten before {}",
            self.name,
            after.1,
            after.0,
            before.1,
            before.0
        );
    }
}
