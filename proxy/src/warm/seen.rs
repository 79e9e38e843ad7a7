//! Images that the members' container runtimes pulled or use, as their watchers report: a source of sets.
//!
//! No API and no socket is asked: each node has its watcher's file. One member asks all others what they have, and the
//! others ask that member, as for a registry's list. The answers only help to choose: every image is pulled by digest,
//! with this node's own right.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Method;
use larder_shared::{
    Digest, Reference, RegistryName, Repository, Tag,
    name::ImageName,
    runtime::{Image, Report},
    warm::SeenImage,
};

use super::{
    SETS, Warm,
    look::note,
    state::{Progress, SourceState, Wanted},
};
use crate::{clock::unix_now, cluster::placement::rank, config::FromSeen, runtime};

/// The most images that a member tells, and the most that a source may choose. Those on most nodes come first.
const MOST: usize = 1000;
const CHOSEN: usize = 200;

/// The most tags of one image.
const TAGS: usize = 20;

/// How long a member takes to tell its own images, and how long to tell those of all members.
const OWN_WITHIN: Duration = Duration::from_secs(1);
const ALL_WITHIN: Duration = Duration::from_secs(5);

/// How many members are asked at once, and how many may be asked for the images of all.
const ASKED: usize = 64;
const GATHERERS: usize = 3;

/// For how long gathered images are new enough for others. With a shorter refresh, most of that time counts instead.
const FRESH: Duration = Duration::from_secs(30);

/// Bytes of the longest answer.
const LONGEST: u64 = 1 << 20;

/// The images of all members, and when these were asked.
pub(super) type Gathered = Option<(Instant, Arc<Vec<SeenImage>>)>;

impl Warm {
    /// What this node tells another member. If members show no certificates, anybody may be asking.
    pub async fn tell_seen(&self, all: bool) -> Vec<SeenImage> {
        let mut seen = if all {
            self.gathered().await.as_ref().clone()
        } else {
            self.seen_here().await
        };
        if !self.pull.cluster.peers.may_lend() {
            seen.retain(|image| image.public);
        }
        seen
    }

    /// The images of a source.
    pub(super) async fn look_at_seen(
        &self,
        from: &FromSeen,
        state: &mut SourceState,
        within: Duration,
    ) -> Vec<Wanted> {
        let seen = if within.is_zero() {
            *self.gathered.lock().await = None;
            self.gathered().await
        } else {
            self.seen().await
        };
        let mut images = Vec::new();
        for image in choose(&seen, from, unix_now()) {
            let name = ImageName {
                registry: image.registry.clone(),
                repository: image.repository.clone(),
                reference: Reference::Digest(image.digest),
            };
            // An image that only a pod's own secret opens is not fetched.
            if !image.public && !self.pull.has_own_credentials(&name).await {
                continue;
            }
            images.push(wanted(image));
        }
        note(state, None);
        images
    }

    /// The images of all members, told by the first member in rank, or gathered by this node.
    async fn seen(&self) -> Arc<Vec<SeenImage>> {
        let cluster = &self.pull.cluster;
        let view = cluster.members.view();
        let thing = Digest::sha256(b"warm/seen");
        let before = rank(&view.keys, &thing, 0, view.keys.len()).into_iter();
        let before = before.take_while(|index| Some(*index) != view.own);
        let before = before.map(|index| view.addresses[index]);
        let before: Vec<_> = before
            .filter(|member| cluster.admits(*member))
            .take(GATHERERS)
            .collect();
        for member in before {
            if let Some(told) = self.ask_seen(member, "all", ALL_WITHIN).await {
                return Arc::new(told);
            }
        }
        self.gathered().await
    }

    /// Asks every member, unless this node did so a moment ago.
    async fn gathered(&self) -> Arc<Vec<SeenImage>> {
        let refresh = self.pull.config.load().warm.refresh;
        let mut gathered = self.gathered.lock().await;
        if let Some((at, seen)) = &*gathered
            && at.elapsed() < FRESH.min(refresh.mul_f64(0.8))
        {
            return Arc::clone(seen);
        }
        let cluster = &self.pull.cluster;
        let view = cluster.members.view();
        let others = view.others().filter(|member| cluster.admits(*member));
        let others: Vec<SocketAddr> = others.collect();
        let told = stream::iter(others)
            .map(|member| self.ask_seen(member, "own", OWN_WITHIN))
            .buffer_unordered(ASKED)
            .filter_map(async |told| told);
        let mut told: Vec<Vec<SeenImage>> = told.collect().await;
        told.push(self.seen_here().await);
        let seen = Arc::new(together(told));
        *gathered = Some((Instant::now(), Arc::clone(&seen)));
        seen
    }

    async fn ask_seen(
        &self,
        member: SocketAddr,
        of: &str,
        within: Duration,
    ) -> Option<Vec<SeenImage>> {
        let peers = &self.pull.cluster.peers;
        let path = format!("{SETS}?seen={of}");
        let told = peers.call_up_to(member, Method::GET, &path, Bytes::new(), within, LONGEST);
        let told = told.await.ok()?;
        let mut told: Vec<SeenImage> = serde_json::from_slice(&told).ok()?;
        let now = unix_now();
        told.truncate(MOST);
        for image in &mut told {
            image.at = image.at.min(now);
            image.tags.truncate(TAGS);
        }
        Some(told)
    }

    /// The images of this node's runtime, as its watcher reports them.
    async fn seen_here(&self) -> Vec<SeenImage> {
        let known = self.pull.runtime.known();
        let fresh = known.state == runtime::State::Fresh;
        let Some(report) = known.report().filter(|_| fresh).cloned() else {
            return Vec::new();
        };
        let mut seen = of_report(&report);
        for image in &mut seen {
            let store = &self.pull.store;
            let record = store.record(&image.registry, &image.repository).await;
            image.public = record.public_since().is_some();
        }
        seen
    }
}

fn wanted(image: &SeenImage) -> Wanted {
    let nodes = match image.nodes {
        1 => "a node".to_owned(),
        count => format!("{count} nodes"),
    };
    Wanted {
        registry: image.registry.clone(),
        repository: image.repository.clone(),
        digest: Some(image.digest),
        tags: image.tags.clone(),
        listed: std::collections::HashMap::new(),
        why: format!("the container runtime of {nodes} has it"),
        parts: None,
        progress: Progress::Waiting,
    }
}

/// The images that a source chooses, in an order that changes as little as possible.
fn choose<'a>(seen: &'a [SeenImage], from: &FromSeen, now: u64) -> Vec<&'a SeenImage> {
    let mut chosen: Vec<_> = seen
        .iter()
        .filter(|image| {
            let recent = now.saturating_sub(image.at) <= from.within.as_secs();
            let repository = format!("{}/{}", image.registry, image.repository);
            recent && image.nodes as usize >= from.on && from.wants(&repository)
        })
        .collect();
    chosen.sort_by_key(|image| place(image));
    chosen.truncate(CHOSEN);
    chosen
}

/// The sort key: images on most nodes come first.
fn place(image: &SeenImage) -> (Reverse<u32>, String, String, String) {
    (
        Reverse(image.nodes),
        image.registry.to_string(),
        image.repository.to_string(),
        image.digest.hex(),
    )
}

/// Joins the members' images: each image once, with the number of its nodes.
fn together(members: Vec<Vec<SeenImage>>) -> Vec<SeenImage> {
    let mut all: BTreeMap<(String, String, String), SeenImage> = BTreeMap::new();
    for member in members {
        let mut counted = HashSet::new();
        for image in member {
            let key = (
                image.registry.to_string(),
                image.repository.to_string(),
                image.digest.to_string(),
            );
            // A member counts as one node, whatever it tells.
            if !counted.insert(key.clone()) {
                continue;
            }
            match all.get_mut(&key) {
                Some(known) => {
                    known.nodes += 1;
                    known.at = known.at.max(image.at);
                    known.public |= image.public;
                    for tag in image.tags {
                        if known.tags.len() < TAGS && !known.tags.contains(&tag) {
                            known.tags.push(tag);
                        }
                    }
                }
                None => {
                    all.insert(key, SeenImage { nodes: 1, ..image });
                }
            }
        }
    }
    let mut all: Vec<_> = all.into_values().collect();
    all.sort_by_key(place);
    all.truncate(MOST);
    all
}

/// The images of a report by repository, the newest first: those in use, and those with a known time of pull.
fn of_report(report: &Report) -> Vec<SeenImage> {
    let mut seen: Vec<SeenImage> = Vec::new();
    for image in &report.images {
        let at = if is_used(report, image) {
            report.at
        } else if let Some(updated) = image.updated {
            updated
        } else {
            continue;
        };
        for (registry, repository, digest, tag) in names(image) {
            let known = seen.iter_mut().find(|seen| {
                seen.digest == digest && seen.registry == registry && seen.repository == repository
            });
            match known {
                Some(known) => {
                    known.at = known.at.max(at);
                    known.tags.extend(tag);
                }
                None => seen.push(SeenImage {
                    registry,
                    repository,
                    digest,
                    tags: tag.into_iter().collect(),
                    at,
                    nodes: 1,
                    public: false,
                }),
            }
        }
    }
    for image in &mut seen {
        image.tags.sort_unstable();
        image.tags.dedup();
        image.tags.truncate(TAGS);
    }
    seen.sort_by_key(|image| Reverse(image.at));
    seen.truncate(MOST);
    seen
}

fn is_used(report: &Report, image: &Image) -> bool {
    report.users.iter().any(|user| {
        let known = [image.manifest, image.config, Some(image.target)];
        let by_digest = user
            .digest
            .is_some_and(|digest| known.contains(&Some(digest)) || image.digests.contains(&digest));
        user.namespace == image.namespace && (by_digest || image.names.contains(&user.image))
    })
}

/// The repositories that an image's names give, each with the digest of the index or manifest.
fn names(image: &Image) -> Vec<(RegistryName, Repository, Digest, Option<Tag>)> {
    let parsed = image.names.iter().filter(|name| {
        // Runtimes also list an image by the digest of its configuration.
        name.contains('/')
    });
    let parsed: Vec<ImageName> = parsed.filter_map(|name| name.parse().ok()).collect();
    // With CRI-O, the target is the configuration, and the names by digest have the manifest's digest.
    let is_manifest = image.config != Some(image.target);
    let of_names = parsed.iter().find_map(|name| match name.reference {
        Reference::Digest(digest) => Some(digest),
        Reference::Tag(_) => None,
    });
    let target = is_manifest.then_some(image.target).or(of_names);
    let all = parsed.into_iter().filter_map(|name| {
        let (digest, tag) = match name.reference {
            Reference::Digest(digest) => (digest, None),
            Reference::Tag(tag) => (target?, Some(tag)),
        };
        Some((name.registry, name.repository, digest, tag))
    });
    all.collect()
}

#[cfg(test)]
mod tests;
