use super::*;

/// What a source does. The times in the cases are milliseconds.
#[derive(Clone, Copy, Debug)]
enum Event {
    Brings(u64),
    Fails,
    Stalls,
}
use Event::{Brings, Fails, Stalls};

#[test]
fn a_source_is_given_up_in_time_and_not_before() {
    let fill = Patience::of_fill as fn(Instant) -> Patience;
    let passage = Patience::of_passage as fn(Instant) -> Patience;
    for (case, new, before, last, expected) in [
        ("one failure", fill, vec![], (0, Fails), Next::AskAgain),
        (
            "a first failure, late",
            fill,
            vec![],
            (19_999, Fails),
            Next::AskAgain,
        ),
        (
            "failures for almost 5 s",
            fill,
            vec![(1000, Fails)],
            (5999, Fails),
            Next::AskAgain,
        ),
        (
            "failures for 5 s",
            fill,
            vec![(1000, Fails)],
            (6000, Fails),
            Next::GiveUp,
        ),
        (
            "failures with progress in between",
            fill,
            vec![(1000, Fails), (4000, Brings(1))],
            (7000, Fails),
            Next::AskAgain,
        ),
        (
            "failures while the same bytes come again",
            fill,
            vec![(0, Brings(9)), (1000, Fails), (4000, Brings(9))],
            (6000, Fails),
            Next::GiveUp,
        ),
        (
            "stalls for almost 20 s",
            fill,
            vec![(5000, Stalls), (10_000, Stalls)],
            (19_999, Stalls),
            Next::AskAgain,
        ),
        (
            "stalls for 20 s",
            fill,
            vec![(5000, Stalls), (10_000, Stalls)],
            (20_000, Stalls),
            Next::GiveUp,
        ),
        (
            "a failure 5 s after a stall",
            fill,
            vec![(5000, Stalls)],
            (10_000, Fails),
            Next::GiveUp,
        ),
        (
            "passed on: a failure within 5 s of the last byte",
            passage,
            vec![(1000, Brings(1))],
            (5999, Fails),
            Next::AskAgain,
        ),
        (
            "passed on: a first failure 5 s after the last byte",
            passage,
            vec![(1000, Brings(1))],
            (6000, Fails),
            Next::GiveUp,
        ),
        (
            "passed on: stalls for almost 20 s",
            passage,
            vec![(5000, Stalls)],
            (19_999, Stalls),
            Next::AskAgain,
        ),
        (
            "passed on: stalls for 20 s",
            passage,
            vec![(5000, Stalls)],
            (20_000, Stalls),
            Next::GiveUp,
        ),
    ] {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut patience = new(begun);
        let mut next = None;
        for (ms, event) in before.into_iter().chain([last]) {
            next = match event {
                Brings(present) => {
                    patience.note(at(ms), present);
                    None
                }
                Fails => Some(patience.failed(at(ms), false)),
                Stalls => Some(patience.failed(at(ms), true)),
            };
        }
        assert_eq!(next, Some(expected), "{case}");
    }
}

#[test]
fn the_pauses_of_a_fill_grow_until_something_comes() {
    let now = Instant::now();
    let mut patience = Patience::of_fill(now);
    let pauses = |patience: &mut Patience, count: usize| -> Vec<u128> {
        (0..count)
            .map(|_| patience.pause(EVEN).as_millis())
            .collect()
    };
    assert_eq!(
        pauses(&mut patience, 7),
        [50, 100, 200, 400, 800, 1000, 1000]
    );
    patience.restarted(now);
    assert_eq!(pauses(&mut patience, 1), [1000], "begun anew");
    patience.note(now, 1);
    assert_eq!(pauses(&mut patience, 2), [50, 100], "after progress");
    let mut passage = Patience::of_passage(now);
    assert_eq!(pauses(&mut passage, 3), [200, 200, 200]);
    let jittered = [0.0, 1.0].map(|jitter| Patience::of_fill(now).pause(jitter).as_millis());
    assert_eq!(jittered, [25, 75]);
}

#[test]
fn nothing_is_asked_before_its_time() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let mut patience = Patience::of_fill(now);
    assert_eq!(patience.held(now), None);
    patience.hold_until(later);
    assert_eq!(patience.held(now), Some(later));
    assert_eq!(patience.held(later), None);
}
