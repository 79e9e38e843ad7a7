//! Translates a runtime's answers to the types of the file. Pure.

use std::collections::{BTreeMap, HashMap};

use larder_shared::{
    digest::{Algorithm, Digest},
    runtime::{Content, Image, Plugin, Snapshot, User, UserKind},
};

use super::wire::{Timestamp, containerd, cri};

/// The namespace in which the CRI plugin of containerd keeps its images and containers.
pub const CRI_NAMESPACE: &str = "k8s.io";

/// What the CRI plugin of containerd calls a container in its labels: `container` or `sandbox`.
const CRI_KIND: &str = "io.cri-containerd.kind";

/// The Kubernetes namespace of a pod, in the labels that the kubelet gives its sandbox and its containers.
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// The target of an image's name when the images were listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named {
    pub target: Digest,
    pub updated: Option<u64>,
}

/// Unix seconds; `None` if the runtime gives no time, or one before 1970.
pub fn seconds(time: Option<Timestamp>) -> Option<u64> {
    u64::try_from(time?.seconds).ok().filter(|time| *time > 0)
}

/// The same from nanoseconds.
fn seconds_of(nanoseconds: i64) -> Option<u64> {
    let seconds = u64::try_from(nanoseconds).ok()? / 1_000_000_000;
    (seconds > 0).then_some(seconds)
}

/// The digest in a runtime's name for an image: `sha256:…`, `name@sha256:…`, or the hash alone, as CRI-O writes it.
pub fn digest_in(text: &str) -> Option<Digest> {
    let last = text.rsplit('@').next().unwrap_or(text);
    last.parse()
        .or_else(|_| Digest::from_hex(Algorithm::Sha256, last))
        .ok()
}

/// containerd's images: those with the same target become one image with all their names. The fields of the manifests
/// are added later.
pub fn images(
    namespace: &str,
    listed: Vec<containerd::Image>,
) -> (Vec<Image>, HashMap<String, Named>) {
    let mut images: BTreeMap<Digest, Image> = BTreeMap::new();
    let mut names = HashMap::with_capacity(listed.len());
    for one in listed {
        let Some(target) = one.target.and_then(|target| target.digest.parse().ok()) else {
            continue;
        };
        let updated = seconds(one.updated_at);
        let image = images
            .entry(target)
            .or_insert_with(|| image(namespace, target));
        image.updated = image.updated.max(updated);
        image.names.push(one.name.clone());
        names.insert(one.name, Named { target, updated });
    }
    let images = images.into_values().map(|mut image| {
        image.names.sort_unstable();
        image
    });
    (images.collect(), names)
}

fn image(namespace: &str, target: Digest) -> Image {
    Image {
        namespace: namespace.to_owned(),
        names: Vec::new(),
        target,
        digests: Vec::new(),
        manifest: None,
        config: None,
        layers: Vec::new(),
        updated: None,
    }
}

/// An image that the CRI lists.
pub fn cri_image(listed: cri::Image) -> Option<Image> {
    let config = digest_in(&listed.id)?;
    let mut digests: Vec<Digest> = listed
        .repo_digests
        .iter()
        .filter_map(|name| digest_in(name))
        .collect();
    digests.sort_unstable();
    digests.dedup();
    let mut names = [listed.repo_tags, listed.repo_digests].concat();
    // The name of an image that has lost its last tag.
    names.retain(|name| !name.contains("<none>"));
    names.sort_unstable();
    Some(Image {
        names,
        digests,
        config: Some(config),
        ..image("", config)
    })
}

/// The image that a container of containerd runs. The CRI's digest goes first, then the digest known before, then the
/// target of the image's name, unless the name may have moved since.
pub fn digest_of(
    container: &containerd::Container,
    by_cri: Option<Digest>,
    known: Option<Digest>,
    names: &HashMap<String, Named>,
) -> Option<Digest> {
    let by_name = || {
        let named = names.get(&container.image)?;
        let moved = matches!((named.updated, seconds(container.created_at)),
            (Some(updated), Some(created)) if updated > created);
        (!moved).then_some(named.target)
    };
    by_cri.or(known).or_else(by_name)
}

/// A container of containerd. If it names no image, no use can be recorded.
pub fn user(
    namespace: &str,
    container: containerd::Container,
    digest: Option<Digest>,
) -> Option<User> {
    if container.image.is_empty() && digest.is_none() {
        return None;
    }
    let sandbox = container
        .labels
        .get(CRI_KIND)
        .is_some_and(|kind| kind == "sandbox");
    Some(User {
        namespace: namespace.to_owned(),
        kind: if sandbox {
            UserKind::Sandbox
        } else {
            UserKind::Container
        },
        created: seconds(container.created_at),
        pod_namespace: container.labels.get(POD_NAMESPACE).cloned(),
        id: container.id,
        image: container.image,
        digest,
    })
}

/// The digest that the CRI names for a container's image.
pub fn cri_digest(container: &cri::Container) -> Option<Digest> {
    let spec = container.image.as_ref();
    let words = [
        Some(container.image_id.as_str()),
        Some(&container.image_ref),
        spec.map(|spec| spec.image.as_str()),
    ];
    words.into_iter().flatten().find_map(digest_in)
}

/// A container that the CRI lists.
pub fn cri_user(container: &cri::Container) -> User {
    let spec = container.image.as_ref();
    let names = spec.map(|spec| [&spec.user_specified_image, &spec.image]);
    let name = names.into_iter().flatten().find(|name| !name.is_empty());
    User {
        namespace: String::new(),
        kind: UserKind::Container,
        id: container.id.clone(),
        image: name.unwrap_or(&container.image_ref).clone(),
        digest: cri_digest(container),
        created: seconds_of(container.created_at),
        pod_namespace: container.labels.get(POD_NAMESPACE).cloned(),
    }
}

/// A sandbox that the CRI lists, with the image that its status names.
pub fn cri_sandbox(sandbox: &cri::Sandbox, image: &str) -> User {
    User {
        namespace: String::new(),
        kind: UserKind::Sandbox,
        id: sandbox.id.clone(),
        image: image.to_owned(),
        digest: digest_in(image),
        created: seconds_of(sandbox.created_at),
        pod_namespace: sandbox.labels.get(POD_NAMESPACE).cloned(),
    }
}

/// The image of a sandbox, from the JSON in its status, where both runtimes name it.
pub fn sandbox_image(status: &cri::SandboxStatusResponse) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Info {
        image: String,
    }
    let info: Info = serde_json::from_str(status.info.get("info")?).ok()?;
    (!info.image.is_empty()).then_some(info.image)
}

/// An image that a container mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    pub image: String,
    pub digest: Option<Digest>,
}

/// The images among a container's mounts.
pub fn volumes(status: cri::ContainerStatusResponse) -> Vec<Volume> {
    let mounts = status.status.into_iter().flat_map(|status| status.mounts);
    let images = mounts.filter_map(|mount| mount.image);
    images
        .map(|spec| Volume {
            digest: digest_in(&spec.image_ref).or_else(|| digest_in(&spec.image)),
            image: if spec.user_specified_image.is_empty() {
                spec.image
            } else {
                spec.user_specified_image
            },
        })
        .collect()
}

/// The use of a volume's image by its container.
pub fn volume_user(namespace: &str, container: &cri::Container, volume: &Volume) -> User {
    User {
        namespace: namespace.to_owned(),
        kind: UserKind::ImageVolume,
        id: container.id.clone(),
        image: volume.image.clone(),
        digest: volume.digest,
        created: seconds_of(container.created_at),
        pod_namespace: container.labels.get(POD_NAMESPACE).cloned(),
    }
}

/// A plugin; if it did not start, with the reason.
pub fn plugin(plugin: containerd::Plugin) -> Plugin {
    Plugin {
        kind: plugin.kind,
        id: plugin.id,
        trouble: plugin.init_err.map(|refusal| refusal.message),
    }
}

/// The snapshotter for what the CRI pulls. containerd keeps its files in a directory with the plugin's name, unless its
/// configuration has another `root_path`.
pub fn snapshotter_of_pulls(answer: &cri::FileSystems) -> Option<String> {
    let mountpoint = &answer.of_images.first()?.id.as_ref()?.mountpoint;
    let (_, name) = mountpoint.rsplit_once("/io.containerd.snapshotter.v1.")?;
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

pub fn snapshot(namespace: &str, snapshotter: &str, info: containerd::SnapshotInfo) -> Snapshot {
    Snapshot {
        namespace: namespace.to_owned(),
        snapshotter: snapshotter.to_owned(),
        name: info.name,
        parent: info.parent,
        labels: info.labels,
        created: seconds(info.created_at),
    }
}

/// A blob; `None` for an algorithm that larder does not know.
pub fn content(namespace: &str, info: containerd::ContentInfo) -> Option<Content> {
    Some(Content {
        namespace: namespace.to_owned(),
        digest: info.digest.parse().ok()?,
        size: u64::try_from(info.size).unwrap_or(0),
        labels: info.labels,
        created: seconds(info.created_at),
    })
}

#[cfg(test)]
mod tests;
