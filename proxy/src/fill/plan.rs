//! What to fetch next: a pure decision over what is present, what is on its way, and what is wanted.

use larder_shared::{Range, Spans};

/// The unit that a fetch is rounded to, so that small scattered reads do not become small scattered requests.
pub const SPAN: u64 = 1 << 20;

/// How far ahead of an open-ended reader larder fetches. containerd's parallel layer fetch opens many such ranges and
/// closes each after one chunk: what lies beyond this is fetched when somebody gets there.
pub const WINDOW: u64 = 4 << 20;

/// Bounds of one request.
const RUN_MIN: u64 = 4 << 20;
const RUN_MAX: u64 = 32 << 20;

/// A stream that is further than this from a byte that somebody waits for is cut short, and another begins there.
const PATIENCE: u64 = 2 << 20;

/// A stream under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flight {
    pub id: u64,
    /// The next byte that it will bring.
    pub at: u64,
    /// Where it stops.
    pub end: u64,
}

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    pub size: u64,
    pub present: &'a Spans,
    pub flights: &'a [Flight],
    /// What readers want now, most urgent first.
    pub demands: &'a [Range],
    /// Whether the blob is wanted as a whole, whoever reads.
    pub whole: bool,
    /// How many streams there may be.
    pub streams: usize,
    /// Whether the source answers ranges. If not, one stream brings everything from the first byte.
    pub ranged: bool,
}

/// The next thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Fetch(Range),
    /// Let flight `id` stop at `end`, then look again.
    Cut {
        id: u64,
        end: u64,
    },
    /// Nothing more to start now.
    Wait,
}

/// Decides the next step.
pub fn next(view: &View<'_>) -> Step {
    let everything = Range::new(0, view.size);
    let missing = |range: &Range| {
        view.present
            .first_missing(Range::new(range.start, range.end.min(view.size)))
    };
    if !view.ranged {
        let wanted = view.whole || view.demands.iter().any(|d| missing(d).is_some());
        let idle = view.flights.is_empty() && view.streams > 0;
        return if wanted && idle && missing(&everything).is_some() {
            Step::Fetch(everything)
        } else {
            Step::Wait
        };
    }
    if view.flights.len() >= view.streams {
        return Step::Wait;
    }
    // Two more rounds for every stream, so that none is left alone with a long rest.
    let left = view.size - view.present.total();
    let run = (left / (2 * view.streams as u64)).clamp(RUN_MIN, RUN_MAX) / SPAN * SPAN;
    let mut covered = view.present.clone();
    for flight in view.flights {
        covered.insert(Range::new(flight.at, flight.end));
    }
    // Bytes that somebody waits for and nobody brings soon.
    for gap in view.demands.iter().filter_map(missing) {
        match view
            .flights
            .iter()
            .find(|f| f.at <= gap.start && gap.start < f.end)
        {
            None => return Step::Fetch(rounded(&covered, gap, view.size, run)),
            Some(flight) if gap.start - flight.at > PATIENCE => {
                return Step::Cut {
                    id: flight.id,
                    end: gap.start / SPAN * SPAN,
                };
            }
            Some(_) => {}
        }
    }
    // The rest of what readers want.
    for demand in view.demands {
        let within = Range::new(demand.start, demand.end.min(view.size));
        if let Some(gap) = covered.first_missing(within) {
            return Step::Fetch(rounded(&covered, gap, view.size, run));
        }
    }
    // The rest of the blob.
    if view.whole
        && let Some(gap) = covered.first_missing(everything)
    {
        return Step::Fetch(Range::new(gap.start, gap.end.min(gap.start + run)));
    }
    Step::Wait
}

/// `gap` widened to whole spans and cut to a run, without what is covered already.
fn rounded(covered: &Spans, gap: Range, size: u64, run: u64) -> Range {
    let floor = gap.start / SPAN * SPAN;
    let ceil = gap
        .end
        .div_ceil(SPAN)
        .saturating_mul(SPAN)
        .min(size)
        .min(floor + run);
    // Back to the span's begin as far as nothing is there.
    let mut start = gap.start;
    let mut probe = floor;
    while probe < gap.start {
        match covered.first_missing(Range::new(probe, gap.start)) {
            Some(before) if before.end == gap.start => {
                start = before.start;
                break;
            }
            Some(before) => probe = before.end,
            None => break,
        }
    }
    let end = covered
        .first_missing(Range::new(gap.start, ceil))
        .map_or(gap.end, |free| free.end);
    Range::new(start, end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn view<'a>(
        size: u64,
        present: &'a Spans,
        flights: &'a [Flight],
        demands: &'a [Range],
    ) -> View<'a> {
        View {
            size,
            present,
            flights,
            demands,
            whole: false,
            streams: 4,
            ranged: true,
        }
    }

    #[test]
    fn a_small_read_fetches_its_span() {
        let present = Spans::default();
        let step = next(&view(
            100 * MIB,
            &present,
            &[],
            &[Range::new(5 * MIB + 7, 5 * MIB + 50_007)],
        ));
        assert_eq!(step, Step::Fetch(Range::new(5 * MIB, 6 * MIB)));
        let step = next(&view(
            5 * MIB + 100,
            &present,
            &[],
            &[Range::new(5 * MIB + 7, 5 * MIB + 99)],
        ));
        assert_eq!(step, Step::Fetch(Range::new(5 * MIB, 5 * MIB + 100)));
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
        }];
        let present: Spans = [Range::new(0, MIB)].into_iter().collect();
        let demands = [Range::new(20 * MIB + 5, 20 * MIB + 6)];
        let step = next(&view(64 * MIB, &present, &flights, &demands));
        assert_eq!(
            step,
            Step::Cut {
                id: 7,
                end: 20 * MIB
            }
        );
        let near = [Range::new(2 * MIB, 2 * MIB + 5)];
        assert_eq!(next(&view(64 * MIB, &present, &flights, &near)), Step::Wait);
    }

    #[test]
    fn without_ranges_one_stream_brings_everything() {
        let present = Spans::default();
        let demands = [Range::new(50, 60)];
        let mut plain = view(100, &present, &[], &demands);
        plain.ranged = false;
        assert_eq!(next(&plain), Step::Fetch(Range::new(0, 100)));
    }

    proptest! {
        /// Run to its end, the plan fetches everything that is wanted, nothing twice, and nothing that is not wanted
        /// beyond the rounding to spans.
        #[test]
        fn fetches_what_is_wanted_once(
            size in 1u64..64 * MIB,
            present in prop::collection::vec((0u64..64 * MIB, 1u64..8 * MIB), 0..6),
            demands in prop::collection::vec((0u64..64 * MIB, 1u64..8 * MIB), 0..6),
            whole in any::<bool>(), streams in 1usize..6, ranged in any::<bool>(), order in any::<u64>(),
        ) {
            let clip = |(start, len): (u64, u64)| Range::new(start.min(size - 1), (start + len).min(size).max(start.min(size - 1) + 1));
            let mut present: Spans = present.into_iter().map(clip).collect();
            let demands: Vec<Range> = demands.into_iter().map(clip).collect();
            let wanted: Spans = demands.iter().map(|d| Range::new(d.start / SPAN * SPAN, d.end.div_ceil(SPAN) * SPAN)).collect();
            let mut flights: Vec<Flight> = Vec::new();
            let mut random = fastrand::Rng::with_seed(order);
            let mut id = 0;
            for _ in 0..10_000 {
                match next(&View { size, present: &present, flights: &flights, demands: &demands, whole, streams, ranged }) {
                    Step::Fetch(range) => {
                        prop_assert!(range.start < range.end && range.end <= size, "{range:?}");
                        prop_assert!(flights.len() < streams);
                        if ranged {
                            prop_assert!(present.first_missing(range) == Some(range), "fetched again: {range:?}");
                            prop_assert!(flights.iter().all(|f| f.end <= range.start || range.end <= f.at), "fetched twice: {range:?}");
                            prop_assert!(whole || wanted.contains(range), "nobody wants {range:?}");
                        }
                        id += 1;
                        flights.push(Flight { id, at: range.start, end: range.end });
                    }
                    Step::Cut { id, end } => {
                        let flight = flights.iter_mut().find(|f| f.id == id).unwrap();
                        prop_assert!(flight.at < end && end < flight.end);
                        flight.end = end;
                    }
                    Step::Wait if flights.is_empty() => {
                        for demand in &demands {
                            prop_assert!(present.contains(*demand));
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
}
