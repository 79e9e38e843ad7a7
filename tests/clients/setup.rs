//! What every test of this program starts with: a registry that holds one image, and a mirror.

use anyhow::{Context as _, Result, ensure};
use larder_tests::real::{
    Containerd, DockerRegistry, PrefixMirror, Release, Requests, refusal, skipped,
};
use tempfile::TempDir;

use crate::image::{Layout, Platform, sha256};
use crate::mirror::{Mirror, Upstream, start_mirror, start_mirror_with_alias};

/// A registry's name that does not resolve: whatever arrives has come through the mirror.
pub(crate) const REGISTRY: &str = "registry.example";

const REPOSITORY: &str = "team/app";

/// Makes of each function, which takes a [`Release`], a test for each of these: `containerd_1::NAME` and so on.
macro_rules! with_containerd {
    ($($module:ident = $release:ident),+; $names:tt) => {
        $($crate::setup::with_containerd!(@tests $module, $release, $names);)+
    };
    (@tests $module:ident, $release:ident, [$($name:ident),+ $(,)?]) => {
        mod $module {
            $(#[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                if crate::setup::refused(concat!(module_path!(), "::", stringify!($name))) {
                    return Ok(());
                }
                super::$name(larder_tests::real::Release::$release).await
            })+
        }
    };
}

/// [`with_containerd`] for every release.
macro_rules! with_each_containerd {
    ($names:tt) => {
        $crate::setup::with_containerd!(
            containerd_1 = One, containerd_2 = Two, containerd_2_local = TwoLocal, containerd_2_parallel = TwoParallel;
            $names
        );
    };
}
pub(crate) use {with_containerd, with_each_containerd};

/// A registry with `image` in it as `team/app:v1`, and a cold mirror in front of it.
pub(crate) struct Setup {
    pub(crate) image: Layout,
    pub(crate) registry: DockerRegistry,
    pub(crate) mirror: Mirror,
    name: String,
    _dir: TempDir,
}

impl Setup {
    /// The registry is known to the mirror and its clients as [`REGISTRY`].
    pub(crate) async fn named(image: Layout) -> Result<Self> {
        Self::start(image, Some(REGISTRY), &[]).await
    }

    /// As [`named`](Self::named), and the registry serves only `users`, name and password.
    pub(crate) async fn private(image: Layout, users: &[(&str, &str)]) -> Result<Self> {
        Self::start(image, Some(REGISTRY), users).await
    }

    /// The registry is known by its own host and port, so clients can reach it without the mirror.
    pub(crate) async fn by_address(image: Layout) -> Result<Self> {
        Self::start(image, None, &[]).await
    }

    /// As [`by_address`](Self::by_address), and the mirror has an alias for the registry, since paths cannot hold a
    /// port.
    pub(crate) async fn by_alias(image: Layout, alias: &str) -> Result<Self> {
        let mut setup = Self::by_address(image).await?;
        let upstream = Upstream {
            name: setup.name.clone(),
            url: setup.registry.url(),
        };
        setup.mirror = start_mirror_with_alias(&upstream, alias).await?;
        Ok(setup)
    }

    async fn start(image: Layout, name: Option<&str>, users: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir()?;
        let registry = DockerRegistry::start_for(dir.path(), users).await?;
        registry
            .push_layout(image.path(), &format!("{REPOSITORY}:v1"))
            .await?;
        let name = name.map_or_else(|| registry.host(), str::to_owned);
        let upstream = Upstream {
            name: name.clone(),
            url: registry.url(),
        };
        let mirror = start_mirror(&upstream).await?;
        Ok(Self {
            image,
            registry,
            mirror,
            name,
            _dir: dir,
        })
    }

    /// The reference by tag.
    pub(crate) fn by_tag(&self) -> String {
        format!("{}/{REPOSITORY}:v1", self.name)
    }

    /// The reference by digest.
    pub(crate) fn by_digest(&self) -> String {
        format!("{}/{REPOSITORY}@{}", self.name, self.image.digest)
    }

    /// A containerd that asks the mirror alone: its `server` is the mirror too, so that no request falls back unseen.
    pub(crate) async fn containerd(&self, release: Release) -> Result<Containerd> {
        let containerd = Containerd::start(release).await?;
        let mirror = self.mirror.addr;
        containerd.write_hosts(
            &self.name,
            &format!(
                "server = \"http://{mirror}\"\n\n[host.\"http://{mirror}\"]\n  \
                 capabilities = [\"pull\", \"resolve\"]\n"
            ),
        )?;
        Ok(containerd)
    }

    /// A containerd that asks the mirror first and then the registry itself.
    pub(crate) async fn containerd_with_fallback(&self, release: Release) -> Result<Containerd> {
        let containerd = Containerd::start(release).await?;
        containerd.write_hosts(
            &self.name,
            &format!(
                "server = \"{}\"\n\n[host.\"http://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
                self.registry.url(),
                self.mirror.addr
            ),
        )?;
        Ok(containerd)
    }

    /// The configuration by which podman and skopeo reach the mirror, and nothing else.
    pub(crate) fn prefix(&self) -> PrefixMirror {
        PrefixMirror {
            registry: self.name.clone(),
            location: None,
            mirror: self.mirror.addr,
        }
    }

    /// The requests that the registry has answered so far, except those of the push.
    pub(crate) async fn upstream_requests(&self) -> Result<Requests> {
        let all = self.registry.requests().await?;
        let pushed = all
            .0
            .iter()
            .rposition(|one| one.method == "PUT")
            .context("nothing was pushed")?;
        Ok(Requests(all.0[pushed + 1..].to_vec()))
    }

    /// Fails unless `containerd` holds this platform's content, byte for byte.
    pub(crate) fn check_content(&self, containerd: &Containerd, platform: &Platform) -> Result<()> {
        for digest in platform.digests().chain([&self.image.digest]) {
            let bytes = containerd
                .blob(digest)?
                .with_context(|| format!("containerd lacks {digest}"))?;
            ensure!(sha256(&bytes) == *digest, "wrong bytes under {digest}");
        }
        Ok(())
    }
}

/// Whether `test` cannot run on this machine; says so if it cannot.
pub(crate) fn refused(test: &str) -> bool {
    let why = refusal();
    if let Some(why) = why {
        skipped(test, why);
    }
    why.is_some()
}
