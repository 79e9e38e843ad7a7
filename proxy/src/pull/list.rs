//! Lists of tags and of referrers. They change under the same name, so they are passed on and not kept.

use http::{HeaderMap, StatusCode, header};
use larder_shared::{Digest, link, route::Address};

use super::{Pull, PullError, Pulled, put};
use crate::{
    access::Place,
    body::Body,
    metrics::{Outcome, Tier},
    upstream::{Failure, Subject, Want},
};

impl Pull {
    pub(super) async fn tag_list(
        &self,
        place: &Place,
        address: &Address,
        query: &str,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let here = |next: &str| address.next_page("tags/list", next);
        let subject = Subject::Tags(query.to_owned());
        self.pass_on(place, subject, head, here).await
    }

    /// A registry without the referrers API answers 404, 400 or 406. The client gets a plain 404 for each, upon which
    /// it looks for the tag scheme. oras does not look for it if the body says that the repository is unknown.
    pub(super) async fn referrers(
        &self,
        place: &Place,
        address: &Address,
        digest: &Digest,
        query: &str,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let here = |next: &str| address.next_page(&format!("referrers/{digest}"), next);
        let subject = Subject::Referrers(*digest, query.to_owned());
        match self.pass_on(place, subject, head, here).await {
            Err(PullError::Upstream(failure))
                if matches!(failure, Failure::NotFound(_)) || failure.declined().is_some() =>
            {
                Err(PullError::NoReferrers(place.registry.clone()))
            }
            answered => answered,
        }
    }

    /// `here` maps the query of the registry's next page to the path of the same page at larder.
    async fn pass_on(
        &self,
        place: &Place,
        subject: Subject,
        head: bool,
        here: impl Fn(&str) -> String,
    ) -> Result<Pulled, PullError> {
        // Lists are not kept, so the origin's answer is the verdict, and it counts for this list alone. A mirror's
        // answer needs the origin's verdict besides.
        let ask = place.ask(subject, if head { Want::Head } else { Want::All });
        let answer = self.upstreams.ask(&ask).await?;
        if !answer.proves {
            self.access.prove_list(place, ask.subject.clone()).await?;
        }
        let mut headers = HeaderMap::new();
        for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
            if let Some(value) = answer.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        if let Some(value) = answer.header("oci-filters-applied") {
            put(
                &mut headers,
                http::HeaderName::from_static("oci-filters-applied"),
                value,
            );
        }
        let links = answer.headers.get_all(header::LINK).iter();
        let next = link::next_page(links.filter_map(|value| value.to_str().ok()));
        // The host must stay this node and the path the client's own, so only the query comes from the registry.
        if let Some((_, query)) = next.as_deref().and_then(|next| next.split_once('?')) {
            let query = query.split('#').next().unwrap_or_default();
            let link = format!("<{}>; rel=\"next\"", here(query));
            put(&mut headers, header::LINK, &link);
        }
        let length = answer.content_length();
        Ok(Pulled {
            status: StatusCode::OK,
            headers,
            body: if head {
                Body::empty()
            } else {
                Body::passed_on(answer.body, length)
            },
            tier: Tier::Upstream,
            outcome: Outcome::Miss,
        })
    }
}
