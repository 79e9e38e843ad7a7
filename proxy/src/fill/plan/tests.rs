use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn view<'a>(
    size: u64,
    present: &'a Spans,
    flights: &'a [Flight],
    demands: &'a [Demand],
) -> View<'a> {
    View {
        size,
        present,
        flights,
        demands,
        whole: false,
        streams: 4,
        ranged: true,
        spread: None,
    }
}

fn want(start: u64, end: u64) -> Demand {
    Demand {
        range: Range::new(start, end),
        depth: DEPTH,
        exact: false,
        enough: u64::MAX,
    }
}

fn fetch(start: u64, end: u64) -> Step {
    Step::Fetch {
        range: Range::new(start, end),
        depth: DEPTH,
    }
}

#[test]
fn a_small_read_fetches_its_span() {
    let present = Spans::default();
    let step = next(&view(
        100 * MIB,
        &present,
        &[],
        &[want(5 * MIB + 7, 5 * MIB + 50_007)],
    ));
    assert_eq!(step, fetch(5 * MIB, 6 * MIB));
    let step = next(&view(
        5 * MIB + 100,
        &present,
        &[],
        &[want(5 * MIB + 7, 5 * MIB + 99)],
    ));
    assert_eq!(step, fetch(5 * MIB, 5 * MIB + 100));
}

/// A read of a layer that is mounted waits for one span of the layer, and nothing around it is of use.
#[test]
fn an_exact_read_fetches_nothing_around_it() {
    let present = Spans::default();
    let exact = Demand {
        exact: true,
        ..want(5 * MIB + 7, 5 * MIB + 700_007)
    };
    let step = next(&view(100 * MIB, &present, &[], &[exact]));
    assert_eq!(step, fetch(5 * MIB + 7, 5 * MIB + 700_007));
}

/// The window of an open-ended reader moves with it: its new bytes are not fetched piece by piece.
#[test]
fn an_open_ended_reader_causes_requests_of_half_a_window_at_least() {
    const SIZE: u64 = 1000 * MIB;
    let mut present = Spans::default();
    let mut requests = Vec::new();
    for at in (0..SIZE).step_by(64 << 10) {
        let demands = [Demand::open(0, at, SIZE, DEPTH)];
        while let Step::Fetch { range, .. } = next(&view(SIZE, &present, &[], &demands)) {
            present.insert(range);
            requests.push(range.end - range.start);
        }
        assert!(
            present.contains(Range::new(at, at + 1)),
            "the reader waits at {at}"
        );
        let ahead = present.first_missing(Range::new(at, SIZE));
        // Rounded to a whole span.
        let most = at.clamp(WINDOW, REQUEST_MAX) + SPAN;
        assert!(ahead.is_none_or(|gap| gap.start - at <= most));
    }
    assert_eq!(present.total(), SIZE);
    assert_eq!(requests[0], WINDOW, "the first window is one request");
    let last = requests.pop();
    assert!(
        requests.iter().all(|length| *length >= WINDOW / 2),
        "{requests:?}, and the rest: {last:?}"
    );
    assert!(requests.len() <= 75, "{} requests", requests.len());
}

#[test]
fn nobody_wants_nothing() {
    assert_eq!(next(&view(100, &Spans::default(), &[], &[])), Step::Wait);
}

#[test]
fn a_far_reader_does_not_wait_for_the_stream_to_come() {
    let flights = [Flight {
        id: 7,
        at: MIB,
        end: 32 * MIB,
        depth: 0,
    }];
    let present: Spans = [Range::new(0, MIB)].into_iter().collect();
    let demands = [want(20 * MIB + 5, 20 * MIB + 6)];
    let step = next(&view(64 * MIB, &present, &flights, &demands));
    assert_eq!(
        step,
        Step::Cut {
            id: 7,
            end: 20 * MIB
        }
    );
    let near = [want(2 * MIB, 2 * MIB + 5)];
    assert_eq!(next(&view(64 * MIB, &present, &flights, &near)), Step::Wait);
}

#[test]
fn without_ranges_one_stream_brings_everything() {
    let present = Spans::default();
    let demands = [want(50, 60)];
    let mut plain = view(100, &present, &[], &demands);
    plain.ranged = false;
    assert_eq!(
        next(&plain),
        Step::Fetch {
            range: Range::new(0, 100),
            depth: 0
        }
    );
}

/// A demand of another member must not wait for a stream that may wait for that member.
#[test]
fn a_members_demand_gets_a_stream_of_its_own() {
    let far = |id, start| Flight {
        id,
        at: start,
        end: start + 4 * MIB,
        depth: 1,
    };
    let flights = [
        far(0, 0),
        far(1, 4 * MIB),
        far(2, 8 * MIB),
        far(3, 12 * MIB),
    ];
    let demand = |depth| Demand {
        range: Range::new(4 * MIB, 8 * MIB),
        depth,
        exact: depth < DEPTH,
        enough: u64::MAX,
    };
    let present = Spans::default();
    for (depth, step) in [
        (2, Step::Wait),
        (1, Step::Wait),
        (
            0,
            Step::Fetch {
                range: Range::new(4 * MIB, 8 * MIB),
                depth: 0,
            },
        ),
    ] {
        assert_eq!(
            next(&view(64 * MIB, &present, &flights, &[demand(depth)])),
            step
        );
    }
}

#[test]
fn runs_are_fetched_one_by_one_and_by_turn_behind_the_first() {
    let turn = |run: u64| ((run + 3) % 5, false, 0);
    let present = Spans::default();
    let mut flights = Vec::new();
    let demands = [want(0, 64 * MIB)];
    for run in [0, 2, 7, 12, 3] {
        let mut view = view(64 * MIB, &present, &flights, &demands);
        view.streams = 8;
        view.spread = Some(Spread {
            run: 4 * MIB,
            direct: 8,
            turn: &turn,
        });
        let Step::Fetch { range, depth } = next(&view) else {
            panic!("nothing to do");
        };
        assert_eq!(range, Range::new(run * 4 * MIB, (run + 1) * 4 * MIB));
        flights.push(Flight {
            id: run,
            at: range.start,
            end: range.end,
            depth,
        });
    }
}

proptest! {
    /// Run to its end, the plan fetches everything that is wanted, nothing twice, and nothing that is not wanted
    /// beyond the rounding to spans.
    #[test]
    fn fetches_what_is_wanted_once(
        size in 1u64..64 * MIB,
        present in prop::collection::vec((0u64..64 * MIB, 1u64..8 * MIB), 0..6),
        demands in prop::collection::vec((0u64..64 * MIB, 1u64..8 * MIB, 0u8..3), 0..6),
        whole in any::<bool>(), streams in 1usize..6, ranged in any::<bool>(), spread in any::<bool>(), order in any::<u64>(),
    ) {
        let clip = |(start, len): (u64, u64)| Range::new(start.min(size - 1), (start + len).min(size).max(start.min(size - 1) + 1));
        let mut present: Spans = present.into_iter().map(clip).collect();
        let demands: Vec<Demand> = demands.into_iter().map(|(start, len, depth)| Demand { range: clip((start, len)), depth, exact: depth < DEPTH, enough: u64::MAX }).collect();
        let wanted: Spans = demands.iter().map(|d| Range::new(d.range.start / SPAN * SPAN, d.range.end.div_ceil(SPAN) * SPAN)).collect();
        let mut flights: Vec<Flight> = Vec::new();
        let mut random = fastrand::Rng::with_seed(order);
        let mut id = 0;
        for _ in 0..10_000 {
            let turn = |run: u64| (run.wrapping_mul(order | 1), false, run);
            let spread = spread.then_some(Spread { run: 4 * MIB, direct: streams, turn: &turn });
            match next(&View { size, present: &present, flights: &flights, demands: &demands, whole, streams, ranged, spread }) {
                Step::Fetch { range, depth } => {
                    prop_assert!(range.start < range.end && range.end <= size, "{range:?}");
                    prop_assert!(flights.iter().filter(|f| f.depth <= depth).count() < streams);
                    if ranged {
                        prop_assert!(present.first_missing(range) == Some(range), "fetched again: {range:?}");
                        let same = |f: &&Flight| f.depth <= depth;
                        prop_assert!(flights.iter().filter(same).all(|f| f.end <= range.start || range.end <= f.at), "fetched twice: {range:?}");
                        prop_assert!(spread.is_none() || range.start / (4 * MIB) == (range.end - 1) / (4 * MIB), "two runs: {range:?}");
                        prop_assert!(whole || wanted.contains(range), "nobody wants {range:?}");
                    }
                    id += 1;
                    flights.push(Flight { id, at: range.start, end: range.end, depth });
                }
                Step::Cut { id, end } => {
                    let flight = flights.iter_mut().find(|f| f.id == id).unwrap();
                    prop_assert!(flight.at < end && end < flight.end);
                    flight.end = end;
                }
                Step::Wait if flights.is_empty() => {
                    for demand in &demands {
                        prop_assert!(present.contains(demand.range));
                    }
                    prop_assert!(!whole || present.contains(Range::new(0, size)));
                    return Ok(());
                }
                Step::Wait => {
                    // Some stream brings a few bytes; it may break off anywhere.
                    let i = random.usize(..flights.len());
                    let flight = &mut flights[i];
                    let to = random.u64(flight.at + 1..=flight.end);
                    present.insert(Range::new(flight.at, to));
                    flight.at = to;
                    if to == flight.end || random.u8(..8) == 0 {
                        flights.swap_remove(i);
                    }
                }
            }
        }
        prop_assert!(false, "no end");
    }
}
