//! Disks that the manager had lost, and what is at their places since.

use super::harness::World;
use crate::core::admin_api::{Finding, Level};
use crate::core::{AdminReply, AdminRequest, Effect, Event};
use fusevol_shared::units::DiskNo;

const DISK: DiskNo = DiskNo(1);

fn said(effects: &[Effect]) -> Vec<(Level, String, String)> {
    let one = |e: &Effect| match e {
        Effect::Notice(n) => Some((n.level, n.what.clone(), n.text.clone())),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

fn finds(w: &mut World) -> Vec<Finding> {
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!("a status") };
    s.findings.into_iter().filter(|f| f.text.contains("disk 1")).collect()
}

#[test]
fn a_disk_that_is_not_used_is_named_with_why_and_once_it_is_used_again_that_is_said() {
    let mut w = World::new(2, 64);
    w.core.set_lost(vec![(DISK, "the server has closed the connection".to_owned())]);
    let found = finds(&mut w);
    assert!(found.len() == 1 && found[0].level == Level::Warning && found[0].text.contains("is missing"), "{found:?}");
    let refused = |why: &str| Event::DiskRefused { disk: DISK, why: Some(why.to_owned()) };
    let news = said(&w.step(refused("it is older")));
    let [(Level::Critical, what, text)] = &news[..] else { panic!("{news:?}") };
    assert!(what == "disk-refused" && text.starts_with("disk 1 is back, and is not used: it is older; "), "{text}");
    assert!(text.contains("fusevol-mgr disk fail 1"), "{text}");
    assert_eq!(said(&w.step(refused("it is older"))), [], "once");
    assert_eq!(said(&w.step(refused("it is disk 2"))).len(), 1, "that is news");
    let found = finds(&mut w);
    assert_eq!((found[0].level, found[0].text.as_str()), (Level::Critical, "disk 1 is back, and is not used: it is disk 2"));
    assert_eq!(found[0].action, "fusevol-mgr disk fail 1");
    // Nothing is there any more.
    assert_eq!(said(&w.step(Event::DiskRefused { disk: DISK, why: None })), []);
    assert!(finds(&mut w)[0].text.contains("is missing"));
    let _said = w.step(refused("it is older"));
    let news = said(&w.step(Event::DiskBack { disk: DISK }));
    assert!(news.len() == 1 && news[0].1 == "disk-back" && news[0].2.contains("disk 1 is back"), "{news:?}");
    w.core.set_lost(Vec::new());
    assert!(finds(&mut w).is_empty());
    // It may be lost again, and refused for the same reason.
    assert_eq!(said(&w.step(refused("it is older"))).len(), 1);
}
