//! Ready layers: every file, and what is not offered.

use larder_shared::admin::{Layer, Layers, NotOffered};

use super::Admin;
use crate::store::{Cause, Entry, Ground, Phase, ReadyFile, Store};

impl Admin {
    /// All of it, from memory.
    pub(super) fn layers(&self) -> Layers {
        let (config, store) = (self.pull.config.load(), &self.pull.store);
        let mut shown = Layers {
            mode: config.streaming.mode.as_str().to_owned(),
            directory: config.streaming.directory.display().to_string(),
            ..Layers::default()
        };
        let Some(ready) = store.ready() else {
            return shown;
        };
        let (not_offered, why) = ready.why_not();
        shown.why = why;
        shown.not_offered = not_offered
            .into_iter()
            .map(|(image, why)| NotOffered { image, why })
            .collect();
        let files = ready.files().into_iter();
        shown.layers = files
            .map(|(diff_id, file)| layer(store, diff_id, file))
            .collect();
        shown
    }
}

fn layer(store: &Store, diff_id: larder_shared::Digest, file: ReadyFile) -> Layer {
    let ReadyFile {
        origin,
        bytes,
        used,
        references,
        phase,
        goes,
    } = file;
    let origin = origin.as_ref();
    let ground = |ground| match ground {
        Ground::Public => "public",
        Ground::Shared => "shared",
        Ground::Private => "private",
    };
    let state = match phase {
        Phase::Aside { .. } => "aside",
        Phase::Offered if references > 0 => "in-use",
        Phase::Offered => "offered",
    };
    let goes = goes.map(|cause| match cause {
        Cause::Room => "room",
        Cause::Expired => "expired",
        Cause::Withdrawn => "withdrawn",
    });
    Layer {
        diff_id,
        layer: origin.map(|origin| origin.layer),
        image: origin.map(|origin| format!("{}/{}", origin.registry, origin.repository)),
        ground: origin.map(|origin| ground(origin.ground).to_owned()),
        bytes,
        state: state.to_owned(),
        goes: goes.map(ToOwned::to_owned),
        referenced_by: references,
        last_used: store.used_at(&Entry { size: bytes, used }),
    }
}
