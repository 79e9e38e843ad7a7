//! A set across all its nodes: each member tells what it holds.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Method;
use larder_shared::warm::{ImageState, ImageStatus, NodeStatus, SetImage, SetStatus};

use super::Warm;

/// The path at which a member tells what it has of a set.
pub const SETS: &str = "/larder/v1/warm";

/// A member that does not answer within this time is shown as not answering.
const WITHIN: Duration = Duration::from_secs(1);

/// How many members are asked at once.
const ASKED: usize = 64;

impl Warm {
    /// What this node tells other members: what it holds, without the lists. If members show no certificates, anybody
    /// may be asking.
    pub async fn of_member(&self, name: &str) -> Option<SetStatus> {
        let mut status = self.status(name)?;
        if !self.pull.cluster.peers.may_lend() {
            let public = self.only_public(name, status.clone()).await;
            status = without_names(status, public);
        }
        status.all_images.clear();
        for source in &mut status.sources {
            source.tags.clear();
        }
        Some(status)
    }

    /// A set, with the answers of all members.
    pub async fn cluster_status(&self, name: &str) -> Option<SetStatus> {
        let own = self.status(name)?;
        let cluster = &self.pull.cluster;
        let others: Vec<SocketAddr> = cluster.members.view().others().collect();
        let path = format!("{SETS}?set={name}");
        let asked = stream::iter(others)
            .map(|member| {
                let path = path.clone();
                async move {
                    let peers = &cluster.peers;
                    let told = peers.call(member, Method::GET, &path, Bytes::new(), WITHIN);
                    let told = told.await.map_err(|failure| failure.to_string());
                    let told = told.and_then(|text| {
                        serde_json::from_slice::<SetStatus>(&text).map_err(|e| e.to_string())
                    });
                    (member, told)
                }
            })
            .buffered(ASKED)
            .collect::<Vec<_>>()
            .await;
        Some(together(&own, asked))
    }
}

/// The public images in full, and only digests and states of the others. So members still see whether they all have an
/// image.
fn without_names(all: SetStatus, public: SetStatus) -> SetStatus {
    let images = all.images.into_iter().map(|image| {
        let mut open = public.images.iter();
        if open.any(|open| open.image == image.image) {
            return image;
        }
        ImageStatus {
            image: String::new(),
            tags: Vec::new(),
            why: String::new(),
            error: None,
            ..image
        }
    });
    let missing = all.images_to_cache.into_iter().map(|image| {
        let mut open = public.images_to_cache.iter();
        if open.any(|open| *open == image) {
            return image;
        }
        SetImage {
            image_url: String::new(),
            name: String::new(),
            ..image
        }
    });
    SetStatus {
        images: images.collect(),
        images_to_cache: missing.collect(),
        ..public
    }
}

/// Joins the answers of the members. An image is common if every answering node of the set has it whole.
fn together(own: &SetStatus, others: Vec<(SocketAddr, Result<SetStatus, String>)>) -> SetStatus {
    let mut all = own.clone();
    let mut members = Vec::new();
    for (member, told) in others {
        let (node, set) = match told {
            Ok(set) => (
                NodeStatus {
                    name: member.to_string(),
                    matches: set.matches,
                    missing: set.matches.then_some(set.images_to_cache.len() as u64),
                    error: set.error.clone(),
                },
                Some(set),
            ),
            Err(why) => (
                NodeStatus {
                    name: member.to_string(),
                    matches: false,
                    missing: None,
                    error: Some(why),
                },
                None,
            ),
        };
        all.nodes.push(node);
        members.extend(set.filter(|set| set.matches));
    }
    // A node outside of the set has no images of its own to show.
    if !own.matches
        && let Some(first) = members.first()
    {
        all.desired_images.clone_from(&first.desired_images);
        all.images.clone_from(&first.images);
        all.images.retain(|image| !image.image.is_empty());
        all.common_cache.clone_from(&first.common_cache);
        all.available_images.clone_from(&first.available_images);
        all.images_to_cache.clear();
        if all.all_images.is_empty() {
            all.all_images.clone_from(&first.desired_images);
        }
    }
    let everywhere = |url: &str, hash: &str| {
        members.iter().all(|set| {
            let mut images = set.images.iter();
            images.any(|image| {
                let named = image.image.is_empty() || same_repository(&image.image, url);
                let same = image.digest == hash && named;
                same && image.state == ImageState::Here
            })
        })
    };
    all.common_cache
        .retain(|image| everywhere(&image.image_url, &image.image_hash));
    all.available_images
        .retain(|image| everywhere(&image.image_url, &image.image_hash));
    let is_common = |url: &str, hash: &str| {
        let mut common = all.common_cache.iter();
        common.any(|image| image.image_url == url && image.image_hash == hash)
    };
    let lacking = all.desired_images.iter();
    let lacking = lacking.filter(|image| !is_common(&image.image_url, &image.image_hash));
    all.images_to_cache = lacking.cloned().collect();
    all
}

fn same_repository(one: &str, other: &str) -> bool {
    let repository = |image: &str| {
        let name = image.split('@').next().unwrap_or(image);
        let end = name.rfind('/').unwrap_or(0);
        let tag = name[end..].find(':').map_or(name.len(), |at| end + at);
        name[..tag].to_owned()
    };
    repository(one) == repository(other)
}

#[cfg(test)]
mod tests {
    use larder_shared::warm::CommonImage;

    use super::*;

    fn set(matches: bool, images: &[(&str, ImageState)]) -> SetStatus {
        let shown = |tag: &str| SetImage {
            image_url: format!("r.io:5000/a/b:{tag}"),
            image_hash: format!("sha256:{tag}"),
            name: tag.to_owned(),
        };
        let here = || {
            images
                .iter()
                .filter(|(_, state)| *state == ImageState::Here)
        };
        let lacking = images
            .iter()
            .filter(|(_, state)| *state != ImageState::Here);
        SetStatus {
            matches,
            desired_images: images.iter().map(|(tag, _)| shown(tag)).collect(),
            available_images: here().map(|(tag, _)| shown(tag)).collect(),
            images_to_cache: lacking.map(|(tag, _)| shown(tag)).collect(),
            common_cache: here()
                .map(|(tag, _)| CommonImage {
                    image_url: format!("r.io:5000/a/b:{tag}"),
                    image_hash: format!("sha256:{tag}"),
                    tags: Vec::new(),
                })
                .collect(),
            images: images
                .iter()
                .map(|(tag, state)| ImageStatus {
                    image: format!("r.io:5000/a/b:{tag}"),
                    digest: format!("sha256:{tag}"),
                    tags: vec![(*tag).to_owned()],
                    state: *state,
                    bytes: None,
                    present_bytes: None,
                    why: String::new(),
                    error: None,
                })
                .collect(),
            ..SetStatus::default()
        }
    }

    #[test]
    fn an_image_is_common_if_every_node_of_the_set_that_answers_has_it() {
        let (here, coming) = (ImageState::Here, ImageState::Coming);
        let own = set(true, &[("a", here), ("b", here), ("c", coming)]);
        let address = |n: u8| SocketAddr::from(([10, 0, 0, n], 7422));
        let others = vec![
            (
                address(1),
                Ok(set(true, &[("a", here), ("b", coming), ("c", here)])),
            ),
            (address(2), Ok(set(false, &[]))),
            (address(3), Err("gone".to_owned())),
        ];
        let names = |images: &[SetImage]| {
            images
                .iter()
                .map(|image| image.name.clone())
                .collect::<Vec<_>>()
        };
        let all = together(&own, others.clone());
        assert_eq!(names(&all.available_images), ["a"]);
        assert_eq!(names(&all.images_to_cache), ["b", "c"]);
        assert_eq!(all.common_cache.len(), 1);
        let missing: Vec<_> = all.nodes.iter().map(|node| node.missing).collect();
        assert_eq!(missing, [Some(1), None, None]);
        assert_eq!(all.nodes[2].error.as_deref(), Some("gone"));
        // A node outside of the set shows what the set's nodes have.
        let all = together(&set(false, &[]), others);
        assert_eq!(names(&all.available_images), ["a", "c"]);
        assert_eq!(names(&all.images_to_cache), ["b"]);
    }
}
