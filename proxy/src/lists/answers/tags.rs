//! `tags/list` (distribution-spec, "Listing Tags"), with the digests that Google's registries add to it.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    super::gather::{Gathered, Said},
    Malformed, list_or_null, number, parsed,
};

#[derive(Deserialize)]
struct Page {
    #[serde(deserialize_with = "list_or_null")]
    tags: Vec<String>,
    /// Images by their digests.
    #[serde(default)]
    manifest: Option<HashMap<String, Image>>,
}

#[derive(Deserialize)]
struct Image {
    #[serde(default, deserialize_with = "list_or_null")]
    tag: Vec<String>,
    #[serde(default, rename = "imageSizeBytes")]
    size: Value,
    /// In milliseconds.
    #[serde(default, rename = "timeUploadedMs")]
    uploaded: Value,
}

/// Reads one page.
pub(in super::super) fn page(body: &[u8], gathered: &mut Gathered) -> Result<(), Malformed> {
    let page: Page = parsed(body)?;
    for (digest, image) in page.manifest.into_iter().flatten() {
        let said = Said {
            digest: digest.parse().ok(),
            size: number(&image.size).filter(|size| *size > 0),
            pushed: number(&image.uploaded)
                .map(|at| at / 1000)
                .filter(|at| *at > 0),
        };
        for tag in &image.tag {
            gathered.add(tag, said)?;
        }
    }
    for tag in &page.tags {
        gathered.add(tag, Said::default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use larder_shared::Digest;
    use serde_json::json;

    use super::*;

    fn listed(page_: &Value) -> Result<Vec<(String, Said)>, Malformed> {
        let mut gathered = Gathered::default();
        page(page_.to_string().as_bytes(), &mut gathered)?;
        let tags = gathered.listing().tags.into_iter();
        Ok(tags
            .map(|tag| {
                let said = Said {
                    digest: tag.digest,
                    size: tag.size,
                    pushed: tag.pushed,
                };
                (tag.tag.to_string(), said)
            })
            .collect())
    }

    #[test]
    fn names_alone() {
        let names = |page: Value| {
            let tags = listed(&page).ok()?;
            Some(tags.into_iter().map(|(tag, _)| tag).collect::<Vec<_>>())
        };
        assert_eq!(
            names(json!({"name": "a", "tags": ["b", "a"]})),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(names(json!({"name": "a", "tags": null})), Some(vec![]));
        assert_eq!(names(json!({"name": "a", "tags": []})), Some(vec![]));
        // An answer without a list is not an empty list.
        for no_list in [
            json!({}),
            json!({"message": "sign in first"}),
            json!([]),
            json!([["w_1"]]),
            json!({"tags": "a"}),
            json!({"tags": [1]}),
            json!({"errors": [{"code": "DENIED"}]}),
        ] {
            assert_eq!(names(no_list.clone()), None, "{no_list}");
        }
    }

    #[test]
    fn with_the_digests_that_google_adds() {
        let digest = Digest::sha256(b"image");
        let page = json!({
            "name": "p/r/lab", "child": ["x"], "tags": ["w_1", "recommended", "plain"],
            "manifest": {
                digest.to_string(): {
                    "imageSizeBytes": "123", "layerId": "", "mediaType": "application/vnd.oci.image.index.v1+json",
                    "tag": ["w_1", "recommended"], "timeCreatedMs": "0", "timeUploadedMs": "1700000000999",
                },
                Digest::sha256(b"untagged").to_string(): {"imageSizeBytes": 5, "tag": [], "timeUploadedMs": 1},
                "md5:what": {"tag": ["odd"]},
            },
        });
        let image = Said {
            digest: Some(digest),
            size: Some(123),
            pushed: Some(1_700_000_000),
        };
        let expected = [
            ("odd", Said::default()),
            ("plain", Said::default()),
            ("recommended", image),
            ("w_1", image),
        ];
        let expected = expected.map(|(tag, said)| (tag.to_owned(), said));
        assert_eq!(listed(&page).unwrap(), expected);
    }
}
