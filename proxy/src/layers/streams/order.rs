//! The learnt order: which spans of an image's layers a start reads, and in which order. Pure, except for the clock
//! that it is given.
//!
//! The reads of a start follow one another, and each waits for its own round trip. A node that knows the order of an
//! earlier start fetches several spans at a time before a container asks for them.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use larder_shared::Digest;
use serde::{Deserialize, Serialize};

/// Reads within this time after an image was offered count as part of its start.
pub const START: Duration = Duration::from_mins(1);

/// The most spans of an order: 8 GiB.
const MOST: usize = 4096;

/// A span is forgotten after so many starts in a row that did not read it.
const UNREAD: u8 = 3;

/// The version of the file.
const VERSION: u32 = 1;

/// A span of a layer, by the layer's place in the image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SpanAt {
    pub layer: u16,
    pub span: u32,
}

/// What was learnt of one image.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Order {
    version: u32,
    /// The image's layers, by their digests, the lowest first.
    pub layers: Vec<Digest>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct Step {
    #[serde(flatten)]
    place: SpanAt,
    /// Its mean place in the starts that read it.
    at: f32,
    /// Number of starts since then that did not read it.
    #[serde(default)]
    unread: u8,
}

impl Order {
    /// Parses the file. `None` if it is damaged, has another version, or is about another image.
    pub fn read(bytes: &[u8], layers: &[Digest]) -> Option<Self> {
        let order: Self = serde_json::from_slice(bytes).ok()?;
        let fits = order.version == VERSION
            && order.layers == layers
            && order.steps.len() <= MOST
            && order.steps.iter().all(|step| step.at.is_finite());
        fits.then_some(order)
    }

    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The spans to fetch, in this order.
    pub fn places(&self) -> impl Iterator<Item = SpanAt> + '_ {
        self.steps.iter().map(|step| step.place)
    }

    /// The order after one more start, which read these spans in this order.
    pub fn after(before: Option<&Self>, layers: Vec<Digest>, start: &[SpanAt]) -> Self {
        let mut steps: BTreeMap<SpanAt, Step> = BTreeMap::new();
        for step in before.map(|before| &before.steps[..]).unwrap_or_default() {
            let unread = step.unread.saturating_add(1);
            steps.insert(step.place, Step { unread, ..*step });
        }
        let mut seen = HashSet::new();
        let first = start.iter().filter(|place| seen.insert(**place));
        for (at, place) in first.enumerate() {
            let at = at as f32;
            let known = steps
                .get(place)
                .map_or(at, |step| f32::midpoint(step.at, at));
            let step = Step {
                place: *place,
                at: known,
                unread: 0,
            };
            steps.insert(*place, step);
        }
        let mut steps: Vec<Step> = steps
            .into_values()
            .filter(|step| step.unread < UNREAD)
            .collect();
        steps.sort_by(|one, other| one.at.total_cmp(&other.at));
        steps.truncate(MOST);
        Self {
            version: VERSION,
            layers,
            steps,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(layer: u16, span: u32) -> SpanAt {
        SpanAt { layer, span }
    }

    fn layers() -> Vec<Digest> {
        vec![Digest::sha256(b"one"), Digest::sha256(b"two")]
    }

    fn places(order: &Order) -> Vec<SpanAt> {
        order.places().collect()
    }

    #[test]
    fn a_span_has_the_mean_of_its_places_and_is_forgotten_after_three_starts_without_it() {
        let [a, b, c] = [at(0, 7), at(1, 0), at(0, 9)];
        let first = Order::after(None, layers(), &[a, b, a, c]);
        assert_eq!(places(&first), [a, b, c]);
        let second = Order::after(Some(&first), layers(), &[c, b]);
        // a 0, b (1 + 1) / 2, c (2 + 0) / 2
        assert_eq!(places(&second), [a, c, b]);
        let third = Order::after(Some(&second), layers(), &[c, b]);
        assert!(places(&third).contains(&a));
        let fourth = Order::after(Some(&third), layers(), &[c, b]);
        assert_eq!(places(&fourth), [c, b]);
    }

    #[test]
    fn a_file_of_another_image_version_or_shape_is_none() {
        let order = Order::after(None, layers(), &[at(0, 1), at(1, 2)]);
        let bytes = order.bytes();
        assert_eq!(Order::read(&bytes, &layers()), Some(order.clone()));
        assert_eq!(Order::read(&bytes, &layers()[..1]), None);
        assert_eq!(Order::read(&bytes[1..], &layers()), None);
        let newer = Order {
            version: 2,
            ..order
        };
        assert_eq!(Order::read(&newer.bytes(), &layers()), None);
    }

    proptest! {
        #[test]
        fn an_order_is_bounded_and_names_each_span_once(
            starts in proptest::collection::vec(proptest::collection::vec((0..4_u16, 0..3000_u32), 0..6000), 1..4)
        ) {
            let mut order = None;
            for start in starts {
                let start: Vec<SpanAt> = start.into_iter().map(|(layer, span)| at(layer, span)).collect();
                let next = Order::after(order.as_ref(), layers(), &start);
                let named = places(&next);
                prop_assert!(named.len() <= MOST);
                prop_assert_eq!(named.iter().collect::<HashSet<_>>().len(), named.len());
                prop_assert_eq!(Order::read(&next.bytes(), &layers()), Some(next.clone()));
                order = Some(next);
            }
        }
    }
}
