//! What is not everyone's is not offered before it is here, and no image gets layers by naming them.

use std::fs;

use anyhow::{Result, ensure};
use larder_tests::fake::Algorithm;
use larder_tests::image::Image;

use super::node::{Lazy, SECOND};
use crate::setup::refused;
use crate::{gzip, push_naming, tar};

/// A runtime on the second member asks for an image up to its configuration, after which it would look for the layers.
async fn asks(lazy: &Lazy, repository: &str, image: &Image) -> Result<()> {
    let door = lazy.cluster.door(SECOND, &lazy.fake, repository);
    for rest in [
        format!("manifests/{}", image.manifest_digest),
        format!("blobs/{}", image.config_digest),
    ] {
        let answer = door.call("GET", &rest).send().await?;
        ensure!(answer.status == 200, "{rest}: {}", answer.status);
    }
    Ok(())
}

/// What became of images that were about to start.
async fn outcomes(lazy: &Lazy, outcome: &str) -> u64 {
    let sample = format!("larder_lazy_images_total{{outcome=\"{outcome}\"}}");
    lazy.second().metric(&sample).await.unwrap_or_default() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_gets_no_layers_by_naming_them_and_none_that_never_names() -> Result<()> {
    if refused("an_image_gets_no_layers_by_naming_them_and_none_that_never_names") {
        return Ok(());
    }
    let lazy = Lazy::with(1, "never = [\"*/team/never\"]").await?;
    // Its configuration says that its layer is the other image's.
    let own = gzip(&tar(&[("file", b"mine")]));
    let foreign = push_naming(
        &lazy.fake,
        "team/foreign",
        std::slice::from_ref(&own),
        &lazy.image.diff_ids[..1],
    );
    lazy.fake.put_blob("team/foreign", own);
    asks(&lazy, "team/foreign", &foreign).await?;
    ensure!(outcomes(&lazy, "offered").await == 0);
    ensure!(lazy.links().is_empty(), "{:?}", lazy.links());
    // Its manifest names a layer that another repository has.
    let layer = lazy.image.image.layers[0].content.clone();
    let layer = bytes::Bytes::from(layer.read(0..layer.len()));
    let claims = push_naming(
        &lazy.fake,
        "team/claims",
        std::slice::from_ref(&layer),
        &lazy.image.diff_ids[..1],
    );
    asks(&lazy, "team/claims", &claims).await?;
    ensure!(outcomes(&lazy, "offered").await == 0);
    ensure!(lazy.links().is_empty(), "{:?}", lazy.links());
    // The operator does not want it.
    lazy.fake.put_blob("team/never", layer.clone());
    let never = push_naming(
        &lazy.fake,
        "team/never",
        &[layer],
        &lazy.image.diff_ids[..1],
    );
    asks(&lazy, "team/never", &never).await?;
    ensure!(outcomes(&lazy, "refused").await == 1);
    ensure!(lazy.links().is_empty(), "{:?}", lazy.links());
    // It is the test that is right: the image itself is offered.
    let image = lazy.image.image.clone();
    asks(&lazy, super::node::REPOSITORY, &image).await?;
    ensure!(outcomes(&lazy, "offered").await == 1);
    ensure!(lazy.links().len() == lazy.image.diff_ids.len());
    Ok(())
}

/// A private image streams only where the operator says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_image_is_pulled_as_ever() -> Result<()> {
    if refused("a_private_image_is_pulled_as_ever") {
        return Ok(());
    }
    let lazy = Lazy::with(1, "").await?;
    let (repository, image) = ("team/private", lazy.image.image.clone());
    lazy.fake.require_basic(repository, "user", "password");
    image.push(&lazy.fake, repository, Algorithm::Sha256, Some("v1"));
    let door = lazy.cluster.door(SECOND, &lazy.fake, repository);
    let door = door.showing("Basic dXNlcjpwYXNzd29yZA==");
    door.pull("v1", &image).await.map_err(anyhow::Error::msg)?;
    ensure!(outcomes(&lazy, "refused").await == 1);
    ensure!(outcomes(&lazy, "offered").await == 0);
    ensure!(lazy.links().is_empty(), "{:?}", lazy.links());
    Ok(())
}

/// The operator changes their mind while it comes: it is offered no more, and what has it mounted is to need larder no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_may_not_be_offered_any_more_becomes_whole() -> Result<()> {
    if refused("a_layer_that_may_not_be_offered_any_more_becomes_whole") {
        return Ok(());
    }
    let lazy = Lazy::with(1, "never = [\"*/team/other\"]").await?;
    let (lazy, gate) = lazy.gate().await?;
    lazy.until_referenced().await?;
    let file = lazy.second().config_file();
    let config = fs::read_to_string(&file)?;
    fs::write(file, config.replace("*/team/other", "*/team/app"))?;
    lazy.until("the configuration was read again", |lazy| {
        lazy.second().log().contains("was read again")
    })
    .await?;
    gate.open();
    lazy.until_whole().await?;
    lazy.run_and_compare().await
}
