//! Lists, which change under the same name and are therefore passed on and not kept: tags and referrers.

use http::{HeaderMap, StatusCode, header};
use larder_shared::{Digest, RegistryName};

use super::{Pull, PullError, Pulled, put};
use crate::{
    access::Place,
    body::Body,
    metrics::{Outcome, Tier},
    upstream::{Subject, Want},
};

impl Pull {
    pub(super) async fn tag_list(
        &self,
        place: &Place,
        query: &str,
        head: bool,
    ) -> Result<Pulled, PullError> {
        self.pass_on(place, Subject::Tags(query.to_owned()), head)
            .await
    }

    /// A registry without the referrers API says 404, which is passed on: clients then look for the tag scheme.
    pub(super) async fn referrers(
        &self,
        place: &Place,
        digest: &Digest,
        query: &str,
        head: bool,
    ) -> Result<Pulled, PullError> {
        self.pass_on(place, Subject::Referrers(*digest, query.to_owned()), head)
            .await
    }

    async fn pass_on(
        &self,
        place: &Place,
        subject: Subject,
        head: bool,
    ) -> Result<Pulled, PullError> {
        // Lists are not kept, so the answer to the question is the verdict on it, and on nothing else; a mirror's answer
        // needs one besides.
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
        if let Some(link) = answer
            .header("link")
            .and_then(|link| next_page(link, &place.registry))
        {
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

/// `Link: </v2/…?last=x&n=5>; rel="next"`, with the query alone: the path is the client's own, and the host must stay
/// this node. The query takes the place of the client's, so it names the registry again: whoever asked with a prefix
/// may say both (promise P2).
fn next_page(link: &str, registry: &RegistryName) -> Option<String> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !rest.replace(' ', "").contains("rel=\"next\"") {
        return None;
    }
    let (_, query) = target.split_once('?')?;
    Some(format!("<?{query}&ns={registry}>; rel=\"next\""))
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn the_next_page_is_asked_here() {
        let registry = "r.io:5000".parse().unwrap();
        for (link, expected) in [
            (
                "</v2/a/tags/list?n=5&last=x>; rel=\"next\"",
                Some("<?n=5&last=x&ns=r.io:5000>; rel=\"next\""),
            ),
            (
                "<https://r.io/v2/a/tags/list?last=x>; rel=\"next\"",
                Some("<?last=x&ns=r.io:5000>; rel=\"next\""),
            ),
            ("</v2/a/tags/list?n=5>; rel=\"prev\"", None),
            ("</v2/a/tags/list>; rel=\"next\"", None),
            ("nonsense", None),
        ] {
            assert_eq!(next_page(link, &registry).as_deref(), expected, "{link}");
        }
    }
}
