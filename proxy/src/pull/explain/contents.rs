//! The manifest and the blobs: how much of them is here, and which members hold the rest.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use larder_shared::{
    Digest, Role,
    admin::{BlobSource, ExpectedBlob, StepName, StepOutcome},
    media,
};

use super::{Met, Report};
use crate::{
    access::Place,
    cluster::{peers, placement},
    config::Mode,
    pull::{Platforms, Pull, content::of_manifest, warm},
    store::{Named, Names, Store, image_name},
    trace::Trace,
};

/// Members name a blob's holders within this time, and a holder confirms it within this time.
const HOLDERS: Duration = Duration::from_millis(300);

/// In a cluster of up to this many others, all are asked. In a larger one, only the members that should hold the blob.
const FEW: usize = 8;

/// Marks content that lies in the container runtime's content store alone.
const IN_RUNTIME: &str = ", held by the runtime";

/// Runs of a blob whose roots are looked up, at most: 16 GiB of the blob.
const MOST_RUNS: u64 = 4096;

impl Pull {
    pub(super) async fn explain_contents(
        &self,
        place: &Place,
        met: &Met,
        platforms: &Platforms,
        report: &mut Report,
    ) {
        let Some(digest) = met.digest else {
            let detail = "it is fetched from the registry";
            return report.say(StepName::Manifest, StepOutcome::Miss, detail);
        };
        let Some(manifest) = self.explain_manifest(place, digest, report).await else {
            return;
        };
        if Names::of(&manifest).manifests.is_empty() {
            return self.explain_leaves(place, digest, &manifest, report).await;
        }
        // The runtime picks the manifest of its platform.
        let chosen = warm::chosen(&manifest, platforms);
        match chosen.map(|chosen| chosen.first().map(|(digest, _)| *digest)) {
            Ok(Some(of_platform)) => {
                if let Some(manifest) = self.explain_manifest(place, of_platform, report).await {
                    self.explain_leaves(place, of_platform, &manifest, report)
                        .await;
                }
            }
            Ok(None) => report.say(
                StepName::Manifest,
                StepOutcome::Missing,
                "it is an index of nothing",
            ),
            Err(why) => report.say(StepName::Manifest, StepOutcome::Missing, why),
        }
    }

    async fn explain_leaves(
        &self,
        place: &Place,
        digest: Digest,
        manifest: &[u8],
        report: &mut Report,
    ) {
        report.expected.manifest_here = true;
        let mut blobs = Vec::new();
        let mut seen = BTreeSet::new();
        let names = Names::of(manifest);
        for named in names.leaves() {
            if seen.insert(named.digest.to_string()) {
                blobs.push(self.expected(place, named).await);
            }
        }
        self.say_blobs(&blobs, report);
        self.say_layers(place, &digest, &names, report);
        report.expected.blobs = Some(blobs);
    }

    /// The bytes of a manifest, if a pull would get it from this node.
    async fn explain_manifest(
        &self,
        place: &Place,
        digest: Digest,
        report: &mut Report,
    ) -> Option<Vec<u8>> {
        let own = self.store.has(&digest);
        let read = move |store: &Store| {
            if !store.has(&digest) {
                return store.read_adopted_unseen(&digest);
            }
            let blob = store.peek(&digest)?;
            let size = blob.size();
            let bytes = (size <= media::MAX_MANIFEST)
                .then(|| blob.read(larder_shared::Range::new(0, size)).ok())??;
            (Digest::of(digest.algorithm(), &bytes) == digest).then_some(bytes)
        };
        let bytes = if let Some(bytes) = self.store.small(&digest) {
            Some(bytes.to_vec())
        } else {
            let what = format!("the manifest {digest}, to explain it");
            self.store.ask(what, read).await.flatten()
        };
        let linked = place.record.link(&digest).is_some();
        match bytes {
            Some(bytes) if linked => {
                let held = if own { "" } else { IN_RUNTIME };
                let detail = format!("{digest}, {} bytes, on this node{held}", bytes.len());
                report.say(StepName::Manifest, StepOutcome::Hit, detail);
                return Some(bytes);
            }
            Some(_) => report.say(
                StepName::Manifest,
                StepOutcome::Miss,
                format!("{digest} is here, but not from this repository, so it is fetched: another's word proves nothing"),
            ),
            None => {
                let held = self.members_with(place, digest).await;
                let from = match &held[..] {
                    [] => "it is fetched from the registry".to_owned(),
                    members => format!("{} hold it", listed(members)),
                };
                report.say(
                    StepName::Manifest,
                    StepOutcome::Miss,
                    format!("{digest} is not on this node: {from}. Its blobs are known when it is here"),
                );
            }
        }
        None
    }

    /// Where a blob of the image would come from. Follows the rules of `Pull::blob` without carrying them out.
    async fn expected(&self, place: &Place, named: &Named) -> ExpectedBlob {
        let digest = named.digest;
        let here = self.store.length(&digest).await;
        let link = place.record.link(&digest);
        let served = match (&link, here) {
            (Some(link), Some(size)) => link.size == size,
            (None, Some(_)) => {
                self.store.may_adopt(&digest) || self.came_from_registry(place, &digest).await
            }
            (_, None) => false,
        };
        let in_runtime = served && !self.store.has(&digest) && self.store.may_adopt(&digest);
        let bytes = named.size.or(here).unwrap_or(0);
        let mut expected = ExpectedBlob {
            digest,
            bytes,
            from: BlobSource::Node.as_str().to_owned(),
            present_bytes: bytes,
            claimed: served && link.is_none(),
            in_runtime,
            members: Vec::new(),
        };
        if served {
            return expected;
        }
        let registry = place.registry.clone();
        let present = move |store: &Store| store.partial_present(&digest, &registry);
        let what = format!("the checkpoint of {digest}, to explain it");
        let left = self.store.ask(what, present).await.unwrap_or(0);
        let filling = self.fills.list().into_iter().find(|f| f.digest == digest);
        expected.present_bytes = filling.map_or(left, |fill| fill.present.max(left));
        let holders = self.members_with(place, digest).await;
        let source = if !holders.is_empty() {
            BlobSource::Cluster
        } else if self.object_store_has(place, &digest).await {
            BlobSource::ObjectStore
        } else {
            BlobSource::Upstream
        };
        source.as_str().clone_into(&mut expected.from);
        expected.members = holders.iter().map(ToString::to_string).collect();
        expected
    }

    /// The other members that hold a digest for this repository.
    async fn members_with(&self, place: &Place, digest: Digest) -> Vec<SocketAddr> {
        let view = self.cluster.members.view();
        if !view.has_others() {
            return Vec::new();
        }
        let others: Vec<SocketAddr> = view.others().collect();
        let asked = if others.len() <= FEW {
            others
        } else {
            self.cluster.holders(&digest, HOLDERS).await
        };
        let ask = peers::PeerRequest {
            registry: place.registry.clone(),
            repository: place.repository.clone(),
            subject: peers::PeerSubject::Has(digest),
            role: Role::Holder,
            within: HOLDERS,
            lent: None,
            trace: Trace::none(),
        };
        let answers = asked
            .into_iter()
            .filter(|member| self.cluster.admits(*member))
            .map(|member| {
                let ask = &ask;
                async move {
                    let answer = self.cluster.peers.ask(member, ask);
                    let answered = tokio::time::timeout(HOLDERS, answer).await;
                    matches!(answered, Ok(Ok(_))).then_some(member)
                }
            });
        let found = futures_util::future::join_all(answers).await;
        found.into_iter().flatten().collect()
    }

    async fn object_store_has(&self, place: &Place, digest: &Digest) -> bool {
        let Some(store) = &self.cluster.store else {
            return false;
        };
        let (registry, repository) = (&place.registry, &place.repository);
        let linked = place.record.link(digest).is_some()
            || self
                .cluster
                .durable_link(registry, repository, digest)
                .await
                .is_some();
        linked && store.head(digest).await.ok().flatten().is_some()
    }

    /// Whether a member or the object store has a manifest, for an outage.
    pub(super) async fn is_anywhere(&self, place: &Place, digest: &Digest) -> bool {
        !self.members_with(place, *digest).await.is_empty()
            || self.object_store_has(place, digest).await
    }

    fn say_blobs(&self, blobs: &[ExpectedBlob], report: &mut Report) {
        let from = |source: BlobSource| {
            let of = blobs.iter().filter(|blob| blob.from == source.as_str());
            of.fold((0, 0), |(count, bytes), blob| {
                (count + 1, u64::saturating_add(bytes, blob.bytes))
            })
        };
        let (here, here_bytes) = from(BlobSource::Node);
        let all_bytes = warm::total(blobs.iter().map(|blob| blob.bytes));
        let begun: u64 = blobs
            .iter()
            .filter(|blob| blob.from != BlobSource::Node.as_str())
            .map(|blob| blob.present_bytes)
            .sum();
        let outcome = match here {
            all if all == blobs.len() => StepOutcome::Hit,
            0 if begun == 0 => StepOutcome::Miss,
            _ => StepOutcome::Partial,
        };
        let mut detail = format!(
            "{here} of {} here, {here_bytes} of {all_bytes} bytes",
            blobs.len()
        );
        if begun > 0 {
            detail = format!("{detail}, and {begun} bytes of blobs that are not whole");
        }
        let in_runtime = blobs.iter().filter(|blob| blob.in_runtime).count();
        if in_runtime > 0 {
            detail = format!("{detail}; {in_runtime} of them held by the runtime");
        }
        let claimed = blobs.iter().filter(|blob| blob.claimed).count();
        if claimed > 0 {
            detail = format!(
                "{detail}; {claimed} of them did not come by way of this repository, and the registry is asked for a part of each first"
            );
        }
        report.say(StepName::Blobs, outcome, detail);
        if outcome == StepOutcome::Hit || !self.cluster.is_there() {
            return;
        }
        let (members, member_bytes) = from(BlobSource::Cluster);
        let (objects, object_bytes) = from(BlobSource::ObjectStore);
        let (rest, rest_bytes) = from(BlobSource::Upstream);
        let outcome = match (members + objects, rest) {
            (0, _) => StepOutcome::Miss,
            (_, 0) => StepOutcome::Hit,
            _ => StepOutcome::Partial,
        };
        let holders: BTreeSet<&String> = blobs.iter().flat_map(|blob| &blob.members).collect();
        let holders: Vec<String> = holders.into_iter().cloned().collect();
        let mut parts = Vec::new();
        if members > 0 {
            parts.push(format!(
                "{members} blobs, {member_bytes} bytes, at {}",
                listed(&holders)
            ));
        }
        if objects > 0 {
            parts.push(format!(
                "{objects} blobs, {object_bytes} bytes, in the object store"
            ));
        }
        if rest > 0 {
            parts.push(format!(
                "{rest} blobs, {rest_bytes} bytes, nowhere: {}",
                self.roots(blobs)
            ));
        }
        report.say(StepName::Cluster, outcome, parts.join("; "));
    }

    /// Reports which layers the runtime mounts instead of pulling them, on a node that offers any.
    fn say_layers(&self, place: &Place, manifest: &Digest, names: &Names, report: &mut Report) {
        if self.config.load().streaming.mode == Mode::Off {
            return;
        }
        let name = image_name(&place.registry, &place.repository, manifest);
        let of = of_manifest(&self.store, &name, names);
        let outcome = match of.ready {
            _ if of.are_all() => StepOutcome::Hit,
            0 => StepOutcome::Miss,
            _ => StepOutcome::Partial,
        };
        let mut detail = format!("{} of {} are ready", of.ready, of.layers);
        if outcome != StepOutcome::Hit {
            let why = of.why.as_deref().unwrap_or("it is not known why");
            detail = format!("{detail}; not {}: {why}", listed(&of.missing));
        }
        report.say(StepName::Layers, outcome, detail);
    }

    /// Names the members that fetch from upstream, for the runs of blobs that no member has.
    fn roots(&self, blobs: &[ExpectedBlob]) -> String {
        let view = self.cluster.members.view();
        let mut roots = BTreeSet::new();
        let missing = blobs
            .iter()
            .filter(|blob| blob.from == BlobSource::Upstream.as_str());
        for blob in missing {
            // A manifest may state any size, so the number of runs is bounded.
            let last = placement::run_of(blob.bytes.saturating_sub(1));
            for run in 0..=last.min(MOST_RUNS) {
                if roots.len() == view.addresses.len() {
                    break;
                }
                let first = placement::rank(&view.keys, &blob.digest, run, 1);
                roots.extend(first.first().map(|index| view.addresses[*index]));
            }
        }
        let roots: Vec<SocketAddr> = roots.into_iter().collect();
        if roots.is_empty() {
            return "this node fetches them".to_owned();
        }
        format!("the roots {} fetch their runs", listed(&roots))
    }
}

/// A list of names, shortened if it is long.
fn listed<T: ToString>(all: &[T]) -> String {
    const SHOWN: usize = 6;
    let mut names: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    if all.len() > SHOWN {
        names.push(format!("{} more", all.len() - SHOWN));
    }
    names.join(", ")
}
