//! What to fetch next: a pure decision over what is present, what is on its way, and what is wanted.

#[cfg(test)]
mod tests;

use larder_shared::{Range, Spans};

use crate::cluster::placement::{TOGETHER, Turn};

/// The unit that a fetch is rounded to, so that small scattered reads do not become small scattered requests.
pub const SPAN: u64 = 1 << 20;

/// How far ahead of an open-ended reader larder fetches at least. containerd's parallel layer fetch opens many such
/// ranges and closes each after one chunk: bytes beyond this are fetched when a reader gets there.
pub const WINDOW: u64 = 8 << 20;

/// Bounds of one request.
const REQUEST_MIN: u64 = 4 << 20;
const REQUEST_MAX: u64 = 32 << 20;

/// If a stream is further than this from a byte that a reader waits for, it is cut short, and another begins at that
/// byte.
const BEHIND: u64 = 2 << 20;

/// How many members may stand between a reader of this node and the source: relay and root.
pub const DEPTH: u8 = 2;

/// How many runs may be fetched out of order, from the first byte that a reader waits for.
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
    /// How many members may stand between the reader and the source. A reader on behalf of another member must not wait
    /// for a stream that may wait for that member in turn.
    pub depth: u8,
    /// Nothing around the range is fetched.
    pub exact: bool,
    /// No more of the range is fetched while so many bytes from its start on are here or on their way. Otherwise a
    /// window that moves with its reader would cost a request for each step.
    pub enough: u64,
}

impl Demand {
    /// The demand of an open-ended reader that began at `from` and has come to `at`. The longer a reader reads, the
    /// more likely it reads on.
    pub fn open(from: u64, at: u64, size: u64, depth: u8) -> Self {
        let ahead = at.saturating_sub(from).clamp(WINDOW, REQUEST_MAX);
        Self {
            range: Range::new(at, at.saturating_add(ahead).min(size)),
            depth,
            exact: false,
            enough: ahead / 2,
        }
    }

    /// Whether the gap lies so far ahead of the reader that it can wait.
    fn has_enough(&self, gap: Range) -> bool {
        gap.start - self.range.start >= self.enough
    }
}

/// How a blob is spread over members: the length of a run, and the order in which this node fetches runs that no reader
/// waits for.
#[derive(Clone, Copy)]
pub struct Spread<'a> {
    pub run: u64,
    /// How many streams may ask the source itself. Other members fetch their shares too: with many streams each,
    /// everything would be under way at once, and nothing would finish.
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
    /// Whether the blob is wanted as a whole, whatever the readers want.
    pub whole: bool,
    /// How many streams there may be. Streams of a larger depth do not count against those of a smaller one.
    pub streams: usize,
    /// Whether the source answers ranges. If not, one stream brings everything from the first byte.
    pub ranged: bool,
    /// `None`: this node fetches everything itself.
    pub spread: Option<Spread<'a>>,
}

/// The next thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Fetch the range, with at most `depth` members in between.
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

    /// The range to fetch for a gap: whole spans for a client of this node. Another member has rounded its range
    /// already and waits for exactly these bytes. So does a read of a mounted layer.
    fn rounded(&self, demand: &Demand, gap: Range, run: u64) -> Range {
        if demand.exact {
            let within = Range::new(gap.start, gap.end.min(gap.start + run));
            let free = self.covered(demand.depth).first_missing(within);
            return free.unwrap_or(within);
        }
        // An open-ended reader's window is one request.
        let run = run.max(demand.enough.min(WINDOW));
        rounded(&self.covered(demand.depth), gap, self.size, run)
    }

    /// The gap in `within` that is fetched next.
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
    // Every stream gets two more requests, so that no stream is left alone with a long rest.
    let left = view.size - view.present.total();
    let run =
        (left / (2 * view.streams.max(1) as u64)).clamp(REQUEST_MIN, REQUEST_MAX) / SPAN * SPAN;
    // First the bytes that a reader waits for and that no stream brings soon.
    for demand in view.demands {
        let Some(gap) = view.missing(demand.range) else {
            continue;
        };
        if !view.has_room(demand.depth) || demand.has_enough(gap) {
            continue;
        }
        let mut nearer = view.flights.iter().filter(|f| f.depth <= demand.depth);
        match nearer.find(|f| f.at <= gap.start && gap.start < f.end) {
            None => {
                let range = view.rounded(demand, gap, run);
                return view.fetch(range, demand.depth);
            }
            Some(flight) if gap.start - flight.at > BEHIND => {
                return Step::Cut {
                    id: flight.id,
                    end: gap.start / SPAN * SPAN,
                };
            }
            Some(_) => {}
        }
    }
    // Then the rest of what readers want.
    for demand in view.demands.iter().filter(|d| view.has_room(d.depth)) {
        let covered = view.covered(demand.depth);
        let within = Range::new(demand.range.start, demand.range.end.min(view.size));
        let first = covered.first_missing(within);
        if first.is_none_or(|gap| demand.has_enough(gap)) {
            continue;
        }
        if let Some(gap) = view.turn(&covered, within) {
            return view.fetch(view.rounded(demand, gap, run), demand.depth);
        }
    }
    // Then the rest of the blob.
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
    // The range reaches back to the span's start as far as its bytes are missing.
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
