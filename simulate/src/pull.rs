//! One node's pull: which blobs are under way, and which run comes next. The order within a blob is set here, when the
//! blob begins.

use larder::cluster::placement::{self, Key};

use crate::scenario::Order;

/// A blob that a node is fetching.
#[derive(Debug)]
pub struct Pull {
    /// Its number in the catalog.
    pub blob: usize,
    /// The blob's runs, numbered within it, in the order in which they are fetched if the reader does not wait for one.
    order: Vec<u32>,
    /// All runs of `order` before this place have begun.
    cursor: usize,
    /// The run that the reader waits for.
    reader: usize,
    /// Runs that are not here.
    pub missing: usize,
}

impl Pull {
    /// `is_root` tells for each run whether this node is its root; `missing` is how many runs are not here.
    pub fn new(
        blob: usize,
        order: Order,
        own: Key,
        is_root: &[bool],
        missing: usize,
        random: &mut fastrand::Rng,
    ) -> Self {
        Self {
            blob,
            order: ordered(order, own, is_root, random),
            cursor: 0,
            reader: 0,
            missing,
        }
    }

    /// The next run to fetch. `begun` and `done` tell the state of a run of this blob.
    pub fn next(
        &mut self,
        begun: impl Fn(usize) -> bool,
        done: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        while self.reader < self.order.len() && done(self.reader) {
            self.reader += 1;
        }
        if self.reader < self.order.len() && !begun(self.reader) {
            return Some(self.reader);
        }
        while let Some(&run) = self.order.get(self.cursor) {
            if !begun(run as usize) {
                return Some(run as usize);
            }
            self.cursor += 1;
        }
        None
    }
}

fn ordered(order: Order, own: Key, is_root: &[bool], random: &mut fastrand::Rng) -> Vec<u32> {
    let mut runs: Vec<u32> = (0..is_root.len() as u32).collect();
    let root = |run: &u32| is_root[*run as usize];
    match order {
        Order::Turn => {
            runs.sort_by_cached_key(|run| placement::turn(own, root(run), u64::from(*run)));
        }
        Order::Sequential => {}
        Order::Shuffled => random.shuffle(&mut runs),
        Order::OwnFirst => {
            random.shuffle(&mut runs);
            runs.sort_by_key(|run| !root(run));
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_has_every_run_once() {
        let own = Key::of("a");
        let is_root: Vec<bool> = (0..50).map(|run| run % 5 == 0).collect();
        for order in [
            Order::Turn,
            Order::Sequential,
            Order::Shuffled,
            Order::OwnFirst,
        ] {
            let random = &mut fastrand::Rng::with_seed(3);
            let mut runs = ordered(order, own, &is_root, random);
            if order == Order::OwnFirst {
                assert!(runs[..10].iter().all(|run| run % 5 == 0), "{runs:?}");
            }
            runs.sort_unstable();
            assert_eq!(runs, (0..50).collect::<Vec<u32>>(), "{order:?}");
        }
    }

    #[test]
    fn what_the_reader_waits_for_comes_first() {
        let random = &mut fastrand::Rng::with_seed(3);
        let mut pull = Pull::new(0, Order::Turn, Key::of("a"), &[false; 9], 9, random);
        assert_eq!(pull.next(|_| false, |_| false), Some(0));
        assert_eq!(pull.next(|run| run < 4, |run| run < 4), Some(4));
        let other = pull.next(|run| run == 0, |_| false);
        assert!(other.is_some_and(|run| run != 0));
        assert_eq!(pull.next(|_| true, |_| false), None);
    }
}
