//! Private images through the mirror, with a pod's pull secret and without (P16, P17).

use anyhow::{Result, ensure};
use larder_tests::real::{Auth, Containerd};

use crate::image::Layout;
use crate::setup::{Setup, refused};

fn secret(password: &str) -> Auth {
    Auth {
        username: "pod".to_owned(),
        password: password.to_owned(),
        ..Auth::default()
    }
}

/// Pulls by CRI into an empty containerd and says whether the image has arrived.
async fn opens(setup: &Setup, image: &str, auth: Option<Auth>) -> Result<bool> {
    let containerd: Containerd = setup.containerd().await?;
    let cri = containerd.cri().await?;
    let pulled = match auth {
        Some(auth) => cri.pull_with_auth(image, auth).await,
        None => cri.pull(image).await,
    };
    if pulled.is_ok() {
        setup.check_content(&containerd, setup.image.native()?)?;
    } else {
        for digest in setup.image.native()?.digests() {
            ensure!(containerd.blob(digest)?.is_none(), "{digest} leaked");
        }
    }
    Ok(pulled.is_ok())
}

/// Before the content is cached and after, by tag and by digest: only the right secret opens it.
#[tokio::test]
async fn only_the_right_pull_secret_opens_a_private_image_cached_or_not() -> Result<()> {
    if refused("only_the_right_pull_secret_opens_a_private_image_cached_or_not") {
        return Ok(());
    }
    let setup = Setup::private(Layout::single(3_000_000)?, &[("pod", "right")]).await?;
    for image in [setup.by_tag(), setup.by_digest()] {
        for round in ["cold", "cached"] {
            assert!(!opens(&setup, &image, None).await?, "{round}: anonymous");
            let wrong = Some(secret("wrong"));
            assert!(!opens(&setup, &image, wrong).await?, "{round}: wrong");
            let right = Some(secret("right"));
            assert!(opens(&setup, &image, right).await?, "{round}: right");
        }
    }
    Ok(())
}
