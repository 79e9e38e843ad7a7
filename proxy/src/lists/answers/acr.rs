//! Azure's API: the tags of a repository, with their digests.

use serde::Deserialize;

use super::{
    super::gather::{Gathered, Said},
    Malformed, list_or_null, moment, parsed,
};

#[derive(Deserialize)]
struct Page {
    #[serde(deserialize_with = "list_or_null")]
    tags: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    last_update_time: String,
}

/// Reads one page.
pub(in super::super) fn page(body: &[u8], gathered: &mut Gathered) -> Result<(), Malformed> {
    let page: Page = parsed(body)?;
    for entry in page.tags {
        let said = Said {
            digest: entry.digest.parse().ok(),
            size: None,
            pushed: moment(&entry.last_update_time),
        };
        gathered.add(&entry.name, said)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use larder_shared::Digest;
    use serde_json::json;

    use super::*;

    #[test]
    fn tags_with_their_digests() {
        let digest = Digest::sha256(b"image");
        let body = json!({"registry": "team.azurecr.io", "imageName": "a/b", "tags": [
            {"name": "w_1", "digest": digest, "createdTime": "2020-01-01T00:00:00Z",
             "lastUpdateTime": "2023-11-14T22:13:20.1234567Z", "signed": false,
             "changeableAttributes": {"deleteEnabled": true}},
            {"name": "bare"},
        ]});
        let mut gathered = Gathered::default();
        page(body.to_string().as_bytes(), &mut gathered).unwrap();
        let tags = gathered.listing().tags;
        assert_eq!(tags[0].tag.as_str(), "bare");
        assert_eq!(tags[0].digest, None);
        assert_eq!(tags[1].digest, Some(digest));
        assert_eq!(tags[1].pushed, Some(1_700_000_000));
        let read = |body: &str| page(body.as_bytes(), &mut Gathered::default());
        assert_eq!(read("{\"tags\":null}"), Ok(()));
        for body in ["{}", "{\"tags\":[{}]}", "{\"errors\":[]}", "[]"] {
            assert!(read(body).is_err(), "{body}");
        }
    }
}
