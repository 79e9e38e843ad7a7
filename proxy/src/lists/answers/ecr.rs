//! ECR's API: `DescribeImages` of a repository.

use larder_shared::Repository;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::gather::{Gathered, Said},
    Malformed, list_or_null, number, parsed,
};

pub(in super::super) const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.DescribeImages";

/// The request: a page of the tagged images in an account's repository.
pub(in super::super) fn question(
    account: &str,
    repository: &Repository,
    token: Option<&str>,
) -> String {
    let mut question = json!({
        "registryId": account,
        "repositoryName": repository,
        "filter": {"tagStatus": "TAGGED"},
        "maxResults": 1000,
    });
    if let Some(token) = token {
        question["nextToken"] = json!(token);
    }
    question.to_string()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(deserialize_with = "list_or_null")]
    image_details: Vec<Image>,
    #[serde(default)]
    next_token: Option<String>,
}

#[derive(Deserialize)]
struct Image {
    #[serde(default, rename = "imageDigest")]
    digest: String,
    #[serde(default, rename = "imageTags", deserialize_with = "list_or_null")]
    tags: Vec<String>,
    #[serde(default, rename = "imageSizeInBytes")]
    size: Value,
    /// Unix seconds, with a fraction.
    #[serde(default, rename = "imagePushedAt")]
    pushed: Value,
}

/// Reads one page, and returns the token of the next.
pub(in super::super) fn page(
    body: &[u8],
    gathered: &mut Gathered,
) -> Result<Option<String>, Malformed> {
    let Page {
        image_details,
        next_token,
    } = parsed(body)?;
    for image in image_details {
        let said = Said {
            digest: image.digest.parse().ok(),
            size: number(&image.size).filter(|size| *size > 0),
            pushed: number(&image.pushed).filter(|at| *at > 0),
        };
        for tag in &image.tags {
            gathered.add(tag, said)?;
        }
    }
    Ok(next_token.filter(|token| !token.is_empty()))
}

/// The API's error code, such as `com.amazonaws.ecr#AccessDeniedException`.
pub(in super::super) fn word(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        #[serde(rename = "__type")]
        kind: String,
    }
    let said: Said = serde_json::from_slice(body).ok()?;
    let word = said.kind.rsplit('#').next()?;
    let plain = word.len() <= 80 && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (plain && !word.is_empty()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use larder_shared::Digest;

    use super::*;

    #[test]
    fn images_with_their_tags() {
        let digest = Digest::sha256(b"image");
        let body = json!({"imageDetails": [
            {"registryId": "123456789012", "repositoryName": "a/b", "imageDigest": digest,
             "imageTags": ["w_1", "recommended"], "imageSizeInBytes": 7, "imagePushedAt": 1.7e9},
            {"imageDigest": Digest::sha256(b"untagged")},
        ], "nextToken": "more"});
        let mut gathered = Gathered::default();
        let next = page(body.to_string().as_bytes(), &mut gathered).unwrap();
        assert_eq!(next.as_deref(), Some("more"));
        let tags = gathered.listing().tags;
        assert_eq!(tags.len(), 2);
        for tag in tags {
            assert_eq!((tag.digest, tag.size), (Some(digest), Some(7)));
            assert_eq!(tag.pushed, Some(1_700_000_000));
        }
        let next = |body: &str| page(body.as_bytes(), &mut Gathered::default());
        assert_eq!(next("{\"imageDetails\":[]}"), Ok(None));
        assert_eq!(next("{\"imageDetails\":null,\"nextToken\":\"\"}"), Ok(None));
        for body in ["{}", "[]", "{\"imageDetails\":[5]}", "<html>"] {
            assert!(next(body).is_err(), "{body}");
        }
    }

    #[test]
    fn only_a_plain_word_is_repeated() {
        for (body, expected) in [
            (
                "{\"__type\":\"com.amazonaws.ecr#AccessDeniedException\"}",
                Some("AccessDeniedException"),
            ),
            (
                "{\"__type\":\"ThrottlingException\"}",
                Some("ThrottlingException"),
            ),
            ("{\"__type\":\"a b\"}", None),
            ("{\"__type\":\"\"}", None),
            ("{}", None),
            ("<html>", None),
        ] {
            assert_eq!(word(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }
}
