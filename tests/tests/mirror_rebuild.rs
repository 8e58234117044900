//! Rebuilds of real mirrored volumes: progress that all see alike, client and manager killed within, a pool without room, a dead writer. (SEMANTICS.md, "Mirrors".)

use fusevol_tests::real::load::{Load, Oracle, THREADS};
use fusevol_tests::real::mirrored::{Mirrored, PATIENCE, fill, filled, goes_on, number, shown};
use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::wait::{pause, until};
use std::time::Duration;

const DISK: u64 = 2 << 30;
/// Beside the load's part, from here on.
const FROM: u64 = 64 << 20;
/// What a process that was killed had sent to a server has landed after so long.
const LANDED: Duration = Duration::from_millis(500);
/// So long a pause is looked at; some AUs would be copied in it.
const PAUSED: Duration = Duration::from_secs(2);

/// Waits until fewer AUs than these lack copies, and tells how many do.
fn falls_below(m: &Mirrored, most: u64) -> u64 {
    until(&format!("fewer than {most} AUs to lack copies"), PATIENCE, || Some(m.todo()).filter(|n| *n < most))
}

/// The same number from the manager's job, its status, and the mount: while nothing is copied, so that it stands still.
fn the_same_number_everywhere(m: &Mirrored, mount: &Mount) -> u64 {
    let _said = m.pool.mgr(&["job", "pause", "db"]).ok();
    // What is under way comes to its end, and is folded.
    pause(PAUSED);
    let todo = until("the same number everywhere", PATIENCE, || {
        let job = m.job().expect("copies are lacking");
        let (todo, mounts) = (number(&job, "todo"), number(&shown(mount), "todo"));
        (job["state"] == "paused" && todo == mounts && m.todo() == todo).then_some(todo)
    });
    let _said = m.pool.mgr(&["status"]).says(&format!("lacks copies of {todo} of "));
    pause(PAUSED);
    assert_eq!(m.todo(), todo, "it is paused in the midst of a round, too");
    let _said = m.pool.mgr(&["job", "resume", "db"]).ok();
    todo
}

/// > What was acknowledged by fsync survives the loss of any one disk of a volume with two copies.
///
/// A disk is given up under load; within the rebuild first the client is killed, and the manager goes on; then the manager, and the next one goes on; then
/// the client is there again, and brings it to its end.
#[test]
fn client_and_manager_are_killed_within_a_rebuild() {
    let mut m = Mirrored::new(&[DISK; 3], "512M");
    let mount = m.mount("fv");
    fill(&mount.image("db"), FROM, 256);
    let load = Load::in_place(&mount.image("db"), Oracle::new(1, THREADS), 1);
    goes_on(&load, 200);
    m.servers[1].kill();
    goes_on(&load, 100);
    m.says("goes on without its copies");
    let _said = m.pool.mgr(&["job", "limit", "db", "4M"]).ok();
    let _said = m.pool.mgr(&["disk", "fail", "1"]).ok();
    let all = until("the rebuild to be seen", PATIENCE, || Some(m.todo()).filter(|n| *n > 0));
    falls_below(&m, all);
    let same = the_same_number_everywhere(&m, &mount);
    assert!(same > 0 && same < all, "{same} of {all}: it was to be seen on its way");
    let job = m.job().expect("it goes on");
    assert!(job["by"].as_str().is_some_and(|by| by.contains("host1")), "the writer copies: {job}");
    goes_on(&load, 50);

    println!("{} AUs lacked copies, {} when the client is killed", all, m.todo());
    mount.kill();
    let mut oracle = load.wreck();
    pause(LANDED);
    m.revive();
    m.confirm_dead();
    let left = until("the manager to go on", PATIENCE, || m.job().filter(|j| j["by"] == "manager").map(|j| number(&j, "todo")));
    let left = falls_below(&m, left);

    println!("{left} when the manager is killed; the disk is still gone when the next one begins");
    m.pool.kill();
    pause(LANDED);
    m.revive();
    let forced = m.pool.serve_at_any_rate();
    let again = m.todo();
    assert!(again > 0 && again <= left, "{again} of {left}: it goes on from the status");
    let left = falls_below(&m, again);

    println!("{left} when the client is there again; the manager needed the administrator's word: {forced}");
    let mount = m.mount("again");
    oracle.verify("after the kills", &mount.image("db"));
    let mut load = Load::in_place(&mount.image("db"), oracle, 2);
    goes_on(&load, 100);
    let _said = m.pool.mgr(&["job", "limit", "db", "0"]).ok();
    m.whole();
    m.says("has all its copies");
    goes_on(&load, 100);
    load.verify("with all copies");
    let mut oracle = load.finish();
    // The other one of the first two dies now: what was copied is all there is.
    m.servers[0].kill();
    oracle.verify("from the new copies", &mount.image("db"));
    filled(&mount.image("db"), FROM, 256);
    m.servers[0].start();
    m.whole();
    mount.umount();
    // Who proves the pool wants to see all of it, what is given up, too.
    m.servers[1].start();
    println!("{} AUs have equal copies", m.check_copies());
}
