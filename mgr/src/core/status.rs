//! The state of everything, and what to do about it.

use super::Core;
use super::admin_api::{Finding, Level, SessionState, StatusView};
use fusevol_shared::error::Result;
use fusevol_shared::size;

impl Core {
    pub(super) fn status(&self) -> Result<StatusView> {
        let mut findings = self.space_findings();
        findings.extend(self.session_findings());
        findings.extend(self.snapshot_findings());
        findings.sort_by_key(|f| std::cmp::Reverse(f.level));
        let clients = self.client_views().into_iter().filter(|c| !c.sessions.is_empty()).collect();
        Ok(StatusView {
            level: findings.first().map_or(Level::Ok, |f| f.level),
            pool: self.pool_view()?,
            disks: self.disk_views(),
            volumes: self.volume_views(),
            clients,
            findings,
        })
    }

    fn space_findings(&self) -> Vec<Finding> {
        let s = self.space_view();
        let add = "fusevol-mgr disk add DISK".to_owned();
        if s.free <= s.reserve {
            let text = format!("the pool is full: {} free of {}; writes that need space fail", size::show(s.free), size::show(s.total));
            return vec![Finding { level: Level::Critical, text, action: add }];
        }
        if s.free < s.total / 10 {
            let text = format!("the pool is nearly full: {} free of {}", size::show(s.free), size::show(s.total));
            return vec![Finding { level: Level::Warning, text, action: add }];
        }
        Vec::new()
    }

    fn session_findings(&self) -> Vec<Finding> {
        let lapsed = self.catalog.sessions().filter(|s| self.session_state(s.no) == SessionState::Lapsed);
        lapsed
            .map(|s| {
                let name = self.catalog.client(s.client).map_or_else(String::new, |c| c.name.to_string());
                let text = format!("the lease of {} is over; what it holds stays held until it is proven drained", self.who(s.no));
                Finding { level: Level::Warning, text, action: format!("fusevol-mgr client confirm-dead {name}") }
            })
            .collect()
    }

    fn snapshot_findings(&self) -> Vec<Finding> {
        let all = self.catalog.volumes().flat_map(|v| self.catalog.snapshots_of(v.entry.id).into_iter().map(move |s| (v, s)));
        all.filter(|(_, s)| s.entry.broken)
            .map(|(v, s)| {
                let name = format!("{}@{}", v.entry.name, s.entry.name);
                let text = format!("snapshot '{name}' has lost blocks and reads as an error");
                Finding { level: Level::Critical, text, action: format!("fusevol-mgr snapshot rm {name}") }
            })
            .collect()
    }
}
