//! Manifests that are too large to be kept. They are passed on as they arrive, from the origin alone.

use http::{HeaderMap, StatusCode, header};
use larder_shared::{Digest, Reference};

use super::{DIGEST, Pull, PullError, Pulled, put};
use crate::{
    access::Place,
    body::Body,
    metrics::{Outcome, Source, Tier},
    upstream::{Subject, Want},
};

impl Pull {
    /// Passes a large manifest on. Nothing of it is remembered, so the origin's answer to each request gives its type
    /// and size. The same answer proves the caller's right.
    pub(super) async fn large_manifest(
        &self,
        place: &Place,
        reference: &Reference,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let subject = Subject::Manifest(reference.clone());
        let ask = place.ask(subject.clone(), if head { Want::Head } else { Want::All });
        let answer = match self.upstreams.ask(&ask.proof()).await {
            Ok(answer) => answer,
            Err(failure) => {
                self.access.met(place, &subject, &failure);
                return Err(failure.into());
            }
        };
        self.access.answered(place, &subject, &answer, None);
        let told = answer
            .header("docker-content-digest")
            .and_then(|told| told.parse::<Digest>().ok());
        let digest = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => told,
        };
        let mut headers = HeaderMap::new();
        for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
            if let Some(value) = answer.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        if let Some(digest) = &digest {
            put(&mut headers, DIGEST, &digest.to_string());
        }
        let receiving = self.upstreams.receiving(&place.registry, Source::Upstream);
        let length = answer.content_length();
        let body = match (head, digest) {
            (true, _) => Body::empty(),
            (false, Some(digest)) => Body::verified(answer.body, length, digest, receiving),
            // The registry does not state the digest, so the bytes cannot be checked.
            (false, None) => Body::passed_on(answer.body, length),
        };
        Ok(Pulled {
            status: StatusCode::OK,
            headers,
            body,
            tier: Tier::Upstream,
            outcome: Outcome::Miss,
        })
    }
}
