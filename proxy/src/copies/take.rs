//! A taker's part: it says whether it has room for a copy, and fetches what it has taken, one copy at a time. It
//! fetches slowly, and slower still while its own clients wait for bytes.

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use larder_shared::{Digest, Link, Range, Role};
use tokio::sync::Notify;

use super::{
    Copies, lock,
    wire::{Answer, Item, Linked},
};
use crate::{
    clock::unix_now,
    cluster::{
        peers::{LATER, PeerRequest, PeerSubject},
        records::{PeerRecord, of_repository, of_tag},
    },
    metrics::{CopyOutcome, CopyTaken},
    store::{Incoming, Store, Tenure},
    trace::Trace,
};

/// The most copies that wait. A member with more to fetch answers that it is busy.
const WAITING: usize = 256;

/// Bytes that are written and hashed at a time.
const PIECE: usize = 256 << 10;

/// The rate of copies is divided by this while clients of this node wait for bytes.
const BEHIND: u32 = 8;

/// How often a failed copy is tried, and the pause between: its holder may be on its way back.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(15);

/// Copies that were taken and have not come yet.
#[derive(Default, Debug)]
pub(super) struct Taking {
    queue: Mutex<Queue>,
    added: Notify,
}

#[derive(Default, Debug)]
struct Queue {
    items: VecDeque<Item>,
    digests: HashSet<Digest>,
    bytes: u64,
}

impl Taking {
    pub fn waiting(&self) -> usize {
        lock(&self.queue).digests.len()
    }

    /// Puts an item at the end, or at the front if its holder is about to stop.
    fn put(&self, item: Item) {
        let mut queue = lock(&self.queue);
        if queue.digests.insert(item.digest) {
            queue.bytes += item.size;
            if item.hurry {
                queue.items.push_front(item);
            } else {
                queue.items.push_back(item);
            }
        }
        drop(queue);
        self.added.notify_one();
    }

    fn done(&self, item: &Item) {
        let mut queue = lock(&self.queue);
        queue.digests.remove(&item.digest);
        queue.bytes = queue.bytes.saturating_sub(item.size);
    }
}

/// Why a copy was not made.
#[derive(Debug)]
enum Failed {
    /// The member did not send the blob, or sent other bytes.
    Source(String),
    Disk(String),
}

impl Copies {
    /// Answers offers, and queues the copies that it takes.
    pub async fn offered(self: &Arc<Self>, items: Vec<Item>) -> Vec<Answer> {
        let mut room = self
            .room()
            .await
            .saturating_sub(lock(&self.taking.queue).bytes);
        let mut answers = Vec::new();
        for mut item in items {
            item.links = self.may_travel(std::mem::take(&mut item.links));
            let answer = self.answer(&item, &mut room);
            if answer == Answer::Taken {
                self.taking.put(item);
            }
            answers.push(answer);
        }
        answers
    }

    fn answer(&self, item: &Item, room: &mut u64) -> Answer {
        if self.store.holds(&item.digest) {
            self.store
                .used_elsewhere(&item.digest, Duration::from_secs(item.age));
            return Answer::Held;
        }
        let old = self.ttl().is_some_and(|ttl| item.age > ttl.as_secs());
        let keeps = self.store.tenure() == Tenure::Held && self.store.usable();
        let leaving = self.leaving.load(Ordering::Relaxed);
        if self.wanted() < 2 || !keeps || leaving || item.links.is_empty() {
            return Answer::Off;
        }
        let queue = lock(&self.taking.queue);
        if queue.digests.contains(&item.digest) {
            return Answer::Taken;
        }
        if old {
            return Answer::Old;
        }
        if item.size > *room {
            return Answer::Full;
        }
        if queue.items.len() >= WAITING {
            return Answer::Busy;
        }
        *room -= item.size;
        Answer::Taken
    }

    /// Bytes that fit within the bounds without an eviction.
    async fn room(&self) -> u64 {
        let look = |store: &Store| Some((store.space().ok()?, store.taken()));
        let Some((space, taken)) = self.store.survey(look).await.flatten() else {
            return 0;
        };
        let config = self.config.load();
        let most = config.store.max_size.of(space.total);
        let min_free = config.store.min_free.of(space.total);
        let below_most = most.saturating_sub(taken);
        let free = space.free.saturating_sub(min_free);
        below_most.min(free)
    }

    /// The links that may come to this node with a copy. Private ones may only if private content is copied.
    pub(super) fn may_travel(&self, mut links: Vec<Linked>) -> Vec<Linked> {
        let (config, private) = (self.config.load(), self.copies_private());
        links.retain(|linked| {
            let public = linked.public.is_some();
            (public || private) && config.registry.allows(linked.registry.as_str())
        });
        links
    }

    /// Fetches the copies that were taken, one after another, for ever.
    pub(super) async fn take_all(self: Arc<Self>) {
        loop {
            let next = lock(&self.taking.queue).items.pop_front();
            match next {
                Some(item) => {
                    self.take(&item).await;
                    self.taking.done(&item);
                }
                None => self.taking.added.notified().await,
            }
        }
    }

    async fn take(self: &Arc<Self>, item: &Item) {
        let mut attempt = 0;
        let outcome = loop {
            // A client may have pulled the blob meanwhile.
            if self.store.holds(&item.digest) {
                break CopyOutcome::Here;
            }
            if item.size > self.room().await {
                break CopyOutcome::Full;
            }
            let from = item.from[attempt as usize % item.from.len().max(1)];
            match self.fetch(item, from).await {
                Ok(()) => break CopyOutcome::Copied,
                Err(Failed::Source(why)) => {
                    tracing::debug!(blob.digest = %item.digest, member = %from, why, "a copy could not be fetched");
                    attempt += 1;
                    if attempt >= ATTEMPTS {
                        break CopyOutcome::Failed;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Failed::Disk(why)) => {
                    tracing::debug!(blob.digest = %item.digest, why, "a copy could not be kept");
                    break CopyOutcome::Disk;
                }
            }
        };
        let taken = &self.metrics.copies.taken;
        taken.get_or_create(&CopyTaken { outcome }).inc();
        if outcome == CopyOutcome::Copied {
            self.cluster.announce(item.digest);
        }
    }

    /// Fetches a copy from a member, verifies it, and puts it in place with its links.
    async fn fetch(self: &Arc<Self>, item: &Item, from: SocketAddr) -> Result<(), Failed> {
        let linked = self.still_open(&item.links).await;
        if linked.is_empty() {
            return Err(Failed::Source(
                "it is private, as far as this node knows".to_owned(),
            ));
        }
        let (digest, size) = (item.digest, item.size);
        let disk = |error: std::io::Error| Failed::Disk(error.to_string());
        let receive = move |store: &Store| store.receive(digest, size);
        let incoming = self.on_disk(receive).await?.map_err(disk)?;
        let incoming = if size > 0 {
            self.receive(item, linked.first(), from, incoming).await?
        } else {
            incoming
        };
        let mut records = Vec::new();
        for linked in &linked {
            let record = self.store.record(&linked.registry, &linked.repository);
            records.push(record.await);
        }
        let stale = unix_now().saturating_sub(self.config.load().access.ttl.as_secs() + 1);
        for (linked, record) in linked.iter().zip(&records) {
            record.add_link(Link {
                digest,
                size,
                media_type: linked.media_type.clone(),
            });
            // Another member's word gives no right while the registry answers: it counts as an expired answer.
            if let Some(public) = linked.public {
                record.learn_public(public.min(stale));
            }
        }
        let ago = Duration::from_secs(item.age);
        let take_in = move |store: &Store| {
            // A blob without a link to a repository would be of no use, so the links come first.
            for record in &records {
                record.flush();
            }
            store.take_in(incoming, ago)
        };
        if !self.on_disk(take_in).await?.map_err(disk)? {
            tracing::warn!(member = %from, blob.digest = %digest, "distrust: a member gave wrong bytes for a copy and is not asked for a while; look at its disk and memory, and run `larder verify` there");
            self.cluster.members.distrust(from);
            self.metrics.peers.distrusted.inc();
            return Err(Failed::Source("other bytes".to_owned()));
        }
        // The runtime may have the blob too; it is now known that a repository holds it.
        self.store.note_proven(&digest);
        self.keep_records(&linked).await;
        Ok(())
    }

    /// The links whose repositories this node, too, does not know to be private.
    async fn still_open(&self, links: &[Linked]) -> Vec<Linked> {
        let mut open = Vec::new();
        for linked in links {
            let record = self
                .store
                .record(&linked.registry, &linked.repository)
                .await;
            if self.copies_private() || record.refused_since().is_none() {
                open.push(linked.clone());
            }
        }
        open
    }

    /// Receives the bytes of a copy at an even rate.
    async fn receive(
        self: &Arc<Self>,
        item: &Item,
        first: Option<&Linked>,
        from: SocketAddr,
        mut incoming: Incoming,
    ) -> Result<Incoming, Failed> {
        let first = first.ok_or_else(|| Failed::Source("no repository holds it".to_owned()))?;
        let ask = PeerRequest {
            registry: first.registry.clone(),
            repository: first.repository.clone(),
            subject: PeerSubject::Blob(item.digest, Range::new(0, item.size)),
            role: Role::Copy,
            within: LATER,
            lent: None,
            trace: Trace::none(),
        };
        let asked = self.cluster.peers.ask(from, &ask).await;
        let mut body = asked.map_err(|why| Failed::Source(why.to_string()))?.body;
        let mut waiting: Vec<u8> = Vec::new();
        let mut due = Instant::now();
        loop {
            let piece = body.next().await;
            let ended = piece.is_none();
            if let Some(piece) = piece {
                let piece = piece.map_err(|why| Failed::Source(why.to_string()))?;
                self.metrics.copies.received.inc_by(piece.len() as u64);
                waiting.extend_from_slice(&piece);
            }
            if waiting.len() < PIECE && !ended {
                continue;
            }
            let bytes = std::mem::take(&mut waiting);
            due += self.pause_after(bytes.len(), item.hurry);
            let written = self.on_disk(move |_| {
                let written = incoming.write(&bytes);
                written.map(|()| incoming)
            });
            incoming = written.await?.map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => Failed::Source(error.to_string()),
                _ => Failed::Disk(error.to_string()),
            })?;
            if ended {
                if incoming.at() == item.size {
                    return Ok(incoming);
                }
                return Err(Failed::Source(format!("{} bytes", incoming.at())));
            }
            let now = Instant::now();
            // Time that was lost while the member was slow is not made up for by a faster rate.
            due = due.max(now.checked_sub(Duration::from_millis(200)).unwrap_or(now));
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// How long this many bytes should take.
    fn pause_after(&self, bytes: usize, hurry: bool) -> Duration {
        let rate = self.peers().map_or(u64::MAX, |peers| peers.copy_rate);
        let pause = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        match (hurry, (self.busy)()) {
            (true, _) => Duration::ZERO,
            (false, true) => pause * BEHIND,
            (false, false) => pause,
        }
    }

    /// Keeps tags that point to a manifest, and that a repository is public. Other members ask for both in an outage.
    async fn keep_records(&self, links: &[Linked]) {
        for linked in links {
            let (registry, repository) = (&linked.registry, &linked.repository);
            let mut news = Vec::new();
            if linked.public.is_some() {
                let record = PeerRecord {
                    public: linked.public,
                    ..PeerRecord::default()
                };
                news.push((of_repository(registry, repository), record));
            }
            for (tag, record) in &linked.tags {
                let record = PeerRecord {
                    tag: Some(record.clone()),
                    ..PeerRecord::default()
                };
                news.push((of_tag(registry, repository, tag), record));
            }
            for (thing, record) in news {
                if let Err(error) = self.cluster.keep(&thing, record.sane(unix_now())).await {
                    tracing::debug!(%error, "a record that came with a copy cannot be kept");
                }
            }
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, Failed> {
        let store = Arc::clone(&self.store);
        let called = tokio::task::spawn_blocking(move || call(&store));
        called
            .await
            .map_err(|panic| Failed::Disk(panic.to_string()))
    }
}
