//! The same with a real registry, which is stopped and started again, and whose tag is moved and deleted.

use std::time::{Duration, Instant};

use anyhow::Result;
use larder_tests::http::{self, Call, Response};
use larder_tests::image::{Image, LayerSpec, oci_layout};
use larder_tests::node::Node;
use larder_tests::real::DockerRegistry;
use tempfile::TempDir;

use super::is_stale;

struct Setup {
    registry: DockerRegistry,
    node: Node,
    dir: TempDir,
}

impl Setup {
    async fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = DockerRegistry::start(&dir.path().join("registry")).await?;
        let node = Node::builder()
            .upstream_at(&registry.host(), &registry.url())
            .start()
            .await;
        Ok(Self {
            registry,
            node,
            dir,
        })
    }

    /// Makes an image from `seed` and pushes it as `team/app:v1`.
    async fn push(&self, seed: u64) -> Result<Image> {
        let dir = self.dir.path().join(seed.to_string());
        let layers = [LayerSpec::new(seed, 500_000), LayerSpec::new(seed + 1, 100)];
        let image = oci_layout(&dir, "v1", &layers, None)?;
        self.registry.push_layout(&dir, "team/app:v1").await?;
        Ok(image)
    }

    async fn get(&self, path: &str) -> Result<Response> {
        http::get(
            &format!(
                "{}/v2/team/app/{path}?ns={}",
                self.node.url(),
                self.registry.host()
            ),
            &[],
        )
        .await
    }

    /// Pulls by tag, checks that it is this image, byte for byte, and says whether the tag was stale.
    async fn pull(&self, image: &Image) -> Result<bool> {
        let manifest = self.get("manifests/v1").await?;
        assert_eq!((manifest.status, &manifest.body), (200, &image.manifest));
        for layer in &image.layers {
            let blob = self.get(&format!("blobs/{}", layer.digest)).await?;
            assert_eq!((blob.status, &blob.error), (200, &None));
            assert!(
                blob.body == layer.content.read(0..layer.content.len()),
                "{}",
                layer.digest
            );
        }
        let config = self.get(&format!("blobs/{}", image.config_digest)).await?;
        assert_eq!((config.status, config.body), (200, image.config.clone()));
        Ok(is_stale(&manifest))
    }

    /// Pulls until the answer is not stale any more.
    async fn pull_fresh(&self, image: &Image) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.pull(image).await? {
            assert!(Instant::now() < deadline, "the registry is not asked again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn stopped_started_moved_and_deleted() -> Result<()> {
    let mut setup = Setup::new().await?;
    let first = setup.push(10).await?;
    assert!(!setup.pull(&first).await?);
    // Warm: one request, no content.
    let before = setup.registry.requests().await?;
    assert!(!setup.pull(&first).await?);
    let asked = setup.registry.requests().await?.since(&before);
    assert_eq!(
        (asked.manifest_heads().len(), asked.len()),
        (1, 1),
        "{asked:?}"
    );
    // Stopped.
    setup.registry.stop();
    for _ in 0..2 {
        let begun = Instant::now();
        assert!(setup.pull(&first).await?);
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
    }
    setup.node.restart().await;
    assert!(setup.pull(&first).await?);
    // Started again.
    setup.registry.start_again().await?;
    setup.pull_fresh(&first).await?;
    // The tag moves on.
    let second = setup.push(20).await?;
    assert!(!setup.pull(&second).await?);
    // The image is deleted. In this registry that is the deletion of the manifest that the tag points to.
    let url = format!(
        "{}/v2/team/app/manifests/{}",
        setup.registry.url(),
        second.manifest_digest
    );
    assert_eq!(Call::new("DELETE", url).send().await?.status, 202);
    assert!(setup.pull(&second).await?, "deleted, so it is old");
    let config = "[tags]\nwhen_deleted = \"forget\"\n";
    let node = Node::builder()
        .upstream_at(&setup.registry.host(), &setup.registry.url())
        .config(config);
    let cold = node.start().await;
    let warm = std::mem::replace(&mut setup.node, cold);
    assert_eq!(setup.get("manifests/v1").await?.status, 404);
    setup.node = warm;
    // Both old images are still here by digest.
    for image in [&first, &second] {
        let answer = setup
            .get(&format!("manifests/{}", image.manifest_digest))
            .await?;
        assert_eq!((answer.status, is_stale(&answer)), (200, false));
    }
    // And pushed again.
    let third = setup.push(30).await?;
    assert!(!setup.pull(&third).await?);
    Ok(())
}
