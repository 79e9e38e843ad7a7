//! A reader without a disk: when the store cannot take a fill, each reader fetches for itself.
//!
//! Nothing is kept, and no two readers share (promises P5 and P7 are suspended). The promise about the bytes still
//! holds: the last bytes of a whole or open-ended answer are held back until the digest is known to match. Where a
//! reader begins in the middle and comes to the end, the whole blob is fetched a second time, and must bring the same
//! bytes again.

mod sink;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http_body_util::BodyExt;
use larder_shared::{Digest, Hasher, Range};
use tokio::{sync::mpsc, time::timeout};

use self::sink::Sink;
use super::{
    FillError, HELD_BACK, Source,
    patience::{EVEN, IDLE, Next, Patience, STALLS},
};
use crate::{
    metrics,
    store::Partial,
    upstream::{Answer, Ask, Became, Failure, Subject, Upstreams, Want},
};

/// A late small blob still comes if it has brought so many bytes since it became late. A source that breaks off again
/// and again brings only a few each time.
pub(super) const TRICKLE: u64 = 1 << 10;

/// How often a blob that is late is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The bytes of a blob before the part that is passed on. The digest vouches for an answer only if it is computed over
/// the very bytes that were sent, not over those that a source brings now.
#[derive(Debug)]
pub(super) enum Before {
    /// They were sent from memory.
    Memory(Vec<Bytes>),
    /// They are in this file, from which they were sent, except for the first ones, which came from memory.
    File(Vec<Bytes>, Arc<Partial>),
    /// They were not part of this answer: the source has them.
    NotSent,
    /// They were sent, and larder does not know any more what they were.
    Lost,
}

/// A blob that is passed on.
#[derive(Clone, Debug)]
pub struct Passage {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) source: Source,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Bytes that have come.
    pub(super) came: Arc<AtomicU64>,
}

/// A small blob that was asked for.
pub enum Small {
    Here(Result<Bytes, FillError>),
    Comes(BoxFuture<'static, Result<Bytes, FillError>>),
}

/// One range on its way through.
#[derive(Debug)]
pub struct Through(mpsc::Receiver<Result<Bytes, FillError>>);

#[cfg(test)]
impl Passage {
    /// Leads to no registry at all.
    pub fn nowhere() -> Self {
        let config = Arc::new(arc_swap::ArcSwap::default());
        let client = Arc::new(crate::client::Client::new());
        Self {
            upstreams: Arc::new(Upstreams::new(config, client, Arc::default())),
            source: Source {
                registry: "a.io".parse().expect("a name"),
                repository: "b".parse().expect("a name"),
                identity: crate::identity::Identity::anonymous(),
                trace: crate::trace::Trace::none(),
            },
            digest: Digest::sha256(b""),
            size: 0,
            came: Arc::default(),
        }
    }
}

#[cfg(test)]
impl Through {
    /// A range that brings just these pieces.
    pub fn of(brings: Vec<Result<Bytes, FillError>>) -> Self {
        let (sender, receiver) = mpsc::channel(brings.len().max(1));
        for piece in brings {
            let sent = sender.try_send(piece);
            assert!(sent.is_ok(), "there is room for all");
        }
        Self(receiver)
    }
}

impl Through {
    /// The next bytes; `None` after the last.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, FillError>>> {
        self.0.poll_recv(cx)
    }
}

impl Passage {
    /// Asks the source how long the blob is.
    pub async fn find(
        upstreams: Arc<Upstreams>,
        source: Source,
        digest: Digest,
        listed: Option<u64>,
    ) -> Result<Self, FillError> {
        let subject = Subject::Blob(digest);
        let want = Want::Part(Range::new(0, 1));
        let mut ask = Ask::new(&source.registry, &source.repository, subject, want)
            .by(source.identity.clone())
            .traced(&source.trace);
        ask.listed = listed;
        // Where one endpoint does not tell, the next one may.
        for first in 0..upstreams.count(&source.registry).max(1) {
            ask.first = first;
            let size = match upstreams.ask(&ask).await {
                Ok(answer) => answer.whole_length().or(listed),
                Err(Failure::Unsatisfiable { total }) => total,
                Err(failure) => return Err(FillError::Upstream(failure)),
            };
            if let Some(size) = size {
                return Ok(Self {
                    upstreams,
                    source,
                    digest,
                    size,
                    came: Arc::default(),
                });
            }
        }
        Err(FillError::Broken("no length of the blob".to_owned()))
    }

    /// Bytes of the blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A blob of up to [`HELD_BACK`] bytes, whole and verified. If it takes longer than `within` and still comes, the
    /// answer is a future of the same.
    pub async fn small_within(self, within: Duration) -> Small {
        let came = Arc::clone(&self.came);
        let mut small = async move { self.small().await }.boxed();
        let comes = async {
            tokio::time::sleep(within).await;
            let before = came.load(Ordering::Relaxed);
            while came.load(Ordering::Relaxed) < before + TRICKLE {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let here = tokio::select! {
            small = &mut small => Some(small),
            () = comes => None,
        };
        here.map_or_else(|| Small::Comes(small), Small::Here)
    }

    async fn small(&self) -> Result<Bytes, FillError> {
        let mut through = self.open(Range::new(0, self.size), true, Before::NotSent);
        let mut bytes = Vec::new();
        while let Some(chunk) = through.0.recv().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes.into())
    }

    /// Starts to fetch `part`. With `hold`, it ends where the blob ends, and its tail waits for the digest.
    pub fn begin(&self, part: Range, hold: bool) -> Through {
        self.open(part, hold, Before::NotSent)
    }

    /// The same, for an answer of which the bytes `before` were sent already.
    pub(super) fn open(&self, part: Range, hold: bool, before: Before) -> Through {
        let (sender, receiver) = mpsc::channel(4);
        let passage = self.clone();
        tokio::spawn(async move {
            if let Err(error) = passage.run(part, hold, before, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Through(receiver)
    }

    async fn run(
        &self,
        part: Range,
        hold: bool,
        before: Before,
        sender: &mpsc::Sender<Result<Bytes, FillError>>,
    ) -> Result<(), FillError> {
        let hasher = if hold {
            self.hasher(part.start, before).await?
        } else {
            None
        };
        let mut sink = Sink {
            at: part.start,
            begin: part.start,
            free_until: if hold {
                self.size.saturating_sub(HELD_BACK).max(part.start)
            } else {
                part.end
            },
            sent: hasher.is_none().then(|| self.new_hasher()),
            hasher,
            sender: Some(sender),
            tail: VecDeque::new(),
        };
        self.stream(part, &mut sink).await?;
        if !hold || sender.is_closed() {
            return Ok(());
        }
        let right = match (sink.hasher, sink.sent) {
            (Some(hasher), _) => hasher.finish() == self.digest,
            (None, sent) => tokio::select! {
                all = self.hash_all(part.start) => {
                    let (digest, same) = all?;
                    digest == self.digest && sent.map(Hasher::finish) == Some(same)
                }
                () = sender.closed() => return Ok(()),
            },
        };
        if !right {
            return Err(FillError::Digest);
        }
        for chunk in sink.tail {
            let _ = sender.send(Ok(chunk)).await;
        }
        Ok(())
    }

    /// A hasher that has seen everything before `at`; `None` where only the source has those bytes, and is asked later.
    async fn hasher(&self, at: u64, before: Before) -> Result<Option<Hasher>, FillError> {
        let mut hasher = self.new_hasher();
        if at == 0 {
            return Ok(Some(hasher));
        }
        match before {
            Before::Memory(sent) => {
                for bytes in &sent {
                    hasher.update(bytes);
                }
                Ok(Some(hasher))
            }
            Before::File(sent, partial) => {
                let hash = move || {
                    let mut from = 0;
                    for bytes in &sent {
                        let end = from + bytes.len() as u64;
                        if partial.blob().read(Range::new(from, end))? != bytes[..] {
                            return Err(io::Error::other("what was sent is not what is kept"));
                        }
                        from = end;
                    }
                    partial.hasher_at(at)
                };
                // The file of a disk that hangs may hang as well, and a body must not wait for ever.
                let hashed = timeout(STALLS, tokio::task::spawn_blocking(hash)).await;
                let late = |_| FillError::Broken("the disk does not give what was sent".to_owned());
                let hashed = hashed.map_err(late)?;
                let hashed = hashed.map_err(|panic| FillError::Broken(panic.to_string()))?;
                let hashed = hashed.map_err(|error| FillError::Broken(error.to_string()))?;
                Ok(Some(hashed))
            }
            Before::NotSent => Ok(None),
            Before::Lost => Err(FillError::Broken(
                "what was sent of it so far cannot be checked any more".to_owned(),
            )),
        }
    }

    fn new_hasher(&self) -> Hasher {
        Hasher::new(self.digest.algorithm())
    }

    /// Fetches the whole blob once more. Returns the hash of all its bytes, and that of its bytes from `from` on. The
    /// digest vouches for this second transfer, and for the first one only if the two brought the same.
    async fn hash_all(&self, from: u64) -> Result<(Digest, Digest), FillError> {
        let mut sink = Sink {
            at: 0,
            begin: from,
            free_until: self.size,
            hasher: Some(self.new_hasher()),
            sent: Some(self.new_hasher()),
            sender: None,
            tail: VecDeque::new(),
        };
        self.stream(Range::new(0, self.size), &mut sink).await?;
        let finish = |hasher: Option<Hasher>| hasher.unwrap_or_else(|| self.new_hasher()).finish();
        Ok((finish(sink.hasher), finish(sink.sent)))
    }

    /// Brings `range` to `sink`, asking again where a stream breaks off. Ends early when the client has left.
    async fn stream(&self, range: Range, sink: &mut Sink<'_>) -> Result<(), FillError> {
        let mut at = range.start;
        let mut patience = Patience::of_passage(Instant::now());
        let mut first = 0;
        while at < range.end {
            let (why, stalled) = match self.question(first, Range::new(at, range.end)).await {
                Ok(answer) => match self
                    .pour(answer, &mut at, range.end, &mut patience, sink)
                    .await
                {
                    Poured::All => return Ok(()),
                    Poured::Broken { why, stalled } => (why, stalled),
                },
                Err(failure) => (failure.to_string(), false),
            };
            if patience.failed(Instant::now(), stalled) == Next::GiveUp {
                return Err(FillError::Broken(why));
            }
            first += 1;
            tokio::time::sleep(patience.pause(EVEN)).await;
        }
        Ok(())
    }

    /// Asks for `part`, at the `first`th endpoint before the others.
    async fn question(&self, first: usize, part: Range) -> Result<Answer, Failure> {
        let (registry, repository) = (&self.source.registry, &self.source.repository);
        let subject = Subject::Blob(self.digest);
        let mut ask = Ask::new(registry, repository, subject, Want::Part(part))
            .by(self.source.identity.clone())
            .traced(&self.source.trace);
        ask.first = first;
        ask.size = Some(self.size);
        ask.listed = Some(self.size);
        self.upstreams.ask(&ask).await
    }

    /// Brings what `answer` has of the bytes from `at` to `end`, and moves `at`.
    async fn pour(
        &self,
        answer: Answer,
        at: &mut u64,
        end: u64,
        patience: &mut Patience,
        sink: &mut Sink<'_>,
    ) -> Poured {
        let registry = &self.source.registry;
        // A source without ranges begins at the first byte.
        let begins = match answer.content_range() {
            Some((range, total)) => (total == self.size).then_some(range.start),
            None if answer.partial => None,
            None => answer
                .content_length()
                .is_none_or(|length| length == self.size)
                .then_some(0),
        };
        let Some(mut position) = begins.filter(|begin| *begin <= *at) else {
            let why = "it has something else".to_owned();
            return Poured::Broken {
                why,
                stalled: false,
            };
        };
        let (endpoint, plain, began) = (answer.endpoint, !answer.partial, *at);
        let receiving = self
            .upstreams
            .receiving(registry, metrics::Source::Upstream);
        let mut body = answer.body;
        let (why, stalled) = loop {
            match timeout(IDLE, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let Ok(mut data) = frame.into_data() else {
                        continue;
                    };
                    receiving.add(data.len() as u64);
                    let skip = at.saturating_sub(position).min(data.len() as u64);
                    position += data.len() as u64;
                    let mut data = data.split_off(skip as usize);
                    data.truncate((end - *at) as usize);
                    if data.is_empty() {
                        continue;
                    }
                    *at += data.len() as u64;
                    self.came.fetch_add(data.len() as u64, Ordering::Relaxed);
                    let more = sink.take(data).await && *at < end;
                    if !more {
                        return Poured::All;
                    }
                    // A client that takes its time is no failure of the source.
                    patience.progressed(Instant::now());
                }
                Ok(Some(Err(error))) => break (error.to_string(), false),
                Ok(None) => break ("it ended early".to_owned(), false),
                Err(_) => break (format!("it brought nothing for {} s", IDLE.as_secs()), true),
            }
        };
        if plain || *at - began < HELD_BACK {
            let became = Became::BrokeOff { plain };
            self.upstreams
                .became(registry, endpoint, &self.digest, became);
        }
        Poured::Broken { why, stalled }
    }
}

/// How an answer's body ended.
enum Poured {
    /// Everything came, or the client has left.
    All,
    Broken {
        why: String,
        stalled: bool,
    },
}
