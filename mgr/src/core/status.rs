//! The state of everything, and what to do about it.

use super::Core;
use super::admin_api::{Finding, Level, SessionState, StatusView};
use fusevol_shared::error::Result;
use fusevol_shared::ids::SessionNo;
use fusevol_shared::size;

impl Core {
    pub(super) fn status(&self) -> Result<StatusView> {
        let mut findings = self.space_findings();
        findings.extend(self.lost_findings());
        findings.extend(self.session_findings());
        findings.extend(self.snapshot_findings());
        findings.extend(self.catalog_findings());
        findings.extend(self.job_findings());
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
        if s.free <= s.kept {
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
        self.catalog.sessions().filter_map(|s| self.session_finding(s.no)).chain(self.quarantine_finding()).collect()
    }

    fn session_finding(&self, no: SessionNo) -> Option<Finding> {
        let life = self.lives.get(&no)?;
        if let Some(text) = life.closing.as_ref().and_then(|c| c.damaged.clone()) {
            return Some(Finding { level: Level::Critical, text, action: "fusevol-mgr disk ls".to_owned() });
        }
        let who = self.who(no);
        let text = match self.session_state(no) {
            SessionState::Live | SessionState::Away => return None,
            SessionState::Lapsed => format!("the lease of {who} is over; what it holds stays held until it is proven drained"),
            SessionState::Sealed => format!("{who} is sealed; what it could still write stays held until it is proven drained"),
        };
        let taken = life.remap.as_ref().map(super::remap::Remap::said);
        let text = [life.fence.said(), taken].into_iter().flatten().fold(text, |text, said| format!("{text}; {said}"));
        let client = self.catalog.session(no).and_then(|s| self.catalog.client(s.client)).map_or_else(String::new, |c| c.name.to_string());
        Some(Finding { level: Level::Warning, text, action: format!("fusevol-mgr client confirm-dead {client}") })
    }

    /// Quarantine of a session that lives is free when it ends; nothing is to be done.
    fn quarantine_finding(&self) -> Option<Finding> {
        let held = self.space_view().quarantine;
        let text = || {
            format!(
                "{} are in quarantine: what lost sessions, or failed journals, could still write, until their sessions are over and drained",
                size::show(held)
            )
        };
        (held > 0).then(|| Finding { level: Level::Warning, text: text(), action: String::new() })
    }

    fn catalog_findings(&self) -> Vec<Finding> {
        let text = "the catalog is full: no volume, snapshot, client or writer can be added, no space be granted".to_owned();
        let full = Finding { level: Level::Critical, text, action: "fusevol-mgr snapshot ls".to_owned() };
        if self.tight { vec![full] } else { Vec::new() }
    }

    fn snapshot_findings(&self) -> Vec<Finding> {
        let all = self.catalog.volumes().flat_map(|v| self.catalog.snapshots_of(v.entry.id).into_iter().map(move |s| (v, s)));
        all.filter(|(_, s)| s.entry.broken)
            .map(|(v, s)| {
                let name = format!("{}@{}", v.entry.name, s.entry.name);
                let text = format!("snapshot '{name}' is broken: it has lost blocks, and reads as an error");
                Finding { level: Level::Critical, text, action: format!("fusevol-mgr snapshot rm {name}") }
            })
            .collect()
    }
}
