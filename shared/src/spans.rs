//! The present bytes of a blob: a set of disjoint ranges.

use std::collections::BTreeMap;

use crate::range::Range;

/// A set of byte positions, kept as disjoint, non-adjacent ranges.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Spans {
    /// start -> end
    ranges: BTreeMap<u64, u64>,
}

impl Spans {
    /// Adds the bytes of `range`.
    pub fn insert(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Every range that touches the new one becomes part of it.
        let touching: Vec<(u64, u64)> = self
            .ranges
            .range(..=end)
            .rev()
            .map(|(s, e)| (*s, *e))
            .take_while(|(_, e)| *e >= start)
            .collect();
        for (s, e) in touching {
            self.ranges.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
    }

    /// Removes the bytes of `range`.
    pub fn remove(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let overlapping: Vec<(u64, u64)> = self
            .ranges
            .range(..range.end)
            .rev()
            .map(|(s, e)| (*s, *e))
            .take_while(|(_, e)| *e > range.start)
            .collect();
        for (s, e) in overlapping {
            self.ranges.remove(&s);
            if s < range.start {
                self.ranges.insert(s, range.start);
            }
            if e > range.end {
                self.ranges.insert(range.end, e);
            }
        }
    }

    /// The end of the present range that holds `at`, or `at` itself if that byte is absent.
    pub fn end_from(&self, at: u64) -> u64 {
        match self.ranges.range(..=at).next_back() {
            Some((_, end)) if *end > at => *end,
            _ => at,
        }
    }

    /// Whether all bytes of `range` are present.
    pub fn contains(&self, range: Range) -> bool {
        range.is_empty() || self.end_from(range.start) >= range.end
    }

    /// The first absent range at or after `within.start`, within `within`.
    pub fn first_missing(&self, within: Range) -> Option<Range> {
        let start = self.end_from(within.start);
        if start >= within.end {
            return None;
        }
        let end = self
            .ranges
            .range(start..)
            .next()
            .map_or(within.end, |(s, _)| (*s).min(within.end));
        Some(Range::new(start, end))
    }

    /// How many bytes are present.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|(s, e)| e - s).sum()
    }

    /// Whether no byte is present.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The present ranges, in order, with gaps between them.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges.iter().map(|(s, e)| Range::new(*s, *e))
    }
}

impl FromIterator<Range> for Spans {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut spans = Self::default();
        for range in ranges {
            spans.insert(range);
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(spans: &Spans) -> [bool; 64] {
        let mut bits = [false; 64];
        for range in spans.iter() {
            for at in range.start..range.end {
                bits[at as usize] = true;
            }
        }
        bits
    }

    proptest! {
        /// Compared with one bit per byte: the same members, the same first gap, and no two ranges that touch.
        #[test]
        fn like_a_bitmap(steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..40), at in 0u64..64) {
            let mut spans = Spans::default();
            let mut bits = [false; 64];
            for (insert, a, b) in steps {
                let range = Range::new(a.min(b), a.max(b));
                if insert { spans.insert(range) } else { spans.remove(range) }
                for i in range.start..range.end {
                    bits[i as usize] = insert;
                }
            }
            prop_assert_eq!(model(&spans), bits);
            prop_assert_eq!(spans.total(), bits.iter().filter(|b| **b).count() as u64);
            let ranges: Vec<Range> = spans.iter().collect();
            prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start));
            let gap = (at..64).find(|i| !bits[*i as usize]);
            prop_assert_eq!(spans.first_missing(Range::new(at, 64)).map(|r| r.start), gap);
            let run = (at..64).find(|i| !bits[*i as usize]).unwrap_or(64);
            prop_assert_eq!(spans.end_from(at), run);
            prop_assert_eq!(spans.contains(Range::new(at, 64)), gap.is_none());
            if let Some(missing) = spans.first_missing(Range::new(at, 64)) {
                prop_assert!((missing.start..missing.end).all(|i| !bits[i as usize]));
                prop_assert!(missing.end == 64 || bits[missing.end as usize]);
            }
        }
    }
}
