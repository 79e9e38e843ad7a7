//! The connection to the kernel, by way of the holder: docs/holder.md.

use std::sync::Arc;

use larder_shared::{Digest, name::ImageName};

use super::Streams;
use crate::{
    drain::Watch,
    hold::{self, Link},
    pull::{Caller, Pull},
    store::ReadyFile,
    trace::Trace,
};

impl Streams {
    /// Serves again the layers that an earlier process offered and that are not whole yet.
    pub async fn resume(self: Arc<Self>) {
        let Some(ready) = self.ready() else { return };
        let mut images: Vec<ImageName> = Vec::new();
        for (diff_id, file) in ready.streaming() {
            match self.resume_layer(&diff_id, file).await {
                Ok(image) if !images.contains(&image) => images.push(image),
                Ok(_) => {}
                Err(why) => {
                    tracing::error!(layer.diff_id = %diff_id, why, "a layer that is mounted and not here cannot be served: containers that read it wait and fail until its image is pulled anew");
                }
            }
        }
        let streams = Arc::clone(&self);
        let resumed = tokio::task::spawn_blocking(move || streams.resume_whole());
        if let Err(error) = resumed.await {
            tracing::error!(%error, "layers that containers may have mounted are not served");
        }
        for image in images {
            let caller = Caller::anonymous(Trace::none());
            self.bring_for(image, caller);
        }
    }

    /// Serves layers that became whole, because containers may still read them by the connection (blocking).
    fn resume_whole(&self) {
        let Some(ready) = self.ready() else { return };
        for (diff_id, file) in ready.files() {
            let mounted = file.origin.is_some_and(|origin| origin.mounted.is_some());
            if !mounted || file.streams.is_some() {
                continue;
            }
            let opened = ready.open_whole(&diff_id);
            if let Err(error) = opened.and_then(|file| self.take_whole(&diff_id, file)) {
                tracing::error!(layer.diff_id = %diff_id, %error, "a layer that a container may have mounted cannot be served; look at the disk");
            }
        }
    }

    async fn resume_layer(
        self: &Arc<Self>,
        diff_id: &Digest,
        file: ReadyFile,
    ) -> Result<ImageName, String> {
        let origin = file.origin.ok_or("nothing says whose it is")?;
        let image = Pull::image_of(&origin.registry, &origin.repository, origin.manifest);
        let (streams, name, wanted) = (Arc::clone(self), image.clone(), *diff_id);
        let take_in = move || {
            let ready = streams.ready().ok_or("the directory is not there")?;
            let index = streams.means.pull.store.indexes().open(&origin.layer);
            let index = index.ok_or("its index is not here")?;
            let caller = Caller::anonymous(Trace::none());
            let had = streams.take_in(ready, index, name, caller);
            let layer = had.map_err(|error| error.to_string())?;
            layer.account();
            if layer.diff_id == wanted {
                Ok(())
            } else {
                Err("its index is another layer's".to_owned())
            }
        };
        let taken = tokio::task::spawn_blocking(take_in).await;
        taken.unwrap_or_else(|panic| Err(panic.to_string()))?;
        Ok(image)
    }

    /// Serves the kernel's reads until the end. Keeps track of where the runtime sees the files.
    pub async fn serve(self: &Arc<Self>, until_end: Watch) {
        let holder = self.means.pull.config.load().streaming.holder.clone();
        let (mut standing, serving) = hold::attend(holder, Arc::clone(self), until_end);
        tokio::spawn(serving);
        loop {
            let (files, link) = {
                let seen = standing.borrow_and_update();
                (seen.files.clone(), seen.link.clone())
            };
            if let Some(ready) = self.ready() {
                let why = match link {
                    Link::Absent(why) => why,
                    Link::GaveWay => "another larder on this node serves them".to_owned(),
                    Link::Held => "the holder has mounted nothing".to_owned(),
                };
                ready.mounts_at(files.clone().ok_or(why));
            }
            match (self.mounted.send_replace(files.clone()), files) {
                (None, Some(files)) => {
                    tracing::info!(files = %files.display(), "layers can be mounted before they are here");
                }
                (Some(_), None) => {
                    tracing::warn!(
                        "no layer can be mounted before it is here: images are pulled as ever"
                    );
                }
                _ => {}
            }
            if standing.changed().await.is_err() {
                return;
            }
        }
    }
}
