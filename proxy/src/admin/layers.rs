//! Ready layers: every ready file, and the layers that are not offered.

use std::time::Duration;

use http::{Response, StatusCode};
use larder_shared::{
    Digest,
    admin::{Layer, Layers, NotOffered},
};
use serde::Serialize;

use super::{Admin, Query, json, text};
use crate::{
    body::Body,
    store::{Cause, Entry, Ground, Made, OpenIndex, Phase, ReadyFile, Store},
};

/// How long a person at the command line waits for an index.
const INDEX_WITHIN: Duration = Duration::from_secs(5);

/// An index of a layer, as the answer describes it.
#[derive(Serialize)]
struct GivenIndex {
    layer: Digest,
    diff_id: Digest,
    /// `here` or `elsewhere`
    made: &'static str,
    maker: String,
    spans: usize,
}

impl Admin {
    /// The index of a layer for a caller without a credential, from any source that a container's start would use.
    pub(super) async fn index(&self, query: &Query<'_>) -> Response<Body> {
        let given = async {
            let registry = query.get("registry")?.parse().ok()?;
            let repository = query.get("repository")?.parse().ok()?;
            let layer: Digest = query.get("layer")?.parse().ok()?;
            let size = query.get("size")?.parse().ok()?;
            let place = self.pull.known_place(registry, repository).await.ok()?;
            self.pull.index(&place, &layer, size, INDEX_WITHIN).await
        };
        // Boxed: the future of every admin request would otherwise have room for it.
        let Some(OpenIndex {
            index, made, maker, ..
        }) = Box::pin(given).await
        else {
            return text(StatusCode::NOT_FOUND, "no index of this layer is known\n");
        };
        json(&GivenIndex {
            layer: index.layer(),
            diff_id: index.diff_id(),
            made: match made {
                Made::Here => "here",
                Made::Elsewhere => "elsewhere",
            },
            maker,
            spans: index.spans().len(),
        })
    }

    /// All ready layers, from memory.
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
        streams,
    } = file;
    let origin = origin.as_ref();
    let ground = |ground| match ground {
        Ground::Public => "public",
        Ground::Shared => "shared",
        Ground::Private => "private",
    };
    let whole = match streams {
        Some(0) | None => bytes,
        Some(whole) => whole,
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
        streams: streams.is_some(),
        whole_bytes: whole,
        state: state.to_owned(),
        goes: goes.map(ToOwned::to_owned),
        referenced_by: references,
        last_used: store.used_at(&Entry { size: bytes, used }),
    }
}
