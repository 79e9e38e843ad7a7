//! Questions to the CRI: all questions for CRI-O; for containerd those that its own API does not answer.

use std::{collections::HashMap, sync::Arc};

use larder_shared::{digest::Digest, runtime::User};
use tonic::Code;

use super::{Memory, Round};
use crate::watch::{
    translate::{self, CRI_NAMESPACE, Volume},
    trouble::Trouble,
    wire::{Empty, cri},
};

/// What containerd's CRI plugin knows of its containers.
#[derive(Debug, Default)]
pub struct Containers {
    /// The digest of the image that each container runs, even if the image was deleted.
    pub digests: HashMap<String, Digest>,
    pub volumes: Vec<User>,
}

impl Round<'_> {
    /// Asks a runtime that has the CRI alone.
    pub async fn cri(mut self) -> Result<Memory, Trouble> {
        let images: cri::Images = self.runtime.one(cri::IMAGES, "", Empty {}).await?;
        self.list("images")?;
        for image in images.images.into_iter().filter_map(translate::cri_image) {
            self.item(&image)?;
        }
        self.list("users")?;
        for container in self.listed_containers().await? {
            self.item(&translate::cri_user(&container))?;
            for volume in self.volumes_of(&container).await?.iter() {
                self.item(&translate::volume_user("", &container, volume))?;
            }
        }
        let sandboxes: cri::Sandboxes = self.runtime.one(cri::SANDBOXES, "", Empty {}).await?;
        for sandbox in sandboxes.items {
            if let Some(image) = self.image_of(&sandbox).await? {
                self.item(&translate::cri_sandbox(&sandbox, &image))?;
            }
        }
        for none in ["snapshots", "content"] {
            self.list(none)?;
        }
        self.finish()
    }

    /// The snapshotter that containerd's CRI plugin uses for what the kubelet pulls. A plugin that does not answer is
    /// no error.
    pub(super) async fn snapshotter_of_pulls(&self) -> Result<Option<String>, Trouble> {
        let told: Result<cri::FileSystems, Trouble> =
            self.runtime.one(cri::FILE_SYSTEMS, "", Empty {}).await;
        match told {
            Ok(answer) => Ok(translate::snapshotter_of_pulls(&answer)),
            Err(trouble) if trouble.code().is_some() => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// What containerd's CRI plugin adds to containerd's own list of containers.
    pub(super) async fn cri_containers(&mut self) -> Result<Containers, Trouble> {
        let mut found = Containers::default();
        for container in self.listed_containers().await? {
            if let Some(digest) = translate::cri_digest(&container) {
                found.digests.insert(container.id.clone(), digest);
            }
            let volumes = self.volumes_of(&container).await?;
            let users = volumes
                .iter()
                .map(|volume| translate::volume_user(CRI_NAMESPACE, &container, volume));
            found.volumes.extend(users);
        }
        Ok(found)
    }

    async fn listed_containers(&self) -> Result<Vec<cri::Container>, Trouble> {
        let answer: cri::Containers = self.runtime.one(cri::CONTAINERS, "", Empty {}).await?;
        Ok(answer.containers)
    }

    /// A container's mounts never change, so the watcher asks for them once.
    async fn volumes_of(&mut self, container: &cri::Container) -> Result<Arc<[Volume]>, Trouble> {
        let volumes = if let Some(known) = self.before.volumes.get(&container.id) {
            Arc::clone(known)
        } else {
            let question = cri::ContainerStatusRequest {
                container_id: container.id.clone(),
            };
            let answer = self.runtime.one(cri::CONTAINER_STATUS, "", question).await;
            match answer {
                Ok(status) => translate::volumes(status).into(),
                // The container was removed meanwhile.
                Err(trouble) if trouble.code() == Some(Code::NotFound) => return Ok([].into()),
                Err(trouble) => return Err(trouble),
            }
        };
        let id = container.id.clone();
        self.now.volumes.insert(id, Arc::clone(&volumes));
        Ok(volumes)
    }

    /// The image of a sandbox, if the runtime names one. The watcher asks for it once.
    async fn image_of(&mut self, sandbox: &cri::Sandbox) -> Result<Option<Arc<str>>, Trouble> {
        let image = if let Some(known) = self.before.sandboxes.get(&sandbox.id) {
            known.clone()
        } else {
            let question = cri::SandboxStatusRequest {
                pod_sandbox_id: sandbox.id.clone(),
                verbose: true,
            };
            match self.runtime.one(cri::SANDBOX_STATUS, "", question).await {
                Ok(status) => translate::sandbox_image(&status).map(Into::into),
                Err(trouble) if trouble.code() == Some(Code::NotFound) => return Ok(None),
                Err(trouble) => return Err(trouble),
            }
        };
        let id = sandbox.id.clone();
        self.now.sandboxes.insert(id, image.clone());
        Ok(image)
    }
}
