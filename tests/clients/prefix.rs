//! podman and skopeo, which name the registry in the path (P2, P3, P14).

use std::path::Path;

use anyhow::{Context as _, Result};
use larder_tests::real::{Podman, Skopeo};

use crate::image::{Layout, Platform, sha256};
use crate::setup::{Setup, refused};

const LAYER: usize = 3_000_000;

/// Fails unless `dir`, written by `skopeo copy … dir:…`, holds exactly this image.
fn check_copy(dir: &Path, platform: &Platform) -> Result<()> {
    let manifest = std::fs::read(dir.join("manifest.json"))?;
    assert_eq!(sha256(&manifest), platform.manifest);
    for digest in platform.layers.iter().chain([&platform.config]) {
        let hex = digest.trim_start_matches("sha256:");
        let bytes = std::fs::read(dir.join(hex)).with_context(|| format!("no {digest}"))?;
        assert_eq!(sha256(&bytes), *digest);
    }
    Ok(())
}

#[tokio::test]
async fn skopeo_copies_by_tag_and_by_digest() -> Result<()> {
    let setup = Setup::named(Layout::multi(LAYER)?).await?;
    let skopeo = Skopeo::new(&setup.prefix())?;
    for reference in [setup.by_tag(), setup.by_digest()] {
        check_copy(&skopeo.copy(&reference).await?, setup.image.native()?)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_copy_fetches_nothing_upstream() -> Result<()> {
    let setup = Setup::named(Layout::single(LAYER)?).await?;
    let skopeo = Skopeo::new(&setup.prefix())?;
    skopeo.copy(&setup.by_tag()).await?;
    let first = setup.upstream_requests().await?;
    assert!(!first.content_gets().is_empty(), "{first:?}");
    check_copy(&skopeo.copy(&setup.by_tag()).await?, setup.image.native()?)?;
    let second = setup.upstream_requests().await?.since(&first);
    assert!(second.content_gets().is_empty(), "{second:?}");
    assert!(second.manifest_heads().len() <= 1, "{second:?}");
    Ok(())
}

#[tokio::test]
async fn skopeo_copies_while_the_registry_is_down() -> Result<()> {
    let mut setup = Setup::named(Layout::single(LAYER)?).await?;
    let skopeo = Skopeo::new(&setup.prefix())?;
    skopeo.copy(&setup.by_digest()).await?;
    setup.registry.stop();
    check_copy(
        &skopeo.copy(&setup.by_digest()).await?,
        setup.image.native()?,
    )
}

#[tokio::test]
async fn podman_pulls_and_pulls_again_while_the_registry_is_down() -> Result<()> {
    if refused("podman_pulls_and_pulls_again_while_the_registry_is_down") {
        return Ok(());
    }
    let mut setup = Setup::named(Layout::multi(LAYER)?).await?;
    let podman = Podman::new(&setup.prefix())?;
    for reference in [setup.by_tag(), setup.by_digest()] {
        assert_eq!(podman.pull(&reference).await?, setup.image.digest);
        podman.remove(&reference).await?;
    }
    setup.registry.stop();
    assert_eq!(podman.pull(&setup.by_digest()).await?, setup.image.digest);
    Ok(())
}
