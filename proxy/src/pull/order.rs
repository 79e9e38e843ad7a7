//! Learnt orders between members: which spans of an image a start reads first. An order gives no right and is no
//! content, and a wrong one only costs bytes. Still, a member gets it only if the repository is known to hold the
//! image.

use std::{net::SocketAddr, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Method;
use larder_shared::{Digest, RegistryName, Repository};

use super::Pull;
use crate::{access::Place, cluster::ORDERS};

/// How many holders of the image are asked at once.
const ASKED: usize = 4;

/// A start does not wait for members: an order that arrives later is of little use.
const WITHIN: Duration = Duration::from_millis(300);

impl Pull {
    /// The order that this node has learnt for an image, for another member.
    pub async fn order_for_member(
        &self,
        registry: RegistryName,
        repository: Repository,
        manifest: Digest,
    ) -> Option<Vec<u8>> {
        let place = self.known_place(registry, repository).await.ok()?;
        place.record.link(&manifest)?.media_type?;
        let read = self.store.survey(move |store| store.order(&manifest));
        read.await.flatten()
    }

    /// The order that another member has learnt, for a caller that may read the image: the first answer that `fits`.
    pub async fn order_from_members<T>(
        &self,
        place: &Place,
        manifest: &Digest,
        fits: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        if !self.cluster.has_others() {
            return None;
        }
        let own = self.cluster.members.view().own_address();
        let holders = self.cluster.holders(manifest, WITHIN).await;
        let holders = holders.into_iter().filter(|member| Some(*member) != own);
        let holders: Vec<SocketAddr> = holders.take(ASKED).collect();
        // None of these names has a character with a meaning in a query.
        let (registry, repository) = (&place.registry, &place.repository);
        let path =
            format!("{ORDERS}?registry={registry}&repository={repository}&manifest={manifest}");
        let ask = |member| {
            let peers = &self.cluster.peers;
            peers.call(member, Method::GET, &path, Bytes::new(), WITHIN)
        };
        let answers = stream::iter(holders).map(ask).buffer_unordered(ASKED);
        let fitting = answers.filter_map(async |answer| fits(&answer.ok()?));
        pin!(fitting).next().await
    }
}
