//! The breaker, silences and retries, tested without waiting.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn opens_after_failures_and_closes_after_a_good_probe() {
    let start = Instant::now();
    let mut health = Health::new(start);
    for _ in 0..FAILURES - 1 {
        health.failed(start, 0.5);
        assert_eq!(health.admit(start), Admission::Go);
    }
    health.failed(start, 0.5);
    assert_eq!(health.admit(start), Admission::Avoid);
    let later = start + PAUSE_FIRST;
    assert_eq!(health.admit(later), Admission::Go, "the probe");
    assert_eq!(health.admit(later), Admission::Avoid, "only one probe");
    health.answered(false);
    assert_eq!(health.admit(later), Admission::Go);
}

#[test]
fn an_outage_that_nobody_asks_about_again_is_not_shown_for_ever() {
    let now = Instant::now();
    let mut health = Health::new(now);
    for _ in 0..FAILURES {
        health.failed(now, 0.5);
    }
    assert!(health.is_open(now) && health.is_open(now + SHOWN));
    let later = now + PAUSE_FIRST + SHOWN;
    assert!(!health.is_open(later));
    // The next request is still the probe, and its failure is shown.
    assert_eq!(health.admit(later), Admission::Go);
    health.failed(later, 0.5);
    assert!(health.is_open(later));
}

#[test]
fn a_failed_probe_doubles_the_pause_up_to_its_bound() {
    let mut now = Instant::now();
    let mut health = Health::new(now);
    for _ in 0..FAILURES {
        health.failed(now, 0.5);
    }
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let begin = now;
        while health.admit(now) != Admission::Go {
            now += SECOND / 4;
        }
        pauses.push((now - begin).as_secs());
        health.failed(now, 0.5);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn a_lost_probe_does_not_close_the_endpoint_for_ever() {
    let now = Instant::now();
    let mut health = Health::new(now);
    for _ in 0..FAILURES {
        health.failed(now, 0.5);
    }
    assert_eq!(health.admit(now + PAUSE_MAX), Admission::Go);
    assert_eq!(health.admit(now + PAUSE_MAX + PROBE), Admission::Go);
}

fn left(admission: Admission) -> Option<Duration> {
    match admission {
        Admission::Silent(silent) => Some(silent.left),
        _ => None,
    }
}

#[test]
fn silence_is_kept_as_long_as_was_asked() {
    let now = Instant::now();
    let mut health = Health::new(now);
    health.limited(now, Some(7 * SECOND), Limit::Quota, false);
    assert_eq!(left(health.admit(now + 2 * SECOND)), Some(5 * SECOND));
    // A shorter silence that is requested later does not shorten this one.
    health.limited(now, Some(SECOND), Limit::Quota, false);
    assert_eq!(left(health.admit(now + 2 * SECOND)), Some(5 * SECOND));
    // An answer to an earlier request does not shorten it either.
    health.answered(false);
    assert_eq!(left(health.admit(now + 2 * SECOND)), Some(5 * SECOND));
    assert_eq!(health.admit(now + 7 * SECOND), Admission::Go);
    health.limited(now, Some(SECOND * 1_000_000), Limit::Quota, false);
    assert_eq!(health.admit(now + SILENCE_ASKED_MAX), Admission::Go);
}

#[test]
fn silence_without_a_time_doubles_until_an_answer() {
    let now = Instant::now();
    let mut health = Health::new(now);
    health.limited(now, None, Limit::Quota, false);
    assert_eq!(left(health.admit(now)), Some(SECOND));
    health.limited(now, None, Limit::Quota, false);
    assert_eq!(left(health.admit(now)), Some(2 * SECOND));
    health.answered(false);
    let later = now + 10 * SECOND;
    health.limited(later, None, Limit::Quota, false);
    assert_eq!(left(health.admit(later)), Some(SECOND));
}

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn a_confirmed_silence_doubles_the_pause_up_to_the_time_said() {
    let start = Instant::now();
    let mut health = Health::new(start);
    health.limited(start, Some(HOUR), Limit::Unavailable, false);
    let (mut now, mut probes) = (start, Vec::new());
    while now < start + HOUR {
        match health.admit(now) {
            Admission::Probe => {
                probes.push((now - start).as_secs() / 60);
                assert!(left(health.admit(now)).is_some(), "only one probe");
                // The registry states the time left, like a server that is down until a certain hour.
                let said = start + HOUR - now;
                health.limited(now, Some(said), Limit::Unavailable, true);
            }
            Admission::Silent(silent) => assert_eq!(silent.left, start + HOUR - now),
            other => panic!("{other:?}"),
        }
        now += SECOND;
    }
    assert_eq!(probes, [1, 3, 7, 15, 31]);
    assert_eq!(health.admit(now), Admission::Go);
}

#[test]
fn an_answered_probe_ends_the_silence_and_a_lost_one_does_not() {
    let start = Instant::now();
    let mut health = Health::new(start);
    health.limited(start, Some(HOUR), Limit::Unavailable, false);
    assert!(left(health.admit(start + 59 * SECOND)).is_some());
    assert_eq!(health.admit(start + MINUTE), Admission::Probe);
    // The probe has no result: another one may go.
    assert!(left(health.admit(start + MINUTE + SECOND)).is_some());
    let now = start + MINUTE + PROBE;
    assert_eq!(health.admit(now), Admission::Probe);
    // The probe fails, which confirms nothing. The next one waits as long as this one did.
    health.failed(now, 0.5);
    assert!(left(health.admit(now + 59 * SECOND)).is_some());
    assert_eq!(health.admit(now + MINUTE), Admission::Probe);
    health.answered(true);
    assert_eq!(health.admit(now + MINUTE), Admission::Go);
}

#[test]
fn a_probe_that_is_another_larders_is_put_off_a_little() {
    let start = Instant::now();
    let mut health = Health::new(start);
    health.limited(start, Some(HOUR), Limit::Quota, false);
    let now = start + MINUTE;
    assert_eq!(health.admit(now), Admission::Probe);
    assert_eq!(health.silenced(now), MINUTE);
    health.put_off(now);
    assert!(left(health.admit(now)).is_some());
    assert_eq!(health.admit(now + PUT_OFF), Admission::Probe);
}

#[test]
fn what_a_probe_is_told_counts() {
    let start = Instant::now();
    let now = start + MINUTE;
    for (told, until) in [
        (Some(2 * HOUR), now + 2 * HOUR),
        (Some(MINUTE), now + MINUTE),
        (None, start + HOUR),
    ] {
        let mut health = Health::new(start);
        health.limited(start, Some(HOUR), Limit::Unavailable, false);
        assert_eq!(health.admit(now), Admission::Probe);
        health.limited(now, told, Limit::Quota, true);
        assert_eq!(left(health.admit(now)), Some(until - now), "{told:?}");
    }
}

#[test]
fn retries_are_spread_when_many_want_one() {
    let now = Instant::now();
    let mut health = Health::new(now);
    let delays: Vec<Duration> = (0..60).map(|_| health.retry_delay(now)).collect();
    assert_eq!(delays[0], Duration::ZERO);
    assert_eq!(delays[39], Duration::ZERO);
    assert_eq!(delays[59], SECOND);
    assert_eq!(health.retry_delay(now + 10 * SECOND), Duration::ZERO);
}
