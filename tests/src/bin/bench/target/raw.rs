//! The raw disk: nothing between fio and it.

use super::{Setting, Target, TargetKind};
use crate::disk::Disk;
use crate::fio::{self, Figures};
use crate::work::Work;
use anyhow::Result;
use std::rc::Rc;

/// The disk itself, which the export of qemu-storage-daemon shares.
pub struct Raw {
    /// Where.
    pub disk: Rc<Disk>,
    /// How.
    pub setting: Rc<Setting>,
}

impl Target for Raw {
    fn kind(&self) -> TargetKind {
        TargetKind::Raw
    }

    fn measure(&mut self, work: &Work, round: u32) -> Result<Figures> {
        let path = self.disk.path();
        fio::measure(work, &self.setting.job(&path, &[], None, round), &self.setting.interrupt)
    }
}
