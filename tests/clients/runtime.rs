//! containerd pulls, by `ctr` and by CRI (P2, P3, P5, P13, P14).

use anyhow::Result;
use larder_tests::real::{Containerd, Release, succeeded};

use crate::image::{Layout, greeting, native};
use crate::setup::{Setup, with_each_containerd};

with_each_containerd!([
    an_image_pulled_by_tag_is_complete_and_runs,
    an_image_pulled_by_digest_is_complete,
    every_platform_of_an_index_is_complete,
    the_default_hosts_file_leads_every_registry_to_the_mirror,
    cri_pulls_lists_and_removes_through_the_mirror,
    a_second_pull_fetches_nothing_upstream,
    what_was_pulled_once_is_served_while_the_registry_is_down,
]);

const LAYER: usize = 3_000_000;

async fn an_image_pulled_by_tag_is_complete_and_runs(release: Release) -> Result<()> {
    let setup = Setup::named(Layout::multi(LAYER)?).await?;
    let containerd = setup.containerd(release).await?;
    succeeded(&containerd.ctr_pull(&setup.by_tag(), &[]).await?)?;
    setup.check_content(&containerd, setup.image.native()?)?;
    let printed = containerd.run_image(&setup.by_tag()).await?;
    assert_eq!(printed, greeting(native()));
    Ok(())
}

async fn an_image_pulled_by_digest_is_complete(release: Release) -> Result<()> {
    let setup = Setup::named(Layout::single(LAYER)?).await?;
    let containerd = setup.containerd(release).await?;
    succeeded(&containerd.ctr_pull(&setup.by_digest(), &[]).await?)?;
    setup.check_content(&containerd, setup.image.native()?)
}

async fn every_platform_of_an_index_is_complete(release: Release) -> Result<()> {
    let setup = Setup::named(Layout::multi(LAYER)?).await?;
    let containerd = setup.containerd(release).await?;
    let pulled = containerd
        .ctr_pull(&setup.by_tag(), &["--all-platforms"])
        .await?;
    succeeded(&pulled)?;
    for platform in &setup.image.platforms {
        setup.check_content(&containerd, platform)?;
    }
    Ok(())
}

/// One hosts file for all registries: only `?ns=` tells the mirror which registry the client means.
async fn the_default_hosts_file_leads_every_registry_to_the_mirror(release: Release) -> Result<()> {
    let setup = Setup::by_address(Layout::single(LAYER)?).await?;
    let containerd = Containerd::start(release).await?;
    containerd.write_hosts(
        "_default",
        &format!(
            "[host.\"http://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            setup.mirror.addr
        ),
    )?;
    succeeded(&containerd.ctr_pull(&setup.by_tag(), &[]).await?)?;
    setup.check_content(&containerd, setup.image.native()?)?;

    let upstream = setup.upstream_requests().await?;
    assert!(
        !upstream.content_gets().is_empty(),
        "the mirror fetched it from the registry"
    );
    let direct = upstream.from_agent("containerd/");
    assert!(direct.is_empty(), "containerd went past it: {direct:?}");
    Ok(())
}

async fn cri_pulls_lists_and_removes_through_the_mirror(release: Release) -> Result<()> {
    let setup = Setup::named(Layout::multi(LAYER)?).await?;
    let containerd = setup.containerd(release).await?;
    let cri = containerd.cri().await?;
    let platform = setup.image.native()?;
    for reference in [setup.by_tag(), setup.by_digest()] {
        assert_eq!(cri.image_status(&reference).await?, None);
        let id = cri.pull(&reference).await?;
        assert_eq!(id, platform.config);
        setup.check_content(&containerd, platform)?;
        let image = cri.image_status(&reference).await?;
        assert_eq!(image.map(|image| image.id), Some(id.clone()));
        let listed = cri.list().await?;
        assert!(listed.iter().any(|image| image.id == id), "{listed:?}");
        cri.remove_image(&id).await?;
    }
    Ok(())
}

async fn a_second_pull_fetches_nothing_upstream(release: Release) -> Result<()> {
    let setup = Setup::named(Layout::multi(LAYER)?).await?;
    let containerd = setup.containerd(release).await?;
    succeeded(&containerd.ctr_pull(&setup.by_tag(), &[]).await?)?;
    let first = setup.upstream_requests().await?;
    assert!(!first.content_gets().is_empty(), "{first:?}");

    containerd.remove(&setup.by_tag()).await?;
    assert_eq!(containerd.blob(&setup.image.digest)?, None);
    succeeded(&containerd.ctr_pull(&setup.by_tag(), &[]).await?)?;
    setup.check_content(&containerd, setup.image.native()?)?;
    let second = setup.upstream_requests().await?.since(&first);
    assert!(second.content_gets().is_empty(), "{second:?}");
    assert!(second.manifest_heads().len() <= 1, "{second:?}");
    Ok(())
}

async fn what_was_pulled_once_is_served_while_the_registry_is_down(release: Release) -> Result<()> {
    let mut setup = Setup::named(Layout::multi(LAYER)?).await?;
    let first = setup.containerd(release).await?;
    for reference in [setup.by_tag(), setup.by_digest()] {
        succeeded(&first.ctr_pull(&reference, &[]).await?)?;
    }

    setup.registry.stop();
    for reference in [setup.by_digest(), setup.by_tag()] {
        let fresh = setup.containerd(release).await?;
        succeeded(&fresh.ctr_pull(&reference, &[]).await?)?;
        setup.check_content(&fresh, setup.image.native()?)?;
    }
    Ok(())
}
