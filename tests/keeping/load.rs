//! Clients that pull whatever they can until their node dies, and record what they received.

use std::sync::Arc;

use fastrand::Rng;
use larder_tests::fake::{Content, FakeRegistry};
use larder_tests::http;
use larder_tests::scene::compare;

use super::MB;

const REPOSITORY: &str = "team/app";

/// The blobs of a registry.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) fake: FakeRegistry,
    pub(crate) blobs: Vec<(String, Content)>,
}

impl Load {
    /// Blobs of all sizes: verified before their first byte, of one stream, of many streams.
    pub(crate) async fn new(random: &mut Rng, count: usize) -> Arc<Self> {
        let fake = FakeRegistry::start().await;
        let mut blobs = Vec::new();
        for _ in 0..count {
            let size = match random.u32(0..10) {
                0..4 => random.u64(1..64 << 10),
                4..8 => random.u64(64 << 10..3 * MB),
                _ => random.u64(16 * MB..30 * MB),
            };
            let content = Content::synthetic(random.u64(..), size);
            blobs.push((fake.put_content(REPOSITORY, &content), content));
        }
        Arc::new(Self { fake, blobs })
    }

    pub(crate) fn url(&self, node: &str, digest: &str) -> String {
        format!(
            "{node}/v2/{REPOSITORY}/blobs/{digest}?ns={}",
            self.fake.host()
        )
    }

    /// Pulls one blob after the other, whole or in part, as long as the node answers. Every byte that comes is right,
    /// even in a body that breaks off. Gives how many answers were whole.
    pub(crate) async fn pull_until_dead(self: Arc<Self>, node: String, seed: u64) -> usize {
        let mut random = Rng::with_seed(seed);
        let mut done = 0;
        loop {
            let (digest, content) = random.choice(&self.blobs).expect("a blob");
            let start = if random.bool() {
                0
            } else {
                random.u64(0..content.len())
            };
            let range = format!("bytes={start}-");
            let headers = [("range", &*range)];
            let headers = if start == 0 { &[][..] } else { &headers[..] };
            let Ok(mut stream) = http::open(&self.url(&node, digest), headers).await else {
                return done;
            };
            assert!(matches!(stream.status, 200 | 206), "{}", stream.status);
            let compared = compare(&mut stream, content, start..content.len()).await;
            assert_eq!(compared.differs_at, None, "{digest} from {start}");
            if compared.error.is_some() {
                return done;
            }
            done += 1;
        }
    }
}
