//! What goes wrong in a simulated world: processes killed and frozen, hosts and everything without power, connections cut, hosts
//! parted, disks that die, fail and lie, a client's own way to a disk that is lost. The seed says what, when, and how much of it there is in this world.
//!
//! Kept to what the design promises to survive: a disk lies about the catalog and slots only, and only one does, where the manager keeps its ways to the others; a machine is paused (its
//! clock stands) only while it has nothing open for reading alone; an error of a disk is its own answer.

use super::disk::{Faults, Way};
use super::net::HostNo;
use super::sched::ProcId;
use super::world::{Role, Shared};
use fusevol_shared::format::layout::Layout;
use std::rc::Rc;
use std::time::Duration;

/// What may happen, with its weight in this world.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillClient,
    KillManager,
    Freeze,
    PowerCut,
    Blackout,
    Cut,
    Part,
    Rival,
    DiskDies,
    /// A client's own way to a disk is lost.
    WayLost,
    /// The manager's is.
    ManagerWayLost,
    /// Clients do not reach the manager, and all reach the disks.
    Silence,
}

const ALL: [Fault; 9] = [
    Fault::KillClient,
    Fault::KillManager,
    Fault::Freeze,
    Fault::PowerCut,
    Fault::Blackout,
    Fault::Cut,
    Fault::Part,
    Fault::Rival,
    Fault::DiskDies,
];

/// The same, where there is a way through the manager.
const WAYS: [Fault; 3] = [Fault::WayLost, Fault::ManagerWayLost, Fault::Silence];

/// A process goes on.
pub fn thaw(shared: &Rc<Shared>, proc: ProcId) {
    shared.pool.media.iter().for_each(|(_, m)| m.release(proc));
    shared.exec.thaw(proc);
}

/// Lets things go wrong for a while.
pub async fn run(shared: &Rc<Shared>) {
    let sched = shared.sched().clone();
    // Each world has some kinds of faults, and not others: rare combinations come up.
    let mut weights: Vec<u64> = ALL.iter().map(|_| if sched.one_in(2) { 0 } else { 1 + sched.below(6) }).collect();
    let dies = ALL.len() - 1;
    if !shared.mirrored {
        weights[dies] = 0;
    } else if sched.one_in(2) {
        weights[dies] = 3 + sched.below(6);
    }
    let mut all = ALL.to_vec();
    if shared.ways {
        shared.only_ways.set(sched.one_in(3));
        if shared.only_ways.get() {
            weights.fill(0);
        }
        all.extend(WAYS);
        let of_more = || if shared.only_ways.get() { 0 } else { sched.below(5) };
        weights.extend([3 + sched.below(6), of_more(), of_more()]);
    }
    let total: u64 = weights.iter().sum();
    // One disk is ill at a time: errors and lies where none dies.
    let ill = usize::try_from(sched.below(shared.pool.media.len() as u64)).expect("few");
    if weights[dies] == 0 && !shared.only_ways.get() {
        // A manager that has lost its way to the other copy has none that is trusted.
        let manager_way = all.iter().zip(&weights).any(|(f, w)| matches!(f, Fault::ManagerWayLost) && *w > 0);
        disks(shared, ill, !manager_way);
    }
    let n = 2 + sched.below(9);
    while shared.watch.serving().is_none() {
        shared.exec.sleep(Duration::from_millis(10)).await;
    }
    shared.exec.sleep(Duration::from_millis(sched.below(300))).await;
    for _ in 0..n {
        let gap = if sched.one_in(4) { 3_000 } else { 300 };
        shared.exec.sleep(Duration::from_millis(1 + sched.below(gap))).await;
        if total == 0 {
            continue;
        }
        let mut at = sched.below(total);
        let which = all.iter().zip(&weights).find(|(_, w)| {
            let here = at < **w;
            at = at.saturating_sub(**w);
            here
        });
        if let Some((fault, _)) = which {
            shared.faults.set(shared.faults.get() + 1);
            sched.say(super::sched::WORLD, format_args!("fault: {fault:?}"));
            strike(shared, *fault, ill).await;
        }
    }
    shared.exec.sleep(Duration::from_millis(sched.below(1_000))).await;
}

/// Errors and lies of disks in this world.
fn disks(shared: &Shared, which: usize, lies: bool) {
    let sched = shared.sched();
    let media = &shared.pool.media;
    let size = media[which].1.image();
    let layout = Layout::for_disk(shared.pool.au_size, fusevol_shared::disk::Disk::size(&size)).expect("large enough");
    let first = layout.first_data.start(shared.pool.au_size).0;
    let slots = layout.slot(fusevol_shared::ids::SessionNo(0)).0;
    let end = fusevol_shared::disk::Disk::size(&size);
    match sched.below(5) {
        0 => media[which].1.set_faults(Faults {
            read: 200 + sched.below(1000),
            write: 100 + sched.below(1000),
            flush: 60 + sched.below(400),
            within: first..end,
            ..Faults::default()
        }),
        1 if lies => media[which].1.set_faults(Faults {
            lost: 30 + sched.below(200),
            astray: 30 + sched.below(200),
            lies: slots..first,
            ..Faults::default()
        }),
        _ => {}
    }
}

fn some(shared: &Shared, which: impl Fn(Role) -> bool) -> Option<ProcId> {
    let procs: Vec<ProcId> = shared.living.borrow().iter().filter(|(_, l)| which(l.role)).map(|(p, _)| *p).collect();
    let n = procs.len() as u64;
    (n > 0).then(|| procs[usize::try_from(shared.sched().below(n)).expect("few")])
}

fn host(shared: &Shared) -> HostNo {
    HostNo(u32::try_from(shared.sched().below(2)).expect("two"))
}

async fn strike(shared: &Rc<Shared>, fault: Fault, ill: usize) {
    let sched = shared.sched().clone();
    match fault {
        Fault::KillClient => {
            if let Some(p) = some(shared, |r| matches!(r, Role::Client(_))) {
                shared.kill(p);
            }
        }
        Fault::KillManager => {
            if let Some(p) = some(shared, |r| matches!(r, Role::Manager(_))) {
                shared.kill(p);
            }
        }
        Fault::Freeze => freeze(shared),
        Fault::DiskDies => disk_dies(shared, ill),
        Fault::WayLost => way_lost(shared, |r| matches!(r, Role::Client(_))),
        Fault::ManagerWayLost => way_lost(shared, |r| matches!(r, Role::Manager(_))),
        Fault::Silence => {
            let serving = shared.watch.serving().and_then(|p| shared.living.borrow().get(&p).map(|l| l.host));
            shared.net.part(serving.unwrap_or(HostNo(0)), host(shared));
            let (net, heal) = (shared.net.clone(), 2_000 + sched.below(8_000));
            sched.after(heal * 1_000_000, move || net.heal());
        }
        Fault::PowerCut => shared.reboot(host(shared)),
        Fault::Blackout => shared.blackout(),
        Fault::Cut => {
            let conns = shared.net.standing();
            if !conns.is_empty() {
                shared.net.cut(conns[usize::try_from(sched.below(conns.len() as u64)).expect("few")]);
            }
        }
        Fault::Part => {
            shared.net.part(HostNo(0), host(shared));
            let (net, heal) = (shared.net.clone(), sched.below(if sched.one_in(3) { 8_000 } else { 800 }));
            sched.after(heal * 1_000_000, move || net.heal());
        }
        Fault::Rival => {
            let (world, n) = (shared.clone(), usize::try_from(sched.below(2)).expect("two"));
            // It tries for a while, and goes away if it has not won.
            let rival = shared.clone();
            drop(shared.exec.spawn(super::sched::WORLD, async move { rival.manager(n).await }));
            let time = Duration::from_millis(sched.below(15_000));
            drop(shared.exec.spawn(super::sched::WORLD, async move {
                world.exec.sleep(time).await;
                world.retire(n);
            }));
        }
    }
}

/// A disk answers nothing but errors for a while; perhaps it is given up meanwhile.
fn disk_dies(shared: &Rc<Shared>, ill: usize) {
    let sched = shared.sched().clone();
    let medium = shared.pool.media[ill].1.clone();
    medium.set_faults(Faults { dead: true, ..Faults::default() });
    let ms = if sched.one_in(2) { sched.below(12_000) } else { sched.below(1_500) };
    let (world, give_up) = (shared.clone(), sched.one_in(2));
    drop(shared.exec.spawn(super::sched::WORLD, async move {
        world.exec.sleep(Duration::from_millis(ms / 2)).await;
        if give_up {
            world.give_up(ill, false).await;
        }
        world.exec.sleep(Duration::from_millis(ms / 2)).await;
        medium.set_faults(Faults::default());
        if give_up {
            world.give_up(ill, true).await;
        }
    }));
}

/// A process's own way to a disk fails for a while, or hangs first.
fn way_lost(shared: &Rc<Shared>, whose: impl Fn(Role) -> bool) {
    let sched = shared.sched().clone();
    let Some(proc) = some(shared, whose) else { return };
    let n = usize::try_from(sched.below(shared.pool.media.len() as u64)).expect("few");
    let medium = shared.pool.media[n].1.clone();
    if !medium.is_reached(proc) {
        return;
    }
    let hangs = sched.one_in(2);
    sched.say(proc, format_args!("its way to disk {n} {}", if hangs { "hangs" } else { "fails" }));
    medium.lose(proc, if hangs { Way::Hangs } else { Way::Fails });
    let (hang, fails) = (sched.below(if sched.one_in(3) { 3_000 } else { 200 }), !hangs || sched.one_in(3) || sched.one_in(2));
    let ms = if sched.one_in(3) { sched.below(8_000) } else { sched.below(1_000) };
    let world = shared.clone();
    drop(shared.exec.spawn(super::sched::WORLD, async move {
        if hangs {
            world.exec.sleep(Duration::from_millis(hang)).await;
        }
        if hangs && fails && !medium.is_reached(proc) {
            medium.lose(proc, Way::Fails);
        }
        if fails {
            world.exec.sleep(Duration::from_millis(ms)).await;
        }
        medium.regain(proc);
        if fails {
            world.watch.is_back(proc, fusevol_shared::units::DiskNo(u16::try_from(n).expect("few")));
        }
    }));
}

/// Freezes a process for a while; a client that is being given up is left alone.
fn freeze(shared: &Rc<Shared>) {
    let sched = shared.sched().clone();
    let confirming = shared.confirming.get();
    let Some(p) = some(shared, |r| !matches!(r, Role::Client(n) if confirming == Some(n))) else { return };
    if sched.frozen(p) {
        return;
    }
    let manager = shared.living.borrow().get(&p).is_some_and(|l| matches!(l.role, Role::Manager(_)));
    let paused = !manager && !shared.reads(p) && sched.one_in(2);
    sched.freeze(p, paused);
    shared.pool.media.iter().for_each(|(_, m)| m.hold(p));
    let ms = if sched.one_in(2) { sched.below(15_000) } else { sched.below(1_000) };
    let world = shared.clone();
    drop(shared.exec.spawn(super::sched::WORLD, async move {
        world.exec.sleep(Duration::from_millis(ms)).await;
        if world.living.borrow().contains_key(&p) && world.sched().frozen(p) {
            thaw(&world, p);
        }
    }));
}
