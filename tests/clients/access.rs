//! Private images through the mirror, with a pod's pull secret and without (P16, P17).

use anyhow::{Result, ensure};
use data_encoding::BASE64;
use larder_tests::fake::{FakeRegistry, IDENTITY_TOKEN, Kind};
use larder_tests::image::{LayerSpec, build};
use larder_tests::node::Node;
use larder_tests::real::{Auth, Containerd, Podman, Release, Skopeo};

use crate::image::{Layout, sha256};
use crate::setup::{REGISTRY, Setup, refused, with_each_containerd};

with_each_containerd!([
    only_the_right_pull_secret_opens_a_private_image_cached_or_not,
    a_warm_pull_asks_once_at_the_most_and_a_second_pod_needs_the_secret_too,
    an_identity_token_opens_an_image_by_cri,
]);

fn secret(password: &str) -> Auth {
    Auth {
        username: "pod".to_owned(),
        password: password.to_owned(),
        ..Auth::default()
    }
}

/// Pulls by CRI into an empty containerd and says whether the image arrived.
async fn opens(
    containerd: Containerd,
    setup: &Setup,
    image: &str,
    auth: Option<Auth>,
) -> Result<bool> {
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
async fn only_the_right_pull_secret_opens_a_private_image_cached_or_not(
    release: Release,
) -> Result<()> {
    let setup = Setup::private(Layout::single(3_000_000)?, &[("pod", "right")]).await?;
    for image in [setup.by_tag(), setup.by_digest()] {
        for round in ["cold", "cached"] {
            assert!(
                !opens(setup.containerd(release).await?, &setup, &image, None).await?,
                "{round}: anonymous"
            );
            let wrong = Some(secret("wrong"));
            assert!(
                !opens(setup.containerd(release).await?, &setup, &image, wrong).await?,
                "{round}: wrong"
            );
            let right = Some(secret("right"));
            assert!(
                opens(setup.containerd(release).await?, &setup, &image, right).await?,
                "{round}: right"
            );
        }
    }
    Ok(())
}

/// A pod with the secret, then one without it: warm, and while the registry is down. containerd's fallback is the
/// mirror as well, so no request avoids the mirror.
async fn a_warm_pull_asks_once_at_the_most_and_a_second_pod_needs_the_secret_too(
    release: Release,
) -> Result<()> {
    let mut setup = Setup::private(Layout::single(300_000)?, &[("pod", "right")]).await?;
    let right = || Some(secret("right"));
    let (by_tag, by_digest) = (setup.by_tag(), setup.by_digest());
    assert!(
        opens(setup.containerd(release).await?, &setup, &by_tag, right()).await?,
        "cold"
    );
    let cold = setup.upstream_requests().await?;
    assert!(
        opens(
            setup.containerd(release).await?,
            &setup,
            &by_digest,
            right()
        )
        .await?,
        "warm by digest"
    );
    let asked = setup.upstream_requests().await?.since(&cold);
    assert!(asked.is_empty(), "by digest: {asked:?}");
    assert!(
        opens(setup.containerd(release).await?, &setup, &by_tag, right()).await?,
        "warm by tag"
    );
    let asked = setup.upstream_requests().await?.since(&cold);
    assert_eq!(
        (asked.len(), asked.manifest_heads().len()),
        (1, 1),
        "by tag: {asked:?}"
    );
    // The other way to write the same secret.
    let encoded = Auth {
        auth: BASE64.encode(b"pod:right"),
        ..Auth::default()
    };
    assert!(
        opens(
            setup.containerd(release).await?,
            &setup,
            &by_digest,
            Some(encoded)
        )
        .await?,
        "as `auth`"
    );

    setup.registry.stop();
    for image in [&by_tag, &by_digest] {
        assert!(
            !opens(setup.containerd(release).await?, &setup, image, None).await?,
            "{image}: no secret"
        );
        assert!(
            !opens(
                setup.containerd(release).await?,
                &setup,
                image,
                Some(secret("wrong"))
            )
            .await?,
            "{image}: wrong"
        );
        assert!(
            opens(setup.containerd(release).await?, &setup, image, right()).await?,
            "{image}: within the grace"
        );
    }
    Ok(())
}

/// `docker login` and the clouds leave such a token: it is only good for getting other tokens.
async fn an_identity_token_opens_an_image_by_cri(release: Release) -> Result<()> {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, "team/app", "v1", &[LayerSpec::new(1, 100_000)]);
    fake.require_bearer("team/app", &[(IDENTITY_TOKEN, "refresh")]);
    let node = Node::builder().upstream(&fake).start().await;
    let token = |token: &str| Auth {
        identity_token: token.to_owned(),
        ..Auth::default()
    };
    let hosts = format!(
        "server = \"{0}\"\n\n[host.\"{0}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
        node.url()
    );
    let name = format!("{}/team/app:v1", fake.host());
    for (auth, opens) in [("wrong", false), ("refresh", true)] {
        let containerd = Containerd::start(release).await?;
        containerd.write_hosts(&fake.host(), &hosts)?;
        let pulled = containerd
            .cri()
            .await?
            .pull_with_auth(&name, token(auth))
            .await;
        assert_eq!(pulled.is_ok(), opens, "{auth}: {pulled:?}");
        let held = containerd.blob(&image.layers[0].digest)?.is_some();
        assert_eq!(held, opens, "{auth}");
    }
    let posted = fake.count(|seen| seen.kind == Kind::Token && seen.method == "POST");
    assert!(posted >= 2, "{posted}");
    Ok(())
}

/// podman and skopeo keep a secret for the mirror's own name; the path names the registry.
#[tokio::test]
async fn podman_and_skopeo_show_what_they_have_for_the_mirror() -> Result<()> {
    if refused("podman_and_skopeo_show_what_they_have_for_the_mirror") {
        return Ok(());
    }
    let setup = Setup::private(Layout::single(300_000)?, &[("pod", "right")]).await?;
    let key = format!("{}/{REGISTRY}", setup.mirror.addr);
    let skopeo = Skopeo::new(&setup.prefix())?;
    let podman = Podman::new(&setup.prefix())?;
    for round in ["cold", "cached"] {
        for reference in [setup.by_tag(), setup.by_digest()] {
            for (key, password) in [("elsewhere.example", "right"), (&*key, "wrong")] {
                skopeo.sign_in(key, "pod", password)?;
                podman.sign_in(key, "pod", password)?;
                assert!(skopeo.copy(&reference).await.is_err(), "{round}: {key}");
                assert!(podman.pull(&reference).await.is_err(), "{round}: {key}");
            }
            skopeo.sign_in(&key, "pod", "right")?;
            podman.sign_in(&key, "pod", "right")?;
            let copied = skopeo.copy(&reference).await?;
            let manifest = std::fs::read(copied.join("manifest.json"))?;
            assert_eq!(sha256(&manifest), setup.image.digest);
            assert_eq!(podman.pull(&reference).await?, setup.image.digest);
            podman.remove(&reference).await?;
        }
    }
    Ok(())
}
