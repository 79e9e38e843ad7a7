//! The clouds' lists of a repository: Artifact Registry's API, Google's additions to `tags/list`, ECR's API, Azure's
//! list.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::google::{GoogleTokens, wanted};
use super::server::{Asked, CloudServer, Reply};

/// An image in the cloud's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its path in the cloud's repository, which may hold other images.
    pub image: String,
    pub digest: String,
    pub tags: Vec<String>,
    pub size: u64,
    /// The time of the push, in Unix seconds.
    pub at: u64,
}

/// The images that are there now; a test sets them.
#[derive(Clone, Debug, Default)]
pub struct Images(Arc<Mutex<Vec<Pushed>>>);

impl Images {
    pub fn set(&self, images: Vec<Pushed>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = images;
    }

    pub fn get(&self) -> Vec<Pushed> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `tags/list` of an image, as Google's registries answer it.
    pub fn google_tags(&self, name: &str, image: &str) -> String {
        let images: Vec<_> = self
            .get()
            .into_iter()
            .filter(|one| one.image == image)
            .collect();
        let tags: Vec<_> = images.iter().flat_map(|one| one.tags.clone()).collect();
        let manifest: serde_json::Map<_, _> = images
            .iter()
            .map(|one| {
                let said = json!({
                    "imageSizeBytes": one.size.to_string(),
                    "layerId": "",
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "tag": one.tags,
                    "timeCreatedMs": "0",
                    "timeUploadedMs": (one.at * 1000).to_string(),
                });
                (one.digest.clone(), said)
            })
            .collect();
        json!({"child": [], "manifest": manifest, "name": name, "tags": tags}).to_string()
    }

    /// Azure's list of these images.
    pub fn acr_tags(&self, registry: &str, name: &str) -> String {
        let images = self.get();
        let tags = images.iter().flat_map(|one| {
            one.tags.iter().map(|tag| {
                json!({"name": tag, "digest": one.digest, "createdTime": moment(one.at),
                    "lastUpdateTime": moment(one.at), "signed": false,
                    "changeableAttributes": {"deleteEnabled": true, "listEnabled": true, "readEnabled": true, "writeEnabled": true}})
            })
        });
        let tags: Vec<_> = tags.collect();
        json!({"registry": registry, "imageName": name, "tags": tags}).to_string()
    }

    /// A page of ECR's answer, with so many images on each.
    pub(super) fn described(
        &self,
        asked: &Asked,
        name: &str,
        page: usize,
    ) -> Result<Reply, String> {
        let question: Value = serde_json::from_slice(&asked.body).map_err(|e| e.to_string())?;
        let field = |name: &str| question[name].clone();
        wanted(field("registryId") == "123456789012", "registryId")?;
        wanted(field("maxResults") == 1000, "maxResults")?;
        wanted(field("filter") == json!({"tagStatus": "TAGGED"}), "filter")?;
        let known = [
            "registryId",
            "repositoryName",
            "filter",
            "maxResults",
            "nextToken",
        ];
        let fields = question.as_object().ok_or("an object")?;
        wanted(
            fields.keys().all(|key| known.contains(&key.as_str())),
            "no other field",
        )?;
        if field("repositoryName") != name {
            return Ok(super::Ecr::error(400, "RepositoryNotFoundException"));
        }
        let tagged = |one: &Pushed| !one.tags.is_empty();
        let images: Vec<_> = self.get().into_iter().filter(tagged).collect();
        let at = match question.get("nextToken") {
            None => 0,
            Some(token) => place(token.as_str().unwrap_or_default())?,
        };
        let details: Vec<_> = images
            .iter()
            .skip(at)
            .take(page)
            .map(|one| {
                json!({"registryId": "123456789012", "repositoryName": name, "imageDigest": one.digest,
                    "imageTags": one.tags, "imageSizeInBytes": one.size,
                    "imagePushedAt": one.at as f64 + 0.5,
                    "imageManifestMediaType": "application/vnd.oci.image.manifest.v1+json"})
            })
            .collect();
        let mut body = json!({"imageDetails": details});
        if at + page < images.len() {
            body["nextToken"] = json!(token(at + page));
        }
        Ok(Reply::json(200, &body).with("content-type", "application/x-amz-json-1.1"))
    }
}

/// A token for the rest of a list, with characters that need quoting.
fn token(at: usize) -> String {
    format!("page/{at}+=&")
}

fn place(token: &str) -> Result<usize, String> {
    let at = token
        .strip_prefix("page/")
        .and_then(|rest| rest.strip_suffix("+=&"));
    at.and_then(|at| at.parse().ok())
        .ok_or_else(|| format!("wanted: a token that was given, and not {token}"))
}

/// Artifact Registry's API.
#[derive(Debug)]
pub struct Gar;

impl Gar {
    /// An API that lists the images of `projects/P/locations/L/repositories/R` to this token, so many on each page.
    pub async fn start(
        tokens: &GoogleTokens,
        parent: &str,
        images: &Images,
        page: usize,
    ) -> CloudServer {
        let (tokens, images) = (tokens.clone(), images.clone());
        let (parent, path) = (parent.to_owned(), format!("/v1/{parent}/dockerImages"));
        CloudServer::start("Artifact Registry's API", move |asked| {
            wanted(asked.method == "GET" && asked.body.is_empty(), "GET")?;
            wanted(asked.header("accept") == Some("application/json"), "JSON")?;
            let bearer = format!("Bearer {}", tokens.now());
            if asked.header("authorization") != Some(&bearer) {
                return Ok(Self::error(401, "UNAUTHENTICATED"));
            }
            if asked.path != path {
                return Ok(Self::error(404, "NOT_FOUND"));
            }
            let fields = |name: &str| crate::fake::form(&asked.query, name);
            wanted(fields("pageSize") == ["1000"], "pageSize once")?;
            let names = asked
                .query
                .split('&')
                .filter_map(|pair| pair.split('=').next());
            let mut names = names.filter(|name| !["pageSize", "pageToken"].contains(name));
            wanted(names.next().is_none(), "no other field")?;
            let at = match &fields("pageToken")[..] {
                [] => 0,
                [token] => place(token)?,
                _ => return Err("wanted: pageToken once".to_owned()),
            };
            let all = images.get();
            let page_of: Vec<_> = all
                .iter()
                .skip(at)
                .take(page)
                .map(|one| image(&parent, one))
                .collect();
            let mut body = json!({"dockerImages": page_of});
            if at + page < all.len() {
                body["nextPageToken"] = json!(token(at + page));
            }
            Ok(Reply::json(200, &body))
        })
        .await
    }

    /// A refusal in the API's form.
    pub fn error(status: u16, word: &str) -> Reply {
        Reply::json(
            status,
            &json!({"error": {"code": status, "message": "a text that may hold anything", "status": word,
                "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}}),
        )
    }
}

fn image(parent: &str, one: &Pushed) -> Value {
    let name = one.image.replace('/', "%2F");
    let mut image = json!({
        "name": format!("{parent}/dockerImages/{name}@{}", one.digest),
        "uri": format!("us-docker.pkg.dev/p/r/{}@{}", one.image, one.digest),
        "imageSizeBytes": one.size.to_string(),
        "uploadTime": moment(one.at),
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "updateTime": moment(one.at + 5),
    });
    // Google leaves out empty fields.
    if !one.tags.is_empty() {
        image["tags"] = json!(one.tags);
    }
    image
}

/// A time in RFC 3339's form.
fn moment(at: u64) -> String {
    let (days, seconds) = (at / 86_400, at % 86_400);
    let (mut year, mut left) = (1970, days);
    let length = |year: u64| {
        let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
        365 + u64::from(leap)
    };
    while left >= length(year) {
        left -= length(year);
        year += 1;
    }
    let february = length(year) - 337;
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < days {
            break;
        }
        left -= days;
        month += 1;
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hours:02}:{minutes:02}:{seconds:02}.123456Z",
        left + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (at, expected) in [
            (0, "1970-01-01T00:00:00.123456Z"),
            (951_782_400, "2000-02-29T00:00:00.123456Z"),
            (1_700_000_000, "2023-11-14T22:13:20.123456Z"),
            (4_107_542_399, "2100-02-28T23:59:59.123456Z"),
        ] {
            assert_eq!(moment(at), expected);
        }
    }

    #[test]
    fn tokens_of_pages_are_read_back() {
        assert_eq!(place(&token(7)), Ok(7));
        assert!(place("page/7").is_err());
    }
}
