//! Bringing an image into the node tier before a client asks for it (requirements D6 to D8).
//!
//! The image takes the path of a client's pull. The same rules decide which caller may read it, all requests share one
//! download, and the bounds of the tier hold. Only the bytes go nowhere.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use futures_util::{TryStreamExt as _, stream};
use http_body_util::BodyExt as _;
use larder_shared::{
    Digest, RangeHeader, Reference, Route, admin::PulledImage, name::ImageName, route::Address,
};

use super::{Caller, Pull, PullError, Request, held::Held, pace::Pace};
use crate::{
    credentials::Found,
    store::{Counts, Named, Names, Platform},
    trace::Trace,
};

/// Blobs that are fetched at once, as containerd does.
const AT_ONCE: usize = 3;

/// How often a blob is asked for if its body breaks off. Each attempt goes on where the last one ended.
const ATTEMPTS: u32 = 5;

/// The longest wait for the disk to commit a blob.
const COMMIT_WITHIN: Duration = Duration::from_mins(2);

/// The pause between two checks whether it is committed.
const GLANCE: Duration = Duration::from_millis(10);

/// How many levels of nested indexes are followed.
const NESTED: u32 = 3;

/// The platforms of an index that are wanted.
#[derive(Clone, Debug)]
pub enum Platforms {
    All,
    /// Each as `os/architecture[/variant]`.
    These(Vec<String>),
}

impl Platforms {
    /// The platform of this machine.
    pub fn own() -> Self {
        // Images use Go's names of architectures.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::These(vec![format!("linux/{architecture}")])
    }
}

/// `os/architecture[/variant]`
fn name(platform: &Platform) -> String {
    let Platform {
        os,
        architecture,
        variant,
    } = platform;
    match variant {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    }
}

/// `linux/arm64` means any variant of it.
fn is(platform: &Platform, wanted: &str) -> bool {
    let name = name(platform);
    name == wanted
        || name
            .strip_prefix(wanted)
            .is_some_and(|v| v.starts_with('/'))
}

/// The wanted platforms of an index; an error lists the ones that it has. If a platform has several variants, the last
/// one counts: indexes list the oldest variant first.
pub(super) fn chosen(index: &[u8], wanted: &Platforms) -> Result<Vec<(Digest, String)>, String> {
    let index = Names::of(index);
    let name = |named: &Named| named.platform.as_ref().map(name);
    let wanted = match wanted {
        Platforms::All => {
            let all = index.manifests.iter();
            return Ok(all
                .map(|named| (named.digest, name(named).unwrap_or_default()))
                .collect());
        }
        Platforms::These(wanted) => wanted,
    };
    let mut chosen = Vec::new();
    for wanted in wanted {
        let is = |named: &&Named| named.platform.as_ref().is_some_and(|p| is(p, wanted));
        let Some(entry) = index.manifests.iter().rfind(is) else {
            // Attestations have the platform `unknown/unknown`.
            let there = index.manifests.iter().filter_map(name);
            let there: Vec<_> = there.filter(|name| name != "unknown/unknown").collect();
            return Err(format!(
                "it is not there for {wanted}, but for {}; choose with --platform, or --all-platforms",
                there.join(", ")
            ));
        };
        chosen.push((entry.digest, name(entry).unwrap_or_default()));
    }
    Ok(chosen)
}

/// The manifests and blobs of an image.
#[derive(Default, Debug)]
pub(super) struct Family {
    pub(super) manifests: Vec<(Digest, u64)>,
    pub(super) blobs: Vec<(Digest, u64)>,
    pub(super) platforms: Vec<String>,
}

/// A manifest that was fetched.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    bytes: bytes::Bytes,
}

/// The sum of sizes that a registry stated. They may be arbitrary, so the sum saturates.
pub(super) fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

impl Pull {
    /// Brings an image into the node tier on behalf of `caller`. If `caller` is anonymous and the registry wants a
    /// credential, the node's own credentials are used.
    pub async fn warm(
        &self,
        image: &ImageName,
        wanted: &Platforms,
        caller: Caller,
        counts: &Counts,
    ) -> Result<PulledImage, String> {
        self.owns_the_store()?;
        if let Some(why) = self.store.trouble() {
            return Err(format!(
                "the node tier cannot be written, so nothing can be kept: {why}"
            ));
        }
        let before: HashSet<Digest> = self.store.digests().into_iter().collect();
        let (caller, root, family) = self.family_of(image, wanted, caller).await?;
        let all: HashMap<Digest, u64> = family
            .manifests
            .iter()
            .chain(&family.blobs)
            .copied()
            .collect();
        counts.expect(all.len() as u64, total(all.values().copied()));
        counts.add(
            family.manifests.len() as u64,
            total(family.manifests.iter().map(|(_, size)| *size)),
        );
        self.bring_family(image, &caller, &family, counts, &Pace::free())
            .await?;
        let fetched = || all.iter().filter(|(digest, _)| !before.contains(*digest));
        Ok(PulledImage {
            image: image.to_string(),
            digest: root.digest,
            media_type: root.media_type,
            platforms: family.platforms,
            blobs: all.len() as u64,
            bytes: total(all.values().copied()),
            fetched_blobs: fetched().count() as u64,
            fetched_bytes: total(fetched().map(|(_, size)| *size)),
        })
    }

    /// Lists the manifests and blobs of an image. Also returns the caller that could read them.
    pub(super) async fn family_of(
        &self,
        image: &ImageName,
        wanted: &Platforms,
        caller: Caller,
    ) -> Result<(Caller, Came, Family), String> {
        let (caller, root) = Box::pin(self.root(image, caller)).await?;
        let mut family = Family::default();
        Box::pin(self.gather(image, &caller, &root, wanted, &mut family)).await?;
        let mut seen = HashSet::new();
        family.blobs.retain(|(digest, _)| seen.insert(*digest));
        Ok((caller, root, family))
    }

    /// Brings the blobs of an image into the tier, and waits until its manifests are kept.
    pub(super) async fn bring_family(
        &self,
        image: &ImageName,
        caller: &Caller,
        family: &Family,
        counts: &Counts,
        pace: &Pace,
    ) -> Result<(), String> {
        stream::iter(family.blobs.iter().copied().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |(digest, size)| {
                self.warm_blob(image, caller, digest, size, counts, pace)
            })
            .await?;
        for (digest, _) in &family.manifests {
            self.until_kept(digest).await?;
        }
        Ok(())
    }

    /// Fetches the image's own manifest. Also returns the caller that could read it.
    async fn root(&self, image: &ImageName, caller: Caller) -> Result<(Caller, Came), String> {
        let reference = &image.reference;
        let refused = match self.manifest(image, &caller, reference).await {
            Ok(came) => return Ok((caller, came)),
            Err(error @ PullError::Unauthorized { .. }) => error,
            Err(error) => return Err(error.to_string()),
        };
        if !caller.identity.is_anonymous() {
            return Err(format!("{refused}; are the name and the password right?"));
        }
        for caller in self.own_callers(image, &caller.trace).await? {
            match self.manifest(image, &caller, reference).await {
                Ok(came) => return Ok((caller, came)),
                Err(PullError::Unauthorized { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        // A client that might have a secret is challenged even if the registry limits requests or is out of reach. An
        // operator needs the actual reason, so this request counts as one that showed a credential.
        let shown = Caller {
            presented: true,
            ..caller.clone()
        };
        match self.manifest(image, &shown, reference).await {
            Ok(came) => return Ok((caller, came)),
            Err(PullError::Unauthorized { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        Err(format!(
            "{refused}; say who asks with --username NAME --password-stdin, or configure credentials for {} in [upstreams]",
            image.registry
        ))
    }

    /// larder itself as a caller, with each of the node's own credentials.
    pub(super) async fn own_callers(
        &self,
        image: &ImageName,
        trace: &Trace,
    ) -> Result<Vec<Caller>, String> {
        let found = self.own_credentials(image).await?;
        let callers = found.into_iter().map(|found| Caller {
            identity: self.key.found(found),
            registry: Some(image.registry.clone()),
            presented: true,
            trace: trace.clone(),
        });
        Ok(callers.collect())
    }

    pub(super) async fn own_credentials(&self, image: &ImageName) -> Result<Vec<Found>, String> {
        let upstream = self.config.load().upstream(image.registry.as_str());
        let found = self
            .credentials
            .lookup(&image.registry, &image.repository, &upstream);
        found.await.map_err(|error| error.to_string())
    }

    /// Collects a manifest and everything below it, down to the blobs.
    async fn gather(
        &self,
        image: &ImageName,
        caller: &Caller,
        root: &Came,
        wanted: &Platforms,
        family: &mut Family,
    ) -> Result<(), String> {
        let mut pending = vec![(root.digest, root.bytes.clone(), 0)];
        let mut seen = HashSet::new();
        while let Some((digest, bytes, depth)) = pending.pop() {
            if !seen.insert(digest) {
                continue;
            }
            family.manifests.push((digest, bytes.len() as u64));
            let names = Names::of(&bytes);
            let leaves = names.leaves();
            family
                .blobs
                .extend(leaves.map(|named| (named.digest, named.size.unwrap_or(0))));
            if names.manifests.is_empty() {
                continue;
            }
            if depth == NESTED {
                return Err("its indexes are nested too deep".to_owned());
            }
            // The platform is chosen once, in the outermost index.
            let wanted = if depth == 0 { wanted } else { &Platforms::All };
            for (digest, platform) in chosen(&bytes, wanted)? {
                let came = self
                    .manifest(image, caller, &Reference::Digest(digest))
                    .await
                    .map_err(|error| format!("the manifest {digest}: {error}"))?;
                if depth == 0 {
                    family.platforms.push(platform);
                }
                pending.push((digest, came.bytes, depth + 1));
            }
        }
        family.platforms.retain(|name| name != "unknown/unknown");
        Ok(())
    }

    async fn manifest(
        &self,
        image: &ImageName,
        caller: &Caller,
        reference: &Reference,
    ) -> Result<Came, PullError> {
        let address = Address::of(&image.registry, &image.repository);
        let request = Request {
            route: Route::Manifest(address, reference.clone()),
            head: false,
            range: RangeHeader::Whole,
            caller: caller.clone(),
            by_client: false,
        };
        let pulled = self.serve(request).await?;
        let header = |name: http::HeaderName| {
            let value = pulled.headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let invalid = |why: &str| {
            PullError::Upstream(crate::upstream::Failure::Invalid {
                at: image.registry.to_string(),
                why: why.to_owned(),
            })
        };
        let digest = header(super::DIGEST).and_then(|digest| digest.parse().ok());
        let media_type = header(http::header::CONTENT_TYPE).unwrap_or_default();
        // The body is in memory already, as manifests are fetched whole.
        let collected = pulled.body.collect().await;
        Ok(Came {
            digest: digest.ok_or_else(|| invalid("a manifest without a digest"))?,
            media_type,
            bytes: collected
                .map_err(|_| invalid("half a manifest"))?
                .to_bytes(),
        })
    }

    /// Brings one blob into the tier, unless it is there. Its bytes are only counted; bytes of files are not even read.
    async fn warm_blob(
        &self,
        image: &ImageName,
        caller: &Caller,
        digest: Digest,
        size: u64,
        counts: &Counts,
        pace: &Pace,
    ) -> Result<(), String> {
        let address = Address::of(&image.registry, &image.repository);
        let named = |error: &dyn std::fmt::Display| format!("the blob {digest}: {error}");
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            // A served blob would count as read to its end, and the next reader would find it suspicious and hash it.
            let place = self.place(&address, caller).await.map_err(|e| named(&e))?;
            let right = self.right(&place, &digest).map_err(|e| named(&e))?;
            let held = self.held_blob(&place, &digest, right).await;
            if let Held::Blob(_) = held.map_err(|e| named(&e))? {
                counts.add(1, size);
                return Ok(());
            }
            pace.turn().await;
            let request = Request {
                route: Route::Blob(address.clone(), digest),
                head: false,
                range: pace.range(size),
                caller: caller.clone(),
                by_client: false,
            };
            let pulled = self.serve(request).await.map_err(|e| named(&e))?;
            let mut body = pulled.body;
            let mut came = 0;
            let broke = loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                        came += len;
                        counts.add(0, len);
                        pace.after(len).await;
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            };
            drop(body);
            match broke {
                None => {
                    counts.add(1, 0);
                    return self.until_kept(&digest).await;
                }
                Some(error) => {
                    counts.take_back(came);
                    last = error.to_string();
                }
            }
        }
        Err(named(&last))
    }

    /// Waits until the fetched content is committed. If the tier does not take it, it was only passed on and is gone.
    async fn until_kept(&self, digest: &Digest) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let filling = self.fills.is_active(digest);
            if self.store.has(digest) || self.store.adopts(digest) {
                return Ok(());
            }
            if let Some(why) = self.store.trouble() {
                return Err(format!("{digest} came and could not be kept: {why}"));
            }
            // A manifest is written on a thread of its own, which may wait for its turn.
            let grace = Duration::from_secs(if filling { 120 } else { 10 });
            if begun.elapsed() > grace.min(COMMIT_WITHIN) {
                return Err(format!(
                    "{digest} came and was not kept; is the tier too small for it? ([store] max_size, min_free)"
                ));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

#[cfg(test)]
mod tests;
