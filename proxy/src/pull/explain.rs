//! What a pull would do, without transferring the image.

use larder_shared::{
    Reference,
    admin::{Explanation, Step},
    media,
    name::ImageName,
};

use super::Pull;
use crate::{
    access::Verdict,
    store::now,
    tags::{self, Before, Word},
};

impl Pull {
    /// Walks the path of a pull of `image` and says at each step what it would meet. Asks the registry at most one
    /// HEAD, as a pull would.
    pub async fn explain(&self, image: &ImageName) -> Explanation {
        let mut steps = Vec::new();
        let mut say = |step: &str, outcome: &str, detail: String| {
            steps.push(Step {
                step: step.to_owned(),
                outcome: outcome.to_owned(),
                detail,
            });
        };
        let endpoints: Vec<String> = self
            .upstreams
            .endpoints(&image.registry)
            .into_iter()
            .map(|e| format!("{} ({})", e.url, e.state))
            .collect();
        let endpoints = endpoints.join(", then ");
        say(
            "name",
            "ok",
            format!(
                "registry {}, repository {}, {}; asked at {endpoints}",
                image.registry, image.repository, image.reference
            ),
        );
        let place = match self.known_place(image.registry.clone(), image.repository.clone()) {
            Ok(place) => place,
            Err(error) => {
                say("access", "denied", error.to_string());
                return Explanation {
                    image: image.to_string(),
                    steps,
                };
            }
        };
        match (self.access.verdict(&place), place.record.public_since()) {
            (Verdict::Allowed, _) => say(
                "access",
                "public",
                "the registry served it to anonymous clients a short time ago".into(),
            ),
            (_, Some(_)) => say(
                "access",
                "aged",
                "it was public; the registry is asked again, and an outage does not matter".into(),
            ),
            (Verdict::Refused, None) => say(
                "access",
                "private",
                "the registry refuses anonymous clients; a pull needs a secret".into(),
            ),
            (Verdict::Ask { .. }, None) => say(
                "access",
                "unknown",
                "the registry decides when it is asked".into(),
            ),
        }
        let digest = match &image.reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => {
                let record = place.record.tag(tag);
                let config = self.config.load_full();
                let age = std::time::Duration::from_secs(
                    record
                        .as_ref()
                        .map_or(u64::MAX, |r| now().saturating_sub(r.checked)),
                );
                let known = record.as_ref().map(|r| r.digest);
                match tags::decide(
                    record.as_ref(),
                    age,
                    config.fresh_for(place.registry.as_str(), tag.as_str()),
                ) {
                    Before::Fresh(known) => {
                        say(
                            "tag",
                            "fresh",
                            format!(
                                "{} as of {} s ago; the registry is not asked",
                                known.digest,
                                age.as_secs()
                            ),
                        );
                        Some(known.digest)
                    }
                    Before::Ask => {
                        match self
                            .tags
                            .ask(&place, tag, config.tags.timeout, true)
                            .await
                            .0
                        {
                            Word::Descriptor(now) if Some(now.digest) == known => {
                                say(
                                    "tag",
                                    "unchanged",
                                    format!("{}; asked just now", now.digest),
                                );
                                known
                            }
                            Word::Descriptor(now) => {
                                let was = known.map_or("not known before".to_owned(), |was| {
                                    format!("was {was}")
                                });
                                say("tag", "changed", format!("{}; {was}", now.digest));
                                Some(now.digest)
                            }
                            Word::Untold => {
                                say("tag", "untold", "the registry does not tell the digest; the manifest is fetched".into());
                                None
                            }
                            Word::Failed(failure) => {
                                let outcome = if known.is_some() { "stale" } else { "failed" };
                                say("tag", outcome, failure.to_string());
                                known
                            }
                        }
                    }
                }
            }
        };
        if let Some(digest) = digest {
            let held = place.record.link(&digest).is_some();
            match self.store.read(&digest, media::MAX_MANIFEST) {
                Some(bytes) if held => {
                    say(
                        "manifest",
                        "hit",
                        format!("{digest}, {} bytes, on this node", bytes.len()),
                    );
                    self.explain_blobs(&bytes, &mut say);
                }
                Some(_) => say(
                    "manifest",
                    "miss",
                    format!(
                        "{digest} is here, but this repository is not known to hold it: it is fetched"
                    ),
                ),
                None => say(
                    "manifest",
                    "miss",
                    format!("{digest} is not on this node: it is fetched"),
                ),
            }
        }
        Explanation {
            image: image.to_string(),
            steps,
        }
    }

    fn explain_blobs(&self, manifest: &[u8], say: &mut impl FnMut(&str, &str, String)) {
        let parsed: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
        let children = |key: &str| {
            parsed
                .get(key)
                .and_then(|v| v.as_array())
                .cloned()
                .unwrap_or_default()
        };
        let config = parsed.get("config").cloned();
        for (step, list) in [
            ("manifests", children("manifests")),
            (
                "blobs",
                config.into_iter().chain(children("layers")).collect(),
            ),
        ] {
            if list.is_empty() {
                continue;
            }
            let digests = list.iter().filter_map(|d| {
                let size = d.get("size")?.as_u64()?;
                Some((d.get("digest")?.as_str()?.parse().ok()?, size))
            });
            let (mut here, mut all, mut count) = (0, 0, 0);
            for (digest, size) in digests {
                all += size;
                if self.store.peek(&digest).is_some() {
                    here += size;
                    count += 1;
                }
            }
            let outcome = if count == list.len() { "hit" } else { "miss" };
            say(
                step,
                outcome,
                format!("{count} of {} here, {here} of {all} bytes", list.len()),
            );
        }
    }
}
