//! What happened, for people: a bounded ring, and an effect for the manager's log.

use super::admin_api::{Level, Notice};
use super::{Core, Effect};
use std::collections::VecDeque;

/// The last notices.
#[derive(Debug)]
pub(super) struct Notices {
    ring: VecDeque<Notice>,
    most: usize,
    next: u64,
}

impl Notices {
    pub fn new(most: usize) -> Self {
        Self { ring: VecDeque::new(), most: most.max(1), next: 1 }
    }

    /// The newest `limit` of those after `after`, oldest first.
    pub fn after(&self, after: u64, limit: u32) -> Vec<Notice> {
        let skip = self.ring.partition_point(|n| n.no <= after);
        let rest = self.ring.len() - skip;
        self.ring.iter().skip(skip + rest.saturating_sub(limit as usize)).cloned().collect()
    }
}

impl Core {
    /// Keeps it and puts it out.
    pub(super) fn tell(&mut self, level: Level, what: &str, text: String) {
        let notice = Notice { no: self.notices.next, wall: self.now.wall, level, what: what.to_owned(), text };
        self.notices.next += 1;
        if self.notices.ring.len() >= self.notices.most {
            self.notices.ring.pop_front();
        }
        self.notices.ring.push_back(notice.clone());
        self.out.effects.push(Effect::Notice(notice));
    }
}
