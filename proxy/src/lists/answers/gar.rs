//! Google's Artifact Registry API: `dockerImages` of a repository, which may hold many images.

use larder_shared::{RegistryName, Repository};
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::gather::{Gathered, Said},
    Malformed, moment, number, parsed,
};

/// Google's own API.
pub(in super::super) const API: &str = "https://artifactregistry.googleapis.com";

/// The place of an image's repository, in the words of the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct Named {
    /// `projects/P/locations/L/repositories/R`
    pub parent: String,
    /// The image's path below it.
    pub image: String,
}

impl Named {
    /// The place that a registry's and a repository's names give; `None` if they are not Google's.
    pub(in super::super) fn of(registry: &RegistryName, repository: &Repository) -> Option<Self> {
        let host = registry.as_str();
        let mut path = repository.as_str().split('/');
        let mut project = path.next()?.to_owned();
        // A project of a domain: `example.com/p` is `example.com:p`.
        if project.contains('.') {
            project = format!("{project}:{}", path.next()?);
        }
        let (location, name) = if let Some(location) = host.strip_suffix("-docker.pkg.dev") {
            (location, path.next()?)
        } else {
            let location = match host {
                "gcr.io" | "us.gcr.io" => "us",
                "eu.gcr.io" => "europe",
                "asia.gcr.io" => "asia",
                _ => return None,
            };
            (location, host)
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if location.is_empty() || !location.chars().all(plain) {
            return None;
        }
        let image = path.collect::<Vec<_>>().join("/");
        (!image.is_empty()).then(|| Self {
            parent: format!("projects/{project}/locations/{location}/repositories/{name}"),
            image,
        })
    }

    /// The URL of a page below `api`.
    pub(in super::super) fn page(&self, api: &str, token: Option<&str>) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("pageSize", "1000");
        if let Some(token) = token {
            query.append_pair("pageToken", token);
        }
        let (parent, query) = (&self.parent, query.finish());
        format!("{api}/v1/{parent}/dockerImages?{query}")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    /// Google leaves out empty fields.
    #[serde(default)]
    docker_images: Vec<Image>,
    #[serde(default)]
    next_page_token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    name: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default, rename = "imageSizeBytes")]
    size: Value,
    #[serde(default)]
    upload_time: String,
}

/// Reads one page, and returns the token of the next. Images of other names belong to other repositories.
pub(in super::super) fn page(
    body: &[u8],
    named: &Named,
    gathered: &mut Gathered,
) -> Result<Option<String>, Malformed> {
    let Page {
        docker_images,
        next_page_token,
    } = parsed(body)?;
    for image in docker_images {
        let rest = image.name.strip_prefix(&named.parent);
        let rest = rest.and_then(|rest| rest.strip_prefix("/dockerImages/"));
        let Some((name, digest)) = rest.and_then(|rest| rest.rsplit_once('@')) else {
            continue;
        };
        // The API encodes a slash in a name.
        if name.replace("%2F", "/").replace("%2f", "/") != named.image {
            continue;
        }
        let said = Said {
            digest: digest.parse().ok(),
            size: number(&image.size).filter(|size| *size > 0),
            pushed: moment(&image.upload_time),
        };
        for tag in &image.tags {
            gathered.add(tag, said)?;
        }
    }
    Ok(Some(next_page_token).filter(|token| !token.is_empty()))
}

#[cfg(test)]
mod tests {
    use larder_shared::Digest;
    use serde_json::json;

    use super::*;

    fn named(registry: &str, repository: &str) -> Option<Named> {
        Named::of(&registry.parse().unwrap(), &repository.parse().unwrap())
    }

    #[test]
    fn project_location_and_repository_follow_from_the_names() {
        for (registry, repository, expected) in [
            (
                "us-central1-docker.pkg.dev",
                "p/r/lab",
                Some(("projects/p/locations/us-central1/repositories/r", "lab")),
            ),
            (
                "europe-docker.pkg.dev",
                "p/r/a/b",
                Some(("projects/p/locations/europe/repositories/r", "a/b")),
            ),
            (
                "us-docker.pkg.dev",
                "example.com/p/r/lab",
                Some(("projects/example.com:p/locations/us/repositories/r", "lab")),
            ),
            (
                "eu.gcr.io",
                "p/lab",
                Some(("projects/p/locations/europe/repositories/eu.gcr.io", "lab")),
            ),
            ("us-central1-docker.pkg.dev", "p/r", None),
            ("us-central1-docker.pkg.dev", "p", None),
            ("ghcr.io", "p/r/lab", None),
        ] {
            let found = named(registry, repository);
            let found = found
                .as_ref()
                .map(|n| (n.parent.as_str(), n.image.as_str()));
            assert_eq!(found, expected, "{registry}/{repository}");
        }
        let named = named("us-docker.pkg.dev", "p/r/lab").unwrap();
        assert_eq!(
            named.page(API, Some("a+/=&")),
            "https://artifactregistry.googleapis.com/v1/projects/p/locations/us/repositories/r/dockerImages?pageSize=1000&pageToken=a%2B%2F%3D%26"
        );
    }

    #[test]
    fn images_of_other_names_do_not_leak_in() {
        let named = named("us-docker.pkg.dev", "p/r/team/lab").unwrap();
        let digest = Digest::sha256(b"lab");
        let image = |name: &str, digest: &Digest, tags: &[&str]| {
            json!({"name": format!("{}/dockerImages/{name}@{digest}", named.parent), "tags": tags,
                "uri": "us-docker.pkg.dev/p/r/x", "imageSizeBytes": "7", "uploadTime": "2023-11-14T22:13:20.5Z",
                "mediaType": "application/vnd.oci.image.index.v1+json"})
        };
        let body = json!({"dockerImages": [
            image("team%2Flab", &digest, &["w_1", "recommended"]),
            image("team%2Flab2", &Digest::sha256(b"2"), &["w_2"]),
            image("lab", &Digest::sha256(b"3"), &["w_3"]),
            {"name": format!("{}/dockerImages/team%2Flab@{}", named.parent, Digest::sha256(b"4"))},
            {"name": "projects/q/locations/us/repositories/r/dockerImages/team%2Flab@x", "tags": ["w_5"]},
        ], "nextPageToken": "more"});
        let mut gathered = Gathered::default();
        let next = page(body.to_string().as_bytes(), &named, &mut gathered).unwrap();
        assert_eq!(next.as_deref(), Some("more"));
        let tags = gathered.listing().tags;
        let names: Vec<_> = tags.iter().map(|tag| tag.tag.as_str()).collect();
        assert_eq!(names, ["recommended", "w_1"]);
        for tag in &tags {
            assert_eq!((tag.digest, tag.size), (Some(digest), Some(7)));
            assert_eq!(tag.pushed, Some(1_700_000_000));
        }
    }

    #[test]
    fn the_last_page_and_what_is_none() {
        let named = named("us-docker.pkg.dev", "p/r/lab").unwrap();
        let next = |body: &str| page(body.as_bytes(), &named, &mut Gathered::default());
        assert_eq!(next("{}"), Ok(None));
        assert_eq!(next("{\"nextPageToken\":\"\"}"), Ok(None));
        for body in ["", "[]", "{\"dockerImages\":5}", "{\"dockerImages\":[{}]}"] {
            assert!(next(body).is_err(), "{body}");
        }
    }
}
