//! What to fetch next: a pure decision over what is present, what is on its way, and what is wanted.

use larder_shared::{Range, Spans};

use crate::cluster::placement::{TOGETHER, Turn};

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

/// How many members may stand between a reader of this node and the source: relay and root.
pub const DEPTH: u8 = 2;

/// So many runs beyond the first byte that a reader waits for are fetched out of order.
const AHEAD: u64 = 2 * TOGETHER;

/// A stream under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flight {
    pub id: u64,
    /// The next byte that it will bring.
    pub at: u64,
    /// Where it stops.
    pub end: u64,
    /// How many members stand between it and the source.
    pub depth: u8,
}

/// What a reader wants now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    pub range: Range,
    /// How many members may stand between it and the source: a reader that is itself a member's request must not wait for
    /// a stream that may wait for it in turn.
    pub depth: u8,
}

/// Where blobs are spread over members: the length of a run, and in which order this node fetches runs that nobody
/// waits for.
#[derive(Clone, Copy)]
pub struct Spread<'a> {
    pub run: u64,
    /// How many streams may ask no other member. Others fetch their shares too: with many of each, everything would be
    /// under way at once and nothing come to its end.
    pub direct: usize,
    pub turn: &'a dyn Fn(u64) -> Turn,
}

impl std::fmt::Debug for Spread<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spread({})", self.run)
    }
}

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    pub size: u64,
    pub present: &'a Spans,
    pub flights: &'a [Flight],
    /// What readers want now, most urgent first.
    pub demands: &'a [Demand],
    /// Whether the blob is wanted as a whole, whoever reads.
    pub whole: bool,
    /// How many streams there may be. Those of a smaller depth are not held up by those of a larger one.
    pub streams: usize,
    /// Whether the source answers ranges. If not, one stream brings everything from the first byte.
    pub ranged: bool,
    /// `None`: this node fetches everything itself.
    pub spread: Option<Spread<'a>>,
}

/// The next thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Fetch the range, with so many members in between at the most.
    Fetch { range: Range, depth: u8 },
    /// Let flight `id` stop at `end`, then look again.
    Cut { id: u64, end: u64 },
    /// Nothing more to start now.
    Wait,
}

impl View<'_> {
    fn missing(&self, range: Range) -> Option<Range> {
        self.present
            .first_missing(Range::new(range.start, range.end.min(self.size)))
    }

    /// Whether there may be one more stream for a demand of this depth.
    fn has_room(&self, depth: u8) -> bool {
        let nearer = self.flights.iter().filter(|f| f.depth <= depth).count();
        let most = match self.spread {
            Some(spread) if depth == 0 => spread.direct,
            _ => self.streams,
        };
        nearer < most
    }

    /// What is here, or comes without waiting for more members than `depth` allows.
    fn covered(&self, depth: u8) -> Spans {
        let mut covered = self.present.clone();
        for flight in self.flights.iter().filter(|f| f.depth <= depth) {
            covered.insert(Range::new(flight.at, flight.end));
        }
        covered
    }

    /// A fetch, cut to the run that it begins in.
    fn fetch(&self, range: Range, depth: u8) -> Step {
        let end = match self.spread {
            Some(spread) => range.end.min((range.start / spread.run + 1) * spread.run),
            None => range.end,
        };
        let range = Range::new(range.start, end);
        Step::Fetch { range, depth }
    }

    /// What to fetch for a gap: whole spans for a reader of this node. Another member has rounded already, and waits for the
    /// very bytes that it asks for.
    fn rounded(&self, demand: &Demand, gap: Range, run: u64) -> Range {
        if demand.depth < DEPTH {
            let within = Range::new(gap.start, gap.end.min(gap.start + run));
            let free = self.covered(demand.depth).first_missing(within);
            return free.unwrap_or(within);
        }
        rounded(&self.covered(demand.depth), gap, self.size, run)
    }

    /// The gap of `within` whose turn it is.
    fn turn(&self, covered: &Spans, within: Range) -> Option<Range> {
        let first = covered.first_missing(within)?;
        let Some(Spread { run, turn, .. }) = self.spread else {
            return Some(first);
        };
        let runs = first.start / run..within.end.div_ceil(run).min(first.start / run + AHEAD);
        let direct = self.has_room(0);
        let gaps = runs
            .filter(|index| direct || turn(*index).1)
            .filter_map(|index| {
                let begin = (index * run).max(within.start);
                let gap = covered
                    .first_missing(Range::new(begin, ((index + 1) * run).min(within.end)))?;
                Some((turn(index), gap))
            });
        gaps.min_by_key(|(turn, _)| *turn).map(|(_, gap)| gap)
    }
}

/// Decides the next step.
pub fn next(view: &View<'_>) -> Step {
    let everything = Range::new(0, view.size);
    if !view.ranged {
        let wanted = view.whole || view.demands.iter().any(|d| view.missing(d.range).is_some());
        let idle = view.flights.is_empty() && view.streams > 0;
        return if wanted && idle && view.missing(everything).is_some() {
            Step::Fetch {
                range: everything,
                depth: 0,
            }
        } else {
            Step::Wait
        };
    }
    // Two more rounds for every stream, so that none is left alone with a long rest.
    let left = view.size - view.present.total();
    let run = (left / (2 * view.streams.max(1) as u64)).clamp(RUN_MIN, RUN_MAX) / SPAN * SPAN;
    // Bytes that somebody waits for and nobody brings soon.
    for demand in view.demands {
        let Some(gap) = view.missing(demand.range) else {
            continue;
        };
        if !view.has_room(demand.depth) {
            continue;
        }
        let mut nearer = view.flights.iter().filter(|f| f.depth <= demand.depth);
        match nearer.find(|f| f.at <= gap.start && gap.start < f.end) {
            None => {
                let range = view.rounded(demand, gap, run);
                return view.fetch(range, demand.depth);
            }
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
    for demand in view.demands.iter().filter(|d| view.has_room(d.depth)) {
        let covered = view.covered(demand.depth);
        let within = Range::new(demand.range.start, demand.range.end.min(view.size));
        if let Some(gap) = view.turn(&covered, within) {
            return view.fetch(view.rounded(demand, gap, run), demand.depth);
        }
    }
    // The rest of the blob.
    if view.whole
        && view.has_room(DEPTH)
        && let Some(gap) = view.turn(&view.covered(DEPTH), everything)
    {
        return view.fetch(Range::new(gap.start, gap.end.min(gap.start + run)), DEPTH);
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

    /// What another member waits for must not wait for a stream that may wait for it.
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
            let demands: Vec<Demand> = demands.into_iter().map(|(start, len, depth)| Demand { range: clip((start, len)), depth }).collect();
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
}
