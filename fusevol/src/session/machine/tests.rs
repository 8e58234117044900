//! The session's decisions, with made-up events on a made-up clock.

use super::*;
use fusevol_shared::random::SeededRandom;

const LEASE: Duration = Duration::from_secs(9);
const PATIENCE: Duration = Duration::from_secs(60);

fn at(ms: u64) -> BootTime {
    BootTime(ms * 1_000_000)
}

fn step(m: &mut Machine, ms: u64, event: Event) -> Vec<Effect> {
    let mut out = Vec::new();
    m.step(at(ms), event, &mut out);
    out
}

fn welcomed(sent: u64, generation: u64) -> Event {
    Event::Welcomed { sent: at(sent), lease: LEASE, generation: Generation(generation) }
}

/// Welcomed at 500 ms to a `Hello` that was sent at 10 ms.
fn live() -> Machine {
    let mut m = Machine::new(at(0), PATIENCE);
    assert_eq!(m.deadline(), None);
    assert_eq!(step(&mut m, 500, welcomed(10, 1)), [Effect::Lease(at(9_010))]);
    m
}

#[test]
fn the_lease_counts_from_when_its_request_was_sent() {
    let mut m = live();
    assert_eq!(m.deadline(), Some(at(3_010)), "a third of it");
    assert_eq!(step(&mut m, 3_010, Event::Tick), [Effect::Renew]);
    assert_eq!(step(&mut m, 4_000, Event::Tick), [], "one at a time");
    assert_eq!(step(&mut m, 5_000, Event::Renewed { sent: at(3_020) }), [Effect::Lease(at(12_020))]);
    assert_eq!(m.state(), &State::Live { until: at(12_020) });
    assert_eq!(m.deadline(), Some(at(6_020)));
}

#[test]
fn an_answer_that_comes_after_its_own_lease_gives_none() {
    let mut m = live();
    step(&mut m, 3_010, Event::Tick);
    let out = step(&mut m, 13_000, Event::Renewed { sent: at(3_010) });
    assert_eq!(out, [Effect::Fence, Effect::Renew], "and asks again at once");
}

#[test]
fn a_lost_manager_fences_when_the_lease_is_over_and_not_before() {
    let mut m = live();
    step(&mut m, 3_010, Event::Tick);
    assert_eq!(step(&mut m, 9_009, Event::Tick), []);
    assert_eq!(m.state(), &State::Live { until: at(9_010) }, "mapped I/O goes on");
    assert_eq!(step(&mut m, 9_010, Event::Tick), [Effect::Fence]);
    assert_eq!(m.state(), &State::Fenced { since: at(9_010), failing: false });
}

#[test]
fn io_waits_for_its_time_and_then_fails_until_the_manager_is_back() {
    let mut m = live();
    step(&mut m, 9_010, Event::Tick);
    let mut out = Vec::new();
    let mut now = m.deadline().expect("it is awake");
    while now < at(69_010) {
        m.step(now, Event::Tick, &mut out);
        now = m.deadline().expect("it is awake");
    }
    assert!(!out.contains(&Effect::Fail));
    assert!(out.contains(&Effect::Reconnect), "a connection that does not answer is given up");
    out.clear();
    m.step(at(69_010), Event::Tick, &mut out);
    assert_eq!(out, [Effect::Fail]);
    assert_eq!(step(&mut m, 100_000, welcomed(99_990, 1)), [Effect::Lease(at(108_990))]);
}

#[test]
fn a_fenced_session_comes_back_and_hears_of_another_manager() {
    let mut m = live();
    step(&mut m, 9_010, Event::Tick);
    assert_eq!(step(&mut m, 20_020, welcomed(20_010, 2)), [Effect::Lease(at(29_010)), Effect::Refresh]);
    assert_eq!(m.state(), &State::Live { until: at(29_010) });
    // The Renew that was out goes out again on the new connection, which gets its own time to answer.
    assert_eq!(step(&mut m, 28_000, Event::Tick), []);
    assert_eq!(step(&mut m, 29_010, Event::Tick), [Effect::Fence]);
    assert_eq!(step(&mut m, 29_020, Event::Tick), [Effect::Reconnect]);
}

#[test]
fn a_renewal_that_lapsed_is_decided_by_hello() {
    let mut m = live();
    step(&mut m, 3_010, Event::Tick);
    let out = step(&mut m, 8_000, Event::NotRenewed { kind: Kind::Lapsed, sentence: "the lease is over".into() });
    assert_eq!(out, [Effect::Reconnect]);
    assert_eq!(step(&mut m, 8_010, welcomed(8_005, 1)), [Effect::Lease(at(17_005))]);
}

#[test]
fn refused_by_hello_is_the_end() {
    let mut m = live();
    let why = Why::Refused { kind: Kind::Lapsed, sentence: "gone".into() };
    let out = step(&mut m, 20_020, Event::Ended { kind: Kind::Lapsed, sentence: "gone".into() });
    assert_eq!(out, [Effect::End(why.clone())]);
    assert_eq!(m.deadline(), None);
    assert_eq!(step(&mut m, 20_030, welcomed(20_025, 1)), [], "nothing brings it back");
    assert_eq!(step(&mut m, 20_030, Event::Renewed { sent: at(20_030) }), []);
    assert_eq!(m.state(), &State::Over(why));
}

#[test]
fn a_revoked_client_ends_at_once() {
    let mut m = live();
    step(&mut m, 3_010, Event::Tick);
    let out = step(&mut m, 3_020, Event::NotRenewed { kind: Kind::Denied, sentence: "revoked".into() });
    assert_eq!(out, [Effect::End(Why::Refused { kind: Kind::Denied, sentence: "revoked".into() })]);
}

#[test]
fn a_lease_never_moves_back() {
    let mut m = live();
    step(&mut m, 3_010, Event::Tick);
    step(&mut m, 5_010, welcomed(5_000, 1));
    // The Renew that was out before the new connection is answered later, by its first sending's time.
    assert_eq!(step(&mut m, 5_020, Event::Renewed { sent: at(3_020) }), []);
    assert_eq!(m.state(), &State::Live { until: at(14_000) });
}

#[test]
fn no_sequence_of_events_breaks_the_invariants() {
    for seed in 0..300 {
        let mut r = SeededRandom(seed);
        let mut m = Machine::new(at(0), PATIENCE);
        let (mut now, mut over, mut until) = (0u64, false, None::<BootTime>);
        for _ in 0..400 {
            now += r.below(2_000);
            let sent = now.saturating_sub(r.below(15_000));
            let event = match r.below(20) {
                0 => welcomed(sent, r.below(3)),
                1..=6 => Event::Renewed { sent: at(sent) },
                7 => Event::NotRenewed { kind: Kind::Lapsed, sentence: String::new() },
                8 if r.below(40) == 0 => Event::Ended { kind: Kind::Denied, sentence: String::new() },
                _ => Event::Tick,
            };
            for e in step(&mut m, now, event) {
                assert!(!over, "an effect after the end: {e:?}");
                match e {
                    Effect::Lease(t) => {
                        assert!(t > at(now) && t <= at(now).plus(LEASE) && until.is_none_or(|u| t > u));
                        until = Some(t);
                    }
                    Effect::Fence => until = None,
                    Effect::End(_) => over = true,
                    Effect::Renew | Effect::Reconnect | Effect::Fail | Effect::Refresh => {}
                }
            }
            if let State::Live { until: t } = m.state() {
                assert!(Some(*t) == until && *t > at(now), "a lease in the past is no lease");
            }
            assert_eq!(m.deadline().is_none(), over || *m.state() == State::Opening, "seed {seed}");
        }
    }
}
