//! The session's decisions, with made-up events on a made-up clock.

use super::*;
use fusevol_shared::random::SeededRandom;

const LEASE: Duration = Duration::from_secs(9);
const PATIENCE: Duration = Duration::from_secs(60);

fn at(ms: u64) -> BootTime {
    BootTime(ms * 1_000_000)
}

fn all(m: &mut Machine, ms: u64, event: Event) -> Vec<Effect> {
    let mut out = Vec::new();
    m.step(at(ms), event, &mut out);
    out
}

/// A step of a session whose slot disks never answer: only what the network does.
fn step(m: &mut Machine, ms: u64, event: Event) -> Vec<Effect> {
    let mut out = all(m, ms, event);
    out.retain(|e| !matches!(e, Effect::Beat | Effect::Mail));
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
    m.beating = true;
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
    assert_eq!(m.state(), &State::Fenced { since: at(9_010) });
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
    assert_eq!(step(&mut m, 100_000, welcomed(99_990, 1)), [Effect::Lease(at(108_990)), Effect::Answers]);
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
fn heartbeats_alone_keep_the_lease_and_a_lost_network_ends_nothing() {
    let mut m = live();
    let lost = || Event::NotRenewed { kind: Kind::Unreachable, sentence: "no route".into() };
    let mut now = 3_000;
    assert_eq!(all(&mut m, now, Event::Tick), [Effect::Beat], "a third of it, beside Renew");
    while now < 200_000 {
        let out = all(&mut m, now + 50, Event::Beaten { sent: at(now) });
        assert_eq!(out[0], Effect::Lease(at(now + 9_000)), "from before the heartbeat was submitted");
        let out = all(&mut m, now + 60, lost());
        assert!(!out.iter().any(|e| matches!(e, Effect::End(_) | Effect::Fence)), "{out:?}");
        now += 3_000;
        assert!(all(&mut m, now, Event::Tick).contains(&Effect::Beat));
    }
    assert!(matches!(m.state(), State::Live { .. }));
    assert!(m.is_failing(), "what needs the manager fails all the same: it does not hang for ever");
    assert_eq!(m.extended(), Extended { network: Some(at(10)), disk: Some(at(now - 3_000)) });
    assert_eq!(step(&mut m, now + 10, Event::Renewed { sent: at(now + 5) }), [Effect::Lease(at(now + 9_005)), Effect::Answers]);
}

#[test]
fn the_network_alone_keeps_the_lease_while_no_slot_disk_answers() {
    let mut m = live();
    for now in (3_010..100_000).step_by(3_000) {
        assert!(all(&mut m, now, Event::Tick).contains(&Effect::Renew));
        let out = step(&mut m, now + 20, Event::Renewed { sent: at(now) });
        assert_eq!(out, [Effect::Lease(at(now + 9_000))]);
        assert_eq!(step(&mut m, now + 30, Event::NotBeaten), []);
    }
    assert!(!m.is_failing());
}

#[test]
fn neither_fences_and_a_heartbeat_brings_it_back() {
    let mut m = live();
    assert_eq!(all(&mut m, 3_000, Event::Tick), [Effect::Beat]);
    assert_eq!(step(&mut m, 3_005, Event::NotBeaten), []);
    assert!(all(&mut m, 9_010, Event::Tick).starts_with(&[Effect::Fence]));
    assert_eq!(m.state(), &State::Fenced { since: at(9_010) });
    assert_eq!(all(&mut m, 9_020, Event::NotBeaten), []);
    assert_eq!(all(&mut m, 12_010, Event::Tick), [Effect::Beat], "also while it is fenced");
    assert_eq!(all(&mut m, 12_020, Event::Beaten { sent: at(12_011) }), [Effect::Lease(at(21_011)), Effect::Mail]);
}

#[test]
fn a_heartbeat_that_took_longer_than_its_lease_gives_none() {
    let mut m = live();
    assert_eq!(all(&mut m, 3_000, Event::Tick), [Effect::Beat]);
    assert!(all(&mut m, 9_010, Event::Tick).starts_with(&[Effect::Fence]));
    // Begun before the lease's end, ended after it, within its own: it counts from its beginning.
    let mut other = Machine { extended: m.extended, state: m.state.clone(), ..live() };
    assert!(all(&mut other, 11_999, Event::Beaten { sent: at(3_000) }).starts_with(&[Effect::Lease(at(12_000))]));
    let out = all(&mut m, 12_000, Event::Beaten { sent: at(3_000) });
    assert_eq!(out, [Effect::Mail, Effect::Beat], "and begins another at once");
    assert!(matches!(m.state(), State::Fenced { .. }));
}

#[test]
fn a_heartbeat_never_shortens_a_lease_nor_puts_a_renewal_off() {
    let mut m = live();
    assert_eq!(all(&mut m, 3_000, Event::Tick), [Effect::Beat]);
    assert_eq!(all(&mut m, 3_010, Event::Tick), [Effect::Renew]);
    assert_eq!(all(&mut m, 3_050, Event::Renewed { sent: at(3_020) }), [Effect::Lease(at(12_020))]);
    assert_eq!(all(&mut m, 3_060, Event::Beaten { sent: at(3_000) }), []);
    assert_eq!(all(&mut m, 6_000, Event::Tick), [Effect::Beat]);
    assert_eq!(all(&mut m, 6_015, Event::Beaten { sent: at(6_001) }), [Effect::Lease(at(15_001))]);
    assert_eq!(all(&mut m, 6_020, Event::Tick), [Effect::Renew], "a third after the last renewal");
    // An answer that extends nothing is an answer: no next one is asked for at once.
    assert_eq!(all(&mut m, 6_030, Event::Renewed { sent: at(5_990) }), []);
}

#[test]
fn a_sealed_session_is_over_at_once() {
    for fenced in [false, true] {
        let mut m = live();
        assert_eq!(all(&mut m, 3_000, Event::Tick), [Effect::Beat]);
        if fenced {
            step(&mut m, 9_010, Event::Tick);
        }
        let why = Why::Refused { kind: Kind::Lapsed, sentence: "sealed".into() };
        assert_eq!(all(&mut m, 9_020, Event::Sealed { sentence: "sealed".into() }), [Effect::End(why)]);
        assert_eq!(all(&mut m, 9_030, Event::Renewed { sent: at(9_025) }), [], "no answer brings it back");
        assert_eq!(all(&mut m, 9_030, Event::Beaten { sent: at(9_025) }), []);
        assert_eq!(m.deadline(), None);
    }
}

#[test]
fn letters_are_looked_for_while_no_manager_is_heard_and_answered_at_once() {
    let mut m = live();
    assert_eq!(all(&mut m, 3_000, Event::Tick), [Effect::Beat]);
    assert_eq!(all(&mut m, 3_010, Event::Tick), [Effect::Renew]);
    assert_eq!(all(&mut m, 4_000, Event::Beaten { sent: at(3_001) }), [Effect::Lease(at(12_001))], "not for half a lease yet");
    assert_eq!(all(&mut m, 6_000, Event::Tick), [Effect::Beat]);
    assert_eq!(all(&mut m, 6_010, Event::Beaten { sent: at(6_001) }), [Effect::Lease(at(15_001)), Effect::Mail]);
    assert_eq!(all(&mut m, 6_100, Event::Answered), [Effect::Beat], "before its time");
    assert_eq!(all(&mut m, 6_110, Event::Answered), [], "one at a time");
    let out = all(&mut m, 6_120, Event::Beaten { sent: at(6_101) });
    assert_eq!(out, [Effect::Lease(at(15_101)), Effect::Mail, Effect::Beat], "the one under way may not have it");
    assert_eq!(all(&mut m, 6_130, Event::Beaten { sent: at(6_121) }), [Effect::Lease(at(15_121)), Effect::Mail]);
    assert_eq!(m.deadline(), Some(at(9_120)), "the next in its time");
}

#[test]
fn before_the_welcome_nothing_is_extended() {
    let mut m = Machine::new(at(0), PATIENCE);
    assert_eq!(all(&mut m, 10, Event::Beaten { sent: at(5) }), []);
    assert_eq!(m.state(), &State::Opening);
}

#[test]
fn no_sequence_of_events_breaks_the_invariants() {
    for seed in 0..300 {
        let mut r = SeededRandom(seed);
        let mut m = Machine::new(at(0), PATIENCE);
        let (mut now, mut over, mut until) = (0u64, false, None::<BootTime>);
        let (mut beating, mut failing) = (false, false);
        for _ in 0..400 {
            now += r.below(2_000);
            let sent = now.saturating_sub(r.below(15_000));
            let event = match r.below(20) {
                0 => welcomed(sent, r.below(3)),
                1..=6 => Event::Renewed { sent: at(sent) },
                7 => Event::NotRenewed { kind: Kind::Lapsed, sentence: String::new() },
                8 if r.below(40) == 0 => Event::Ended { kind: Kind::Denied, sentence: String::new() },
                9 if r.below(40) == 0 => Event::Sealed { sentence: String::new() },
                10..=12 if beating => Event::Beaten { sent: at(sent) },
                13 if beating => Event::NotBeaten,
                14 => Event::Answered,
                _ => Event::Tick,
            };
            beating &= !matches!(event, Event::Beaten { .. } | Event::NotBeaten);
            for e in all(&mut m, now, event) {
                assert!(!over, "an effect after the end: {e:?}");
                match e {
                    Effect::Lease(t) => {
                        assert!(t > at(now) && t <= at(now).plus(LEASE) && until.is_none_or(|u| t > u));
                        until = Some(t);
                    }
                    Effect::Fence => until = None,
                    Effect::End(_) => over = true,
                    Effect::Beat => assert!(!std::mem::replace(&mut beating, true), "one at a time"),
                    Effect::Fail => assert!(!std::mem::replace(&mut failing, true), "said once"),
                    Effect::Answers => assert!(std::mem::take(&mut failing), "said where it failed"),
                    Effect::Mail => assert!(m.extended().network.is_none_or(|n| at(now) >= n.plus(LEASE / 2)), "a manager is heard"),
                    Effect::Renew | Effect::Reconnect | Effect::Refresh => {}
                }
            }
            if let State::Live { until: t } = m.state() {
                assert!(Some(*t) == until && *t > at(now), "a lease in the past is no lease");
            }
            assert_eq!(m.deadline().is_none(), over || *m.state() == State::Opening, "seed {seed}");
        }
    }
}
