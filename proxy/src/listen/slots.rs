//! How many connections a port serves at once, and which one is closed when there are too many.
//!
//! A connection *works* while a request of it is answered, and *waits* otherwise: for its first head, for a handshake,
//! or for its next request. Only waiting connections give way, the one that has waited longest first. So idle or
//! unfinished connections keep no client out. No sockets here. Callers pass the time in, except when an answer ends.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// A connection that has waited for less than this does not give way: its request may be on its way.
const PATIENCE: Duration = Duration::from_secs(1);

/// After this many connections at once, the memory of ended connections is worth giving back.
const MANY: usize = 256;

/// The slots of one port.
#[derive(Debug)]
pub(super) struct Slots {
    /// Connections at the most.
    limit: usize,
    /// How many connections may wait at once. More of them may, until they have waited for [`PATIENCE`].
    waiting: usize,
    table: Mutex<Table>,
}

#[derive(Default, Debug)]
struct Table {
    /// A counter that gives connections their names, and waiting connections their order.
    next: u64,
    taken: HashMap<u64, Taken>,
    /// The waiting connections, the one that has waited longest first.
    waiting: BTreeMap<u64, u64>,
    /// The most connections since memory was last given back.
    peak: usize,
}

#[derive(Debug)]
struct Taken {
    /// Answers under way.
    works: usize,
    /// Its key among the waiting connections.
    turn: u64,
    since: Instant,
    gives_way: Arc<Notify>,
}

impl Slots {
    pub(super) fn new(limit: usize, waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            waiting,
            table: Mutex::default(),
        })
    }

    /// Connections at the most.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A slot for a new connection, which waits for its first request. `None` if all are taken and none gives way.
    pub(super) fn take(self: &Arc<Self>, now: Instant) -> Option<Slot> {
        let mut table = self.table();
        while table.taken.len() >= self.limit || table.waiting.len() >= self.waiting {
            if !table.give_way(now) {
                break;
            }
        }
        if table.taken.len() >= self.limit {
            return None;
        }
        let name = table.number();
        let turn = table.number();
        let gives_way = Arc::new(Notify::new());
        let taken = Taken {
            works: 0,
            turn,
            since: now,
            gives_way: Arc::clone(&gives_way),
        };
        table.taken.insert(name, taken);
        table.waiting.insert(turn, name);
        table.peak = table.peak.max(table.taken.len());
        Some(Slot {
            slots: Arc::clone(self),
            name,
            gives_way,
        })
    }

    /// How many connections are being answered.
    pub(super) fn at_work(&self) -> usize {
        let table = self.table();
        table.taken.len() - table.waiting.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Tells the connection that has waited longest to go. Its slot is free at once.
    fn give_way(&mut self, now: Instant) -> bool {
        let Some((&turn, &name)) = self.waiting.first_key_value() else {
            return false;
        };
        let old = |taken: &Taken| now.saturating_duration_since(taken.since) >= PATIENCE;
        if !self.taken.get(&name).is_some_and(old) {
            return false;
        }
        self.waiting.remove(&turn);
        if let Some(taken) = self.taken.remove(&name) {
            taken.gives_way.notify_one();
        }
        true
    }
}

/// A connection's slot. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    name: u64,
    gives_way: Arc<Notify>,
}

impl Slot {
    /// Returns when this connection is to give way.
    pub(super) async fn told_to_go(&self) {
        self.gives_way.notified().await;
    }

    /// Marks an answer as under way until the returned [`Work`] is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Work {
        let mut table = self.slots.table();
        if let Some(taken) = table.taken.get_mut(&self.name) {
            taken.works += 1;
            let turn = taken.turn;
            table.waiting.remove(&turn);
        }
        drop(table);
        Work(Arc::clone(self))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.slots.table();
        if let Some(taken) = table.taken.remove(&self.name) {
            table.waiting.remove(&taken.turn);
        }
        let left = table.taken.len();
        if table.peak >= MANY && left <= table.peak / 4 {
            table.peak = left;
            drop(table);
            give_memory_back();
        }
    }
}

/// One answer under way.
#[derive(Debug)]
pub(super) struct Work(Arc<Slot>);

impl Drop for Work {
    fn drop(&mut self) {
        let mut table = self.0.slots.table();
        let turn = table.number();
        let name = self.0.name;
        if let Some(taken) = table.taken.get_mut(&name) {
            taken.works -= 1;
            if taken.works == 0 {
                (taken.turn, taken.since) = (turn, Instant::now());
                table.waiting.insert(turn, name);
            }
        }
    }
}

/// Gives memory back: a thousand connections leave a heap that is full of holes, which the C library would keep.
fn give_memory_back() {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(crate::sys::give_freed_memory_back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(slot: &Slot) -> bool {
        let mut told = Box::pin(slot.told_to_go());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        told.as_mut().poll(&mut cx).is_ready()
    }

    #[test]
    fn the_one_that_has_waited_longest_gives_way() {
        let slots = Slots::new(3, 3);
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let first = Arc::new(slots.take(at(0)).unwrap());
        let second = Arc::new(slots.take(at(0)).unwrap());
        let third = Arc::new(slots.take(at(5)).unwrap());
        // The third has just come, and the other two work: no connection gives way.
        let works = [first.work(), second.work()];
        assert!(slots.take(at(5)).is_none());
        assert_eq!(slots.at_work(), 2);
        let fourth = slots.take(at(7)).expect("the third gives way");
        assert!(gone(&third) && !gone(&first) && !gone(&second) && !gone(&fourth));
        drop(third);
        assert!(slots.take(at(7)).is_none(), "its slot was given away once");
        drop(fourth);
        assert!(slots.take(at(7)).is_some());
        drop(works);
        assert_eq!(slots.at_work(), 0);
        // They wait since now, the first before the second.
        let late = Instant::now() + Duration::from_mins(1);
        let kept = [slots.take(late), slots.take(late)];
        assert!(kept.iter().all(Option::is_some));
        assert!(gone(&first) && !gone(&second));
        drop((first, second, kept));
        assert!(slots.table().taken.is_empty() && slots.table().waiting.is_empty());
    }

    /// A connection that is asked to close while its request comes is not counted again.
    #[test]
    fn work_after_the_word_to_go_counts_nothing() {
        let slots = Slots::new(1, 1);
        let now = Instant::now();
        let first = Arc::new(slots.take(now).unwrap());
        let second = slots.take(now + PATIENCE).expect("the first gives way");
        drop(first.work());
        drop(first);
        assert_eq!((slots.at_work(), slots.table().taken.len()), (0, 1));
        drop(second);
        assert!(slots.table().taken.is_empty() && slots.table().waiting.is_empty());
    }

    /// Fewer connections may wait than may work; connections that have just come may be more.
    #[test]
    fn those_that_wait_have_a_bound_of_their_own() {
        let slots = Slots::new(10, 2);
        let now = Instant::now();
        let new: Vec<_> = (0..4).map(|_| slots.take(now).unwrap()).collect();
        let next = slots.take(now + PATIENCE).unwrap();
        let told: Vec<_> = new.iter().map(gone).collect();
        assert_eq!(told, [true, true, true, false]);
        assert!(!gone(&next));
    }

    proptest::proptest! {
        /// Whatever happens in whatever order, the books agree.
        #[test]
        fn nothing_is_lost(steps in proptest::collection::vec((0u8..4, 0usize..8), 0..200)) {
            let slots = Slots::new(4, 3);
            let mut now = Instant::now();
            let mut held: Vec<(Arc<Slot>, Vec<Work>)> = Vec::new();
            for (what, which) in steps {
                match what {
                    0 => held.extend(slots.take(now).map(|slot| (Arc::new(slot), Vec::new()))),
                    1 if which < held.len() => {
                        let work = held[which].0.work();
                        held[which].1.push(work);
                    }
                    2 if which < held.len() => drop(held[which].1.pop()),
                    3 if which < held.len() => drop(held.remove(which)),
                    _ => now += PATIENCE,
                }
                let table = slots.table();
                assert!(table.taken.len() <= 4 && table.waiting.len() <= table.taken.len());
                for (turn, name) in &table.waiting {
                    assert!(table.taken[name].works == 0 && table.taken[name].turn == *turn);
                }
                let idle = table.taken.values().filter(|taken| taken.works == 0).count();
                assert_eq!(idle, table.waiting.len());
            }
            drop(held);
            let table = slots.table();
            assert!(table.taken.is_empty() && table.waiting.is_empty());
        }
    }
}
